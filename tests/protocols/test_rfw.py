"""RFW: synthetic twins of its lists; accuracy of each set, planted differences between the sets."""
import json
import sys

import numpy as np
import pytest
from twins import write_rfw

from src.config import get_config
from src.data.pairs import read_pairs
from src.protocols import protocol


def run(monkeypatch, capsys, *arguments):
    """Run evaluate.py in this process; its stdout."""
    import evaluate
    monkeypatch.setattr(sys, 'argv', ['evaluate.py', *map(str, arguments)])
    evaluate.main()
    return capsys.readouterr().out


def features_of_sets(names, alike, noise, seed=0, size=48):
    """Features in which people of a set are pulled together by `alike`, pictures apart by `noise`, {set: number}."""
    rng = np.random.default_rng(seed)
    sets = [name.split('/')[0] for name in names]
    people, number = np.unique([name.rsplit('/', 1)[0] for name in names], return_inverse=True)
    centres, pulls = rng.standard_normal((len(people), size)), rng.standard_normal((4, size))
    pull = np.array([alike.get(s, 0) for s in sets])[:, None] * pulls[np.unique(sets, return_inverse=True)[1]]
    spread = np.array([noise.get(s, 0.7) for s in sets])[:, None]
    return (centres[number] + pull + spread * rng.standard_normal((len(names), size))).astype(np.float32)


@pytest.mark.parametrize('txts', [False, True])
def test_planted_differences_between_the_sets(tmp_path, monkeypatch, capsys, txts):
    """Africans are alike to the network, pictures of Indians differ: highest FAR there, most misses here."""
    write_rfw(tmp_path / 'RFW', people=40, pairs=300, txts=txts)
    names, _ = protocol('rfw').images(get_config(dataset_path=str(tmp_path)))
    np.save(tmp_path / 'f.npy', features_of_sets(names, {'African': 0.9}, {'Indian': 1.3}))
    out = run(monkeypatch, capsys, '--protocol', 'rfw', '--features', tmp_path / 'f.npy', '--dataset_path', tmp_path,
              '--json', tmp_path / 'n.json', '--thresholds', tmp_path / 't.json', '--report', tmp_path / 'r')
    numbers = json.loads((tmp_path / 'n.json').read_text())
    point = numbers['groups']['points'][0]
    by_group = {row['group']: row for row in point['by_group']}
    others = [by_group[name]['far'] for name in ('Asian', 'Caucasian', 'Indian')]
    assert point['far_ratio']['worst'] == 'African' and by_group['African']['far'] > 4 * max(others)
    assert point['far_ratio']['interval95'][0] > 1
    assert point['miss_ratio']['worst'] == 'Indian' and point['miss_ratio']['interval95'][0] > 1
    assert numbers['groups']['groups'] == ['African', 'Asian', 'Caucasian', 'Indian'] and len(point['between']) == 6
    accuracy = {name: one['accuracy_10fold']['mean'] for name, one in numbers['sets'].items()}
    assert accuracy['Caucasian'] > max(accuracy['African'], accuracy['Indian'])
    assert numbers['num_pairs'] == 2400 and numbers['sets']['Asian']['num_pairs'] == 600
    assert max(len(line) for line in out.splitlines() if not line.startswith('report:')) <= 80
    assert 'Groups, RFW' in (tmp_path / 'r' / 'report.html').read_text()


def test_a_set_has_the_accuracy_of_its_list_alone(tmp_path):
    """The set's list as a protocol of its own gives the same digits."""
    write_rfw(tmp_path / 'RFW', people=20, pairs=100, pictures=True, each=3)
    cfg = get_config(dataset_path=str(tmp_path))
    names, people = protocol('rfw').images(cfg)
    features = features_of_sets(names, {}, {}, seed=3)
    row = {name: i for i, name in enumerate(names)}
    scored = protocol('rfw').score(cfg, lambda wanted: features[[row[name] for name in wanted]])
    alone = protocol(str(tmp_path / 'RFW' / 'Asian' / 'Asian_pairs.txt'))
    found = alone.score(cfg, lambda wanted: features[[row[f'Asian/{name}'] for name in wanted]])
    for key in ('accuracy_10fold', 'eer100'):
        assert scored.numbers['sets']['Asian'][key] == found.numbers[key]
    assert len(protocol('rfw').pictures(cfg)) == len(names) and len(np.unique(people)) == 80


def test_lists_without_a_first_line(tmp_path):
    (tmp_path / 'a_pairs.txt').write_text('m.1\t1\t2\nm.2\t3\tm.3\t4\n')
    pairs = read_pairs(str(tmp_path / 'a_pairs.txt'))
    assert pairs.names == ['m.1/m.1_0001.jpg', 'm.1/m.1_0002.jpg', 'm.2/m.2_0003.jpg', 'm.3/m.3_0004.jpg']
    assert pairs.same.tolist() == [True, False] and pairs.folds is None
    (tmp_path / 'b.txt').write_text('a.jpg b.jpg 1\nc.jpg d.jpg 0\n')       # still a table
    assert read_pairs(str(tmp_path / 'b.txt')).names == ['a.jpg', 'b.jpg', 'c.jpg', 'd.jpg']
    (tmp_path / 'c.txt').write_text('m.1\t1\t2\nm.2\tx\n')
    with pytest.raises(ValueError, match="line 2: expected 'person n m'"):
        read_pairs(str(tmp_path / 'c.txt'))


def test_missing_sets_and_lists(tmp_path):
    cfg = get_config(dataset_path=str(tmp_path))
    with pytest.raises(FileNotFoundError, match='no folder with African, Asian, Caucasian, Indian'):
        protocol('rfw').images(cfg)
    write_rfw(tmp_path / 'RFW')
    (tmp_path / 'RFW' / 'Asian' / 'Asian_pairs.txt').unlink()
    with pytest.raises(FileNotFoundError, match='Asian_pairs.txt: no such list'):
        protocol('rfw').images(cfg)
