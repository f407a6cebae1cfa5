"""recognise.py: verdicts, their error rates, exit codes, galleries, photographs, and what it refuses."""
import json
import os
import shutil

import cv2
import numpy as np
import pytest
from conftest import script

from src import recognition
from src.data import lists
from src.data.face_format import face_format
from src.embedding import Network

POINT = {'protocol': 'own', 'far': 0.01, 'threshold': 0.5, 'tpr': 90.0, 'interval95': [85.0, 94.0],
         'impostor_pairs': 2000, 'far_measured': 0.95, 'far_interval95': [0.5, 1.5], 'tpr_interval95': [86.0, 93.0]}


def thresholds(folder, **changes):
    held = {'model': 'net.ckpt', 'accept': 'cosine similarity >= threshold', 'points': [POINT], **changes}
    lists.write_text(folder / 't.json', json.dumps(held))
    return str(folder / 't.json')


@pytest.fixture
def network(tmp_path):
    """A network whose features are the mean of each quarter of a picture: equal pictures are equal."""
    (tmp_path / 'net.ckpt').write_bytes(b'weights')

    def features(images):
        quarters = images.reshape(len(images), 2, 64, 2, 64).mean((2, 4)).reshape(len(images), 4)
        return quarters - 0.5
    return Network(features, name='quarters', face_format=face_format('lightcnn'), image_size=128, embedding_size=4,
                   file=str(tmp_path / 'net.ckpt'))


@pytest.fixture
def gallery(tmp_path):
    """Three people of two pictures each, whose quarters are bright in places of their own."""
    for person, place in (('Ann', (0, 0)), ('Bo', (0, 1)), ('Cid', (1, 1))):
        (tmp_path / 'gallery' / person).mkdir(parents=True)
        for i in range(2):
            face = np.full((128, 128), 30 + 9 * i, np.uint8)
            face[place[0] * 64:place[0] * 64 + 64, place[1] * 64:place[1] * 64 + 64] = 250
            cv2.imwrite(str(tmp_path / 'gallery' / person / f'{i}.png'), face)
    return tmp_path / 'gallery'


def test_two_pictures(network, gallery):
    faces = recognition.Faces(network)
    same = recognition.compare_pictures(faces, str(gallery / 'Ann' / '0.png'), str(gallery / 'Ann' / '1.png'), POINT)
    other = recognition.compare_pictures(faces, str(gallery / 'Ann' / '0.png'), str(gallery / 'Bo' / '0.png'), POINT)
    images = [cv2.imread(str(gallery / name), 0).astype(float) / 255 for name in ('Ann/0.png', 'Bo/0.png')]
    a, b = (network.function(image[None, None].reshape(1, 128, 128))[0] for image in images)
    assert other['similarity'] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)
    assert same['same'] is True and other['same'] is False
    text = ' '.join(recognition.pair_lines(other))
    assert text.startswith('two people: similarity') and '< 0.500000' in text
    assert 'of pairs of two people 0.95 % are accepted (95 %: 0.5 .. 1.5)' in text
    assert 'of pairs of one person 10 % are refused (95 %: 7 .. 14); 2000 pairs' in text


def test_nearest_people(network, gallery):
    photo = str(gallery.parent / 'photo.png')
    shutil.copy(gallery / 'Bo' / '1.png', photo)
    result = recognition.nearest(recognition.Faces(network), photo, str(gallery), POINT, top=2)
    assert [row['person'] for row in result['people']] == ['Bo', 'Cid'] or \
        [row['person'] for row in result['people']] == ['Bo', 'Ann']
    assert result['people'][0]['similarity'] == pytest.approx(1) and result['people'][0]['pictures'] == 2
    assert result['identical'] == ['Bo/1.png'] and result['same'] and result['gallery_pictures'] == 6
    lines = recognition.gallery_lines(result)
    assert max(map(len, lines[:-2])) <= 80 and 'accepted in up to 6 % of cases' in lines[-1]
    assert recognition.nearest(recognition.Faces(network), photo, str(gallery))['same'] is None


def test_the_gallery_is_embedded_once(network, gallery, monkeypatch):
    made, function = [], network.function
    network.function = lambda images: made.append(len(images)) or function(images)
    faces, photo = recognition.Faces(network), str(gallery / 'Ann' / '0.png')
    recognition.nearest(faces, photo, str(gallery))
    assert sum(made) > 0 and os.path.exists(gallery.parent / 'net.features.npz')
    del made[:]
    os.rename(gallery / 'Bo', gallery / 'Bob')                       # by content, not by name
    assert recognition.nearest(faces, photo, str(gallery))['people'][0]['person'] == 'Ann' and not made
    cv2.imwrite(str(gallery / 'Bob' / '2.png'), np.eye(128, dtype=np.uint8) * 200)
    recognition.nearest(faces, photo, str(gallery))
    assert len(made) == 1


