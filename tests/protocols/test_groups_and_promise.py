"""--groups and the promised FAR through evaluate.py: table, JSON, report; files of groups that are wrong."""
import json
import sys

import numpy as np
import pytest

from src.data.groups import group_of_names, read_groups
from src.protocols import protocol
from src.scoring.far_bound import far_bound
from src.scoring.all_with_all import vectors
from src.scoring.promise import all_pairs


def run(monkeypatch, capsys, *arguments):
    """Run evaluate.py in this process; its stdout."""
    import evaluate
    monkeypatch.setattr(sys, 'argv', ['evaluate.py', *map(str, arguments)])
    evaluate.main()
    return capsys.readouterr().out


@pytest.fixture
def lfw(synthetic, tmp_path):
    """Arguments for LFW of the synthetic data set, with features in which the first people are alike."""
    from src.config import get_config
    names, labels = protocol('lfw').images(get_config(dataset_path=str(synthetic)))
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((labels.max() + 1, 24))
    alike = np.isin(labels, np.unique(labels)[:7])
    features = centres[labels] + 2.0 * alike[:, None] * rng.standard_normal(24) + rng.standard_normal((len(labels), 24))
    np.save(tmp_path / 'f.npy', features.astype(np.float32))
    return names, alike, ['--protocol', 'lfw', '--features', tmp_path / 'f.npy', '--dataset_path', synthetic,
                          '--thresholds', tmp_path / 't.json', '--json', tmp_path / 'n.json']


@pytest.mark.parametrize('by', ['picture', 'person'])
def test_groups_of_lfw(lfw, tmp_path, monkeypatch, capsys, by):
    names, alike, arguments = lfw
    shown = names if by == 'picture' else [name.split('/')[0] for name in names]
    keys = {name: 'alike' if a else 'others' for name, a in zip(shown, alike)}
    (tmp_path / 'groups.tsv').write_text(f'{by}\tgroup\n' + ''.join(f'{k}\t{g}\n' for k, g in keys.items()))
    out = run(monkeypatch, capsys, *arguments, '--groups', tmp_path / 'groups.tsv', '--report', tmp_path / 'report')
    numbers = json.loads((tmp_path / 'n.json').read_text())
    point = numbers['groups']['points'][0]
    assert numbers['groups']['groups'] == ['alike', 'others'] and numbers['groups']['people'] == [7, 7]
    by_group = {row['group']: row for row in point['by_group']}
    assert by_group['alike']['far'] > 5 * by_group['others']['far'] and point['far_ratio']['worst'] == 'alike'
    assert point['between'][0]['far'] < by_group['alike']['far'] and by_group['alike']['far_upper'] > 0.5
    assert max(len(line) for line in out.splitlines() if not line.startswith('report:')) <= 80
    assert 'Groups at one threshold' in out and 'beyond chance' in out
    page = (tmp_path / 'report' / 'report.html').read_text()
    assert 'Groups, LFW' in page and 'Promised FAR, LFW' in page and 'alike / others' in page


def test_listed_pairs_only(lfw, tmp_path, monkeypatch, capsys):
    names, alike, arguments = lfw
    (tmp_path / 'g.csv').write_text(''.join(f'{n},{"a" if a else "b"}\n' for n, a in zip(names, alike)))
    run(monkeypatch, capsys, *arguments, '--groups', tmp_path / 'g.csv', '--impostors', 'listed')
    numbers = json.loads((tmp_path / 'n.json').read_text())
    point = numbers['groups']['points'][0]
    assert point['impostor_pairs'] == numbers['num_pairs'] // 2


def test_the_promise_stands_in_table_and_json(lfw, tmp_path, monkeypatch, capsys):
    _, _, arguments = lfw
    out = run(monkeypatch, capsys, *arguments)
    promised = json.loads((tmp_path / 'n.json').read_text())['far_promise']
    assert 'Promised with 95 % over people (14 people, 7 independent pairs)' in out
    assert promised['independent_pairs'] == 7 and promised['least_far'] == pytest.approx(1 - 0.05 ** (1 / 7))
    assert all(point['upper'] >= point['measured'] for point in promised['points'])
    assert promised['points'][0]['people_needed'] == 598                 # for 1 %


def test_pairs_of_unknown_people_promise_nothing(tmp_path):
    from src.config import get_config
    (tmp_path / 'pairs.csv').write_text(''.join(f'a{i}.jpg,b{i}.jpg,{i % 2}\n' for i in range(40)))
    kind = protocol(str(tmp_path / 'pairs.csv'))
    cfg = get_config(dataset_path=str(tmp_path))
    scored = kind.score(cfg, lambda names: np.random.default_rng(1).standard_normal((len(names), 8)))
    assert 'far_promise' not in scored.numbers and kind.details(scored.numbers) == []


@pytest.mark.parametrize('impostors', ['all', 'listed'])
def test_the_promised_numbers_are_those_of_the_pairs(cfg, impostors):
    names, labels = protocol('lfw').images(cfg)
    cfg.protocol_options['impostors'] = impostors
    features = np.random.default_rng(2).standard_normal((len(names), 16)) + np.eye(14, 16)[labels - 1]
    scored = protocol('lfw').score(cfg, lambda names: features)
    impostor, people = scored.result['impostor'], scored.result['people'][len(scored.result['genuine']):]
    point = scored.numbers['far_promise']['points'][0]
    if impostors == 'all':
        measured = all_pairs(vectors(features), labels, point['threshold'])
        found = far_bound(measured.scores, people, point['threshold'], weighted=measured.weighted)
    else:
        found = far_bound(impostor, people, point['threshold'])
    assert (point['upper'], point['over_people']) == (found.upper, found.over_people) and found.num_pairs == 7


@pytest.mark.parametrize(('text', 'message'), [
    ('a.jpg\n', "line 1: expected 'picture or person"),
    ('a.jpg\tx\nb.jpg\ty\na.jpg\ty\n', 'line 3: a.jpg is in y and in x before'),
    ('a.jpg\tx\nb.jpg\tx\n', '1 groups, expected 2 to 50'),
    ('\x00\xff\tx\t\t\n', 'line 1: expected'),
    ('a\tx\nb\ty\n', 'names none of the 2 pictures, such as c/c_0001.jpg'),
    ('', '0 groups'),
    (''.join(f'{i}\tgroup{i}\n' for i in range(60)), '60 groups')])
def test_what_is_wrong_in_a_file_of_groups(tmp_path, text, message):
    file = tmp_path / 'g.tsv'
    file.write_text(text, encoding='latin1')
    with pytest.raises(ValueError, match=message):
        group_of_names(read_groups(str(file)), ['c/c_0001.jpg', 'd/d_0001.jpg'], str(file))


def test_pictures_and_people_are_found_by_all_their_names(tmp_path):
    (tmp_path / 'g.tsv').write_text('person\tgroup\nAnn Lee\tx\nb/1.jpg\ty\nc_7\tx\nD_E\ty\n')
    names = ['Ann Lee/3.png', 'b/1.jpg', 'q/c_7.jpg', 'z/D_E_0012.jpg', 'nobody/1.jpg']
    known, of_row = group_of_names(read_groups(str(tmp_path / 'g.tsv')), names, 'g.tsv')
    assert known == ('x', 'y') and of_row.tolist() == [0, 1, 0, 1, -1]
    with pytest.raises(FileNotFoundError, match='no such file of groups'):
        read_groups(str(tmp_path / 'none.tsv'))
