"""Many small pictures -> a few MindRecord shards of faces of one format, resized once, and back.

    python prepare.py pack --root faces/train --list faces/train_list.txt --out packs/ms1m --shards 8
    python train.py --set train_list=packs/ms1m.json ...

PREFIX.json holds the metadata of the pack and the sha256 of every shard. A shard is read by its own index at any
place, so a true permutation of millions of faces costs no memory: MindRecord keeps blobs in pages after a header, each
behind its length in 8 bytes, and their places in the SQLite file beside it.
"""
import argparse
import json
import multiprocessing
import os
import shutil
import sqlite3
import struct
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, Optional

import numpy as np
from tqdm import tqdm

from src.data import fingerprint, lists
from src.data.face_format import FACE_FORMATS, face_format, from_metadata
from src.data.images import check_alignment, decode, encode, find_image, list_id, listed_faces, resize, root_of
from src.data.pictures import read_bytes

FORMAT, GREY_FORMAT = 2, 1       # packs of format 1 hold grey LightCNN faces
ENCODINGS = ('raw', 'jpeg')
EXAMPLES = """  python prepare.py pack --root faces/train --list faces/train_list.txt --out packs/faces
  python prepare.py pack --root train --list list.txt --out packs/ms1m --encoding jpeg --shards 64 --workers 8
  python prepare.py pack --list faces_emore/train.rec --out packs/colour --face_format arcface --encoding jpeg"""
_SCHEMA = {'image': {'type': 'bytes'}, 'label': {'type': 'int32'}, 'name': {'type': 'string'}}
_CHUNK = 500


def encoded(face: np.ndarray, colour: str, encoding: str) -> bytes:
    """Return a face (S, S) or (S, S, 3) uint8 as a pack keeps it: its bytes, or a JPEG."""
    return face.tobytes() if encoding == 'raw' else encode(face, colour)


def shard_name(prefix: str, number: int) -> str:
    """Return the file name of a shard."""
    return f'{os.path.basename(prefix)}_{number:04d}.mindrecord'


def write_shard(prefix: str, number: int, records: Iterable) -> dict:
    """Write `records` of (name, label, encoded face) as one shard, whole or not at all; return its metadata."""
    from mindspore.mindrecord import FileWriter
    name, count = shard_name(prefix, number), 0
    folder = f'{prefix}.tmp{number}'
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    try:
        writer = FileWriter(os.path.join(folder, name), 1)       # the file knows its name: it may move, not be renamed
        writer.add_schema(_SCHEMA, 'faces')
        chunk = []
        for person_file, label, data in records:
            chunk.append({'image': data, 'label': int(label), 'name': person_file})
            if len(chunk) == _CHUNK:
                writer.write_raw_data(chunk)
                count, chunk = count + len(chunk), []
        if not chunk and not count:
            return {'file': None, 'count': 0}                    # not one of its images can be read
        if chunk:
            writer.write_raw_data(chunk)
        writer.commit()
        count += len(chunk)
        metadata = {'file': name, 'count': count}
        for suffix in ('', '.db'):
            written, final = os.path.join(folder, name + suffix), os.path.join(os.path.dirname(prefix), name + suffix)
            with open(written, 'rb') as file:
                os.fsync(file.fileno())
            metadata['sha256' + suffix.replace('.', '_')] = lists.file_sha256(written)
            metadata['bytes' + suffix.replace('.', '_')] = os.path.getsize(written)
            os.chmod(written, 0o644)
            os.replace(written, final)
        return metadata
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def pack_shard(job: dict, number: int, rows: list) -> dict:
    """Write shard `number` from the listed rows; return its metadata with the unreadable images, kept in a file too."""
    face, bad, held, people = face_format(job['face_format']), [], [], set()

    def records():
        for name, label in rows:
            try:
                path = find_image(job['root'], name)
                if path is None:
                    raise FileNotFoundError('no such image')
                data = read_bytes(path)
                image = decode(data, face.colour, str(path))
            except (OSError, ValueError) as error:
                bad.append(f"{name}: {' '.join(str(error).split())}")
                continue
            held.append(fingerprint.record_of(data, image, face, face.colour))
            people.add(fingerprint.person_in(name))
            yield name, label, encoded(resize(image, job['size']), face.colour, job['encoding'])
    metadata = {**write_shard(job['prefix'], number, records()), 'bad': bad}
    fingerprint.write(_fingerprint_of_shard(job['prefix'], number), fingerprint.of_records(
        np.array(held, fingerprint.RECORD).reshape(len(held)), people, len(people), list_id=job['list_sha256'],
        alignment=face.alignment))
    lists.write_text(_state_file(job['prefix'], number), json.dumps({**metadata, 'job': job}))
    return metadata


