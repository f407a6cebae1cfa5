"""Own pictures: pairs, numbers against plain NumPy, planted faults among the folders, the report, hostile input."""
import json

import cv2
import numpy as np
import pytest
from conftest import script
from html_page import Page

from src import evaluation
from src.config import get_config
from src.data import people
from src.protocols import protocol
from src.scoring import metrics, report
from src.scoring import people as suspicious
from src.scoring.thresholds import threshold_intervals

PEOPLE, PICTURES, SIZE = 20, 6, 48


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """20 folders of 6 pictures: 'p03' holds two people, 'p05' and 'p11' are one; (folder, features in its order)."""
    root, rng = tmp_path_factory.mktemp('photos'), np.random.default_rng(5)
    centres = rng.standard_normal((PEOPLE + 1, SIZE))
    centres[11] = centres[5]
    rows = []
    for person in range(PEOPLE):
        (root / f'p{person:02}').mkdir()
        for i in range(PICTURES):
            face = cv2.resize(rng.integers(0, 256, (7, 7)).astype(np.uint8), (128, 128))
            cv2.imwrite(str(root / f'p{person:02}' / f'{i}.png'), face)
            centre = centres[PEOPLE] if person == 3 and i in (1, 4) else centres[person]
            rows.append(centre + 0.35 * rng.standard_normal(SIZE))
    (root / 'empty').mkdir()
    (root / 'p00' / 'notes.txt').write_text('no picture')
    (root / 'p00' / '.hidden.png').write_bytes(b'x')
    return root, np.array(rows, np.float32)


def config(root, *settings):
    cfg = get_config(settings=[f'root_path={root}', *settings])
    cfg.root_given = True
    return cfg


def scored_own(photos, *settings):
    root, features = photos
    cfg, kind = config(root, *settings), protocol('own')
    names, _ = kind.images(cfg)
    return evaluation.score(kind, cfg, evaluation.source_of(features, [kind.key(name) for name in names]))


