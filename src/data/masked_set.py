"""Masked twins of a whole set of faces: the same names and list, a mask (src/data/masks.py) on every face, or a share.

    python prepare.py masks --root faces/lfw/image --out masked/lfw/image
    python prepare.py masks --root faces/train --list faces/train_list.txt --out masked/train --share 0.5 --seed 2
    python prepare.py masks --root faces/train --out masked/surgical --kinds surgical ffp2

The mask of a face depends on --seed and its name, not on the order of the list. Faces without a mask are copied byte by
byte. Aligned faces are known by face_format.json or their side (144: LightCNN's training faces, 128: its test faces,
112: ArcFace's), or by --geometry; for other pictures --landmarks has five points a face, as prepare.py align takes
them. OUT/masks.tsv says which mask a face has.
"""
import argparse
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Optional

import numpy as np
from tqdm import tqdm

from src.data import lists
from src.data.align import LEVEL, check_points, contact_sheet, pictures_under, read_landmarks
from src.data.images import EXTENSIONS, FORMAT_FILE, alignment_of, decode, encode, find_image, is_root, listed_faces
from src.data.masks import MASKS, NUMBERS, UNDER_NOSE, alignment_points, draw_mask, kind_of
from src.data.pictures import Picture, read_bytes

EXAMPLES = '\n'.join(__doc__.split('\n\n')[1].splitlines())
GEOMETRIES = (*LEVEL, 'arcface')
NONE = '-'                       # in masks.tsv: a face without a mask
_TWIN = 20                       # purpose of the random numbers
_OF_SIDE = {144: 'train', 128: 'test', 112: 'arcface'}
_SHEET = 100


class Masking(NamedTuple):
    """How faces are masked. geometry: of GEOMETRIES, '' for what the side of each picture says."""

    kinds: Sequence = MASKS
    share: float = 1.0
    seed: int = 1
    geometry: str = ''


def points_of(width: int, height: int, geometry: str = '') -> np.ndarray:
    """Return the five points of an aligned face of that size, (5, 2); ValueError if its size does not tell them."""
    geometry = geometry or _OF_SIDE.get(width, '')
    if width != height or not geometry:
        raise ValueError(f'{width}x{height} pixels are no aligned face that is known; name --geometry or --landmarks')
    return alignment_points('arcface' if geometry == 'arcface' else 'lightcnn', width, test=geometry == 'test')


def masked(data: bytes, name: str, how: Masking, points: Optional[np.ndarray] = None) -> tuple:
    """Return (picture file, kind of mask or NONE, face or None): the bytes of a picture with a mask on.

    points: (5, 2), None for those of its alignment. A grey picture stays grey. Raises ValueError.
    """
    image = decode(data, 'BGR', name)
    key = int.from_bytes(hashlib.sha256(os.path.splitext(name)[0].encode(errors='surrogateescape')).digest()[:8], 'big')
    rng = np.random.default_rng([how.seed, _TWIN, key])
    chosen, numbers = rng.random() < how.share, rng.random(NUMBERS)
    if not chosen:
        return data, NONE, None
    if points is None:
        points = points_of(image.shape[1], image.shape[0], how.geometry)
    else:
        check_points(points, image.shape[1], image.shape[0])
    if (image == image[..., :1]).all():
        image = np.ascontiguousarray(image[..., 0])
    extension = os.path.splitext(_file_name(name))[1].lower()
    if extension not in EXTENSIONS:
        raise ValueError(f"{name}: expected a name that ends in {', '.join(EXTENSIONS)}")
    face = draw_mask(image, points, numbers, kinds=how.kinds, colour='BGR')
    where = ', nose free' if numbers[1] < UNDER_NOSE else ''
    return encode(face, 'BGR', extension), kind_of(numbers, how.kinds) + where, face


def _file_name(name):
    """Return the name of a face's file: that of a record, which has no extension, becomes a JPEG."""
    return name if os.path.splitext(name)[1] else name + '.jpg'


def _one(job: tuple, out: str, how: Masking) -> tuple:
    """Write one face into `out`; return (kind or None, reason or None, face or None)."""
    name, picture, points = job
    try:
        if picture is None:
            raise ValueError('the picture is missing')
        data, kind, face = masked(read_bytes(picture), name, how, points)
    except (ValueError, OSError) as error:
        return None, ' '.join(str(error).split()), None
    path = os.path.join(out, _file_name(name))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with lists.whole_file(path, sync=False) as file:
        file.write(data)
    return kind, None, face


def write_masked(root: str, names: Sequence, out: str, how: Masking, *, landmarks: Optional[dict] = None,
                 workers: Optional[int] = None, sheet: Optional[str] = None) -> tuple:
    """Write masked twins of the pictures `names` under `root`; return (kinds {name: kind}, rejected {name: reason}).

    root: a folder or a .rec file. landmarks: {name: (5, 2) points}; a name that is missing there is rejected. sheet:
    a picture of the first faces, to look at. The files of `out` have the extensions of those of `root`.
    """
    jobs = [_job(root, name, landmarks) for name in names]
    kinds, rejected, faces = {}, {}, []
    os.makedirs(out, exist_ok=True)
    with ProcessPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        results = pool.map(partial(_one, out=out, how=how), jobs, chunksize=32)
        for name, (kind, reason, face) in zip(names, tqdm(results, 'masking', len(jobs), unit='face', disable=None)):
            if reason:
                rejected[name] = reason
                continue
            kinds[name] = kind
            if face is not None and len(faces) < _SHEET:
                faces.append(face)
    if sheet and faces:
        contact_sheet(faces, sheet)
    lists.write_text(os.path.join(out, 'masks.tsv'), ''.join(f'{name}\t{kind}\n' for name, kind in kinds.items()))
    lists.write_text(os.path.join(out, 'rejected.txt'), ''.join(f'{n}\t{reason}\n' for n, reason in rejected.items()))
    return kinds, rejected


