"""Sets of pairs through evaluate.py: .bin, lists, named sets; their numbers against straightforward code."""
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import PROJECT

from src import api
from src.config import get_config
from src.data.verification import write_bin
from src.protocols import protocol
from src.protocols.pair_set import people_of_pairs
from src.scoring import report

RECORDS = PROJECT.parent / 'shared' / 'records'


def run(monkeypatch, capsys, *arguments):
    """Run evaluate.py in this process; its stdout."""
    import evaluate
    monkeypatch.setattr(sys, 'argv', ['evaluate.py', *map(str, arguments)])
    evaluate.main()
    return capsys.readouterr().out


@pytest.fixture
def settings(tmp_path):
    return get_config(dataset_path=str(tmp_path))


def some_faces(num, seed=0):
    """Return num distinct PNG faces of 112x112."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (num, 7, 7, 3), np.uint8)
    return [cv2.imencode('.png', np.kron(face, np.ones((16, 16, 1), np.uint8)))[1].tobytes() for face in small]


def insightface_accuracy(embeddings, same):
    """insightface's rule word for word: a loop over thresholds in each of ten folds of file order."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distance = np.sum(np.square(unit[0::2] - unit[1::2]), 1)
    accuracies = []
    for fold in np.array_split(np.arange(len(same)), 10):
        rest = np.setdiff1d(np.arange(len(same)), fold)
        hits = [np.mean((distance[rest] < t) == same[rest]) for t in np.arange(0, 4, 0.01)]
        best = np.arange(0, 4, 0.01)[np.argmax(hits)]
        accuracies.append(np.mean((distance[fold] < best) == same[fold]))
    return 100 * np.mean(accuracies), 100 * np.std(accuracies)


def features_of_pairs(same, seed=1):
    """Return features (2P, 16) whose genuine pairs are more alike."""
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal((2, len(same), 16))
    second[same] = first[same] + 0.9 * second[same]
    return np.stack([first, second], 1).reshape(-1, 16).astype(np.float32)


@pytest.mark.parametrize('num_pairs', [600, 607])
def test_a_bin_is_scored_as_insightface_scores_it(tmp_path, monkeypatch, capsys, num_pairs):
    same = np.random.default_rng(num_pairs).random(num_pairs) < 0.5
    faces = some_faces(10)
    write_bin(str(tmp_path / 'x.bin'), [faces[i % 10] for i in range(2 * num_pairs)], same)
    features = features_of_pairs(same)
    np.save(tmp_path / 'f.npy', features)
    out = run(monkeypatch, capsys, '--protocol', tmp_path / 'x.bin', '--features', tmp_path / 'f.npy', '--json',
              tmp_path / 'j', '--thresholds', tmp_path / 't')
    numbers = json.loads((tmp_path / 'j').read_text())
    mean, deviation = insightface_accuracy(features.astype(np.float64), same)
    assert numbers['accuracy_insightface']['mean'] == pytest.approx(mean, abs=1e-9)
    assert numbers['accuracy_insightface']['std'] == pytest.approx(deviation, abs=1e-9)
    lengths = np.linalg.norm(features.astype(np.float64), axis=1)
    assert numbers['norm'] == pytest.approx({'mean': lengths.mean(), 'std': lengths.std()})
    assert f'insightface accuracy:     {mean:9.4f}' in out and '10-fold accuracy:' in out and 'Embedding norms' in out
    assert max(map(len, out[out.index('x, '):].splitlines())) <= 80
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = np.sum(unit[0::2] * unit[1::2], 1)
    far_1 = np.sort(cosine[~same])[::-1][int(0.01 * (~same).sum())]
    assert numbers['tpr_at_far']['0.01'] == pytest.approx(100 * np.mean(cosine[same] > far_1), abs=100 / same.sum())


