"""From picture files to faces: the one place where pictures are decoded, cropped and resized.

    face = face_for_test(read_face(path, 'grey'), face_format('lightcnn'), image_size=128)       # (128, 128) uint8

A grey face is (H, W), a colour one (H, W, 3) in the order that its name says, RGB or BGR. `FaceFormat.to_input` makes
network input of a batch of them.
"""
import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Optional

import cv2
import numpy as np

from src.data.face_format import FACE_FORMATS, FaceFormat, check_formats
from src.data.lists import file_sha256, read_image_list, read_json, write_text
from src.data.pictures import AnyPicture, Picture, read_bytes
from src.data.recordio import open_records

LIGHTCNN = FACE_FORMATS['lightcnn']
TRAIN_SIDE, TEST_SIDE = LIGHTCNN.train_side, LIGHTCNN.test_side
EXTENSIONS = ('.bmp', '.jpg', '.jpeg', '.png')
FORMAT_FILE = 'face_format.json'         # in a folder of aligned faces: what they are
ALIGNMENT_OF_SIDE = {side: face.alignment for face in FACE_FORMATS.values() for side in (face.train_side,
                                                                                         face.test_side)}
_LOOKED_AT = 16                          # pictures of a set whose sizes tell its alignment
_FLAGS = {'grey': cv2.IMREAD_GRAYSCALE, 'RGB': cv2.IMREAD_COLOR, 'BGR': cv2.IMREAD_COLOR}

cv2.setNumThreads(1)             # the callers run one thread a core already


def preprocessing(face: FaceFormat) -> str:
    """Return a text that changes when test pixels of this format change: count up then."""
    return 'grey 128, area or bilinear to image_size, / 255: 1' if face is LIGHTCNN else f'{face.name}: 1'


def decode(data: bytes, colour: str = 'grey', name: str = 'image', *, reduced: bool = False) -> np.ndarray:
    """Return the picture in the bytes `data`, (H, W) or (H, W, 3) uint8; ValueError names what cannot be decoded.

    reduced: an eighth of the size, which decodes faster.
    """
    flags = cv2.IMREAD_REDUCED_GRAYSCALE_8 if reduced else _FLAGS[colour]
    image = _decoded(data, flags, name)
    return np.ascontiguousarray(image[..., ::-1]) if colour == 'RGB' else image


def _decoded(data: bytes, flags: int, name: str) -> np.ndarray:
    if not data:
        raise ValueError(f"{name}: the file is empty")
    if _is_cut_off(data):
        raise ValueError(f"{name}: the picture is cut off")         # OpenCV would fill the rest with grey
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ValueError(f"{name}: {error.err}") from None
    if image is None:
        raise ValueError(f"{name}: not a picture that can be decoded")
    return image


def _is_cut_off(data: bytes) -> bool:
    """Whether the end mark of a JPEG or PNG is missing, or a BMP is shorter than it says."""
    if data[:2] == b'\xff\xd8':
        return b'\xff\xd9' not in data[-1024:]
    if data[:4] == b'\x89PNG':
        return b'IEND' not in data[-1024:]
    return data[:2] == b'BM' and int.from_bytes(data[2:6], 'little') > len(data)


def read_face(picture: AnyPicture, colour: str = 'grey') -> np.ndarray:
    """Return a picture, a path or a `Picture`, as `decode` does. Raises FileNotFoundError or ValueError."""
    return decode(read_bytes(picture), colour, str(picture))


def in_colour(image: np.ndarray, source: str, target: str) -> np.ndarray:
    """Return `image` of colour `source` as `target`. Grey has no colour to give: ValueError."""
    if source == target:
        return image
    if source == 'grey':
        raise ValueError(f"the faces are grey, {target} is needed; use a set in colour, or a grey face format")
    if target == 'grey':
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY if source == 'RGB' else cv2.COLOR_BGR2GRAY)
    return np.ascontiguousarray(image[..., ::-1])


