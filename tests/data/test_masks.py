"""Masks: where they are, what they leave alone, and that numbers alone decide; masked twins of a whole set."""
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import script

from src.data import align
from src.data.images import read_face
from src.data.lists import read_image_list
from src.data.masked_set import points_of
from src.data.masks import MASKS, NUMBERS, alignment_points, draw_mask, kind_of
from src.data.synthetic import draw_face

SIDES = [('lightcnn', 144, False), ('lightcnn', 128, True), ('lightcnn', 54, False), ('arcface', 112, False),
         ('arcface', 300, False)]
POINTS = alignment_points('lightcnn', 144)


def numbers_of(kind, seed=0, under_nose=False):
    numbers = np.random.default_rng(seed).random(NUMBERS)
    numbers[0], numbers[1] = (MASKS.index(kind) + 0.5) / len(MASKS), 0.1 if under_nose else 0.9
    return numbers


def changed(face, numbers, points=POINTS, **how):
    """Return where the mask is clearly there, (H, W) bool."""
    difference = np.abs(draw_mask(face, points, numbers, **how).astype(int) - face)
    return (difference.max(-1) if face.ndim == 3 else difference) > 0


@pytest.mark.parametrize('alignment, side, test', SIDES)
def test_the_points_of_an_alignment(alignment, side, test):
    points = alignment_points(alignment, side, test=test)
    if alignment == 'arcface':
        assert points == pytest.approx((align.ARCFACE + 0.5) * side / 112 - 0.5)
        return
    unit = (128 if test else 144) / side
    eyes, mouth = ((points[i].mean(0) + 0.5) * unit - 0.5 for i in (slice(0, 2), slice(3, 5)))
    assert eyes == pytest.approx((64, 40) if test else (72, 48)) and mouth[1] == pytest.approx(88 if test else 96)


@pytest.mark.parametrize('alignment, side, test', SIDES)
@pytest.mark.parametrize('kind', MASKS)
def test_a_mask_covers_mouth_and_nose_but_not_the_eyes(kind, alignment, side, test):
    """White noise as a face: nearly every pixel under a mask is another one afterwards."""
    points = alignment_points(alignment, side, test=test)
    face = np.random.default_rng(1).integers(0, 256, (side, side), np.uint8)
    for seed in range(5):
        covered = changed(face, numbers_of(kind, seed), points)
        near = max(1, side // 24)
        for place, is_covered in zip(points.round().astype(int), (False, False, True, True, True)):
            patch = covered[place[1] - near:place[1] + near, place[0] - near:place[0] + near]
            assert patch.mean() > 0.8 if is_covered else not patch.any(), (seed, place)
        assert not covered[:int(points[0, 1])].any()


@pytest.mark.parametrize('kind', MASKS)
def test_under_the_nose_the_nose_is_free(kind):
    face = draw_face(1, 0, 0)
    x, y = POINTS[2].round().astype(int)
    over, under = (changed(face, numbers_of(kind, 3, under_nose)) for under_nose in (False, True))
    assert over[y - 4:y + 3, x - 4:x + 4].mean() > 0.9 and not under[y - 4:y + 3, x - 4:x + 4].any()
    assert under[94:100, x - 10:x + 10].mean() > 0.9


def test_numbers_alone_decide():
    face, rng = draw_face(1, 0, 0), np.random.default_rng(5)
    numbers = rng.random(NUMBERS)
    before = face.copy()
    one = draw_mask(face, POINTS, numbers)
    assert np.array_equal(face, before) and one.dtype == np.uint8 and one.shape == face.shape
    assert np.array_equal(one, draw_mask(face, POINTS, numbers.copy()))
    assert not np.array_equal(one, draw_mask(face, POINTS, rng.random(NUMBERS)))
    kinds = [kind_of(rng.random(NUMBERS)) for _ in range(400)]
    # a count of 400 draws of 1/4 has a standard deviation of 8.7: five of them
    assert all(abs(kinds.count(kind) - 100) < 44 for kind in MASKS)
    assert {kind_of(rng.random(NUMBERS), ('scarf', 'ffp2')) for _ in range(50)} == {'scarf', 'ffp2'}


@pytest.mark.parametrize('kind', MASKS)
def test_colour_is_the_colour_it_is_called(kind):
    """RGB and BGR are the same picture; a grey one is the luminance of the colour one, but for rounding."""
    grey = draw_face(1, 3, 0)
    rgb = np.repeat(grey[..., None], 3, -1)
    for seed in range(3):
        numbers = numbers_of(kind, seed)
        one = draw_mask(rgb, POINTS, numbers, colour='RGB')
        other = draw_mask(rgb[..., ::-1].copy(), POINTS, numbers, colour='BGR')
        assert np.abs(one.astype(int) - other[..., ::-1]).max() <= 1
        plain = draw_mask(grey, POINTS, numbers).astype(int)
        bright = one.max(-1) == 255                              # cut off in one channel
        assert np.abs(plain - one @ np.array([0.299, 0.587, 0.114]))[~bright].max() <= 2


def test_light_comes_from_the_face():
    """A face that is dark on one side has a mask that is, and a dark picture has a dark mask."""
    numbers = numbers_of('surgical', 2)
    numbers[18] = 0.5                                            # no light of its own
    x = np.arange(144)
    half = np.repeat((80 + 0.8 * x)[None], 144, 0).astype(np.uint8)
    mask = draw_mask(half, POINTS, numbers)[84:104].astype(float)
    level = draw_mask(np.full_like(half, half.mean()), POINTS, numbers)[84:104].astype(float)
    ratio = [(m[:, 85:100].mean() / m[:, 44:59].mean()) for m in (mask, level)]
    assert ratio[0] > 1.1 * ratio[1]
    dark = draw_mask(half // 3, POINTS, numbers)[84:104].mean()
    assert dark < 0.6 * mask.mean()


def test_the_mask_follows_the_points():
    """A face that is moved and turned has its mask moved and turned."""
    face = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8), (0, 0), 2)
    points = POINTS + (60, 90)
    turn = cv2.getRotationMatrix2D((150, 150), 30, 1.3)
    turned = cv2.warpAffine(face, turn, (300, 300), borderMode=cv2.BORDER_REFLECT)
    numbers = numbers_of('surgical', 4)
    there = cv2.warpAffine(np.float32(changed(face, numbers, points)), turn, (300, 300)) > 0.5
    found = changed(turned, numbers, points @ turn[:, :2].T + turn[:, 2])
    rows = slice(130, 300)
    assert (there & found)[rows].sum() > 0.9 * (there | found)[rows].sum()


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match='hat: not a kind of mask; kinds: surgical, cloth'):
        draw_mask(draw_face(1, 0, 0), POINTS, np.zeros(NUMBERS), kinds=('hat',))
    with pytest.raises(ValueError, match='no kind'):
        kind_of(np.zeros(NUMBERS), ())
    with pytest.raises(ValueError, match='100x100 pixels are no aligned face'):
        points_of(100, 100)
    assert points_of(100, 100, 'arcface') == pytest.approx(alignment_points('arcface', 100))


