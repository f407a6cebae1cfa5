"""Embedding, the eval scripts, their JSON and what they refuse."""
import json
import os
import shutil

import mindspore as ms
import numpy as np
import pytest

from conftest import script
from src import checkpoint, lists, metrics, report
from src.config import get_config
from src.embedding import embed, find_images
from src.images import face_for_test, read_grey, to_input
from src.lightcnn import Init, embedding_network


@pytest.fixture(scope='module')
def network():
    return embedding_network('LightCNN_9Layers', 16, Init('centred', 1)).set_train(False)


@pytest.fixture(scope='module')
def names(synthetic):
    return lists.list_for_lfw(lists.load_blufr(str(synthetic / 'mat_files' / 'blufr_lfw_config.mat')))[0]


@pytest.mark.parametrize('mode', [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
def test_row_i_is_image_i_whatever_the_batch(network, names, synthetic, mode):
    ms.set_context(mode=mode)
    try:
        paths = find_images(str(synthetic / 'lfw' / 'image'), names[:11])           # listed as .bmp, found as .png
        features = embed(network, paths, 16, batch_size=4)
        assert features.shape == (11, 256) and features.dtype == np.float32
        for path, feature in zip(paths, features):
            x = to_input(face_for_test(read_grey(path), 16)[None])
            assert np.allclose(network(ms.Tensor(x)).asnumpy()[0], feature, atol=1e-4)
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


def test_missing_images_are_counted_and_named(names, synthetic):
    with pytest.raises(FileNotFoundError, match='2 of 3 listed images are missing: a/b.bmp, c.bmp'):
        find_images(str(synthetic / 'lfw' / 'image'), [names[0], 'a/b.bmp', 'c.bmp'])


def test_an_unreadable_image_is_named(network, tmp_path):
    (tmp_path / 'x.jpg').write_bytes(b'no picture')
    with pytest.raises(ValueError, match='x.jpg'):
        embed(network, [str(tmp_path / 'x.jpg')], 16)


@pytest.fixture(scope='module')
def evaluated(synthetic, trained, tmp_path_factory):
    """Both protocols scored by the scripts: {protocol: (stdout, JSON, features)}."""
    out, results = tmp_path_factory.mktemp('eval'), {}
    for protocol in ('lfw', 'blufr'):
        done = script(f'eval_{protocol}.py', '--resume', trained, '--dataset_path', synthetic, '--device_target', 'CPU',
                      '--json', out / f'{protocol}.json', '--save_features', out / f'{protocol}.npy')
        assert done.returncode == 0, done.stdout + done.stderr
        results[protocol] = (done.stdout, json.loads((out / f'{protocol}.json').read_text()), out / f'{protocol}.npy')
    return results


def test_lfw_script(evaluated, synthetic, names):
    text, numbers, file = evaluated['lfw']
    assert set(numbers) == {'protocol', 'num_pairs', 'eer100', 'auc', 'tpr_at_far', 'accuracy_10fold'}
    assert numbers['num_pairs'] == 6000 and set(numbers['tpr_at_far']) == {'0.01', '0.001', '0'}
    assert '100%eer:' in text and 'tpr@far=1%:' in text and max(map(len, text.splitlines()[-7:])) <= 80
    pairs = lists.load_lfw_pairs(str(synthetic / 'mat_files' / 'lfw_pairs.mat'), len(names))
    assert numbers == report.lfw_json(metrics.lfw(np.load(file), *pairs))
    assert numbers['eer100'] > 55                                   # better than chance after twelve steps


def test_blufr_script(evaluated):
    text, numbers, _ = evaluated['blufr']
    assert set(numbers) == {'protocol', 'vr', 'dir', 'trials'} and len(numbers['trials']) == 10
    assert set(numbers['vr']) == {'far', 'mean', 'mean_minus_std'} and set(numbers['dir']) == {*numbers['vr'], 'rank'}
    shares = [trial['vr'] for trial in numbers['trials']]
    assert numbers['vr']['mean_minus_std'] == pytest.approx(np.mean(shares) - np.std(shares, ddof=1))
    assert 'mean - std' in text and max(map(len, text.splitlines()[-13:])) <= 80


def test_features_score_like_the_network(evaluated, synthetic, tmp_path):
    for protocol, (_, numbers, file) in evaluated.items():
        done = script(f'eval_{protocol}.py', '--features', file, '--dataset_path', synthetic, '--json', tmp_path / 'j')
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / 'j').read_text()) == numbers


def test_files_on_the_command_line_override_the_settings(evaluated, synthetic, names, tmp_path):
    lists.write_image_list(str(tmp_path / 'list.txt'), names, range(len(names)))
    mats = synthetic / 'mat_files'
    done = script('eval_lfw.py', '--features', evaluated['lfw'][2], '--img_list', tmp_path / 'list.txt',
                  '--lfw_pairs_mat', mats / 'lfw_pairs.mat', '--blufr_config_mat', mats / 'blufr_lfw_config.mat',
                  '--root_path', synthetic / 'lfw' / 'image')
    assert done.returncode == 0 and done.stdout == evaluated['lfw'][0][-len(done.stdout):]