def encode(image: np.ndarray, colour: str, extension: str = '.jpg', quality: int = 95) -> bytes:
    """Return a face of colour `colour` as the bytes of a picture file."""
    image = image[..., ::-1] if colour == 'RGB' else image
    return cv2.imencode(extension, image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def find_image(root: str, name: str) -> Optional[AnyPicture]:
    """Return the path of `name` under `root`, with another picture extension if that is what is there, or None.

    root: a folder; or a .rec file, whose names are the keys of its records.
    """
    if root.endswith('.rec') and not os.path.isdir(root):
        records = open_records(root)
        row = records.row_of(name)
        return None if row is None else Picture(records, row)
    path = os.path.join(root, name)
    if os.path.isfile(path):
        return path
    stem = os.path.splitext(path)[0]
    return next((stem + e for e in EXTENSIONS if os.path.isfile(stem + e)), None)


def is_root(root: str) -> bool:
    """Whether pictures can be listed under `root`: a folder, or a .rec file."""
    return os.path.isdir(root) or root.endswith('.rec') and os.path.isfile(root)


def listed_faces(list_file: str) -> tuple:
    """Return (names, labels (N,) int) of a list, or of a .rec file, which lists itself and is their root too."""
    if list_file.endswith('.rec'):
        records = open_records(list_file)
        return records.names, records.labels
    return read_image_list(list_file)


def list_id(list_file: str) -> str:
    """Return what tells a list from others: its sha256; of a .rec file that of its labels and places."""
    if list_file.endswith('.rec'):
        records = open_records(list_file)
        return hashlib.sha256(records.labels.tobytes() + records.places.astype(np.int64).tobytes()).hexdigest()
    return file_sha256(list_file)


def root_of(root: Optional[str], list_file: str) -> str:
    """Return the root of a list's pictures: the one given, or a .rec file itself. Raises FileNotFoundError."""
    root = root or (list_file if list_file.endswith('.rec') else '')
    if not is_root(root):
        raise FileNotFoundError(f"{root or '--root is not given'}: no such image folder")
    return root


def find_images(root: str, names: Sequence) -> list:
    """Return the path of every listed image under `root`; FileNotFoundError counts and names the missing ones.

    A name may end in another picture extension than the file.
    """
    if not is_root(root):
        raise FileNotFoundError(f"{root}: no such image folder (--root_path or --dataset_path)")
    paths = [find_image(root, name) for name in names]
    missing = [name for name, path in zip(names, paths) if path is None]
    if missing:
        raise FileNotFoundError(f"{root}: {len(missing)} of {len(names)} listed images are missing: "
                                f"{', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}")
    return paths


def resize(image: np.ndarray, side: int) -> np.ndarray:
    """Return (H, W[, 3]) as (side, side[, 3]): area averages when it shrinks, bilinear when it grows."""
    if image.shape[:2] == (side, side):
        return image
    shrinks = min(image.shape[:2]) >= side
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def centre_crop(image: np.ndarray, side: int) -> np.ndarray:
    """Return the (side, side[, 3]) centre of a picture."""
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top:top + side, left:left + side]


def face_for_test(image: np.ndarray, face: FaceFormat = LIGHTCNN, image_size: Optional[int] = None,
                  name: str = 'image') -> np.ndarray:
    """Return an aligned face as testing feeds it: (image_size, image_size[, 3]) uint8.

    A test-sized face is taken as it is, of a training-sized one its centre; any other size is another alignment:
    ValueError.
    """
    sides = sorted({face.test_side, face.train_side})
    if image.shape[:2] not in [(side, side) for side in sides]:
        raise ValueError(f"{name}: {image.shape[1]}x{image.shape[0]} pixels, expected an aligned face of "
                         f"{' or '.join(f'{side}x{side}' for side in sides)} (face format {face.name}); prepare.py "
                         "align makes such faces, --assume_format insists")
    return resize(centre_crop(image, face.test_side), image_size or face.test_side)


def training_face_for_test(image: np.ndarray, face: FaceFormat = LIGHTCNN, image_size: Optional[int] = None,
                           name: str = 'image') -> np.ndarray:
    """As `face_for_test` for a training face, which may be of any size: it stands for the training geometry."""
    known = image.shape[:2] in [(side, side) for side in (face.test_side, face.train_side)]
    return face_for_test(image if known else resize(image, face.train_side), face, image_size, name)


def write_format(folder: str, *, colour: str, alignment: str, side: int) -> None:
    """Say in a folder of aligned faces what they are."""
    write_text(os.path.join(folder, FORMAT_FILE),
               json.dumps({'format': 1, 'colour': colour, 'alignment': alignment, 'side': side}) + '\n')


def alignment_of(root: str, paths: Sequence) -> Optional[str]:
    """Return the alignment of the pictures `paths` under `root`: what the folder says, or what most sizes mean.

    None if neither tells.
    """
    stated = os.path.join(root if os.path.isdir(root) else os.path.dirname(root), FORMAT_FILE)
    if os.path.isfile(stated):
        held = read_json(stated)
        if not isinstance(held, dict) or held.get('alignment') not in ALIGNMENT_OF_SIDE.values():
            raise ValueError(f"{stated}: does not tell an alignment; prepare.py align writes it")
        return held['alignment']
    sides = Counter(_side(path) for path in paths[::max(1, len(paths) // _LOOKED_AT)][:_LOOKED_AT])
    return ALIGNMENT_OF_SIDE.get(sides.most_common(1)[0][0]) if sides else None


def _side(path: AnyPicture) -> Optional[int]:
    try:
        height, width = read_face(path).shape
    except (OSError, ValueError):
        return None                                          # whoever reads all of them says so
    return height if height == width else None


def check_alignment(root: str, paths: Sequence, face: FaceFormat, assumed: str = '') -> None:
    """Raise ValueError if the pictures are aligned in another way than `face` needs; `assumed` insists on a format."""
    alignment = alignment_of(root, paths)
    if alignment is not None or assumed:
        check_formats(root, replace(face, alignment=alignment or face.alignment), face, assumed)
