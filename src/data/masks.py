"""Masks drawn onto faces from random numbers: surgical, cloth, FFP2, scarf. No foreign picture is needed.

    face = draw_mask(face, alignment_points('arcface', 112), rng.random(NUMBERS), colour='RGB')

The five points place the mask. It is drawn in the coordinates of ArcFace's 112x112 template, whatever the size of the
picture, takes its shading and brightness from the face under it, and ends in a soft edge with a contact shadow. The
numbers choose kind, colours, pattern, folds, size, and whether the nose is covered (8 of 10) or not.
"""
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from src.data.align import ARCFACE, ARCFACE_SIDE, LEVEL, level_transform

MASKS = ('surgical', 'cloth', 'ffp2', 'scarf')
NUMBERS = 24                     # uniform random numbers that a mask is drawn from
UNDER_NOSE = 0.2                 # share of masks that leave the nose free
_LUMINANCE = np.array([0.299, 0.587, 0.114])
_CENTRE, _HALF_WIDTH = 56.0, 40.0
_TILE = 128                      # side of the noise texture
_PATTERNS = ('plain', 'stripes', 'checks', 'dots', 'print')
# upper and lower edge of each kind in template rows, at these shares of the half width from the middle to the side
_ACROSS = np.array([0.0, 0.12, 0.25, 0.5, 0.75, 1.0])
_UPPER = {'surgical': (60.5, 61.5, 65.5, 69.5, 69.5, 67.0), 'cloth': (59.0, 60.5, 65.0, 70.5, 73.0, 74.0),
          'ffp2': (57.5, 59.5, 64.5, 70.5, 73.5, 75.5), 'scarf': (62.0, 62.5, 64.5, 67.0, 66.0, 62.5)}
_LOWER = {'surgical': (118.0, 117.5, 116.0, 110.5, 102.0, 90.0), 'cloth': (118.0, 117.5, 116.0, 109.0, 99.0, 88.0),
          'ffp2': (120.0, 119.0, 116.0, 108.0, 97.0, 86.0), 'scarf': (400.0,) * 6}
_COLOURS = {'surgical': ((158, 200, 226), (158, 200, 226), (232, 236, 238), (165, 210, 196), (44, 45, 50),
                         (236, 196, 208)),
            'ffp2': ((236, 236, 234), (236, 236, 234), (226, 229, 232), (48, 48, 52), (205, 196, 184))}


class _Frame(NamedTuple):
    """Template coordinates of the pixels of the rows from `top` on, all (H, W) float32."""

    top: int
    across: np.ndarray           # -1 at the left side of the mask, 0 in its middle, 1 at the right side
    down: np.ndarray             # template rows
    share: np.ndarray            # 0 at the upper edge, 1 at the lower one
    inside: np.ndarray           # distance to the edge in template pixels, negative outside
    scale: float                 # pixels of the picture in a template pixel


def alignment_points(alignment: str, side: int, *, test: bool = False) -> np.ndarray:
    """Return where the five points of an average face lie, (5, 2) as x, y, in an aligned picture of that side.

    alignment: 'lightcnn' or 'arcface' (src/data/face_format.py). test: LightCNN's test crop, of 128x128, not 144x144.
    """
    if alignment == 'arcface':
        points, of_side = ARCFACE, ARCFACE_SIDE
    else:
        matrix = level_transform(ARCFACE, *LEVEL['test' if test else 'train'])
        points, of_side = ARCFACE @ matrix[:, :2].T + matrix[:, 2], LEVEL['test' if test else 'train'][0]
    return (points + 0.5) * (side / of_side) - 0.5


def kind_of(numbers: np.ndarray, kinds: Sequence = MASKS) -> str:
    """Return the kind of mask that the numbers choose among `kinds`; ValueError for an unknown kind."""
    unknown = [kind for kind in kinds if kind not in MASKS]
    if unknown or not kinds:
        raise ValueError(f"{(unknown or ['no kind'])[0]}: not a kind of mask; kinds: {', '.join(MASKS)}")
    return kinds[int(numbers[0] * len(kinds))]


