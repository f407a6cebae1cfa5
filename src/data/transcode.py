"""Training sets from one container to another: .rec, folder with a list, pack. Encoded pictures stay as they are.

    source = open_source('faces_emore/train.rec')          # or a folder, or a pack's .json
    transcode(source, 'out', 'folder')                     # out/<label>/<record>.jpg and out/train_list.txt

A source has len(), labels (N,) int32, names (N,) and data(row), the bytes of a picture file.
"""
import hashlib
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any, Optional

import numpy as np
from tqdm import tqdm

from src.data import lists, pack
from src.data.face_format import check_formats, face_format
from src.data.images import ALIGNMENT_OF_SIDE, decode, encode, find_images, resize
from src.data.recordio import RecordFile, write_records

TARGETS = ('rec', 'folder', 'pack')
LIST_NAME = 'train_list.txt'
_SHARD = 50_000                          # pictures
_LOOKED_AT = 16                          # pictures whose sizes tell the alignment


class Rejected(ValueError):
    """A picture that cannot be written; the text is the reason."""


def write_new(path: str, data: bytes, temporary: str) -> bool:
    """Write a file that is not there yet, whole or not at all. False if it is there with the same content.

    `Rejected` if it is there with another content: nothing is overwritten.
    """
    with open(temporary, 'wb') as out:
        out.write(data)
    try:
        os.link(temporary, path)
        return True
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.link(temporary, path)
        return True
    except FileExistsError:
        with open(path, 'rb') as there:
            if there.read() == data:
                return False
        raise Rejected('a duplicate name with another picture; the first is kept') from None
    finally:
        os.remove(temporary)


class FolderSource:
    """Pictures of a list under a folder."""

    def __init__(self, root: str, names: Sequence, labels: np.ndarray):
        self.path, self.names, self.labels = root, list(names), np.asarray(labels, np.int32)
        self.files = find_images(root, names)

    def __len__(self) -> int:
        return len(self.labels)

    def data(self, row: int) -> bytes:
        """Return the bytes of picture `row`."""
        with open(self.files[row], 'rb') as file:
            return file.read()


class PackSource:
    """Pictures of a pack: its JPEGs as they are, raw faces as PNG."""

    def __init__(self, path: str):
        self.path, self.pack = path, pack.Pack(path)
        self.labels = self.pack.labels
        self.names = [str(row) for row in range(len(self.labels))]

    def __len__(self) -> int:
        return len(self.labels)

    def data(self, row: int) -> bytes:
        """Return the bytes of face `row` as a picture file."""
        if self.pack.encoding == 'jpeg':
            return self.pack.data(row)
        return encode(self.pack.face(row), self.pack.face_format.colour, '.png')


def open_source(path: str, listed: Optional[tuple] = None) -> Any:
    """Return the source in a .rec file, a pack's .json, or a folder. listed: (names, labels) of the folder's pictures.

    Without it the folder's train_list.txt counts.
    """
    if path.endswith('.rec'):
        return RecordFile(path)
    if path.endswith('.json'):
        return PackSource(path)
    if not os.path.isdir(path):
        raise FileNotFoundError(f"{path}: no such .rec file, pack (.json) or folder of pictures")
    return FolderSource(path, *(listed or lists.read_image_list(os.path.join(path, LIST_NAME))))


def transcode(source: Any, output_dir: str, target: str, *, face: str = 'arcface', assumed: str = '',
              workers: Optional[int] = None) -> str:
    """Write all pictures of `source` to `output_dir` as one of TARGETS; return what was written, in words.

    rec: train.rec, train.idx and `property` in insightface's layout, people in the order of their labels (without its
    headers where labels leave gaps). folder: <label>/<record>.jpg, whatever kind of picture file it is, and
    train_list.txt. pack: pack.json and its shards, faces of the format `face`; `assumed` insists on an alignment.
    Raises ValueError, or `Rejected` where another picture stands in the place of one.
    """
    os.makedirs(output_dir, exist_ok=True)
    if target == 'rec':
        return _to_records(source, output_dir)
    if target == 'folder':
        return _to_folder(source, output_dir)
    return _to_pack(source, output_dir, face, assumed, workers)


def _to_records(source, output_dir):
    path = os.path.join(output_dir, 'train.rec')
    if os.path.exists(path):
        raise ValueError(f"{path}: is there already; choose another --output_dir")
    order = np.argsort(source.labels, kind='stable')
    labels = _all_labels(source, order.tolist())
    gapless = source.labels.min() == 0 and len(np.unique(source.labels)) == source.labels.max() + 1
    height, width = decode(source.data(int(order[0])), name=f'{source.path}, {source.names[order[0]]}').shape
    write_records(path, labels, (source.data(row) for row in tqdm(order.tolist(), 'writing', disable=None)),
                  people=bool(gapless), size=(height, width))
    return f"{path}: {len(order)} pictures of {len(np.unique(source.labels))} people"


