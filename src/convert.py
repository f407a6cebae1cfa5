"""MS-Celeb-1M's TSV file -> a folder of aligned faces: MID/<rank>-<face id>.jpg. Or .rec, folder and pack by --to.

    python src/convert.py --file_path FaceImageCroppedWithAlignment.tsv --output_dir train --clean_list clean_list.txt
    python src/convert.py --file_path faces_emore/train.rec --to folder --output_dir train     # src/data/transcode.py

Seven columns a row: Freebase MID, search rank, image URL, page URL, face id, base64 rectangle (4 float32), base64
JPEG. The file is read in parts by several processes, in constant memory. What each part did is kept in
OUTPUT_DIR/.convert, so that a run that was killed goes on without reading finished parts again. Rows that are broken go
to rejected.tsv with line number and reason, listed images that never came to missing.txt. With --format pack the faces
go at once into the shards of OUTPUT_DIR/pack.json (src/data/pack.py), labelled by the clean list, without small files.
"""
import argparse
import base64
import binascii
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import BinaryIO, Optional

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from src import cli  # noqa: E402
from src.data import lists, pack  # noqa: E402
from src.data.face_format import FACE_FORMATS  # noqa: E402
from src.data.images import TRAIN_SIDE, decode, encode, resize  # noqa: E402
from src.data.transcode import LIST_NAME, TARGETS, Rejected, open_source, transcode, write_new  # noqa: E402
from src.get_list import train_list  # noqa: E402

EXAMPLES = """  python src/convert.py --file_path ms1m.tsv --output_dir train
  python src/convert.py --file_path ms1m.tsv --output_dir train --clean_list clean_list.txt --workers 8
  python src/convert.py --file_path ms1m.tsv --output_dir packs --clean_list clean_list.txt --format pack
  python src/convert.py --file_path faces_emore/train.rec --to pack --output_dir packs --face_format arcface
  python src/convert.py --file_path train --to rec --output_dir records"""
NUM_COLUMNS = 7
MAX_LINE = 64 * 2**20
PART_BYTES = {'folder': 64 * 2**20, 'pack': 2 * 2**30}       # a part of a pack becomes a shard
_MID = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z')
_FACE_ID = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z')
_RANK = re.compile(r'[0-9]{1,9}\Z')


def parse_row(line: bytes) -> tuple:
    """Return (name 'MID/<rank>-<face id>.jpg', JPEG bytes) of one row; `Rejected` says why it has none."""
    columns = line.rstrip(b'\r\n').split(b'\t')
    if columns == [b'']:
        raise Rejected('the line is empty')
    if len(columns) != NUM_COLUMNS:
        raise Rejected(f'{len(columns)} columns, expected {NUM_COLUMNS}')
    mid, rank, face_id = (columns[i].decode('ascii', 'replace') for i in (0, 1, 4))
    for pattern, text, what in ((_MID, mid, 'MID'), (_RANK, rank, 'search rank'), (_FACE_ID, face_id, 'face id')):
        if not pattern.match(text):
            raise Rejected(f'{what} {text[:40]!r} cannot be part of a file name')
    if len(_decode(columns[5], 'rectangle')) != 16:
        raise Rejected('the rectangle is not four float32')
    data = _decode(columns[6], 'image')
    try:
        decode(data, reduced=True)       # an eighth: all of the stream, few pixels
    except ValueError as error:
        raise Rejected(str(error)) from None
    return f'{mid}/{rank}-{face_id}.jpg', data


def _decode(text, what):
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Rejected(f'the {what} is not base64') from None