def _job(root: str, name: str, landmarks: Optional[dict]) -> tuple:
    """Return (name of the twin, its picture or None, points or None)."""
    picture: Any = find_image(root, name)
    if picture is not None and not isinstance(picture, Picture):
        name = os.path.relpath(picture, root)
    if landmarks is None:
        return name, picture, None
    stem = os.path.splitext(name)[0]
    return (name, picture, landmarks[stem]) if stem in landmarks else (name, None, None)


def add_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags of `prepare.py masks`."""
    flags.add_argument('--root', metavar='DIR', help='folder of faces; or a .rec file')
    flags.add_argument('--list', metavar='FILE', help="'path label' list, or a .rec file (default: all pictures of "
                       '--root)')
    flags.add_argument('--out', required=True, metavar='DIR')
    flags.add_argument('--kinds', nargs='+', default=list(MASKS), choices=MASKS, help='default: all of them')
    flags.add_argument('--share', type=float, default=1.0, help='share of faces that get a mask (default %(default)s)')
    flags.add_argument('--seed', type=int, default=1)
    flags.add_argument('--geometry', choices=GEOMETRIES, help='alignment of the faces, overrides what their sides say')
    flags.add_argument('--landmarks', metavar='FILE', help="'path x1 y1 ... x5 y5' lines, for pictures of any kind")
    flags.add_argument('--sheet', metavar='FILE.jpg', help='write the first faces as one picture, to look at')
    flags.add_argument('--workers', type=int, help='processes (default: one per core)')


def _check(args: argparse.Namespace) -> str:
    """Return the root; ValueError or FileNotFoundError for flags that cannot be."""
    root = args.root or (args.list if (args.list or '').endswith('.rec') else '')
    if not root or not is_root(root):
        raise FileNotFoundError(f"{root or '--root is not given'}: no such folder of faces, or .rec file")
    if not 0 <= args.share <= 1:
        raise ValueError(f"--share {args.share:g} is not a share; expected 0 to 1")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed} is negative")
    if args.workers is not None and args.workers < 1:
        raise ValueError(f"--workers {args.workers} is not 1 or more")
    inside = os.path.relpath(os.path.realpath(args.out), os.path.realpath(root))
    if os.path.isdir(root) and (inside == '.' or not args.list and not inside.startswith('..')):
        raise ValueError(f"--out {args.out}: lies in {root}, whose faces would be masked again; choose another folder")
    return root


def _listed(args: argparse.Namespace, root: str) -> tuple:
    """Return (names, labels or None)."""
    if args.list or root.endswith('.rec'):
        return listed_faces(args.list or root)
    names = pictures_under(root)
    if not names:
        raise ValueError(f"{root}: holds no pictures")
    return names, None


def _geometry(root: str, names: Sequence) -> str:
    """Return the geometry that face_format.json tells where sides do not; '' if the side of each picture decides."""
    if not os.path.isfile(os.path.join(root, FORMAT_FILE)):
        return ''
    held = lists.read_json(os.path.join(root, FORMAT_FILE))
    side, alignment = held.get('side') if isinstance(held, dict) else None, alignment_of(root, [])
    return 'arcface' if alignment == 'arcface' else '' if side in _OF_SIDE else 'train'


def run(args: argparse.Namespace) -> None:
    """Run `prepare.py masks`."""
    root = _check(args)
    names, labels = _listed(args, root)
    points = None
    if args.landmarks:
        points = {os.path.splitext(name)[0]: held for name, held in read_landmarks(args.landmarks)}
    how = Masking(args.kinds, args.share, args.seed, args.geometry or _geometry(root, names))
    kinds, rejected = write_masked(root, names, args.out, how, landmarks=points, workers=args.workers, sheet=args.sheet)
    if os.path.isfile(os.path.join(root, FORMAT_FILE)):
        lists.write_text(os.path.join(args.out, FORMAT_FILE), read_bytes(os.path.join(root, FORMAT_FILE)).decode())
    if labels is not None:
        rows = [(name, label) for name, label in zip(names, labels.tolist()) if name in kinds]
        stem = os.path.splitext(os.path.basename(args.list or root))[0]
        lists.write_image_list(os.path.join(args.out, f'{stem}.txt'), *zip(*rows) if rows else ((), ()))
    counts = Counter(kind.split(',')[0] for kind in kinds.values())
    said = ', '.join(f'{counts[kind]} {kind}' for kind in MASKS if counts[kind])
    print(f"{len(kinds)} faces in {args.out}: {said or 'no mask'}, {counts[NONE]} without; {len(rejected)} rejected "
          '(rejected.txt)')
    if not kinds:
        raise OSError(f"{root}: not one face was written; the first: {next(iter(rejected.values()))}")
