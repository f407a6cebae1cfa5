"""MS-Celeb-1M's TSV -> faces: ours into a folder and into packs, beside the plain way, in one run.

    python benchmarks/convert_speed.py --root faces/train --list faces/train_list.txt

States the cost of checking every row and picture and of resuming after a kill: the plain way reads line by line in
one process, decodes the base64 and writes the file, and checks nothing. --copies makes the file larger.
"""
import argparse
import base64
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from src.convert import convert  # noqa: E402
from src.data import lists  # noqa: E402


def make_tsv(root, names, copies, tsv, clean_list):
    """Write every listed picture `copies` times as a row of its own person and rank."""
    rectangle = base64.b64encode(np.zeros(4, np.float32).tobytes())
    with open(tsv, 'wb') as rows, open(clean_list, 'w') as clean:
        for copy in range(copies):
            for number, name in enumerate(names):
                mid = f'm.{number // 20:05d}_{copy}'
                data = base64.b64encode(Path(root, name).read_bytes())
                rows.write(b'\t'.join([mid.encode(), b'%d' % number, b'url', b'url', b'FaceId-0', rectangle, data]))
                rows.write(b'\n')
                clean.write(f'{mid}/{number}-FaceId-0.jpg {number // 20}\n')


def plain_way(tsv, out):
    """Line by line, unchecked."""
    with open(tsv, encoding='utf-8') as rows:
        for line in rows:
            mid, rank, _, _, face_id, _, data = line.rstrip('\n').split('\t')
            os.makedirs(os.path.join(out, mid), exist_ok=True)
            with open(os.path.join(out, mid, f'{rank}-{face_id}.jpg'), 'wb') as file:
                file.write(base64.b64decode(data))


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument('--root', required=True)
    flags.add_argument('--list', required=True)
    flags.add_argument('--copies', type=int, default=5, help='rows a picture (default %(default)s)')
    args = flags.parse_args()
    names, _ = lists.read_image_list(args.list)
    rows, seconds = len(names) * args.copies, {}
    with tempfile.TemporaryDirectory() as folder:
        tsv, clean = os.path.join(folder, 'a.tsv'), os.path.join(folder, 'clean.txt')
        make_tsv(args.root, names, args.copies, tsv, clean)
        for title, run in (('the plain way, 1 process', lambda out: plain_way(tsv, out)),
                           ('ours, into a folder', lambda out: convert(tsv, out)),
                           ('ours, clean list, into a folder', lambda out: convert(tsv, out, clean)),
                           ('ours, into packs', lambda out: convert(tsv, out, clean, form='pack',
                                                                    part_bytes=os.path.getsize(tsv) // 4))):
            start = time.perf_counter()
            run(os.path.join(folder, title))
            seconds[title] = time.perf_counter() - start
        print(f'{f"{rows} rows, {os.path.getsize(tsv) / 1e6:.0f} MB":<40}{"rows/s":>12}{"to the plain":>16}')
    base = next(iter(seconds.values()))
    for title, value in seconds.items():
        print(f'  {title:<38}{rows / value:>12.0f}{base / value:>16.2f}')


if __name__ == '__main__':
    main()