def twins(out, *flags):
    done = script('prepare.py', 'masks', '--out', out, '--workers', '2', *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_twins_of_a_set(tmp_path, synthetic):
    said = twins(tmp_path / 'one', '--root', synthetic / 'train', '--list', synthetic / 'train_list.txt', '--sheet',
                 tmp_path / 'sheet.jpg')
    assert '48 faces' in said and '0 without; 0 rejected' in said and cv2.imread(str(tmp_path / 'sheet.jpg')).ndim == 3
    names, labels = read_image_list(str(synthetic / 'train_list.txt'))
    kept, kept_labels = read_image_list(str(tmp_path / 'one' / 'train_list.txt'))
    assert kept == names and kept_labels.tolist() == labels.tolist()
    kinds = dict(line.split('\t') for line in (tmp_path / 'one' / 'masks.tsv').read_text().splitlines())
    assert list(kinds) == names and {kind.split(',')[0] for kind in kinds.values()} == set(MASKS)
    for name in names:
        before, after = (read_face(str(root / name)) for root in (synthetic / 'train', tmp_path / 'one'))
        assert np.array_equal(before[:40], after[:40]) and not np.array_equal(before[90:], after[90:])
    # fewer names, another order, a folder instead of a list: the same masks
    (tmp_path / 'short.txt').write_text(f'{names[7]} 0\n{names[3]} 1\n')
    twins(tmp_path / 'two', '--root', synthetic / 'train', '--list', tmp_path / 'short.txt')
    twins(tmp_path / 'three', '--root', synthetic / 'train')
    for name in (names[7], names[3]):
        held = [(tmp_path / out / name).read_bytes() for out in ('one', 'two', 'three')]
        assert held[0] == held[1] == held[2]
    assert not list(tmp_path.rglob('*.tmp'))


def test_a_share_of_a_set(tmp_path, synthetic):
    flags = ('--root', synthetic / 'lfw' / 'image', '--share', '0.5', '--kinds', 'ffp2', '--seed')
    twins(tmp_path / 'one', *flags, '1')
    twins(tmp_path / 'two', *flags, '2')
    files = [path.relative_to(tmp_path / 'one') for path in sorted((tmp_path / 'one').rglob('*.*'))
             if path.suffix not in ('.tsv', '.txt')]
    kinds = dict(line.split('\t') for line in (tmp_path / 'one' / 'masks.tsv').read_text().splitlines())
    assert len(files) == 14 * 24 and {kind.split(',')[0] for kind in kinds.values()} == {'ffp2', '-'}
    plain = [name for name, kind in kinds.items() if kind == '-']
    assert abs(len(plain) - 168) < 5 * 9.2                       # of 336 draws of 1/2, five standard deviations
    for name in plain[:10]:
        assert (tmp_path / 'one' / name).read_bytes() == (synthetic / 'lfw' / 'image' / name).read_bytes()
    assert any((tmp_path / 'one' / f).read_bytes() != (tmp_path / 'two' / f).read_bytes() for f in files)


def test_twins_by_landmarks_keep_colour_and_size(tmp_path):
    root = tmp_path / 'photos' / 'someone'
    root.mkdir(parents=True)
    photo = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (260, 240, 3), np.uint8), (0, 0), 1)
    for name in ('a.png', 'b.png', 'grey.png'):
        cv2.imwrite(str(root / name), photo if name != 'grey.png' else photo[..., 0])
    (tmp_path / 'points.txt').write_text('someone/a.png 90 100 130 100 110 125 95 150 125 150\n'
                                         'someone/grey.png 90 100 130 100 110 125 95 150 125 150\n')
    said = twins(tmp_path / 'out', '--root', tmp_path / 'photos', '--landmarks', tmp_path / 'points.txt')
    assert '2 faces' in said and '1 rejected' in said
    assert (tmp_path / 'out' / 'rejected.txt').read_text().startswith('someone/b.png\t')
    made = cv2.imread(str(tmp_path / 'out' / 'someone' / 'a.png'), cv2.IMREAD_UNCHANGED)
    assert made.shape == photo.shape and np.array_equal(made[:90], photo[:90])
    assert not np.array_equal(made[150], photo[150])
    assert cv2.imread(str(tmp_path / 'out' / 'someone' / 'grey.png'), cv2.IMREAD_UNCHANGED).ndim == 2


