"""Several models in one call: one table, paired tests with Holm's correction, one report."""
import json
import sys

import numpy as np
import pytest
from test_pair_sets import features_of_pairs, run, some_faces

from src.data.verification import write_bin
from src.scoring.differences import holm


def test_holm_by_hand():
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.9])
    assert np.allclose(holm(p), [0.04, np.nan, 0.09, 0.09, 0.9], equal_nan=True)      # x 4, x 3, x 2, never falling
    assert holm(np.array([0.4, 0.6])).tolist() == [0.8, 0.8] and len(holm(np.zeros(0))) == 0
    assert holm(np.array([0.5, 0.8, 0.9])).max() == 1


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """A .bin of 400 pairs and three models: good, the same with a little noise, bad."""
    out = tmp_path_factory.mktemp('models')
    same = np.arange(400) % 2 == 0
    faces = some_faces(20)
    write_bin(str(out / 'x.bin'), [faces[i % 20] for i in range(800)], same)
    good = features_of_pairs(same)
    rng = np.random.default_rng(3)
    np.save(out / 'good.npy', good)
    np.save(out / 'alike.npy', good + 0.001 * rng.standard_normal(good.shape).astype(np.float32))
    np.save(out / 'bad.npy', rng.standard_normal(good.shape).astype(np.float32))
    return out


def test_one_table_one_test_one_report(models, tmp_path, monkeypatch, capsys):
    files = [models / f'{name}.npy' for name in ('good', 'alike', 'bad')]
    out = run(monkeypatch, capsys, '--protocol', models / 'x.bin', '--features', *files, '--json', tmp_path / 'j',
              '--report', tmp_path / 'r')
    assert max(map(len, out.splitlines()[:-1])) <= 80 and out.startswith('A: good.npy\nB: alike.npy\nC: bad.npy\n')
    held = json.loads((tmp_path / 'j').read_text())
    assert list(held['runs']) == ['good.npy', 'alike.npy', 'bad.npy']
    assert f"\nC, x: Embedding norms: mean {held['runs']['bad.npy']['norm']['mean']:.4f}" in out
    rows = {(row['name'], *row['models']): row for row in held['differences']}
    eer = rows['100%eer', 'good.npy', 'bad.npy']
    assert eer['p_holm'] < 0.05 and eer['difference'] == pytest.approx(
        held['runs']['good.npy']['eer100'] - held['runs']['bad.npy']['eer100'])
    assert rows['100%eer', 'good.npy', 'alike.npy']['p_holm'] > 0.5
    p = np.array([row['p'] for row in held['differences']], float)
    assert np.allclose([row['p_holm'] for row in held['differences'] if row['p'] is not None],
                       holm(p)[~np.isnan(p)])
    table = out[out.index('p Holm'):]
    assert sum(line.endswith(' *') for line in table.splitlines()) == sum(
        row['p_holm'] is not None and row['p_holm'] < 0.05 for row in held['differences']) > 0
    points = json.loads((tmp_path / 'r' / 'thresholds.json').read_text())['models']
    assert [model['model'] for model in points] == list(held['runs'])
    page = (tmp_path / 'r' / 'report.html').read_text()
    assert '<h2>Differences</h2>' in page and page.count('Worst false accepts, ') == 3
    for name in held['runs']:
        assert f'Worst false rejects, {name}' in page


def test_what_cannot_be_measured_is_not_tested(tmp_path, monkeypatch, capsys):
    """Ten genuine pairs have no error rates: no p value, and no test that the others would pay for."""
    write_bin(str(tmp_path / 'x.bin'), some_faces(20), np.ones(10, bool))
    for seed in (1, 2):
        np.save(tmp_path / f'{seed}.npy', features_of_pairs(np.ones(10, bool), seed))
    out = run(monkeypatch, capsys, '--protocol', tmp_path / 'x.bin', '--features', tmp_path / '1.npy',
              tmp_path / '2.npy', '--json', tmp_path / 'j', '--thresholds', tmp_path / 't')
    rows = json.loads((tmp_path / 'j').read_text())['differences']
    assert len(rows) == 6 and all(row['p'] is None and row['p_holm'] is None for row in rows)
    assert "after Holm's correction for 0 tests" in out


@pytest.mark.parametrize('arguments, message', [
    ([], 'no model is named'), (['--features', 'good.npy', 'good.npy'], 'good.npy is named twice'),
    (['--features', 'good.npy', 'bad.npy', '--save_features', 'f.npy'], 'holds the features of one model, 2'),
    (['--features', 'good.npy', 'bad.npy', '--compare', 'alike.npy'], '2 models are compared with each other'),
    (['--features', 'good.npy', '--flip', 'sum'], '--flip sum needs a network'),
    (['--resume', 'a.ckpt', '--face_format', 'arcface', 'facexzoo'], '2 formats for 1 models')])
def test_what_does_not_go_together(models, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(models)
    with pytest.raises(ValueError, match=message):
        run(monkeypatch, capsys, '--protocol', 'x.bin', *arguments)


def test_checkpoint_and_onnx_beside_each_other(trained, synthetic, tmp_path, monkeypatch, capsys):
    """The ONNX file of a checkpoint judges as the checkpoint; labels come from the files."""
    import export
    from src.training import checkpoint
    ckpt = checkpoint.newest(str(trained))
    monkeypatch.setattr(sys, 'argv', ['export.py', '--ckpt_file', ckpt, '--file_name', str(tmp_path / 'model'),
                                      '--file_format', 'ONNX', '--batch_size', 'dynamic'])
    export.main()
    capsys.readouterr()
    out = run(monkeypatch, capsys, '--protocol', 'lfw', '--resume', ckpt, tmp_path / 'model.onnx', '--dataset_path',
              synthetic, '--json', tmp_path / 'j', '--thresholds', tmp_path / 't', '--no_cache')
    held = json.loads((tmp_path / 'j').read_text())
    assert list(held['runs']) == [ckpt.rpartition('/')[2], 'model.onnx'] and out.count('embedded 336 images') == 2
    assert all(abs(row['difference']) < 0.2 for row in held['differences'] if row['difference'] is not None)