def test_a_list_and_a_bin_of_the_same_pairs_give_the_same_numbers(tmp_path, settings):
    same = np.arange(40) % 2 == 0
    faces = some_faces(80)
    (tmp_path / 'faces').mkdir()
    for row, face in enumerate(faces):
        (tmp_path / 'faces' / f'{row}.png').write_bytes(face)
    (tmp_path / 'pairs.csv').write_text(''.join(f'{2 * p}.png,{2 * p + 1}.png,{int(s)}\n' for p, s in enumerate(same)))
    write_bin(str(tmp_path / 'p.bin'), faces, same)
    features, found = features_of_pairs(same), {}
    for file in ('pairs.csv', 'p.bin'):
        kind = protocol(str(tmp_path / file))
        names, _ = kind.images(settings)
        scored = api.score(str(tmp_path / file), features, names, settings)
        found[file] = {k: v for k, v in scored.numbers.items() if k != 'protocol'}
        pictures = kind.pictures(settings)
        assert [kind.picture(settings, name) for name in names] == pictures
        assert len(report.table(scored).splitlines()) > 8
    assert found['pairs.csv'] == found['p.bin']
    (tmp_path / 'faces' / '7.png').unlink()
    with pytest.raises(FileNotFoundError, match='1 of 80 listed images are missing: 7.png'):
        protocol(str(tmp_path / 'pairs.csv')).pictures(settings)
    (tmp_path / 'faces' / '0.png').unlink()
    with pytest.raises(FileNotFoundError, match='its picture 0.png is in none of'):
        protocol(str(tmp_path / 'pairs.csv')).pictures(settings)


def test_named_sets_are_found(tmp_path, settings):
    faces, same = some_faces(2), [True]
    with pytest.raises(FileNotFoundError, match='neither cfp_fp.bin nor a folder cfp_fp'):
        protocol('cfp_fp').images(settings)
    write_bin(str(tmp_path / 'cfp_fp.bin'), faces, same)
    assert protocol('cfp_fp').images(settings)[0] == ['0', '1']
    folder = tmp_path / 'cplfw' / 'aligned images'
    folder.mkdir(parents=True)
    (tmp_path / 'cplfw' / 'pairs_CPLFW.txt').write_text('A_1.jpg 1\nA_2.jpg 1\nA_1.jpg 0\nB_1.jpg 0\n')
    for name in ('A_1', 'A_2', 'B_1'):
        (folder / f'{name}.jpg').write_bytes(faces[0])
    kind = protocol('cplfw')
    assert kind.pictures(settings) == [str(folder / f'{name}.jpg') for name in ('A_1', 'A_2', 'B_1')]
    split = tmp_path / 'cfp-dataset' / 'Protocol' / 'Split' / 'FF' / '01'
    split.mkdir(parents=True)
    (split / 'same.txt').write_text('1,2\n')
    (split / 'diff.txt').write_text('1,3\n')
    images = tmp_path / 'cfp-dataset' / 'Data' / 'Images' / '001' / 'frontal'
    images.mkdir(parents=True)
    for number in range(1, 4):
        (images / f'0{number}.jpg').write_bytes(faces[0])
    (tmp_path / 'cfp-dataset' / 'Protocol' / 'Pair_list_F.txt').write_text(
        ''.join(f'{i} ../Data/Images/001/frontal/0{i}.jpg\n' for i in range(1, 4)))
    assert [os.path.basename(path) for path in protocol('cfp_ff').pictures(settings)] == ['01.jpg', '02.jpg', '03.jpg']


def test_people_are_told_by_pairs_pictures_and_names():
    rows, same = np.array([[0, 1], [2, 3], [4, 5]]), np.array([True, True, False])
    assert len(set(people_of_pairs(list('abcadb'), rows, same).tolist())) == 3 - 1    # a = b, c = a by pictures; d, b
    names = ['A/1', 'A/2', 'B/1', 'B/2', 'A/3', 'B/3']
    assert len(set(people_of_pairs(names, rows, same).tolist())) == 2
    assert len(set(people_of_pairs(list('abcdef'), rows, same).tolist())) == 4


def test_a_real_set_of_genuine_pairs_only(tmp_path, monkeypatch, capsys):
    """insightface's small_lfw.bin: 10 pairs, all of one person; what they cannot measure is a dash."""
    if not RECORDS.is_dir():
        pytest.skip(f'the files that insightface wrote are not at {RECORDS}')
    same = np.ones(10, bool)
    np.save(tmp_path / 'f.npy', features_of_pairs(same))
    out = run(monkeypatch, capsys, '--protocol', RECORDS / 'insightface_small_lfw.bin', '--features',
              tmp_path / 'f.npy', '--json', tmp_path / 'j', '--report', tmp_path / 'r')
    numbers = json.loads((tmp_path / 'j').read_text())
    assert numbers['num_pairs'] == 10 and numbers['eer100'] is None
    assert numbers['accuracy_insightface']['mean'] == pytest.approx(
        insightface_accuracy(features_of_pairs(same).astype(np.float64), same)[0])
    assert 'insightface accuracy' in out
    page = (tmp_path / 'r' / 'report.html').read_text()
    assert page.count('data:image/jpeg') == 20                    # the pictures come from the .bin