def key_of(name: str) -> int:
    """Return 64 bits of a name's hash: millions of names are kept and compared as numbers."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors='surrogateescape'), digest_size=8).digest(), 'little')


def lines_of(file: BinaryIO, start: int, end: int) -> Iterator:
    """Yield the lines of a binary file that begin in [start, end), None for one longer than MAX_LINE."""
    if start:
        file.seek(start - 1)
        _skip_line(file)
    while file.tell() < end:
        line = file.readline(MAX_LINE)
        if not line:
            return
        if len(line) == MAX_LINE and not line.endswith(b'\n'):
            _skip_line(file)
            line = None
        yield line


def _skip_line(file):
    while (piece := file.readline(MAX_LINE)) and not piece.endswith(b'\n'):
        pass


class Part:
    """One part of the TSV file on its way: counts, rejected rows, and the keys of the images that came out."""

    def __init__(self, job: dict, number: int, start: int, end: int):
        self.job, self.start, self.end, self.number = job, start, end, number
        self.stem = os.path.join(job['output_dir'], '.convert', f'part_{number:06d}')
        self.counts = {'rows': 0, 'images': 0, 'bytes': 0, 'rejected': 0, 'unlisted': 0}
        self.keys, self.packed = [], set()

    def rows(self, clean: 'Optional[CleanList]') -> Iterator:
        """Yield (name, label, JPEG bytes) of the good rows; what the caller rejects meanwhile is noted too."""
        with open(self.job['tsv'], 'rb') as file, open(f'{self.stem}.tsv', 'w', encoding='utf-8') as rejected:
            for line in lines_of(file, self.start, self.end):
                self.counts['rows'] += 1
                try:
                    if line is None:
                        raise Rejected(f'the line is longer than {MAX_LINE} bytes')
                    name, data = parse_row(line)
                    key = key_of(name)
                    label = -1 if clean is None else clean.label(key)
                    if label is None:
                        self.counts['unlisted'] += 1
                    elif self.take(name, key, data):
                        yield name, label, data
                except Rejected as reason:
                    rejected.write(f"{self.counts['rows']}\t{reason}\n")
                    self.counts['rejected'] += 1

    def take(self, name: str, key: int, data: bytes) -> bool:
        """Count an image; True if it is to be written. `Rejected` if its name is there with another picture."""
        if self.job['format'] == 'folder':
            temporary = os.path.join(self.job['output_dir'], '.convert', f'tmp-{os.getpid()}')
            fresh = write_new(os.path.join(self.job['output_dir'], name), data, temporary)
        else:
            fresh = key not in self.packed
            self.packed.add(key)
        self.keys.append(key)
        self.counts['images'] += 1
        self.counts['bytes'] += len(data)
        return fresh


def convert_part(job: dict, number: int, start: int, end: int, clean: 'Optional[CleanList]') -> dict:
    """Write the images of one part and then, as the sign that it is finished, part_<number>.json; return its counts."""
    part = Part(job, number, start, end)
    metadata = {}
    if job['format'] == 'pack':
        prefix = os.path.join(job['output_dir'], 'pack')
        metadata['shard'] = pack.write_shard(prefix, number, (
            (name, label, encode(resize(decode(data), TRAIN_SIDE), 'grey'))
            for name, label, data in part.rows(clean)))
    else:
        for _ in part.rows(clean):
            pass
        os.sync()                                                # the pictures before the word that they are there
    lists.write_array(f'{part.stem}.npy', np.array(part.keys, np.uint64))
    lists.write_text(f'{part.stem}.json', json.dumps({**part.counts, **metadata}))
    return part.counts


class CleanList:
    """The names of a clean list as sorted 64-bit keys, 12 bytes each, with their labels."""

    def __init__(self, file: str):
        rows = np.fromiter(((key_of(name), label) for name, label in lists.iterate_list(file)),
                           np.dtype([('key', np.uint64), ('label', np.int32)]))
        self.keys, first = np.unique(rows['key'], return_index=True)
        self.labels = rows['label'][first]

    def label(self, key: int) -> Optional[int]:
        """Return the label of a name's key, None if it is not listed."""
        place = np.searchsorted(self.keys, np.uint64(key))
        return int(self.labels[place]) if place < len(self.keys) and int(self.keys[place]) == key else None


