"""Face formats: exact conversions, and refusals where two formats meet."""
from dataclasses import replace

import cv2
import numpy as np
import pytest

from src.data import images
from src.data.face_format import FACE_FORMATS, check_formats, face_format, from_metadata


@pytest.mark.parametrize('name, colour, side, black, white', [
    ('lightcnn', 'grey', 128, 0.0, 1.0), ('lightcnn_v4', 'BGR', 128, 0.0, 1.0), ('arcface', 'RGB', 112, -1.0, 1.0),
    ('facexzoo', 'BGR', 112, -127.5 / 128, 127.5 / 128), ('mobilefacenet_y1', 'RGB', 112, -127.5 / 128, 127.5 / 128)])
def test_each_format_is_what_its_authors_feed(name, colour, side, black, white):
    face = face_format(name)
    assert (face.colour, face.test_side) == (colour, side)
    shape = (1, 4, 4) if colour == 'grey' else (1, 4, 4, 3)
    for pixel, value in ((0, black), (255, white)):
        x = face.to_input(np.full(shape, pixel, np.uint8))
        assert x.shape == (1, face.num_channels, 4, 4) and x.dtype == np.float32 and np.all(x == np.float32(value))


def test_channels_keep_their_order():
    picture = np.zeros((1, 2, 2, 3), np.uint8)
    picture[..., 0] = 255                                        # the first channel of the format's order
    assert face_format('arcface').to_input(picture)[0, :, 0, 0].tolist() == [1.0, -1.0, -1.0]


def test_decoding_gives_the_order_asked_for():
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 2] = 200                                            # OpenCV writes BGR
    data = cv2.imencode('.png', red)[1].tobytes()
    assert images.decode(data, 'RGB')[0, 0].tolist() == [200, 0, 0]
    assert images.decode(data, 'BGR')[0, 0].tolist() == [0, 0, 200]
    assert images.decode(data).shape == (8, 8)
    assert images.encode(images.decode(data, 'RGB'), 'RGB', '.png') == data


def test_colour_becomes_grey_and_the_other_order_exactly():
    rgb = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert np.array_equal(images.in_colour(rgb, 'RGB', 'BGR'), rgb[..., ::-1])
    grey = images.in_colour(rgb, 'RGB', 'grey')
    assert np.array_equal(grey, images.in_colour(rgb[..., ::-1].copy(), 'BGR', 'grey'))
    expected = rgb.astype(np.float64) @ (0.299, 0.587, 0.114)
    assert np.abs(grey - expected).max() <= 0.5 + 255 * 2.0 ** -14      # OpenCV's weights have 14 bits
    with pytest.raises(ValueError, match='the faces are grey, RGB is needed'):
        images.in_colour(grey, 'grey', 'RGB')


def test_every_pair_of_formats_is_joined_or_refused():
    for held in FACE_FORMATS.values():
        for wanted in FACE_FORMATS.values():
            fits = held.alignment == wanted.alignment and (held.colour != 'grey' or wanted.colour == 'grey')
            if fits:
                check_formats('set', held, wanted)
            else:
                with pytest.raises(ValueError, match='^set: the faces are'):
                    check_formats('set', held, wanted)
    check_formats('set', FACE_FORMATS['lightcnn_v4'], FACE_FORMATS['arcface'], assumed='arcface')


def test_older_metadata_mean_grey_faces_and_lies_are_refused():
    assert from_metadata({}, 'x') is from_metadata({'face_format': None}, 'x') is FACE_FORMATS['lightcnn']
    held = FACE_FORMATS['arcface'].as_metadata()
    assert from_metadata({'face_format': held}, 'x') is FACE_FORMATS['arcface']
    for lie in ('arcface', {**held, 'mean': 0.0}, {'name': 'other'}, [1]):
        with pytest.raises(ValueError, match='^x: its face format'):
            from_metadata({'face_format': lie}, 'x')
    with pytest.raises(ValueError, match='arcface, facexzoo'):
        face_format('insightface')


@pytest.mark.parametrize('side, alignment', [(112, 'arcface'), (128, 'lightcnn'), (144, 'lightcnn'), (100, None)])
def test_sizes_tell_the_alignment(tmp_path, side, alignment):
    path = str(tmp_path / 'a.png')
    cv2.imwrite(path, np.zeros((side, side, 3), np.uint8))
    assert images.alignment_of(str(tmp_path), [path]) == alignment


def test_what_a_folder_says_counts_more_than_sizes(tmp_path):
    path = str(tmp_path / 'a.png')
    cv2.imwrite(path, np.zeros((112, 112, 3), np.uint8))
    images.write_format(str(tmp_path), colour='grey', alignment='lightcnn', side=112)
    assert images.alignment_of(str(tmp_path), [path]) == 'lightcnn'
    images.check_alignment(str(tmp_path), [path], FACE_FORMATS['lightcnn'])
    with pytest.raises(ValueError, match="aligned as 'lightcnn', the network takes 'arcface'"):
        images.check_alignment(str(tmp_path), [path], FACE_FORMATS['arcface'])
    images.check_alignment(str(tmp_path), [path], FACE_FORMATS['arcface'], 'arcface')
    (tmp_path / images.FORMAT_FILE).write_text('{"alignment": "upside down"}')
    with pytest.raises(ValueError, match='does not tell an alignment'):
        images.alignment_of(str(tmp_path), [path])


def test_a_test_face_is_of_its_format():
    face = np.random.default_rng(0).integers(0, 256, (144, 144, 3), np.uint8)
    colour = FACE_FORMATS['lightcnn_v4']
    assert np.array_equal(images.face_for_test(face, colour), face[8:136, 8:136])
    assert images.face_for_test(face[:112, :112], FACE_FORMATS['arcface'], 64).shape == (64, 64, 3)
    with pytest.raises(ValueError, match='112x112 .face format arcface'):
        images.face_for_test(face, FACE_FORMATS['arcface'])
    assert replace(colour, colour='grey').num_channels == 1