def test_flip_and_several_protocols_in_one_pass(tmp_path, monkeypatch, capsys, synthetic, trained):
    """LFW and a .bin of some of its pictures: one embedding pass; sums, concatenations and no flip."""
    from src.data.images import find_images
    from src.protocols.lfw import LFW
    cfg = get_config(dataset_path=str(synthetic))
    names, labels = LFW.images(cfg)
    paths = find_images(cfg.root_path, names)[:60]
    same = labels[0:60:2] == labels[1:60:2]
    write_bin(str(tmp_path / 'a.bin'), [Path(path).read_bytes() for path in paths], same)
    network = api.load_network(str(trained))
    plain = api.embed(network, paths)
    found = {}
    for flip in ('none', 'sum', 'concat'):
        out = run(monkeypatch, capsys, '--protocol', 'lfw', tmp_path / 'a.bin', '--resume', trained, '--dataset_path',
                  synthetic, '--flip', flip, '--save_features', tmp_path / f'{flip}.npy', '--json', tmp_path / 'j',
                  '--thresholds', tmp_path / 't')
        found[flip] = np.load(tmp_path / f'{flip}.npy')
        assert found[flip].shape == (336 + 60, 512 if flip == 'concat' else 256)
        assert out.count('mirrored images in') == (flip == 'sum')            # 'concat' takes them from the cache
    assert np.allclose(found['none'][:60], plain, atol=1e-5) and np.array_equal(found['none'][:60], found['none'][336:])
    assert np.array_equal(found['concat'][:, :256], found['none'])
    assert np.array_equal(found['sum'], found['none'] + found['concat'][:, 256:])
    mirrored = [str(tmp_path / 'm.png')]
    cv2.imwrite(mirrored[0], cv2.imread(paths[0], cv2.IMREAD_GRAYSCALE)[:, ::-1])
    assert np.allclose(api.embed(network, mirrored)[0], found['concat'][0, 256:], atol=1e-5)
    numbers = json.loads((tmp_path / 'j').read_text())
    assert set(numbers) == {'lfw', str(tmp_path / 'a.bin')}


@pytest.mark.parametrize('name, message', [
    ('none.bin', 'no such .bin file'), ('none.csv', 'no such file'), ('nothing', "unknown protocol 'nothing'"),
    ('vgg2_fp', 'neither vgg2_fp.bin nor')])
def test_sets_that_are_not_there(tmp_path, settings, name, message):
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        protocol(name).images(settings)


def test_options_of_protocols(monkeypatch, capsys, tmp_path, synthetic):
    """An option that no chosen protocol has is refused; one that a protocol declares is a flag and a setting."""
    from src.options import Option
    from src.protocols import PROTOCOLS
    from src.protocols.lfw import Lfw
    seen = []

    class Own(Lfw):
        name = 'own2'
        OPTIONS = {'depth': Option(3, 1, 9, 'how deep'), 'loud': Option(False, meaning='shout')}

        def measure(self, cfg, features_of):
            seen.append(self.options(cfg))
            return super().measure(cfg, features_of)
    monkeypatch.setitem(PROTOCOLS, 'own2', Own())
    np.save(tmp_path / 'f.npy', np.random.default_rng(0).standard_normal((336, 8)).astype(np.float32))
    common = ['--features', tmp_path / 'f.npy', '--dataset_path', synthetic, '--thresholds', tmp_path / 't']
    run(monkeypatch, capsys, '--protocol', 'own2', *common)
    run(monkeypatch, capsys, '--protocol', 'own2', *common, '--depth', '5', '--loud')
    run(monkeypatch, capsys, '--protocol', 'own2', *common, '--set', 'protocol.depth=4')
    assert seen == [{'depth': 3, 'loud': False}, {'depth': 5, 'loud': True}, {'depth': 4, 'loud': False}]
    with pytest.raises(ValueError, match='depth=10 is out of range'):
        run(monkeypatch, capsys, '--protocol', 'own2', *common, '--depth', '10')
    with pytest.raises(ValueError, match='--depth: none of the protocols lfw has this option'):
        run(monkeypatch, capsys, '--protocol', 'lfw', *common, '--depth', '5')