def convert(tsv: str, output_dir: str, clean_list: Optional[str] = None, workers: Optional[int] = None,
            part_bytes: Optional[int] = None, form: str = 'folder') -> dict:
    """Convert a TSV file; return the counts of the whole. A run that was cut off goes on with the parts that are left.

    Raises ValueError if output_dir holds another conversion, OSError if the disk is too small.
    """
    if not os.path.isfile(tsv):
        raise FileNotFoundError(f"{tsv}: no such TSV file")
    if form == 'pack' and clean_list is None:
        raise ValueError("--format pack needs --clean_list: the labels come from it")
    size, part_bytes = os.path.getsize(tsv), part_bytes or PART_BYTES[form]
    clean = clean_list and CleanList(clean_list)
    work = os.path.join(output_dir, '.convert')
    os.makedirs(work, exist_ok=True)
    _same_job(work, {'tsv_bytes': size, 'tsv_mtime': os.stat(tsv).st_mtime_ns, 'part_bytes': part_bytes,
                     'format': form, 'clean_list': clean_list and lists.file_sha256(clean_list)})
    for name in os.listdir(work):
        if name.startswith('tmp-'):
            os.remove(os.path.join(work, name))
    parts = [(number, start, min(start + part_bytes, size)) for number, start in enumerate(range(0, size, part_bytes))]
    left = [part for part in parts if not os.path.exists(os.path.join(work, f'part_{part[0]:06d}.json'))]
    if len(left) < len(parts):
        print(f"{len(parts) - len(left)} of {len(parts)} parts are finished already", flush=True)
    _check_space(output_dir, sum(end - start for _, start, end in left))
    job = {'tsv': tsv, 'output_dir': output_dir, 'format': form}
    with ProcessPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        jobs = {pool.submit(convert_part, job, *part, clean): part for part in left}
        _report_progress(jobs, sum(end - start for _, start, end in left))
    total = _finish(output_dir, work, len(parts), clean, clean_list)
    if form == 'pack':
        _finish_pack(output_dir, work, len(parts), clean, clean_list)
    return total


def _finish_pack(output_dir, work, num_parts, clean, clean_list):
    shards = []
    for number in range(num_parts):
        with open(os.path.join(work, f'part_{number:06d}.json'), encoding='utf-8') as text:
            shards.append(json.load(text)['shard'])
    pack.write_metadata(os.path.join(output_dir, 'pack'), shards, encoding='jpeg', size=TRAIN_SIDE, num_bad=0,
                     num_people=int(clean.labels.max()) + 1, list_sha256=lists.file_sha256(clean_list))


def _same_job(work, job):
    file = os.path.join(work, 'job.json')
    if os.path.exists(file):
        with open(file, encoding='utf-8') as text:
            before = json.load(text)
        differs = [key for key in job if before.get(key) != job[key]]
        if differs:
            raise ValueError(f"{os.path.dirname(work)}: holds another conversion ({', '.join(differs)} differ); choose "
                             f"another --output_dir or delete {work}")
    else:
        lists.write_text(file, json.dumps(job))


def _check_space(output_dir, num_bytes):
    free, needed = shutil.disk_usage(output_dir).free, num_bytes * 3 // 4          # base64 is a third longer
    if needed > free:
        raise OSError(f"{output_dir}: {free / 1e9:.1f} GB are free, up to {needed / 1e9:.1f} GB are needed")


def _report_progress(jobs, num_bytes):
    start = shown = time.time()
    done = rows = 0
    with tqdm(total=num_bytes, desc='converting', unit='B', unit_scale=True, disable=None) as bar:
        for job in as_completed(jobs):
            rows += job.result()['rows']
            _, begin, end = jobs[job]
            done += end - begin
            seconds = time.time() - start
            bar.set_postfix_str(f'{rows / seconds:.0f} rows/s')
            bar.update(end - begin)
            if bar.disable and (time.time() - shown > 10 or done == num_bytes):
                shown = time.time()
                left = seconds / done * (num_bytes - done)
                print(f"{100 * done / num_bytes:.1f} %, {rows} rows, {rows / seconds:.0f} rows/s, {left:.0f} s left",
                      flush=True)


