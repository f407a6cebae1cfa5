"""Low quality: each kind does what it says, stronger with its strength, and numbers alone decide."""
import numpy as np
import pytest

from src.data.low_quality import CHANCE, KINDS, NUMBERS, degrade
from src.data.synthetic import draw_face

PLACE = {kind: place for place, kind in enumerate(KINDS)}
FACE = draw_face(1, 2, 0)
COLOUR = np.stack([FACE, FACE // 2 + 40, 255 - FACE], -1)
X = np.arange(128)


def numbers_for(kind, amount=0.99, seed=0):
    numbers = np.random.default_rng(seed).random(NUMBERS)
    numbers[:len(KINDS)] = 0.999
    numbers[PLACE[kind]], numbers[7 + 2 * PLACE[kind]] = 0.0, amount
    return numbers


def changed(face, kind, amount=0.99, strength=1.0, seed=0, **how):
    out = degrade(face, numbers_for(kind, amount, seed), {kind: strength}, **how)
    assert out.shape == face.shape and out.dtype == np.uint8
    return out


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('face', [FACE, COLOUR, FACE[:48, :48].copy()], ids=['grey', 'colour', 'small'])
def test_stronger_is_further_away(kind, face):
    before = face.copy()
    steps = [np.abs(changed(face, kind, 0.6, strength).astype(int) - face).mean() for strength in (0.0, 0.5, 1.5)]
    assert np.array_equal(face, before) and steps[0] == 0
    if kind == 'grey' and face.ndim == 2:
        assert steps == [0, 0, 0]
    else:
        assert 0 < steps[1] < steps[2]
    assert np.array_equal(changed(face, kind), changed(face, kind))


def test_size():
    """Noise of 128x128 pixels at a sixth of it: what a sixth of the frequencies can hold is left."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 128), np.uint8)
    out = changed(noise, 'scale')
    power = np.abs(np.fft.fft2(out - out.mean())) ** 2
    frequency = np.abs(np.fft.fftfreq(128))
    low = (frequency[:, None] < 0.15) & (frequency < 0.15)
    assert power[low].sum() > 0.7 * power.sum() and np.std(out.astype(float)) < 0.5 * np.std(noise.astype(float))
    tiny = changed(noise, 'scale', strength=3.0)
    assert len(np.unique(tiny[4::16, 4::16])) > 8                # never below 8 pixels


def test_light():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None], 256, 0)
    dark = changed(ramp, 'light', 1.0)
    assert dark[0, 255] == 85 and dark[0, 0] == 0 and (np.diff(dark[0].astype(int)) >= 0).all()
    assert dark[0, 128] == round(85 * (128 / 255) ** 1.8)


def test_noise():
    flat = np.full((200, 200), 128, np.uint8)
    noise = changed(flat, 'noise', 1.0).astype(float) - 128
    # the standard deviation of n normal numbers varies by 1 / sqrt(2 n); rounding adds 1/12 to the variance
    assert noise.std() == pytest.approx(np.sqrt(16 ** 2 + 1 / 12), rel=5 / np.sqrt(2 * 200 * 200))
    assert abs(noise.mean()) < 5 * 16 / 200
    assert not np.array_equal(noise, changed(flat, 'noise', 1.0, seed=1).astype(float) - 128)


@pytest.mark.parametrize('angle', [0.0, 0.5])
def test_motion(angle):
    """A dot becomes a line of an eighth of the side, along the angle, and no light is lost."""
    dot = np.zeros((129, 129), np.uint8)
    dot[60:69, 60:69] = 200
    numbers = numbers_for('motion', 1.0)
    numbers[8 + 2 * PLACE['motion']] = angle
    out = degrade(dot, numbers)
    rows, columns = (np.flatnonzero(out.max(axis) > 2) for axis in (1, 0))
    long, short = (columns, rows) if angle == 0 else (rows, columns)
    # 9 pixels, and the line of 1 + 129 / 8 more, of which two ends may be below the limit
    assert 9 + 13 <= len(long) <= 9 + 19 and len(short) <= 11
    assert out.sum() == pytest.approx(dot.sum(), rel=0.05)


def test_colour():
    grey = changed(COLOUR, 'grey')
    assert (grey == grey[..., :1]).all()
    luminance = COLOUR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., 0] - luminance).max() <= 1
    for kind in KINDS:
        swapped = changed(COLOUR[..., ::-1].copy(), kind, colour='BGR')
        if kind in ('grey', 'jpeg', 'light', 'motion', 'scale'):
            assert np.array_equal(swapped[..., ::-1], changed(COLOUR, kind, colour='RGB'))


def test_occlusion_is_one_patch():
    for seed in range(6):
        hidden = changed(FACE, 'occlusion', seed=seed) != FACE
        rows, columns = np.flatnonzero(hidden.any(1)), np.flatnonzero(hidden.any(0))
        assert len(rows) and max(np.ptp(rows), np.ptp(columns)) < 72 and hidden.mean() < 0.26


def test_how_often():
    """A kind happens with its chance, by its own number; without any the face is the same."""
    rng = np.random.default_rng(0)
    rows = rng.random((400, NUMBERS))
    chosen = rows[:, :len(KINDS)] < CHANCE
    same = np.array([np.array_equal(degrade(COLOUR, numbers), COLOUR) for numbers in rows])
    assert same[~chosen.any(1)].all() and same.mean() < 0.15


@pytest.mark.parametrize('strengths, said', [({'rain': 1.0}, 'rain=1.0'), ({'jpeg': 3.5}, 'jpeg=3.5'),
                                             ({'grey': -1.0}, 'grey=-1.0')])
def test_what_cannot_be_is_said(strengths, said):
    with pytest.raises(ValueError, match=f'low quality, {said}: expected occlusion, light'):
        degrade(FACE, np.zeros(NUMBERS), strengths)