@pytest.mark.parametrize('far, expected', [(0.01, 0.3), (0.001, 0.4), (0.005, 0.4), (0, 0.6), (1, 0.2)])
def test_the_point_is_the_largest_far_not_above(far, expected):
    points = [{'far': f, 'threshold': t, 'protocol': p, 'impostor_pairs': n} for f, t, p, n in (
        (0.1, 0.2, 'lfw', 3000), (0.01, 0.25, 'lfw', 3000), (0.01, 0.3, 'own', 9000), (0.001, 0.4, 'own', 9000),
        (0, 0.6, 'own', 9000))]
    assert recognition.operating_point(points, far)['threshold'] == expected
    assert recognition.operating_point(points, 0.01, 'lfw')['threshold'] == 0.25
    with pytest.raises(ValueError, match=r'--far 0.001: no threshold was measured.*0.1 \(lfw\), 0.01 \(lfw\)'):
        recognition.operating_point(points, 0.001, 'lfw')


def test_thresholds_of_another_network_are_refused(network, tmp_path, capsys):
    digest = lists.file_sha256(network.file)
    assert recognition.read_thresholds(thresholds(tmp_path, weights_sha256=digest), network) == [POINT]
    assert capsys.readouterr().err == ''
    assert recognition.read_thresholds(thresholds(tmp_path, model='other.ckpt'), network) == [POINT]
    assert 'is not known' in capsys.readouterr().err
    with pytest.raises(ValueError, match='measured with other weights'):
        recognition.read_thresholds(thresholds(tmp_path, weights_sha256='0' * 64), network)
    entry = {'weights_sha256': digest, 'model': 'a', 'accept': 'cosine similarity >= threshold', 'points': [POINT]}
    other = {**entry, 'weights_sha256': '1' * 64, 'points': []}
    assert recognition.read_thresholds(thresholds(tmp_path, models=[other, entry]), network) == [POINT]
    with pytest.raises(ValueError, match='none of them this network'):
        recognition.read_thresholds(thresholds(tmp_path, models=[other]), network)


HOSTILE = [b'', b'[]', b'nonsense', b'{"points": []}', b'[' * 100000, b'{"points": [1]}', b'\xff\xfe', *(json.dumps({
    'accept': accept, 'points': points}).encode() for accept, points in (
        ('distance <= threshold', [POINT]), ('cosine similarity >= threshold', []),
        ('cosine similarity >= threshold', [None]), ('cosine similarity >= threshold', {'far': 1}),
        ('cosine similarity >= threshold', [{**POINT, 'far': 'x'}]),
        ('cosine similarity >= threshold', [{**POINT, 'threshold': float('nan')}]),
        ('cosine similarity >= threshold', [{**POINT, 'threshold': True}]),
        ('cosine similarity >= threshold', [{**POINT, 'threshold': 5}]),
        ('cosine similarity >= threshold', [{**POINT, 'far': -0.1}])))]


@pytest.mark.parametrize('data', HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_thresholds_are_one_line(data, tmp_path):
    (tmp_path / 't.json').write_bytes(data)
    with pytest.raises(ValueError) as error:
        recognition.read_thresholds(str(tmp_path / 't.json'))
    assert '\n' not in str(error.value) and 't.json' in str(error.value)


def test_odd_values_in_a_point_do_not_hurt():
    for key in ('protocol', 'tpr', 'interval95', 'impostor_pairs', 'far_measured', 'far_interval95', 'tpr_interval95'):
        for value in (None, 'x', [], {}, [1], ['a', 'b'], True):
            assert recognition.rates_text({**POINT, key: value})


def test_by_command(synthetic, trained, tmp_path):
    root = synthetic / 'lfw' / 'image'
    first, second, other = (str(sorted(root.rglob('*.png'))[i]) for i in (0, 1, 30))
    run = ('recognise.py', first, second, '--resume', trained, '--device_target', 'CPU')
    done = script(*run, '--threshold', '-1', '--json', tmp_path / 'r.json', cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith('the same person: similarity'), done.stderr
    result = json.loads((tmp_path / 'r.json').read_text())
    assert result['same'] is True and result['threshold'] == -1 and 'not known' in done.stdout
    done = script(*run, '--threshold', '1', '--json', '-', cwd=tmp_path)
    assert done.returncode == 1 and json.loads(done.stdout)['same'] is False, done.stderr
    done = script('recognise.py', other, '--gallery', root, '--resume', trained, '--device_target', 'CPU', cwd=tmp_path)
    assert done.returncode == 0 and 'the same file: ' in done.stdout, done.stderr
    for arguments, message in (([first], 'expected 2'), ([first, second], 'a verdict needs --thresholds'),
                               ([first, 'absent.png', '--threshold', '0'], 'absent.png: no such picture'),
                               ([first, second, '--threshold', '2'], 'not a cosine'),
                               ([first, second, '--threshold', '0', '--json', 'x.png'], 'ends with .json'),
                               ([first, '--gallery', 'nowhere'], 'no such folder of people')):
        done = script('recognise.py', *arguments, '--resume', trained, '--device_target', 'CPU', cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count('\n') == 1, done.stderr
