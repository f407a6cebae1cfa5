"""Augmentations: what training does to a batch of faces. A function in AUGMENTS, chosen by the setting `augment`.

    faces = AUGMENTS['crop_flip'](faces, size, rng, global_batch, mine)         # uint8 in, uint8 out

Masks and low quality are shares of the faces, settings of their own: `put_masks` before it, `put_low_quality` after it.
Random numbers are drawn from `rng` for the whole global batch, of which `mine` is this rank's share: N ranks of batch
b see what one rank of batch N * b does.
"""
from collections.abc import Mapping

import cv2
import numpy as np

from src.data import low_quality, masks
from src.data.face_format import FaceFormat


def crop_flip(faces: np.ndarray, size: int, rng: np.random.Generator, global_batch: int, mine: slice) -> np.ndarray:
    """(n, R, R[, 3]) -> (n, size, size[, 3]): a crop anywhere, mirrored or not."""
    slack = faces.shape[1] - size + 1
    top, left = rng.integers(0, slack, (2, global_batch))[:, mine]
    mirrored = rng.random(global_batch)[mine] < 0.5
    out = np.empty((len(faces), size, size, *faces.shape[3:]), np.uint8)
    for i, face in enumerate(faces):
        crop = face[top[i]:top[i] + size, left[i]:left[i] + size]
        out[i] = crop[:, ::-1] if mirrored[i] else crop
    return out


def strong(faces: np.ndarray, size: int, rng: np.random.Generator, global_batch: int, mine: slice) -> np.ndarray:
    """(n, R, R[, 3]) -> (n, size, size[, 3]): crop, flip, turn, scale, contrast, light, blur, an erased patch."""
    normal = rng.standard_normal((global_batch, 4))[mine]
    uniform = rng.random((global_batch, 9))[mine]
    return np.stack([_strong_one(*args, size) for args in zip(faces, normal, uniform)])


def _strong_one(face, normal, uniform, size):
    side = face.shape[0]
    slack = (side - size) / 2
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), 5 * normal[0], np.exp(0.05 * normal[1]))
    matrix[:, 2] += (2 * uniform[:2] - 1) * 1.5 * slack - slack
    if uniform[2] < 0.5:
        matrix[0] = (0, 0, size - 1) - matrix[0]                            # mirror the output
    out = cv2.warpAffine(face, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    out = (out - 127.5) * np.float32(np.exp(0.2 * normal[2])) + np.float32(127.5 + 25 * normal[3])
    if uniform[3] < 0.3:
        out = cv2.GaussianBlur(out, (0, 0), (0.3 + 0.9 * uniform[4]) * size / 64)
    if uniform[5] < 0.3:
        height, width = (size * (1 / 8 + 3 / 8 * uniform[6:8])).astype(int)
        top, left = int(uniform[4] * (size - height)), int(uniform[8] * (size - width))
        out[top:top + height, left:left + width] = 255 * uniform[5] / 0.3
    return np.clip(out, 0, 255).astype(np.uint8)


def put_masks(faces: np.ndarray, share: float, face: FaceFormat, rng: np.random.Generator, global_batch: int,
              mine: slice) -> np.ndarray:
    """Return training faces (n, R, R[, 3]) with a mask (src/data/masks.py) on about that share of them."""
    masked = rng.random(global_batch)[mine] < share
    numbers = rng.random((global_batch, masks.NUMBERS))[mine]
    points, out = masks.alignment_points(face.alignment, faces.shape[1]), faces.copy()
    for i in np.flatnonzero(masked):
        out[i] = masks.draw_mask(faces[i], points, numbers[i], colour=face.colour)
    return out


def put_low_quality(faces: np.ndarray, share: float, strengths: Mapping, face: FaceFormat, rng: np.random.Generator,
                    global_batch: int, mine: slice) -> np.ndarray:
    """Return faces (n, S, S[, 3]), about that share of them of low quality (src/data/low_quality.py)."""
    chosen = rng.random(global_batch)[mine] < share
    numbers = rng.random((global_batch, low_quality.NUMBERS))[mine]
    out = faces.copy()
    for i in np.flatnonzero(chosen):
        out[i] = low_quality.degrade(faces[i], numbers[i], strengths, colour=face.colour)
    return out


AUGMENTS = {'crop_flip': crop_flip, 'strong': strong}
