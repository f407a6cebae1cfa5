import cv2
import numpy as np
import pytest

from src.data import images
from src.data.face_format import FACE_FORMATS


def encoded(image, extension='.jpg'):
    return cv2.imencode(extension, image)[1].tobytes()


@pytest.fixture
def face():
    return np.random.default_rng(0).integers(0, 256, (144, 144), np.uint8)


def test_lossless_pictures_come_back_bit_for_bit(face):
    for extension in ('.png', '.bmp'):
        assert np.array_equal(images.decode(encoded(face, extension)), face)


@pytest.mark.parametrize('spoil', [lambda d: b'', lambda d: b'text', lambda d: d[:len(d) // 2], lambda d: d[:100]])
@pytest.mark.parametrize('extension', ['.jpg', '.png', '.bmp'])
def test_what_cannot_be_decoded_is_named(face, spoil, extension):
    with pytest.raises(ValueError, match='some name'):
        images.decode(spoil(encoded(face, extension)), name='some name')


def test_test_face_is_the_centre_of_a_training_face(face):
    assert np.array_equal(images.face_for_test(face), face[8:136, 8:136])
    assert np.array_equal(images.face_for_test(face[8:136, 8:136]), face[8:136, 8:136])
    assert images.face_for_test(face, image_size=64).shape == (64, 64)


@pytest.mark.parametrize('shape', [(112, 112), (250, 250), (128, 144)])
def test_other_alignments_are_refused(shape):
    with pytest.raises(ValueError, match='expected an aligned face'):
        images.face_for_test(np.zeros(shape, np.uint8))


def test_network_input():
    x = FACE_FORMATS['lightcnn'].to_input(np.array([[[0, 255], [51, 102]]], np.uint8))
    assert x.shape == (1, 1, 2, 2) and x.dtype == np.float32
    assert x.ravel().tolist() == [0.0, 1.0, np.float32(0.2), np.float32(0.4)]


def test_other_extensions_are_found(tmp_path, face):
    (tmp_path / 'p').mkdir()
    cv2.imwrite(str(tmp_path / 'p' / 'x.png'), face)
    assert images.find_image(str(tmp_path), 'p/x.bmp') == str(tmp_path / 'p' / 'x.png')
    assert images.find_image(str(tmp_path), 'p/y.bmp') is None
