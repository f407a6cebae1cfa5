"""Faces as bad cameras and networks leave them: small, compressed, moved, noisy, grey, dark, covered in part.

    face = degrade(face, rng.random(NUMBERS), {'jpeg': 2.0, 'grey': 0.0}, colour='RGB')

Each kind of KINDS happens to a face with probability CHANCE, as far as its number says, up to a limit that grows with
the kind's strength: 0 never, 1 (the default) as KINDS tells, 3 at most. The order is that of a camera: what covers the
face, light, movement, size, noise, colour, compression.
"""
from collections.abc import Mapping
from typing import Optional

import cv2
import numpy as np

CHANCE = 0.35
NUMBERS = 24                     # uniform random numbers that a face is changed by
STRONGEST = 3.0
# kind: what happens at strength 1 at most, of a face of S pixels a side
KINDS = {
    'occlusion': 'a rectangle or ellipse of one shade, S / 2 wide and high',
    'light': 'a third of the light, gamma 1.8',
    'motion': 'blurred along a line of S / 8 pixels in any direction',
    'scale': 'scaled down to a sixth, never below 8 pixels, and up again',
    'noise': 'normal noise, standard deviation 16 of 255',
    'grey': 'without colour (faces in colour; weaker: less colour)',
    'jpeg': 'compressed as a JPEG of quality 20',
}
_LOWEST_SIDE, _LOWEST_QUALITY = 8, 3


def degrade(face: np.ndarray, numbers: np.ndarray, strengths: Optional[Mapping] = None, *,
            colour: str = 'RGB') -> np.ndarray:
    """Return a face (S, S) or (S, S, 3) uint8 of low quality; the same one if the numbers choose no kind.

    numbers: (NUMBERS,) in [0, 1). strengths: {kind: strength}, 1 for one that is not there. colour: of a colour face,
    'RGB' or 'BGR'. Raises ValueError for an unknown kind or a strength out of range.
    """
    strengths = {**dict.fromkeys(KINDS, 1.0), **(strengths or {})}
    wrong = next((kind for kind, value in strengths.items() if kind not in KINDS or not 0 <= value <= STRONGEST), None)
    if wrong is not None:
        raise ValueError(f"low quality, {wrong}={strengths[wrong]}: expected {', '.join(KINDS)} of 0 to {STRONGEST:g}")
    for place, kind in enumerate(KINDS):
        if numbers[place] < CHANCE and strengths[kind]:
            amount, *others = numbers[7 + 2 * place:9 + 2 * place]
            face = _CHANGES[kind](face, strengths[kind] * amount if kind != 'grey' else strengths[kind],
                                  [*others, *numbers[21:]], colour)
    return face


def _occlusion(face, amount, numbers, colour):
    """Return a face with a rectangle or ellipse of one shade on it."""
    side, out = face.shape[0], face.copy()
    width, height = (max(1, int(side * min(amount, 1.6) / 2 * (0.6 + 0.4 * n))) for n in (numbers[0], 1 - numbers[1]))
    left, top = int(numbers[2] * (side - width)), int(numbers[3] * (side - height))
    shade = [255 * (numbers[i] + 0.5) % 255 for i in ((0, 1, 2) if face.ndim == 3 else (0,))]
    if numbers[1] < 0.5:
        cv2.rectangle(out, (left, top), (left + width - 1, top + height - 1), shade, -1)
    else:
        centre, axes = (left + width // 2, top + height // 2), (max(1, width // 2), max(1, height // 2))
        cv2.ellipse(out, centre, axes, 0, 0, 360, shade, -1)
    return out


def _light(face, amount, numbers, colour):
    """Return a face in low light: less of it, and darker shadows."""
    levels = np.linspace(0, 1, 256) ** (1 + 0.8 * amount) / (1 + 2 * amount)
    return np.rint(255 * levels).astype(np.uint8)[face]


def _motion(face, amount, numbers, colour):
    """Return a face that moved along a line while it was taken."""
    length = 1 + amount * face.shape[0] / 8
    half = int(np.ceil(length / 2))
    steps = np.linspace(-length / 2, length / 2, 4 * half + 1)
    kernel, angle = np.zeros((2 * half + 3,) * 2), np.pi * numbers[0]
    x, y = half + 1 + steps * np.cos(angle), half + 1 + steps * np.sin(angle)
    for across in (0, 1):                                        # each point falls on its four neighbours
        for down in (0, 1):
            column, row = np.floor(x).astype(int) + across, np.floor(y).astype(int) + down
            np.add.at(kernel, (row, column), (1 - np.abs(x - column)) * (1 - np.abs(y - row)))
    return cv2.filter2D(face, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def _scale(face, amount, numbers, colour):
    """Return a face that had fewer pixels."""
    side = face.shape[0]
    small = min(side, max(_LOWEST_SIDE, int(round(side * 6.0 ** -amount))))
    back = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)[int(3 * numbers[0])]
    return cv2.resize(cv2.resize(face, (small, small), interpolation=cv2.INTER_AREA), (side, side), interpolation=back)


def _noise(face, amount, numbers, colour):
    """Return a noisy face; the noise is drawn from one of the numbers."""
    rng = np.random.default_rng(int(numbers[0] * 2 ** 53))
    return np.clip(np.rint(face + 16 * amount * rng.standard_normal(face.shape, np.float32)), 0, 255).astype(np.uint8)


def _grey(face, amount, numbers, colour):
    """Return a face with less colour, or none."""
    if face.ndim == 2:
        return face
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY if colour == 'RGB' else cv2.COLOR_BGR2GRAY)[..., None]
    share = min(amount, 1.0)
    return np.rint((1 - share) * face + share * grey).astype(np.uint8)


def _jpeg(face, amount, numbers, colour):
    """Return a face that was a JPEG. OpenCV takes its colours for BGR, which JPEG treats differently."""
    quality = max(_LOWEST_QUALITY, int(95 - 75 * amount))
    swapped = np.ascontiguousarray(face[..., ::-1]) if colour == 'RGB' and face.ndim == 3 else face
    data = cv2.imencode('.jpg', swapped, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    out = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    return np.ascontiguousarray(out[..., ::-1]) if swapped is not face else out


_CHANGES = {'occlusion': _occlusion, 'light': _light, 'motion': _motion, 'scale': _scale, 'noise': _noise,
            'grey': _grey, 'jpeg': _jpeg}
