"""The fingerprint of a training set: which people and pictures a network has seen, without the pictures.

    held = of_list('faces/train', names, labels, face_format('lightcnn'))
    write('ckpt/fingerprint.npz', held)
    overlap(read('ckpt/fingerprint.npz'), of_test_set)              # people and pictures that stand in both

A picture counts as known if its file has the same bytes (8 bytes of its sha256), or if the face looks the same: 256
bits, where a 17 x 16 picture of the face gets brighter from one column to the next, of which at most NEAR_BITS differ.
A person counts as known if one of the pictures does, or if the name is the same but for case, accents, punctuation and
the order of its words; numbers and ids are no names. 40 bytes a picture, 8 a person, in a .npz of plain arrays.
"""
import hashlib
import os
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Optional

import cv2
import numpy as np

from src.data import lists
from src.data.face_format import FaceFormat
from src.data.images import decode, find_image, in_colour, training_face_for_test
from src.data.pictures import AnyPicture, read_bytes

FORMAT = 1
SIDE = 16                        # a difference hash of 16 x 16 bits
NEAR_BITS = 12                   # two different faces differ in 29 or more: the nearest of 79 million real pairs
_EVEN = 16                       # a picture with fewer bits set, or fewer not set, shows nothing
_HASH_BYTES = SIDE * SIDE // 8
RECORD = np.dtype([('file', '<u8'), ('pixels', 'u1', (_HASH_BYTES,))])           # of one picture
MAX_BYTES = 1 << 34
_BLOCK = 4096
# words that are no part of a name
_GENERIC = frozenset(('person', 'people', 'subject', 'class', 'label', 'id', 'identity', 'face', 'faces', 'img',
                      'image', 'train', 'test', 'user', 'name', 'celeb', 'celebrity', 'unknown', 'folder', 'set'))


class Fingerprint(NamedTuple):
    """What is known of a training set.

    ids: the sha256 of the lists or packs it was made from. files (N,) uint64 ascending, pixels (M, 32) uint8, people
    (K,) uint64 ascending. complete: False if the network began with weights of unknown origin. centres: (C, D) float16
    of unit length, or (0, 0), made with the weights of sha256 `weights`.
    """

    ids: list
    files: np.ndarray
    pixels: np.ndarray
    people: np.ndarray
    num_pictures: int
    num_people: int
    alignment: str
    complete: bool = True
    centres: np.ndarray = np.zeros((0, 0), np.float16)
    weights: str = ''