def _all_labels(source, rows):
    """Return labels (N,), or (N, L) where the records of a .rec file carry L each."""
    if not isinstance(source, RecordFile) or not source.record(0).flag:
        return source.labels[rows]
    held = [source.record(row).labels for row in rows]
    length = len(held[0])
    wrong = next((row for row, labels in zip(rows, held) if len(labels) != length), None)
    if wrong is not None:
        raise ValueError(f"{source.path}: record {source.names[wrong]} has not as many labels as the {length} "
                         f"of record {source.names[rows[0]]}")
    return np.stack(held)


def _to_folder(source, output_dir):
    if os.path.isdir(source.path):
        raise ValueError(f"{source.path}: is a folder already; expected --to rec or pack")
    temporary = os.path.join(output_dir, f'.tmp-{os.getpid()}')
    stems = [os.path.splitext(os.path.basename(name))[0] for name in source.names]
    names = [f'{label}/{stem}.jpg' for label, stem in zip(source.labels.tolist(), stems)]
    for row, name in enumerate(tqdm(names, 'writing', disable=None)):
        try:
            write_new(os.path.join(output_dir, name), source.data(row), temporary)
        except Rejected as reason:
            raise ValueError(f"{os.path.join(output_dir, name)}: {reason}; choose another --output_dir") from None
    file = os.path.join(output_dir, LIST_NAME)
    lists.write_image_list(file, names, source.labels.tolist())
    return f"{file}: {len(names)} pictures of {len(np.unique(source.labels))} people"


def _to_pack(source, output_dir, face, assumed, workers):
    lists.check_train_labels(source.labels, int(source.labels.max()) + 1, source.path)
    _check_alignment(source, face, assumed)
    prefix = os.path.join(os.path.abspath(output_dir), 'pack')
    rows = [range(start, min(start + _SHARD, len(source))) for start in range(0, len(source), _SHARD)]
    listed = (source.names, source.labels) if isinstance(source, FolderSource) else None
    with ProcessPoolExecutor(min(len(rows), workers or len(os.sched_getaffinity(0))),
                             multiprocessing.get_context('spawn'), _open_in_worker, (source.path, listed)) as pool:
        jobs = [pool.submit(_pack_shard, prefix, number, part, face) for number, part in enumerate(rows)]
        shards = [job.result() for job in tqdm(jobs, 'packing', unit='shard', disable=None)]
    bad = [line for shard in shards for line in shard['bad']]
    lists.write_text(f'{prefix}_bad_images.txt', ''.join(f'{line}\n' for line in bad))
    if len(bad) == len(source):
        raise ValueError(f"{source.path}: not one of {len(source)} pictures can be read; the first: {bad[0]}")
    digest = hashlib.sha256(''.join(f'{name} {label}\n' for name, label in zip(source.names, source.labels.tolist()))
                            .encode(errors='surrogateescape')).hexdigest()
    metadata = pack.write_metadata(prefix, shards, face=face, encoding='jpeg', size=face_format(face).train_side,
                                   num_people=int(source.labels.max()) + 1, num_bad=len(bad), list_sha256=digest)
    return (f"{prefix}.json: {metadata['num_images']} faces of {metadata['num_people']} people in "
            f"{len(metadata['shards'])} shards, {len(bad)} pictures unreadable")


def _check_alignment(source, face, assumed):
    """Raise ValueError if the sizes of the pictures say that they are aligned in another way than `face` needs."""
    held, sides = face_format(face), []
    for row in np.linspace(0, len(source) - 1, _LOOKED_AT).astype(int).tolist():
        try:
            height, width = decode(source.data(row)).shape
        except ValueError:
            continue                                         # it comes to the list of unreadable ones
        sides.append(height if height == width else None)
    alignment = ALIGNMENT_OF_SIDE.get(max(sides, key=sides.count)) if sides else None
    if alignment or assumed:
        check_formats(source.path, replace(held, alignment=alignment or held.alignment), held, assumed)


_SOURCE: list = []                       # of a worker process


def _open_in_worker(path, listed):
    _SOURCE[:] = [open_source(path, listed)]


def _pack_shard(prefix, number, rows, face):
    source, held, bad = _SOURCE[0], face_format(face), []
    side = held.train_side

    def records():
        for row in rows:
            try:
                data = source.data(row)
                image = decode(data, held.colour)
            except (OSError, ValueError) as error:
                bad.append(f"{source.names[row]}: {' '.join(str(error).split())}")
                continue
            if data[:2] != b'\xff\xd8' or image.shape[:2] != (side, side):
                data = encode(resize(image, side), held.colour)
            yield source.names[row], int(source.labels[row]), data
    return {**pack.write_shard(prefix, number, records()), 'bad': bad}