def test_all_pairs_are_exact(photos):
    root, features = photos
    names, labels, folders = people.read_people(str(root))
    assert len(names) == 120 and folders == [f'p{i:02}' for i in range(20)] and names[7] == 'p01/1.png'
    pairs = people.pairs_of(labels, 10**6)
    expected = {(i, j) for i in range(120) for j in range(i + 1, 120)}
    assert set(map(tuple, pairs.rows.tolist())) == expected and len(pairs.rows) == len(expected)
    assert np.array_equal(labels[pairs.rows[:, 0]] == labels[pairs.rows[:, 1]], pairs.same)
    assert (pairs.all_genuine, pairs.all_impostors) == (20 * 15, 120 * 119 // 2 - 300)


@pytest.mark.parametrize('wanted', [1, 500, 3000, 6000, 6839])
def test_drawn_pairs(photos, wanted):
    _, labels, _ = people.read_people(str(photos[0]))
    pairs = people.pairs_of(labels, wanted, seed=7)
    impostors = pairs.rows[~pairs.same]
    assert len(impostors) == wanted == len(set(map(tuple, impostors.tolist())))
    assert (labels[impostors[:, 0]] != labels[impostors[:, 1]]).all() and (impostors[:, 0] < impostors[:, 1]).all()
    assert np.array_equal(pairs.rows, people.pairs_of(labels, wanted, seed=7).rows)
    if wanted < 6840:
        assert not np.array_equal(pairs.rows, people.pairs_of(labels, wanted, seed=8).rows)


def test_pairs_are_drawn_evenly():
    """A person with many pictures stands in as many impostor pairs as among all of them: binomial, within 5 sigma."""
    labels = np.repeat(np.arange(3), [40, 20, 4])
    pairs = people.pairs_of(labels, 300, seed=3).rows[-300:]
    share = (40 * 20) / (40 * 20 + 40 * 4 + 20 * 4)
    found = np.mean((labels[pairs] < 2).all(1))
    assert abs(found - share) < 5 * np.sqrt(share * (1 - share) / 300)


def test_too_many_genuine_pairs_are_drawn_too():
    labels = np.repeat(np.arange(4), 10)
    pairs = people.pairs_of(labels, 10, max_genuine=50)
    assert pairs.same.sum() == 50 and pairs.all_genuine == 180 and len(set(map(tuple, pairs.rows.tolist()))) == 60


def test_numbers_are_those_of_the_scores(photos):
    scored = scored_own(photos)
    numbers, result = scored.numbers, scored.result
    unit = photos[1] / np.linalg.norm(photos[1].astype(np.float64), axis=1, keepdims=True)
    cosines = unit @ unit.T
    label = np.repeat(np.arange(20), 6)
    upper = np.triu(np.ones((120, 120), bool), 1)
    genuine, impostor = cosines[upper & (label[:, None] == label)], cosines[upper & (label[:, None] != label)]
    assert np.allclose(np.sort(result['genuine']), np.sort(genuine), atol=1e-12)
    assert np.allclose(np.sort(result['impostor']), np.sort(impostor), atol=1e-12)
    far, tpr, _ = metrics.roc(genuine, impostor)
    assert numbers['eer'] == pytest.approx(100 * metrics.equal_error_rate(far, tpr))
    at = numbers['eer_threshold']
    assert abs(np.mean(genuine < at) - np.mean(impostor >= at)) <= 1 / len(genuine)
    assert numbers['pairs'] == {'genuine': {'used': 300, 'all': 300}, 'impostor': {'used': 6840, 'all': 6840}}
    assert (numbers['num_people'], numbers['num_pictures'], numbers['num_with_pairs']) == (20, 120, 20)
    for point in scored.points:
        measured = 100 * np.mean(impostor >= point['threshold'] - 1e-12)
        assert point['far_measured'] == pytest.approx(measured) and measured <= 100 * point['far'] + 1e-9
        low, high = point['threshold_interval95']
        assert low <= point['threshold'] <= high or point['far'] == 0
        assert point['far_interval95'][0] <= measured <= point['far_interval95'][1]
    text = report.table(scored)
    assert max(map(len, text.splitlines())) <= 80 and 'impostor pairs' in text


def test_planted_faults_are_found_and_nothing_else(photos):
    numbers = scored_own(photos).numbers
    two, one = numbers['looks_like_two'], numbers['looks_like_one']
    assert [(row['person'], row['smaller'], row['sizes']) for row in two['people']] == [
        ('p03', ['p03/1.png', 'p03/4.png'], [2, 4])]
    assert [row['people'] for row in one['people']] == [['p05', 'p11']]
    assert two['found_of_planted'] > 95 and two['num'] == one['num'] == 1


def test_one_in_two_is_the_mean_of_all_pairs():
    rng = np.random.default_rng(0)
    unit = metrics.unit_rows(rng.standard_normal((30, 5)))
    labels = np.sort(rng.integers(0, 6, 30))
    found = {(a, b): score for a, b, score in suspicious.one_in_two(unit, labels, -2)}
    cosines = unit @ unit.T
    assert len(found) == 15
    for (a, b), score in found.items():
        assert score == pytest.approx(cosines[np.ix_(labels == a, labels == b)].mean())


def test_a_folder_of_equal_pictures_is_one_person():
    unit = np.tile(metrics.unit_rows(np.ones((1, 4))), (5, 1))
    assert suspicious.two_in_one(unit, np.zeros(5, int), 0.9) == []
    assert len(suspicious.cut(unit, np.arange(5)).smaller) == 1


def test_threshold_intervals_cover_another_population():
    """Thresholds of the lower and upper bound enclose that of the model the people come from, in most of 20 draws."""
    inside = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        unit = metrics.unit_rows(rng.standard_normal((60, 16)))
        rows = np.stack(np.triu_indices(60, 1), 1)
        impostor = metrics.pair_scores(unit, rows)
        people_of = np.concatenate([np.repeat(np.arange(60), 2).reshape(-1, 2), rows])
        threshold = metrics.tpr_at_far(np.ones(60), impostor, 0.05)[1]
        low, high = threshold_intervals(np.ones(60), impostor, people_of, {0.05: threshold})[0.05]['threshold']
        truth = metrics.unit_rows(np.random.default_rng(99).standard_normal((4000, 16)))
        exact = np.quantile((truth[:2000] * truth[2000:]).sum(1), 0.95)
        inside += low <= exact <= high
    assert inside >= 15


def test_given_pairs(photos, tmp_path):
    root, features = photos
    rows = [(f'p{a:02}/0.png', f'p{b:02}/{i}.png', int(a == b)) for a in range(20) for b in (a, (a + 1) % 20)
            for i in (1, 2)]
    (tmp_path / 'mine.csv').write_text('first,second,same\n' + ''.join(f'{a},{b},{s}\n' for a, b, s in rows))
    cfg, kind = config(root, f'protocol.pairs={tmp_path}/mine.csv'), protocol('own')
    names, _ = kind.images(cfg)
    all_names = people.read_people(str(root))[0]
    own = features[[all_names.index(name) for name in names]]
    scored = kind.score(cfg, lambda wanted: own if wanted == names else None)
    assert len(names) == 60 and scored.numbers['num_pairs'] == 80 == len(rows)
    unit = dict(zip(all_names, metrics.unit_rows(features)))
    expected = sorted(unit[a] @ unit[b] for a, b, same in rows if same)
    assert np.allclose(np.sort(scored.result['genuine']), expected)
    (tmp_path / 'mine.csv').write_text('p00/0.png,p00/1.png,1\n')
    with pytest.raises(ValueError, match='some of one person and some of two'):
        kind.images(cfg)


def test_by_command(photos, tmp_path):
    root, features = photos
    np.save(tmp_path / 'f.npy', features)
    run = ('evaluate.py', '--protocol', 'own', '--root', root, '--features', tmp_path / 'f.npy', '--impostor_pairs',
           '2000')
    done = script(*run, '--report', tmp_path / 'r', '--json', tmp_path / 'own.json')
    assert done.returncode == 0, done.stderr
    assert 'impostor pairs          2000 of 6840, drawn by seed 1' in done.stdout
    numbers = json.loads((tmp_path / 'own.json').read_text())
    assert numbers['protocol'] == 'own' and len(numbers['scores']['impostor']) == 2000
    assert numbers['far_promise']['independent_pairs'] == numbers['far_promise']['people'] // 2
    points = json.loads((tmp_path / 'r' / 'thresholds.json').read_text())['points']
    assert {'far_interval95', 'tpr_interval95', 'threshold_interval95', 'far_measured'} <= set(points[0])
    text = (tmp_path / 'r' / 'report.html').read_text()
    page = Page(text)
    assert page.pictures == 2 * (24 + 24 + 1 + 1) and 'Folders that look like two people: 1' in text
    done = script(*run, '--compare', tmp_path / 'own.json')
    assert done.returncode == 0 and 'none of these' not in done.stdout, done.stderr


def test_what_is_no_folder_of_people_is_one_line(tmp_path):
    (tmp_path / 'one' / 'a').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'one' / 'a' / '1.png'), np.zeros((128, 128), np.uint8))
    cases = ((tmp_path / 'absent', 'no such folder of people'), (tmp_path / 'one', 'of two people or more'))
    for root, message in cases:
        done = script('evaluate.py', '--protocol', 'own', '--root', root, '--features', 'x.npy')
        assert done.returncode == 2 and message in done.stderr and done.stderr.count('\n') == 1, done.stderr
    (tmp_path / 'one' / 'b').mkdir()
    cv2.imwrite(str(tmp_path / 'one' / 'b' / '1.png'), np.zeros((128, 128), np.uint8))
    np.save(tmp_path / 'x.npy', np.eye(2, dtype=np.float32))
    done = script('evaluate.py', '--protocol', 'own', '--root', tmp_path / 'one', '--features', tmp_path / 'x.npy')
    assert done.returncode == 2 and 'no genuine pair' in done.stderr