def draw_mask(face: np.ndarray, points: np.ndarray, numbers: np.ndarray, *, kinds: Sequence = MASKS,
              colour: str = 'RGB') -> np.ndarray:
    """Return the face with a mask on, (H, W) or (H, W, 3) uint8 as it came.

    points: (5, 2) as x, y: eyes, nose, corners of the mouth. numbers: (NUMBERS,) in [0, 1). kinds: of MASKS, to choose
    among. colour: the order of a colour face, 'RGB' or 'BGR'. Raises ValueError for an unknown kind.
    """
    kind = kind_of(numbers, kinds)
    frame = _frame(face.shape[:2], np.asarray(points, float), kind, numbers)
    if not frame.down.size:
        return face.copy()
    part = face[frame.top:].astype(np.float32)
    light = part if face.ndim == 2 else part @ (_LUMINANCE if colour == 'RGB' else _LUMINANCE[::-1]).astype(np.float32)
    cover = np.clip(0.5 + frame.inside * frame.scale / _edge(frame), 0, 1)
    folds, pattern = _SHEETS[kind](frame, numbers)
    base, second = _colours(kind, numbers, face.ndim == 2, colour)
    value = np.multiply(*_light(light, cover, frame, face)) * folds
    if face.ndim == 3:
        cover, value, pattern = cover[..., None], value[..., None], pattern[..., None]
    sheet = value * (base + pattern * (second - base))
    shadow = _shadow(frame, numbers)
    part *= shadow if face.ndim == 2 else shadow[..., None]
    if kind != 'scarf':
        strap = _straps(frame, kind, numbers)
        strap = strap if face.ndim == 2 else strap[..., None]
        part += strap * (value * (base if numbers[22] < 0.3 else 215) - part)
    out = face.copy()
    out[frame.top:] = np.clip(np.rint(part + cover * (sheet - part)), 0, 255)
    return out


def _edge(frame):
    """Return the width of the soft edge in pixels: that of a lens, which grows with the picture."""
    return 1.0 + 0.9 * frame.scale


def _frame(shape, points, kind, numbers):
    """Return the `_Frame` of a mask: an affine map of eyes and mouth, its middle moved to where the nose points."""
    corners = [0, 1, 3, 4]
    matrix = np.linalg.lstsq(np.column_stack([points[corners], np.ones(4)]), ARCFACE[corners], rcond=None)[0]
    turned = np.clip(0.8 * (np.append(points[2], 1) @ matrix - ARCFACE[2])[0], -12, 12)
    scale = 1 / np.sqrt(max(abs(np.linalg.det(matrix[:2])), 1e-6))
    top = int(np.clip(points[:2, 1].min() - 4 * scale, 0, shape[0]))
    y, x = np.mgrid[top:shape[0], :shape[1]].astype(np.float32)
    u, v = (x * matrix[0, i] + y * matrix[1, i] + matrix[2, i] for i in (0, 1))
    tilt = 0.08 * (numbers[5] - 0.5)
    u, v = u - _CENTRE - turned, v - tilt * (u - _CENTRE)
    half = _HALF_WIDTH * (0.95 + 0.12 * numbers[3]) * (1.15 if kind == 'scarf' else 1)
    across = (u / np.where(u > 0, half - turned, half + turned)).astype(np.float32)
    upper, lower = _curve(_UPPER[kind], across), _curve(_LOWER[kind], across) + 4 * (numbers[4] - 0.5)
    upper += 3 * (numbers[2] - 0.5)
    if numbers[1] < UNDER_NOSE:
        upper = np.maximum(upper, 80 + 3 * numbers[2] - 5 * np.minimum(across ** 2, 1))
    if kind == 'scarf':                                          # no straight edge, and wide below
        upper += 3 * (_noise(frame_x=16 * across, frame_y=np.zeros_like(across), numbers=numbers) - 0.5)
        side = half * (1.02 + np.clip((v - 70) / 45, 0, 2) - np.abs(across))
    else:
        side = half * (1 - np.abs(across))
    inside = np.minimum(np.minimum(v - upper, lower - v), side).astype(np.float32)
    share = ((v - upper) / np.maximum(np.minimum(lower, 122) - upper, 1)).astype(np.float32)
    return _Frame(top, across, v.astype(np.float32), share, inside, float(scale))