def test_the_format_travels_along(tmp_path):
    root = tmp_path / 'faces'
    root.mkdir()
    (root / 'face_format.json').write_text(json.dumps({'format': 1, 'colour': 'grey', 'alignment': 'lightcnn',
                                                       'side': 96}))
    cv2.imwrite(str(root / 'a.png'), np.full((96, 96), 128, np.uint8))
    twins(tmp_path / 'out', '--root', root)
    assert (tmp_path / 'out' / 'face_format.json').read_text() == (root / 'face_format.json').read_text()
    made = read_face(str(tmp_path / 'out' / 'a.png'))
    assert (made[:32] == 128).all() and (made[60:70, 40:56] != 128).mean() > 0.9


@pytest.mark.parametrize('flags, code, said', [
    (['--root', 'nowhere'], 2, 'nowhere: no such folder of faces'),
    (['--root', '{train}', '--share', '1.5'], 2, '--share 1.5 is not a share; expected 0 to 1'),
    (['--root', '{train}', '--seed', '-1'], 2, '--seed -1 is negative'),
    (['--root', '{train}', '--kinds', 'hat'], 2, "invalid choice: 'hat'"),
    (['--root', '{odd}'], 1, '100x90 pixels are no aligned face that is known; name --geometry or --landmarks'),
])
def test_errors_are_one_line(flags, code, said, tmp_path, synthetic):
    odd = tmp_path / 'odd'
    odd.mkdir()
    cv2.imwrite(str(odd / 'a.png'), np.zeros((90, 100), np.uint8))
    flags = [flag.format(train=synthetic / 'train', odd=odd) for flag in flags]
    done = script('prepare.py', 'masks', '--out', tmp_path / 'out', *flags)
    assert done.returncode == code and said in done.stderr.splitlines()[-1]


def test_a_set_is_not_masked_into_itself(synthetic):
    root = Path(synthetic) / 'train'
    for out in (root, root / 'masked'):
        done = script('prepare.py', 'masks', '--root', root, '--out', out)
        assert done.returncode == 2 and 'would be masked again' in done.stderr and not (root / 'masked').exists()