def test_detected_faces(tmp_path, monkeypatch):
    """With --detect a picture without a face is left out and named, and faces are aligned as the network needs."""
    from src.data import detection
    from src.data.face_format import face_format
    from src.data.images import decode
    from src.data.pictures import read_bytes
    points = np.array([[90.0, 100], [130, 100], [110, 125], [95, 150], [125, 150]])

    def find(image):
        if not image.any():
            raise ValueError('no face is found')
        return points
    monkeypatch.setattr(detection, 'detector_of', lambda name: find)
    rng = np.random.default_rng(0)
    for person in 'ab':
        (tmp_path / person).mkdir()
        for i in range(3):
            photo = rng.integers(0, 256, (260, 240, 3)) * (person != 'b' or i != 2)
            cv2.imwrite(str(tmp_path / person / f'{i}.png'), photo.astype(np.uint8))
    cfg, kind = config(tmp_path, 'protocol.detect=true'), protocol('own')
    names, labels = kind.images(cfg)
    assert names == ['a/0.png', 'a/1.png', 'a/2.png', 'b/0.png', 'b/1.png'] and labels.tolist() == [0, 0, 0, 1, 1]
    pictures = kind.pictures(cfg)
    for name, shape in (('arcface', (112, 112, 3)), ('lightcnn', (128, 128))):
        kind.check_faces(cfg, pictures, face_format(name))
        assert decode(read_bytes(pictures[0]), face_format(name).colour).shape == shape
    scored = kind.score(cfg, lambda wanted: rng.standard_normal((len(wanted), 8)))
    assert scored.numbers['rejected'] == [['b/2.png', 'no face is found']]
    assert '1 more without a face' in report.table(scored)