def _curve(nodes, across):
    """Return a smooth curve through the nodes, the same on both sides of the middle."""
    table = np.interp(np.linspace(0, 1.2, 97), _ACROSS, nodes)
    window = np.hanning(15)
    smooth = np.convolve(np.pad(table, (7, 7), 'reflect', reflect_type='even'), window / window.sum(), 'valid')
    return smooth[np.minimum(np.abs(across) * 80, 96).astype(np.intp)].astype(np.float32)


@lru_cache(maxsize=1)
def _tile():
    """Return smooth noise in 0..1, (_TILE, _TILE) float32, that repeats at its borders."""
    noise = np.random.default_rng(0).random((_TILE, _TILE))
    frequency = np.fft.fftfreq(_TILE) * _TILE
    keep = np.exp(-(frequency[:, None] ** 2 + frequency ** 2) / (2 * 14 ** 2))
    smooth = np.real(np.fft.ifft2(np.fft.fft2(noise) * keep))
    return ((np.argsort(np.argsort(smooth.ravel())) / smooth.size).reshape(smooth.shape)).astype(np.float32)


def _noise(frame_x, frame_y, numbers):
    """Return smooth noise in 0..1 at these places, bilinear; a tile unit is about a quarter of its blobs."""
    x, y = ((_TILE * numbers[place] + where).astype(np.float32) for place, where in ((13, frame_x), (14, frame_y)))
    return cv2.remap(_tile(), np.mod(x, _TILE).astype(np.float32), np.mod(y, _TILE).astype(np.float32),
                     cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _visible(frame, period):
    """Return how much of a wave of that many template pixels the picture can show: 0 below 2 of its pixels."""
    return float(np.clip(period * frame.scale / 2 - 1, 0, 1))


def _line(distance, width):
    """Return 1 on a line and 0 away from it."""
    return np.exp(-(distance / width) ** 2)


def _weave(frame, period, strength):
    """Return the light on a woven or knitted surface, about 1."""
    strength *= _visible(frame, period)
    wave = 2 * np.pi / period
    return 1 + strength * np.sin(wave * frame.across * _HALF_WIDTH) * np.sin(wave * frame.down) if strength else 1.0


def _round(frame, numbers):
    """Return the light on the bulge of a mask: darker to both sides and to the chin, one side more."""
    lit = 0.16 * (numbers[18] - 0.5)
    return (1.04 - 0.2 * frame.across ** 2 - 0.16 * np.clip(frame.share - 0.6, 0, 1)) * (1 + lit * frame.across)


def _creases(frame, numbers, strength):
    """Return the light on small random creases that run across the mask."""
    rough = _noise(9 * frame.across, 0.35 * frame.down, numbers)
    return 1 + strength * (rough - 0.5)


def _surgical(frame, numbers):
    """Return (light, pattern) of pleats that fan out from the sides, with a hem above and below."""
    light = _round(frame, numbers) * _creases(frame, numbers, 0.14)
    wave = 0.03 * (_noise(5 * frame.across, 0 * frame.down, numbers) - 0.5)
    spread = 0.11 + 0.06 * (1 - frame.across ** 2)
    depth = 0.14 + 0.12 * numbers[16]
    for place in (-1, 0, 1):
        at = frame.share - 0.5 - 0.06 * (numbers[15] - 0.5) - place * spread - wave
        light = light * (1 - depth * _line(at, 0.022) + 0.4 * depth * _line(at - 0.05, 0.035))
    hem = 0.12 * _line(frame.share - 0.085, 0.014) + 0.12 * _line(frame.share - 0.93, 0.014)
    wire = 0.08 * _line(frame.share - 0.045, 0.02) * (np.abs(frame.across) < 0.45)
    return light * (1 - hem + wire), np.zeros_like(light)


def _cloth(frame, numbers):
    """Return (light, pattern) of sewn cloth: a seam in the middle, a stitched border, a printed pattern."""
    light = _round(frame, numbers) * _creases(frame, numbers, 0.2 + 0.15 * numbers[16]) * _weave(frame, 1.8, 0.08)
    if numbers[17] < 0.6:
        seam = frame.across * _HALF_WIDTH
        light = light * (1 - 0.25 * _line(seam, 0.8) + 0.1 * _line(seam - 1.6, 1.2))
    border = 1 - 0.14 * _line(frame.inside - 3.2, 0.6) + 0.05 * _line(frame.inside - 1.2, 1.0)
    return light * border, _pattern(frame, numbers)


def _ffp2(frame, numbers):
    """Return (light, pattern) of a beak: a crease upright or across, welded borders, a nose clip, maybe a valve."""
    if numbers[15] < 0.6:                                        # folded upright
        left = np.tanh(frame.across * _HALF_WIDTH / 1.2)
        light = (0.98 + (0.04 + 0.1 * numbers[16]) * left * (1 if numbers[18] < 0.5 else -1)
                 - 0.12 * np.abs(frame.across) - 0.1 * _line(frame.across * _HALF_WIDTH, 0.7))
    else:                                                        # folded across, in three parts
        light = _round(frame, numbers)
        for at, below in ((0.36, 0.05), (0.72, -0.12)):
            fold = frame.share - at + 0.06 * frame.across ** 2
            light = light + below * (fold > 0) - 0.16 * _line(fold, 0.016)
    light = light * _creases(frame, numbers, 0.1) * (1 - 0.12 * _line(frame.inside - 3.5, 0.5))
    clip = (np.abs(frame.across) < 0.4) * _line(frame.inside - 2.2, 1.0)
    light = light * (1 + 0.1 * clip - 0.14 * (np.abs(frame.across) < 0.4) * _line(frame.inside - 4.0, 0.5))
    pattern = np.zeros_like(light)
    if numbers[17] < 0.25:
        away = np.hypot(frame.across * _HALF_WIDTH - 13, frame.down - 93)
        light = light * (1 - 0.3 * _line(away - 7.5, 0.7) - 0.15 * _line(away - 4.5, 0.6)) + 0.05 * (away < 7)
    return light, pattern


def _scarf(frame, numbers):
    """Return (light, pattern) of a scarf: long folds that hang between the ears, knitted or woven."""
    rough = _noise(4 * frame.across, 0.12 * frame.down, numbers)
    hang = frame.down + 9 * (numbers[12] - 0.5) * frame.across + 5 * frame.across ** 2 + 26 * rough
    period = 11 + 10 * numbers[15]
    fold = np.sin(2 * np.pi * hang / period)
    depth = 0.16 + 0.16 * numbers[16]
    light = 0.95 + depth * (fold - 0.5 * fold ** 2) - 0.12 * np.clip(np.abs(frame.across), 0, 1) ** 2
    light = light * (1 - 0.12 * _line(frame.inside - 1.5, 1.2)) * _weave(frame, 2.6, 0.16 * numbers[20])
    return light * _creases(frame, numbers, 0.16), _pattern(frame, numbers)


_SHEETS = {'surgical': _surgical, 'cloth': _cloth, 'ffp2': _ffp2, 'scarf': _scarf}


def _pattern(frame, numbers):
    """Return the share of the second colour in 0..1: plain, stripes, checks, dots or a print."""
    kind = _PATTERNS[int(min(numbers[10] * 1.6, 0.999) * len(_PATTERNS))] if numbers[10] < 0.62 else 'plain'
    period = 4 + 9 * numbers[11]
    if kind == 'plain' or not _visible(frame, period):
        return np.zeros_like(frame.across)
    if kind == 'print':
        return np.clip(8 * (_noise(28 * frame.across, 0.7 * frame.down, numbers) - 0.55), 0, 1)
    angle = np.pi * (numbers[12] if kind == 'stripes' else 0.25 * (numbers[12] < 0.5))
    bulge = frame.across * _HALF_WIDTH * (1 + 0.12 * frame.across ** 2)          # cloth is round
    x, y = bulge * np.cos(angle) + frame.down * np.sin(angle), frame.down * np.cos(angle) - bulge * np.sin(angle)
    x, y = (np.sin(2 * np.pi * place / period) for place in (x, y))
    soft = period * frame.scale / 6
    if kind == 'stripes':
        return np.clip(0.5 + soft * x, 0, 1)
    if kind == 'checks':
        return (np.clip(0.5 + soft * x, 0, 1) + np.clip(0.5 + soft * y, 0, 1)) / 2
    return np.clip(0.5 + soft * (x + y - 1.1), 0, 1)


def _colours(kind, numbers, is_grey, colour):
    """Return the two colours of a mask, each (3,) in the face's order, or their luminances."""
    palette = _COLOURS.get(kind)
    if palette:
        base = np.array(palette[int(numbers[6] * len(palette))], float)
        both = np.stack([base, base])
    else:
        values = [(int(180 * numbers[6]), int(200 * numbers[7]), int(35 + 205 * numbers[8])),
                  (int(180 * numbers[9]), int(200 * numbers[19]), int(30 + 215 * (1 - numbers[8])))]
        both = cv2.cvtColor(np.array([values], np.uint8), cv2.COLOR_HSV2RGB)[0].astype(float)
    if is_grey:
        return tuple((both @ _LUMINANCE).astype(np.float32))
    return tuple((both if colour == 'RGB' else both[:, ::-1]).astype(np.float32))


def _light(light, cover, frame, face):
    """Return (shading (H, W), exposure) of the face: the light under the mask without its details, and how bright.

    The light is averaged over covered pixels only, so that a bright background does not shine through the cloth.
    """
    low = _smooth(light * cover, 9 * frame.scale) / (_smooth(cover, 9 * frame.scale) + 1e-3)
    total = float(cover.sum()) + 1e-3
    mean = float((low * cover).sum()) / total + 1e-3
    detail = _smooth(light, 2.5 * frame.scale) - low                                   # a little of nose, lips and chin
    shading = np.clip(low / mean, 0.35, 1.6) ** 0.9 + 0.25 * np.clip(detail / mean, -0.5, 0.5)
    bright = float(np.percentile(face[::2, ::2], 92))
    return shading.astype(np.float32), float(np.clip(bright / 205, 0.3, 1.1))


def _smooth(image, sigma):
    """Return a Gaussian blur, computed on a smaller picture where it is wide."""
    part = max(1, int(sigma / 2))
    height, width = image.shape
    small = cv2.resize(image, (-(-width // part), -(-height // part)), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / part), (width, height))


def _shadow(frame, numbers):
    """Return the factor that darkens the skin just outside the edge, (H, W)."""
    reach = 3.0 + 2.5 * numbers[23]
    return 1 - 0.38 * np.clip(1 + np.minimum(frame.inside, 0) / reach, 0, 1) ** 2 * (frame.inside < 2)


def _straps(frame, kind, numbers):
    """Return the cover of the straps that lead from the sides to the ears, (H, W)."""
    x, y = np.abs(frame.across) * _HALF_WIDTH, frame.down
    upper, lower = _UPPER[kind][-1] + 3, _LOWER[kind][-1] - 2
    width = 0.75 + 0.5 * numbers[20]
    cover = np.zeros_like(x)
    for (x0, y0), (x1, y1) in (((38, upper), (47, 58)), ((38, lower), (48, 69))):
        along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2), 0, 1)
        away = np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0))
        cover = np.maximum(cover, np.clip((width - away) * frame.scale + 0.5, 0, 1))
    return (0.75 * cover * (frame.inside < 1)).astype(np.float32)
