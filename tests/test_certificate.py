"""Every evaluation says how many test people and pictures are known to be trained on: planted ones, none, unknown."""
import json
import os
import shutil

import cv2
import pytest
from conftest import script

from src.data import fingerprint, lists
from src.scoring import report


@pytest.fixture(scope='module')
def planted(synthetic, trained, tmp_path_factory):
    """The trained network, and folders of people: two pictures of the training set among others of the test set."""
    out = tmp_path_factory.mktemp('planted')
    for person in range(4):
        (out / 'photos' / f'Nora_N{"abcd"[person]}').mkdir(parents=True)
    names = [str(path) for path in sorted((synthetic / 'lfw' / 'image').rglob('*.png'))]
    for i in range(12):
        shutil.copy(names[24 * (i // 3) + i % 3], out / 'photos' / f'Nora_N{"abcd"[i // 3]}' / f'{i}.png')
    train, _ = lists.read_image_list(str(synthetic / 'train_list.txt'))
    shutil.copy(synthetic / 'train' / train[0], out / 'photos' / 'Nora_Na' / '0.png')           # the same file
    face = cv2.imread(str(synthetic / 'train' / train[30]), cv2.IMREAD_GRAYSCALE)[8:136, 8:136]
    cv2.imwrite(str(out / 'photos' / 'Nora_Nc' / '6.png'), face)                                # its centre, saved anew
    shutil.copytree(trained, out / 'ckpt')
    return out


def evaluated(planted, *arguments):
    file = planted / 'result.json'
    done = script('evaluate.py', '--protocol', 'own', '--root', planted / 'photos', '--device_target', 'CPU', '--json',
                  file, *arguments, cwd=planted)
    assert done.returncode == 0, done.stderr
    return ' '.join(done.stdout.split()), json.loads(file.read_text())['training_set']


def test_planted_pictures_are_counted(planted):
    text, held = evaluated(planted, '--resume', planted / 'ckpt', '--report', planted / 'report')
    assert (held['people'], held['pictures'], held['people_by_name'], held['people_by_picture']) == (2, 2, 0, 2)
    assert held['names'] == ['Nora_Na/0.png', 'Nora_Nc/6.png'] and held['complete'] and held['train_pictures'] == 48
    assert 'In the training set: 2 of 4 people (0 by name, 2 by picture), 2 of 12 pictures of the test set.' in text
    assert 'in the training set: 2 of 4 people' in (planted / 'report' / 'report.html').read_text()


def test_none_is_invented(synthetic, trained, tmp_path):
    done = script('evaluate.py', '--protocol', 'lfw', 'blufr', '--resume', trained, '--dataset_path', synthetic,
                  '--device_target', 'CPU', '--json', tmp_path / 'r.json', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for held in json.loads((tmp_path / 'r.json').read_text()).values():
        assert (held['training_set']['people'], held['training_set']['pictures']) == (0, 0)
    assert 'In the training set: 0 of 14 people' in done.stdout


def test_unknown_without_a_fingerprint(planted):
    shutil.copytree(planted / 'ckpt', planted / 'bare')
    os.remove(planted / 'bare' / 'fingerprint.npz')
    text, held = evaluated(planted, '--resume', planted / 'bare')
    assert held['people'] is held['pictures'] is None and 'is missing' in held['reason']
    assert 'in the training set: unknown (' in text
    features = planted / 'f.npy'
    evaluated(planted, '--resume', planted / 'ckpt', '--save_features', features)
    assert evaluated(planted, '--features', features)[1]['people'] is None
    held = evaluated(planted, '--features', features, '--fingerprint', planted / 'ckpt' / 'fingerprint.npz')[1]
    assert (held['people'], held['pictures']) == (2, 2)
    done = script('evaluate.py', '--protocol', 'own', '--root', planted / 'photos', '--features', features,
                  '--fingerprint', features, cwd=planted)
    assert done.returncode == 2 and 'not a readable fingerprint' in done.stderr and done.stderr.count('\n') == 1


def test_centres_of_the_same_network(planted, synthetic):
    """An audit with a network makes centres; people who are near to one of them are counted for that network only."""
    done = script('prepare.py', 'audit', '--root', synthetic / 'train', '--list', synthetic / 'train_list.txt',
                  '--report', planted / 'audit', '--resume', planted / 'ckpt', '--device_target', 'CPU')
    assert done.returncode == 0, done.stderr
    file = planted / 'audit' / 'fingerprint.npz'
    held = fingerprint.read(str(file))
    assert held.centres.shape[0] == 6 and len(held.weights) == 64
    assert evaluated(planted, '--resume', planted / 'ckpt', '--fingerprint', file)[1]['people_by_centre'] is not None
    fingerprint.write(file, held._replace(weights='of another network'))
    assert evaluated(planted, '--resume', planted / 'ckpt', '--fingerprint', file)[1]['people_by_centre'] is None


@pytest.mark.parametrize('changes, words', [
    ({'complete': False}, 'At least: the training began with weights'),
    ({'reason': 'the bytes only'}, 'The bytes only.'),
    ({'people': None, 'reason': 'why'}, 'unknown (why)')])
def test_words(changes, words):
    held = {'people': 1, 'pictures': 2, 'people_by_name': 1, 'people_by_picture': 0, 'people_by_centre': None,
            'num_people': 5, 'num_pictures': 9, 'complete': True, 'reason': '', **changes}
    assert words in report.training_set_text({'training_set': held}) and report.training_set_text({}) == ''
