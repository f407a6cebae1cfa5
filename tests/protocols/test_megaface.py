"""MegaFace: synthetic twins of the lists through evaluate.py, numbers against plain NumPy, noise lists."""
import json
import sys

import numpy as np
import pytest
from twins import features_of_people, write_megaface

from src.config import get_config
from src.data.megaface import read_sets
from src.protocols import protocol


def run(monkeypatch, capsys, *arguments):
    """Run evaluate.py in this process; its stdout."""
    import evaluate
    monkeypatch.setattr(sys, 'argv', ['evaluate.py', *map(str, arguments)])
    evaluate.main()
    return capsys.readouterr().out


def plain(probes, people, distractors):
    """(ranks, genuine, impostor scores) of every ordered pair of pictures of a person."""
    unit, others = (side / np.linalg.norm(side.astype(float), axis=1, keepdims=True) for side in (probes, distractors))
    impostor = unit @ others.T
    pairs = [(p, q) for p in range(len(people)) for q in range(len(people)) if p != q and people[p] == people[q]]
    genuine = np.array([unit[p] @ unit[q] for p, q in pairs])
    return np.array([1 + np.sum(impostor[p] > s) for (p, _), s in zip(pairs, genuine)]), genuine, impostor.ravel()


@pytest.mark.parametrize('devkit', [False, True])
def test_numbers_are_plain_numpy(tmp_path, monkeypatch, capsys, devkit):
    write_megaface(tmp_path / 'megaface', people=8, each=6, distractors=900, devkit=devkit)
    cfg = get_config(dataset_path=str(tmp_path))
    names, people = protocol('megaface').images(cfg)
    features = features_of_people(people, noise=1.4)
    np.save(tmp_path / 'f.npy', features)
    out = run(monkeypatch, capsys, '--protocol', 'megaface', '--features', tmp_path / 'f.npy', '--dataset_path',
              tmp_path, '--json', tmp_path / 'n.json', '--thresholds', tmp_path / 't.json', '--report', tmp_path / 'r',
              '--memory_mb', '64')
    numbers = json.loads((tmp_path / 'n.json').read_text())
    num = int((people >= 0).sum())
    ranks, genuine, impostor = plain(features[:num], people[:num], features[num:])
    assert (numbers['num_probes'], numbers['num_distractors'], numbers['num_people']) == (46, 898, 8)
    for r in (1, 5, 10, 100):
        assert numbers['rank'][str(r)] == pytest.approx(100 * np.mean(ranks <= r))
    assert numbers['interval95']['1'][0] <= numbers['rank']['1'] <= numbers['interval95']['1'][1]
    refused = np.sort(impostor)[::-1][int(1e-3 * len(impostor))]
    assert numbers['tar_at_far']['0.001'] == pytest.approx(100 * np.mean(genuine > refused))
    assert numbers['tar_at_far']['1e-06'] is None and 'noisy' not in out.splitlines()[0]
    assert max(len(line) for line in out.splitlines() if not line.startswith('report:')) <= 80
    np.save(tmp_path / 'g.npy', features_of_people(people, noise=2.0))
    out = run(monkeypatch, capsys, '--protocol', 'megaface', '--features', tmp_path / 'g.npy', '--dataset_path',
              tmp_path, '--compare', tmp_path / 'n.json', '--thresholds', tmp_path / 't.json')
    assert 'against n.json' in out and out.rstrip().endswith('whether the differences are chance is not known.')
    assert 'CMC, MegaFace' in (tmp_path / 'r' / 'report.html').read_text() and len(names) == 944


def test_noise_is_left_out_kept_or_replaced_by_centres(tmp_path):
    probes, others = write_megaface(tmp_path / 'mf', people=4, each=5, distractors=40)
    clean, everything = read_sets(str(tmp_path / 'mf')), read_sets(str(tmp_path / 'mf'), noises=False)
    assert len(everything.probes) == 20 and len(everything.distractors) == 40
    assert set(everything.probes) - set(clean.probes) == {'facescrub_images/Person_0/Person_0_101.png',
                                                         'facescrub_images/Person_3/Person_3_104.png'}
    assert clean.noisy_people == ['Person_0', 'Person_3'] and clean.num_noisy_distractors == 2
    assert f'megaface_images/{others[3]}' not in clean.distractors and clean.distractors[0].endswith(others[0])
    assert len(read_sets(str(tmp_path / 'mf'), distractors=7).distractors) == 7
    cfg = get_config(dataset_path=str(tmp_path))
    cfg.root_path, cfg.root_given = str(tmp_path / 'mf'), True
    cfg.protocol_options['noisy_probes'] = 'centre'
    _, people = protocol('megaface').images(cfg)
    features = features_of_people(people, noise=2.0)
    scored = protocol('megaface').score(cfg, lambda names: features)
    num = len(clean.probes)
    centres = [features[:num][people[:num] == person].sum(0) for person in (0, 3)]
    ranks, _, _ = plain(np.concatenate([features[:num], centres]), [*people[:num], 0, 3], features[num:])
    assert scored.numbers['num_probes'] == 20
    assert scored.numbers['rank']['1'] == pytest.approx(100 * np.mean(ranks == 1))


@pytest.mark.parametrize(('file', 'text', 'message'), [
    ('facescrub_lst', '', 'no picture is listed'),
    ('facescrub_lst', 'alone.png\n', 'picture 1: expected a path with a folder'),
    ('facescrub_lst', 'a/../b.png\n', 'leaves the image folder'),
    ('megaface_lst', '1/2/3.jpg\nx/1/2/3.jpg\n', 'lists 1 pictures twice'),
    ('megaface_lst', '{"path": 5}', "expected JSON with a list 'path'"),
    ('megaface_lst', '{"path": [', 'not readable as JSON'),
    ('facescrub_noises.txt', '\n'.join(f'Person_{p}_{100 + i}.png' for p in range(6) for i in range(5)), '0 probes')])
def test_what_is_wrong_is_one_line(tmp_path, file, text, message):
    write_megaface(tmp_path / 'megaface')
    (tmp_path / 'megaface' / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        protocol('megaface').images(get_config(dataset_path=str(tmp_path)))


def test_missing_lists_and_pictures(tmp_path):
    cfg = get_config(dataset_path=str(tmp_path))
    with pytest.raises(FileNotFoundError, match='neither facescrub_lst nor facescrub_features_list.json'):
        protocol('megaface').images(cfg)
    write_megaface(tmp_path / 'megaface')
    with pytest.raises(FileNotFoundError, match='108 of 108|106 of 106|listed images are missing'):
        protocol('megaface').pictures(cfg)


def test_pictures_are_found(tmp_path):
    write_megaface(tmp_path / 'megaface', people=2, each=2, distractors=12, pictures=True)
    cfg = get_config(dataset_path=str(tmp_path))
    assert len(protocol('megaface').pictures(cfg)) == len(protocol('megaface').images(cfg)[0]) == 13