def difference_hash(image: np.ndarray) -> np.ndarray:
    """Return 256 bits, as (32,) uint8: where a 17 x 16 picture gets brighter from one column to the next."""
    small = cv2.resize(image, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.packbits(small[:, 1:] > small[:, :-1])


def record_of(data: Optional[bytes], image: np.ndarray, face: FaceFormat, colour: str = 'grey') -> np.ndarray:
    """Return the RECORD of a picture: data, the bytes of its file (None: not known), image (H, W[, 3]) of `colour`.

    A training face of LightCNN's alignment stands for its centre, which is what a test face shows.
    """
    record = np.zeros((), RECORD)
    if data is not None:
        record['file'] = np.frombuffer(hashlib.sha256(data).digest(), '<u8', 1)[0]
    bits = difference_hash(training_face_for_test(in_colour(image, colour, 'grey'), face))
    if _EVEN <= np.unpackbits(bits).sum() <= SIDE * SIDE - _EVEN:
        record['pixels'] = bits
    return record


def file_record(path: Optional[AnyPicture], face: FaceFormat) -> np.ndarray:
    """Return the RECORD of a picture; zeros, which match nothing, where it cannot be read."""
    try:
        data = read_bytes(path or '')
        return record_of(data, decode(data, 'grey', str(path)), face)
    except (OSError, ValueError):
        return np.zeros((), RECORD)


def file_records(pictures: Sequence, face: FaceFormat, workers: int = 2) -> np.ndarray:
    """Return the RECORDs (N,) of picture files or `Picture`s."""
    with ThreadPoolExecutor(workers) as pool:
        rows = list(pool.map(lambda picture: file_record(picture, face), pictures))
    return np.array(rows, RECORD).reshape(len(pictures))


def person_in(name: str) -> str:
    """Return the person that a listed picture shows: its folder, or what stands before '_0001' in its file name."""
    folder = os.path.basename(os.path.dirname(name.replace('\\', '/')))
    return folder or lists.person_of(name)


def name_hash(person: str) -> int:
    """Return the hash of a person's name, 0 if it is no name: fewer than two words that are not ids."""
    plain = ''.join(c for c in unicodedata.normalize('NFKD', person) if not unicodedata.combining(c)).casefold()
    words = [word for word in re.findall(r'[^\W\d_]+', plain) if word not in _GENERIC]
    long = [word for word in words if len(word) > 1]
    if len(long) < 2 and not any(len(word) > 1 and not word.isascii() for word in words):
        return 0
    text = ' '.join(sorted(words)).encode('utf-8', 'surrogatepass')
    return int.from_bytes(hashlib.sha256(text).digest()[:8], 'little')


def name_hashes(people: Iterable) -> np.ndarray:
    """Return the hashes of all that are names among `people`, ascending."""
    return np.unique(np.array([key for key in map(name_hash, people) if key], np.uint64))


def of_records(records: np.ndarray, people: Iterable, num_people: int, *, list_id: str, alignment: str) -> Fingerprint:
    """Return the `Fingerprint` of the RECORDs (N,) of a training set and the names of its people."""
    files, pixels = records['file'], records['pixels']
    return Fingerprint([list_id], np.unique(files[files != 0]), np.unique(pixels[pixels.any(1)], axis=0),
                       name_hashes(people), len(records), num_people, alignment)


def joined(parts: Sequence, num_people: int) -> Fingerprint:
    """Return the fingerprint of a set from those of its parts, such as the shards of a pack."""
    first = parts[0]
    return first._replace(files=np.unique(np.concatenate([part.files for part in parts])),
                          pixels=np.unique(np.concatenate([part.pixels for part in parts]), axis=0),
                          people=np.unique(np.concatenate([part.people for part in parts])),
                          num_pictures=sum(part.num_pictures for part in parts), num_people=num_people)


def of_list(root: str, names: Sequence, labels: np.ndarray, face: FaceFormat, *, list_id: str = '',
            workers: int = 2) -> Fingerprint:
    """Return the `Fingerprint` of listed pictures under `root`."""
    records = file_records([find_image(root, name) for name in names], face, workers)
    return of_records(records, set(map(person_in, names)), len(np.unique(labels)), list_id=list_id,
                      alignment=face.alignment)


def merged(own: Fingerprint, base: Optional[Fingerprint]) -> Fingerprint:
    """Return the fingerprint of two trainings in a row; base: that of the weights they began with, None: unknown."""
    if base is None:
        return own._replace(complete=False)
    if set(own.ids) <= set(base.ids):
        return base
    same = base.alignment == own.alignment
    return Fingerprint(list(dict.fromkeys(own.ids + base.ids)), np.union1d(own.files, base.files),
                       np.unique(np.concatenate([own.pixels, base.pixels]), axis=0) if same else own.pixels,
                       np.union1d(own.people, base.people), own.num_pictures + base.num_pictures,
                       own.num_people + base.num_people, own.alignment, own.complete and base.complete and same)


def write(file: str, held: Fingerprint) -> None:
    """Write a fingerprint, whole or not at all."""
    lists.write_array(file, format=FORMAT, ids=np.array(held.ids), files=held.files, pixels=held.pixels,
                      people=held.people, counts=np.array([held.num_pictures, held.num_people]),
                      alignment=held.alignment, complete=held.complete, centres=held.centres.astype(np.float16),
                      weights=held.weights)


def read(file: str) -> Fingerprint:
    """Return the fingerprint in a file. Raises FileNotFoundError, or ValueError for one that is broken."""
    if not os.path.isfile(file):
        raise FileNotFoundError(f"{file}: no such fingerprint")
    try:
        with zipfile.ZipFile(file) as held:
            if sum(entry.file_size for entry in held.infolist()) > min(MAX_BYTES, 2 * os.path.getsize(file)):
                raise ValueError('it is compressed, which no fingerprint is')
        with np.load(file, allow_pickle=False) as arrays:
            held = {name: arrays[name] for name in arrays.files}
        _check(held)
        counts = held['counts'].tolist()
        return Fingerprint([str(i) for i in held['ids']], held['files'], held['pixels'], held['people'], *counts,
                           str(held['alignment']), bool(held['complete']), held['centres'], str(held['weights']))
    except (OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, NotImplementedError, RuntimeError,
            zipfile.BadZipFile) as error:
        raise ValueError(f"{file}: not a readable fingerprint ({' '.join(str(error).split())[:160]})") from None


def _check(held):
    """Raise ValueError or KeyError unless the arrays of a file are those of a fingerprint."""
    if held['format'].ndim or int(held['format']) != FORMAT:
        raise ValueError(f"format {str(held['format'])[:20]}, expected {FORMAT}")
    expected = {'files': ('<u8', 1), 'people': ('<u8', 1), 'pixels': ('u1', 2), 'counts': ('<i8', 1),
                'centres': ('<f2', 2)}
    wrong = [name for name, (kind, ndim) in expected.items() if held[name].dtype != kind or held[name].ndim != ndim]
    texts = [name for name in ('ids', 'alignment', 'weights') if held[name].dtype.kind != 'U']
    if wrong or texts or held['ids'].ndim != 1 or held['complete'].dtype != bool or held['complete'].ndim:
        raise ValueError(f"the arrays {', '.join(wrong + texts) or 'ids, complete'} are of another kind")
    if held['pixels'].shape[1] != _HASH_BYTES or len(held['counts']) != 2 or held['counts'].min() < 0 or \
            not np.isfinite(held['centres']).all():
        raise ValueError('its arrays do not fit each other')


def known_pictures(held: Fingerprint, records: np.ndarray, alignment: str) -> np.ndarray:
    """Return which pictures (N,) bool stand in a fingerprint; of another alignment: by the bytes of the file only."""
    known = np.isin(records['file'], held.files) & (records['file'] != 0)
    if alignment != held.alignment or not len(held.pixels):
        return known
    rows = np.flatnonzero(records['pixels'].any(1) & ~known)
    test, train = (np.ascontiguousarray(bits).view(np.uint64) for bits in (records['pixels'][rows], held.pixels))
    from src.data.hamming import near                        # Numba takes a second to load
    known[rows] = near(test, train, np.uint64(NEAR_BITS))
    return known


def overlap(held: Fingerprint, records: np.ndarray, names: Sequence, labels: np.ndarray, alignment: str, *,
            features: Optional[np.ndarray] = None, same_person: float = 0.9) -> dict:
    """Return how many people and pictures of a test set stand in a fingerprint, and which.

    records: RECORD (N,) of the listed pictures `names`, labels (N,) their people. features: (N, D) of the network that
    made the centres, if there are any. 'pictures', 'people', 'by_name', 'by_centre' are arrays: rows, and labels.
    """
    pictures = np.flatnonzero(known_pictures(held, records, alignment))
    first = {label: person_in(name) for name, label in zip(names[::-1], labels[::-1].tolist())}
    hashes = {label: name_hash(person) for label, person in first.items()}
    shared = Counter(hashes.values())                            # a folder of many people is no person
    by_name = [label for label, key in hashes.items() if key and shared[key] == 1 and _holds(held.people, key)]
    by_centre = _near_centres(held.centres, features, labels, same_person)
    people = np.unique(np.concatenate([labels[pictures], by_name, by_centre])).astype(np.int64)
    return {'pictures': pictures, 'people': people, 'by_name': np.sort(np.array(by_name, np.int64)),
            'by_picture': np.unique(labels[pictures]), 'by_centre': by_centre}


def _holds(ascending, key):
    place = np.searchsorted(ascending, np.uint64(key))
    return place < len(ascending) and ascending[place] == key


def _near_centres(centres, features, labels, same_person):
    """Return the labels whose mean feature has at least the cosine `same_person` with a centre."""
    if features is None or not len(centres) or centres.shape[1] != features.shape[1]:
        return np.zeros(0, np.int64)
    own, people = centres_of(features, labels)
    rows = range(0, len(own), _BLOCK)
    highest = [(own[start:start + _BLOCK] @ centres.T.astype(np.float32)).max(1) for start in rows]
    return people[np.concatenate(highest) >= same_person]


def centres_of(features: np.ndarray, labels: np.ndarray) -> tuple:
    """Return (the mean of each person's unit features, at unit length (K, D) float32, the labels (K,) ascending)."""
    people, place = np.unique(labels, return_inverse=True)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    sums = np.zeros((len(people), features.shape[1]))
    np.add.at(sums, place, unit)
    return (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).astype(np.float32), people


def link_in(ckpt: str) -> Optional[dict]:
    """Return the 'fingerprint' of a checkpoint's metadata, None where there is none to be believed."""
    try:
        link = lists.read_json(os.path.splitext(ckpt)[0] + '.json')['fingerprint']
        good = all(isinstance(i, str) for i in link['ids']) and link['ids'] and isinstance(link['complete'], bool)
        return link if good and link['file'] == os.path.basename(link['file']) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fingerprint_of(ckpt: Optional[str]) -> tuple:
    """Return (the `Fingerprint` of the people and pictures that a checkpoint was trained on, ''), or (None, why not).

    ckpt: a weight file of any kind. It is believed only if the checkpoint's own metadata name this training set.
    """
    link = link_in(ckpt) if ckpt else None
    if link is None:
        return None, 'the network comes without a fingerprint of its training set'
    file = os.path.join(os.path.dirname(ckpt), link['file'])
    try:
        held: Fingerprint = read(file)
    except FileNotFoundError:
        return None, f"{file} is missing, or not finished yet"
    except ValueError as error:
        return None, str(error)
    if not set(link['ids']) <= set(held.ids):
        return None, f"{file} is that of another training"
    return held._replace(complete=held.complete and link['complete']), ''