def fingerprint_file(metadata_file: str) -> str:
    """Return the name of the fingerprint of a pack, PREFIX.fingerprint.npz."""
    return os.path.splitext(metadata_file)[0] + '.fingerprint.npz'


def _fingerprint_of_shard(prefix, number):
    return f'{prefix}.shard{number}.fingerprint.npz'


def _state_file(prefix, number):
    return f'{prefix}.shard{number}.json'


def _finished(job, number):
    """Return the metadata of a shard that an earlier run of the same job has finished, or None."""
    try:
        with open(_state_file(job['prefix'], number), encoding='utf-8') as text:
            metadata = json.load(text)
        file = os.path.join(os.path.dirname(job['prefix']), metadata['file'])
        same = metadata['job'] == job and os.path.getsize(file) == metadata['bytes'] and os.path.isfile(
            _fingerprint_of_shard(job['prefix'], number))        # an empty shard is made again
        return {key: value for key, value in metadata.items() if key != 'job'} if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pack(root: Optional[str], list_file: str, prefix: str, *, encoding: str = 'raw', face: str = 'lightcnn',
         size: Optional[int] = None, num_shards: Optional[int] = None, workers: Optional[int] = None,
         max_bad: float = 0.01, assumed: str = '') -> dict:
    """Pack the images of a list; return the metadata in PREFIX.json. A run that was cut off keeps its finished shards.

    root: folder of the pictures, or a .rec file; None where list_file is one, which lists itself. face: the name of
    the format of the faces. size: their side, None for the format's. assumed: a format that the
    pictures are taken to have. Raises ValueError for a wrong list, pictures of another alignment, or if more than the
    share `max_bad` of the images cannot be read.
    """
    root = root_of(root, list_file)
    names, labels = listed_faces(list_file)
    lists.check_train_labels(labels, int(labels.max()) + 1, list_file)
    subset = [path for name in names[::max(1, len(names) // 100)] if (path := find_image(root, name))]
    check_alignment(root, subset, face_format(face), assumed)
    prefix = os.path.abspath(prefix)
    os.makedirs(os.path.dirname(prefix), exist_ok=True)
    num_shards = min(num_shards or max(1, len(names) // 50_000), len(names))
    job = {'root': os.path.abspath(root), 'prefix': prefix, 'encoding': encoding, 'face_format': face,
           'size': size or face_format(face).train_side, 'shards': num_shards,
           'list_sha256': list_id(list_file)}
    done = {number: metadata for number in range(num_shards) if (metadata := _finished(job, number))}
    if done:
        print(f"{len(done)} of {num_shards} shards are finished already", flush=True)
    bounds = np.linspace(0, len(names), num_shards + 1).astype(int)
    remaining = [number for number in range(num_shards) if number not in done]
    with ProcessPoolExecutor(workers or len(os.sched_getaffinity(0)), multiprocessing.get_context('spawn')) as pool:
        rows = {n: list(zip(names[bounds[n]:bounds[n + 1]], labels[bounds[n]:bounds[n + 1]].tolist()))
                for n in remaining}
        jobs = {number: pool.submit(pack_shard, job, number, rows[number]) for number in remaining}
        for number in tqdm(remaining, 'packing', unit='shard', disable=None):
            done[number] = jobs[number].result()
    return _finish(job, [done[number] for number in range(num_shards)], len(names), int(labels.max()) + 1, max_bad)


def _finish(job, shards, num_listed, num_people, max_bad):
    prefix, bad = job['prefix'], [line for shard in shards for line in shard['bad']]
    lists.write_text(f'{prefix}_bad_images.txt', ''.join(f'{line}\n' for line in bad))
    if len(bad) > max_bad * num_listed:
        raise ValueError(f"{len(bad)} of {num_listed} images cannot be read, more than --max_bad {max_bad:g} allows; "
                         f"{prefix}_bad_images.txt names them, the first: {bad[0]}")
    if len(bad) == num_listed:
        raise ValueError(f"{prefix}: not one of {num_listed} images can be read; the first: {bad[0]}")
    metadata = write_metadata(prefix, shards, face=job['face_format'], encoding=job['encoding'], size=job['size'],
                              num_people=num_people, num_bad=len(bad), list_sha256=job['list_sha256'])
    parts = [_fingerprint_of_shard(prefix, number) for number in range(job['shards'])]
    fingerprint.write(fingerprint_file(f'{prefix}.json'),
                      fingerprint.joined([fingerprint.read(part) for part in parts], num_people))
    for file in [*parts, *(_state_file(prefix, number) for number in range(job['shards']))]:
        os.remove(file)
    return metadata


def write_metadata(prefix: str, shards: list, *, face: str = 'lightcnn', **metadata: Any) -> dict:
    """Write PREFIX.json from the metadata of the shards, empty ones left out, and return it."""
    shards = [{key: value for key, value in shard.items() if key != 'bad'} for shard in shards if shard['count']]
    metadata = {'format': FORMAT, 'face_format': face_format(face).as_metadata(), **metadata,
                'num_images': sum(shard['count'] for shard in shards), 'shards': shards}
    lists.write_text(f'{prefix}.json', json.dumps(metadata, indent=1) + '\n')
    return metadata


class Pack:
    """Random access to the faces of a pack: len(pack), pack.labels (N,) int32, pack.face(row) (S, S[, 3]) uint8."""

    def __init__(self, metadata_file: str):
        self.metadata_file, self.folder = metadata_file, os.path.dirname(os.path.abspath(metadata_file))
        metadata = _read_metadata(metadata_file)
        self.size, self.encoding, self.shards = metadata['size'], metadata['encoding'], metadata['shards']
        self.num_people, self.face_format = metadata['num_people'], from_metadata(metadata, metadata_file)
        self.shape = (self.size, self.size) if self.face_format.num_channels == 1 else (self.size, self.size, 3)
        index = [self._index(shard) for shard in self.shards]
        self.labels, self.starts, self.lengths = (np.concatenate([part[i] for part in index]) for i in range(3))
        self.first = np.cumsum([0] + [shard['count'] for shard in self.shards])
        self.files = [os.open(os.path.join(self.folder, shard['file']), os.O_RDONLY) for shard in self.shards]
        self._check_labels()

    def __len__(self) -> int:
        return len(self.labels)

    def __del__(self):
        for file in getattr(self, 'files', []):
            os.close(file)

    def _path(self, shard, suffix=''):
        path = os.path.join(self.folder, shard['file'] + suffix)
        size = os.path.getsize(path) if os.path.isfile(path) else None
        if size != shard['bytes' + suffix.replace('.', '_')]:
            raise ValueError(f"{path}: {'is missing' if size is None else f'has {size} bytes'}, {self.metadata_file} "
                             f"says {shard['bytes' + suffix.replace('.', '_')]}; pack it again or copy it anew")
        return path

    def _index(self, shard):
        """Return (labels, places, lengths) of a shard's faces from its SQLite file, checked."""
        path, count = self._path(shard), shard['count']
        header, page = _layout(path)
        try:
            index = sqlite3.connect(f'file:{self._path(shard, ".db")}?mode=ro&immutable=1', uri=True)
            rows = index.execute('SELECT label_0, PAGE_ID_BLOB, PAGE_OFFSET_BLOB, PAGE_OFFSET_BLOB_END FROM INDEXES '
                                 'ORDER BY ROW_ID')
            table = np.fromiter(rows, np.dtype((np.int64, 4)), -1)
            index.close()
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise ValueError(f"{path}.db: not the index of a shard ({error})") from None
        places = header + table[:, 1] * page + table[:, 2] + 8
        lengths = table[:, 3] - table[:, 2] - 8
        if len(table) != count or (lengths <= 0).any() or (places < header).any() or \
                (places + lengths > shard['bytes']).any() or \
                self.encoding == 'raw' and (lengths != np.prod(self.shape)).any():
            raise ValueError(f"{path}.db: its {len(table)} entries do not fit {count} {self.encoding} faces of "
                             f"{self.size}x{self.size}")
        return table[:, 0].astype(np.int32), places, lengths.astype(np.int32)

    def _check_labels(self):
        if self.labels.min() < 0 or self.labels.max() >= self.num_people:
            raise ValueError(f"{self.metadata_file}: labels {self.labels.min()}..{self.labels.max()}, expected "
                             f"0..{self.num_people - 1}")

    def verify(self, numbers: Iterable, workers: int = 2) -> None:
        """Raise ValueError unless the shards of these numbers have the sha256 in the metadata."""
        def check(number):
            shard = self.shards[number]
            for suffix in ('', '.db'):
                path = self._path(shard, suffix)
                if lists.file_sha256(path) != shard['sha256' + suffix.replace('.', '_')]:
                    raise ValueError(f"{path}: does not match its sha256 in {self.metadata_file}; it is damaged: pack "
                                     "it again or copy it anew")
        with ThreadPoolExecutor(workers) as pool:
            list(tqdm(pool.map(check, numbers), 'checking shards', len(numbers), disable=None, leave=False))

    def data(self, row: int) -> bytes:
        """Return the bytes of face `row` as they are stored; OSError if its shard ends before them."""
        shard = int(np.searchsorted(self.first, row, 'right')) - 1
        length = int(self.lengths[row])
        data = os.pread(self.files[shard], length, int(self.starts[row]))
        if len(data) != length:
            raise OSError(f"{os.path.join(self.folder, self.shards[shard]['file'])}: ends before face {row}; it was "
                          "cut off while it was in use")
        return data

    def face(self, row: int) -> np.ndarray:
        """Return face `row` as (S, S) uint8, in colour (S, S, 3) in the order of `face_format`."""
        data = self.data(row)
        if self.encoding == 'raw':
            return np.frombuffer(data, np.uint8).reshape(self.shape)
        face = decode(data, self.face_format.colour, f'{self.metadata_file}, face {row}')
        if face.shape != self.shape:
            raise ValueError(f"{self.metadata_file}: face {row} is {face.shape}, expected {self.size}x{self.size}")
        return face


def _layout(path):
    """Return (header size, page size) of a MindRecord file."""
    with open(path, 'rb') as file:
        try:
            length, = struct.unpack('<q', file.read(8))
            header = json.loads(file.read(min(length, 1 << 24)))
            return int(header['header_size']), int(header['page_size'])
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a MindRecord shard ({error})") from None


def _read_metadata(file):
    held = lists.read_json(file, 'no such pack; prepare.py pack makes one')
    try:
        whole = (held['format'] in (FORMAT, GREY_FORMAT) and held['encoding'] in ENCODINGS
                 and 16 <= held['size'] <= 1152 and held['num_people'] > 0 and held['shards'] and all(
                     isinstance(s['count'], int) and isinstance(s['bytes'], int) and isinstance(s['bytes_db'], int)
                     and len(s['sha256']) == len(s['sha256_db']) == 64 for s in held['shards']))
        unsafe = [s['file'] for s in held['shards'] if os.path.basename(s['file']) != s['file'] or s['file'][0] == '.']
    except (ValueError, KeyError, TypeError, RecursionError, IndexError) as error:
        raise ValueError(f"{file}: not the metadata of a pack ({type(error).__name__}: {error})") from None
    if not whole or unsafe:
        raise ValueError(f"{file}: not the metadata of a pack of format {FORMAT}"
                         + (f"; '{unsafe[0][:60]}' leaves its folder" if unsafe else ''))
    return held


def add_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags of `prepare.py pack`."""
    flags.add_argument('--root', metavar='DIR', help='folder that the list counts from')
    flags.add_argument('--list', required=True, metavar='FILE', help="'path label' list, labels 0..K-1; or a .rec")
    flags.add_argument('--out', required=True, metavar='PREFIX', help='PREFIX.json and PREFIX_0000.mindrecord ...')
    flags.add_argument('--encoding', default='raw', choices=ENCODINGS, help='default %(default)s')
    flags.add_argument('--face_format', default='lightcnn', choices=list(FACE_FORMATS), help='default %(default)s')
    flags.add_argument('--assume_format', default='', choices=list(FACE_FORMATS), help='face format '
                       'of the pictures, overrides the one that their sizes imply')
    flags.add_argument('--size', type=int, help="side in pixels (default: the format's)")
    flags.add_argument('--shards', type=int, help='default: one per 50,000 images')
    flags.add_argument('--workers', type=int, help='processes (default: one per core)')
    flags.add_argument('--max_bad', type=float, default=0.01, help='share of unreadable images allowed (default '
                       '%(default)s)')


def run(args: argparse.Namespace) -> None:
    """Run `prepare.py pack`."""
    for name, value in (('--size', args.size and args.size - 15), ('--shards', args.shards),
                        ('--workers', args.workers)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is too small")
    metadata = pack(args.root, args.list, args.out, encoding=args.encoding, face=args.face_format, size=args.size,
                    num_shards=args.shards, workers=args.workers, max_bad=args.max_bad, assumed=args.assume_format)
    num_bytes = sum(shard['bytes'] + shard['bytes_db'] for shard in metadata['shards'])
    print(f"{args.out}.json: {metadata['num_images']} faces of {metadata['num_people']} people in "
          f"{len(metadata['shards'])} shards, {num_bytes / 1e6:.1f} MB, {metadata['num_bad']} images unreadable")