def bad_features(kind, good):
    if kind == 'rows':
        return good[:-1]
    if kind == 'zero':
        good[5] = 0
    elif kind == 'nan':
        good[5, 3] = np.nan
    return {'integers': np.ones(good.shape, int), 'flat': good.ravel(),
            'objects': np.array([{}] * len(good), object)}.get(kind, good)


@pytest.mark.parametrize('kind, message', [
    ('rows', 'the list has 336 images'), ('zero', 'row 5'), ('nan', 'row 5'), ('integers', 'expected floats'),
    ('flat', 'expected floats'), ('objects', 'not a readable .npy')])
@pytest.mark.parametrize('protocol', ['lfw', 'blufr'])
def test_bad_features_are_refused(evaluated, synthetic, tmp_path, protocol, kind, message):
    file = tmp_path / 'bad.npy'
    np.save(file, bad_features(kind, np.load(evaluated[protocol][2])), allow_pickle=True)
    done = script(f'eval_{protocol}.py', '--features', file, '--dataset_path', synthetic)
    assert done.returncode == 2 and message in done.stderr and 'Traceback' not in done.stderr
    assert done.stderr.count('\n') == 1 and done.stdout == ''


def test_other_bad_input(trained, evaluated, synthetic, tmp_path):
    spoiled = tmp_path / 'data'
    shutil.copytree(synthetic, spoiled)
    os.remove(next((spoiled / 'lfw' / 'image').glob('*/*_0003.png')))
    cut = (spoiled / 'mat_files' / 'lfw_pairs.mat').read_bytes()[:900]
    for arguments, message in [
            (['--resume', trained, '--dataset_path', spoiled], '1 of 336 listed images are missing'),
            (['--resume', tmp_path / 'none', '--dataset_path', synthetic], 'no such checkpoint'),
            (['--resume', tmp_path, '--dataset_path', synthetic], 'holds no valid .ckpt'),
            (['--resume', trained, '--dataset_path', synthetic, '--set', 'network_type=LightCNN_29Layers'],
             'holds a LightCNN_9Layers, not the LightCNN_29Layers'),
            (['--features', evaluated['lfw'][2], '--dataset_path', tmp_path / 'none'], 'no such file')]:
        done = script('eval_lfw.py', '--device_target', 'CPU', *arguments)
        assert done.returncode == 2 and message in done.stderr and 'Traceback' not in done.stderr, done.stderr
    (spoiled / 'mat_files' / 'lfw_pairs.mat').write_bytes(cut)
    done = script('eval_lfw.py', '--features', evaluated['lfw'][2], '--dataset_path', spoiled)
    assert done.returncode == 2 and 'lfw_pairs.mat: ' in done.stderr and 'Traceback' not in done.stderr


def test_what_pairs_cannot_resolve_is_a_dash(tmp_path):
    rng = np.random.default_rng(0)
    pairs = np.arange(200).reshape(100, 2)
    numbers = report.lfw_json(metrics.lfw(rng.standard_normal((400, 8)), pairs, pairs + 200))
    assert numbers['tpr_at_far']['0.001'] is None and numbers['tpr_at_far']['0.01'] is not None
    assert [line.split()[-1] for line in report.lfw_table(numbers).splitlines() if 'far=0.1%' in line] == ['-']
    report.write_json(str(tmp_path / 'j'), numbers)
    assert json.loads((tmp_path / 'j').read_text())['tpr_at_far']['0.001'] is None


@pytest.mark.real
def test_all_lfw_faces_go_through(real_faces, tmp_path):
    """All 13,233 real faces embedded by a narrow input network and both protocols scored."""
    cfg = get_config('quickstart', ['image_size=16', 'resize_size=18'])
    network = embedding_network(cfg.network_type, 16, Init(cfg.init, cfg.seed))
    ckpt = str(tmp_path / 'r.ckpt')
    checkpoint.save(ckpt, {f'embedding.{p.name}': p for p in network.get_parameters()}, {})
    done = script('eval_lfw.py', '--resume', ckpt, '--dataset_path', real_faces, '--device_target', 'CPU', '--json',
                  tmp_path / 'lfw.json', '--save_features', tmp_path / 'lfw.npy')
    assert done.returncode == 0, done.stderr
    assert 'embedded 13233 images' in done.stdout
    assert 50 < json.loads((tmp_path / 'lfw.json').read_text())['eer100'] < 80
    protocol = lists.load_blufr(str(real_faces / 'mat_files' / 'blufr_lfw_config.mat'))
    place = {name: row for row, name in enumerate(lists.list_for_lfw(protocol)[0])}
    features = np.load(tmp_path / 'lfw.npy')[[place[name] for name in lists.list_for_blufr(protocol)[0]]]
    np.save(tmp_path / 'blufr.npy', features)
    done = script('eval_blufr.py', '--features', tmp_path / 'blufr.npy', '--dataset_path', real_faces, '--json',
                  tmp_path / 'blufr.json')
    assert done.returncode == 0, done.stderr
    assert 0 < json.loads((tmp_path / 'blufr.json').read_text())['vr']['mean'] < 50
