"""From picture files to network input: the one place where pixels are decoded, cropped and scaled.

Faces come aligned in one of two geometries of the network's authors: 144x144 for training, 128x128 for testing. The
second is the centre crop of the first. Network input is float32 = grey / 255 of shape (N, 1, image_size, image_size).
"""
import os

import cv2
import numpy as np

TRAIN_SIDE, TEST_SIDE = 144, 128
PREPROCESSING = 'grey 128, area or bilinear to image_size, / 255: 1'     # count up when test pixels change
EXTENSIONS = ('.bmp', '.jpg', '.jpeg', '.png')

cv2.setNumThreads(1)             # the callers run one thread a core already


def decode_grey(data, name='image', flags=cv2.IMREAD_GRAYSCALE):
    """Return the picture in the bytes `data` as grey, (H, W) uint8; ValueError names what cannot be decoded."""
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


def _is_cut_off(data):
    """Whether the end mark of a JPEG or PNG is missing, or a BMP is shorter than it says."""
    if data[:2] == b'\xff\xd8':
        return b'\xff\xd9' not in data[-1024:]
    if data[:4] == b'\x89PNG':
        return b'IEND' not in data[-1024:]
    return data[:2] == b'BM' and int.from_bytes(data[2:6], 'little') > len(data)


def read_grey(path):
    """Return the picture file `path` as grey, (H, W) uint8. Raises FileNotFoundError or ValueError."""
    with open(path, 'rb') as file:
        return decode_grey(file.read(), path)


def find_image(root, name):
    """Return the path of `name` under `root`, with another picture extension if that is what is there, or None."""
    path = os.path.join(root, name)
    if os.path.isfile(path):
        return path
    stem = os.path.splitext(path)[0]
    return next((stem + e for e in EXTENSIONS if os.path.isfile(stem + e)), None)


def find_images(root, names):
    """Return the path of every listed image under `root`; FileNotFoundError counts and names the missing ones.

    A name may end in another picture extension than the file.
    """
    if not os.path.isdir(root):
        raise FileNotFoundError(f"{root}: no such image folder (--root_path or --dataset_path)")
    paths = [find_image(root, name) for name in names]
    missing = [name for name, path in zip(names, paths) if path is None]
    if missing:
        raise FileNotFoundError(f"{root}: {len(missing)} of {len(names)} listed images are missing: "
                                f"{', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}")
    return paths


def resize(image, side):
    """Return (H, W) as (side, side): area averages when it shrinks, bilinear when it grows."""
    if image.shape == (side, side):
        return image
    shrinks = min(image.shape) >= side
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def centre_crop(image, side):
    """Return the (side, side) centre of an (H, W) picture."""
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top:top + side, left:left + side]


def face_for_test(image, image_size=TEST_SIDE, name='image'):
    """Return an aligned face as testing feeds it: (image_size, image_size) uint8.

    128x128 is taken as it is, of 144x144 the centre 128x128; any other size is another alignment: ValueError.
    """
    if image.shape not in ((TEST_SIDE, TEST_SIDE), (TRAIN_SIDE, TRAIN_SIDE)):
        raise ValueError(f"{name}: {image.shape[1]}x{image.shape[0]} pixels, expected an aligned face of "
                         f"{TEST_SIDE}x{TEST_SIDE} or {TRAIN_SIDE}x{TRAIN_SIDE}")
    return resize(centre_crop(image, TEST_SIDE), image_size)


def training_face_for_test(image, image_size=TEST_SIDE, name='image'):
    """As `face_for_test` for a training face, which may be of any size: it stands for the 144x144 geometry."""
    known = image.shape in ((TEST_SIDE, TEST_SIDE), (TRAIN_SIDE, TRAIN_SIDE))
    return face_for_test(image if known else resize(image, TRAIN_SIDE), image_size, name)


def to_input(faces):
    """(N, H, W) uint8 -> (N, 1, H, W) float32 in 0..1."""
    return (faces.astype(np.float32) / np.float32(255))[:, None]