def _finish(output_dir, work, num_parts, clean, clean_list):
    """Put the parts' reports together; return the counts of the whole."""
    total, keys = {'rows': 0, 'images': 0, 'bytes': 0, 'rejected': 0, 'unlisted': 0}, []
    temporary = os.path.join(work, 'rejected.tsv')
    with open(temporary, 'w', encoding='utf-8') as rejected:
        for number in range(num_parts):
            stem = os.path.join(work, f'part_{number:06d}')
            with open(f'{stem}.tsv', encoding='utf-8') as part:
                for line in part:
                    row, _, reason = line.partition('\t')
                    rejected.write(f"{total['rows'] + int(row)}\t{reason}")
            with open(f'{stem}.json', encoding='utf-8') as text:
                counts = json.load(text)
            for key in total:
                total[key] += counts[key]
            keys.append(np.load(f'{stem}.npy', allow_pickle=False))
    os.replace(temporary, os.path.join(output_dir, 'rejected.tsv'))
    keys = np.concatenate([np.zeros(0, np.uint64), *keys])
    distinct = np.unique(keys)
    total['duplicates'] = len(keys) - len(distinct)
    if clean:
        came = np.isin(clean.keys, distinct)
        gone = set(clean.keys[~came].tolist())
        missing = [name for name, _ in lists.iterate_list(clean_list) if key_of(name) in gone]
        lists.write_text(os.path.join(output_dir, 'missing.txt'), ''.join(f'{name}\n' for name in missing))
        total['missing'] = len(missing)
    return total


def convert_set(args: argparse.Namespace) -> str:
    """Convert a .rec file, a folder or a pack as the flags ask; return what was written, in words."""
    if not args.to or args.clean_list or args.file_path.endswith('.tsv'):
        raise ValueError(f"{args.file_path}: --to {'|'.join(TARGETS)} says what becomes of a .rec file, a folder or a "
                         "pack; a TSV file takes --format and --clean_list")
    has_list = os.path.isfile(os.path.join(args.file_path, LIST_NAME))
    listed = train_list(args.file_path)[:2] if os.path.isdir(args.file_path) and not has_list else None
    return transcode(open_source(args.file_path, listed), args.output_dir, args.to, face=args.face_format,
                     assumed=args.assume_format, workers=args.workers)


def main() -> None:
    flags = cli.parser(__doc__.splitlines()[0], EXAMPLES)
    flags.add_argument('--file_path', required=True, metavar='FILE',
                       help='TSV file, or with --to a .rec file, a folder of people or the .json of a pack')
    flags.add_argument('--output_dir', required=True, metavar='DIR')
    flags.add_argument('--clean_list', metavar='FILE', help="'name label' list: only its images are written")
    flags.add_argument('--format', choices=list(PART_BYTES), default='folder', help='default %(default)s')
    flags.add_argument('--to', choices=TARGETS, help='what becomes of a .rec file, a folder or a pack')
    flags.add_argument('--face_format', default='arcface', choices=list(FACE_FORMATS), help='of --to pack (default '
                       '%(default)s)')
    flags.add_argument('--assume_format', default='', choices=list(FACE_FORMATS), help='what the pictures are, where '
                       'their sizes say otherwise')
    flags.add_argument('--workers', type=int, help='processes (default: one per core)')
    flags.add_argument('--part_mb', type=int, default=0, help=argparse.SUPPRESS)
    args = flags.parse_args()
    if args.workers is not None and args.workers < 1:
        raise ValueError(f"--workers {args.workers} is not 1 or more")
    if args.to or args.file_path.endswith('.rec'):
        print(convert_set(args))
        return
    total = convert(args.file_path, args.output_dir, args.clean_list, args.workers, args.part_mb << 20,
                    args.format)
    print(f"{total['rows']} rows: {total['images'] - total['duplicates']} images, {total['bytes'] / 1e6:.1f} MB, in "
          f"{args.output_dir}; {total['duplicates']} duplicates of the same picture, {total['unlisted']} not in the "
          f"list, {total['rejected']} rejected (rejected.tsv)")
    if total.get('missing'):
        print(f"{total['missing']} listed images never came (missing.txt)")
    if not total['images']:
        raise OSError(f"{args.file_path}: not one image came out; see {os.path.join(args.output_dir, 'rejected.tsv')}")


if __name__ == '__main__':
    cli.run(main)
