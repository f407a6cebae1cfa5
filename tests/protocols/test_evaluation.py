"""Embedding, the eval scripts, their JSON and what they refuse."""
import json
import os
import re
import shutil

import cv2
import mindspore as ms
import numpy as np
import pytest
from conftest import script

from src.backbones import build_backbone
from src.config import get_config
from src.data import lists
from src.data.face_format import face_format
from src.data.images import face_for_test, find_images, read_face
from src.embedding import Network, embed, embed_cached, network_of
from src.initializers import Init
from src.protocols.lfw import LFW
from src.protocols.pairs import pair_numbers, scored_pairs
from src.scoring import metrics, report
from src.training import checkpoint


@pytest.fixture(scope='module')
def network():
    return network_of(build_backbone('LightCNN_9Layers', init=Init('centred', 1), image_size=16))


@pytest.fixture(scope='module')
def names(synthetic):
    return lists.list_for_lfw(lists.load_blufr(str(synthetic / 'mat_files' / 'blufr_lfw_config.mat')))[0]


@pytest.mark.parametrize('mode', [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
def test_row_i_is_image_i_whatever_the_batch(network, names, synthetic, mode):
    ms.set_context(mode=mode)
    try:
        paths = find_images(str(synthetic / 'lfw' / 'image'), names[:11])           # listed as .bmp, found as .png
        features = embed(network, paths, batch_size=4)
        assert features.shape == (11, 256) and features.dtype == np.float32
        for path, feature in zip(paths, features):
            x = network.face_format.to_input(face_for_test(read_face(path), image_size=16)[None])
            assert np.allclose(network(x)[0], feature, atol=1e-4)
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


def test_missing_images_are_counted_and_named(names, synthetic):
    with pytest.raises(FileNotFoundError, match='2 of 3 listed images are missing: a/b.bmp, c.bmp'):
        find_images(str(synthetic / 'lfw' / 'image'), [names[0], 'a/b.bmp', 'c.bmp'])


def test_an_unreadable_image_is_named(network, tmp_path):
    (tmp_path / 'x.jpg').write_bytes(b'no picture')
    with pytest.raises(ValueError, match='x.jpg'):
        embed(network, [str(tmp_path / 'x.jpg')])


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
    assert set(numbers) == {'protocol', 'num_pairs', 'eer100', 'auc', 'tpr_at_far', 'accuracy_10fold', 'far_promise',
                            'accuracy_insightface', 'interval95', 'norm', 'scores', 'training_set'}
    assert numbers['num_pairs'] == 6000 and set(numbers['tpr_at_far']) == {'0.01', '0.001', '0'}
    assert max(map(len, text[text.index('LFW, 6000 pairs'):].splitlines())) <= 80
    for name in ('100%eer', 'tpr@far=1%', 'tpr@far=0.1%', 'tpr@far=0%'):                 # what old scripts look for
        assert re.search(rf'^ *{name}: +\d+\.\d+', text, re.M), name
    pairs = lists.load_lfw_pairs(str(synthetic / 'mat_files' / 'lfw_pairs.mat'), len(names))
    result = metrics.lfw(np.load(file), *pairs)
    assert {key: numbers[key] for key in pair_numbers(result)} == pair_numbers(result)
    assert numbers['scores'] == {'genuine': result['genuine'].tolist(), 'impostor': result['impostor'].tolist()}
    low, high = numbers['interval95']['eer100']
    assert low < numbers['eer100'] < high and f'less than {(high - low) / 2:.2f} points' in text
    assert 'a published difference of 0.2 points is noise' in ' '.join(text.split())
    assert numbers['eer100'] > 55                                   # better than chance after twelve steps


def test_blufr_script(evaluated):
    text, numbers, _ = evaluated['blufr']
    assert set(numbers) == {'protocol', 'vr', 'dir', 'norm', 'trials', 'training_set'} and len(numbers['trials']) == 10
    assert set(numbers['vr']) == {'far', 'mean', 'mean_minus_std', 'interval95'}
    assert set(numbers['dir']) == {*numbers['vr'], 'rank'}
    shares = [trial['vr'] for trial in numbers['trials']]
    assert numbers['vr']['mean_minus_std'] == pytest.approx(np.mean(shares) - np.std(shares, ddof=1))
    assert 'mean - std' in text and max(map(len, text[text.index('BLUFR, percent'):].splitlines())) <= 80
    low, high = numbers['vr']['interval95']
    assert low < numbers['vr']['mean'] < high
    assert f"@ FAR = 0.1%: VR = {numbers['vr']['mean_minus_std']:.4f}%" in text


def test_the_second_protocol_embeds_nothing_again(evaluated, trained):
    assert 'embedded 336 images in' in evaluated['lfw'][0]
    text = evaluated['blufr'][0]
    assert 'embedded' not in text and '336 features taken from' in text
    lfw, blufr = (np.load(evaluated[protocol][2]) for protocol in ('lfw', 'blufr'))
    assert np.array_equal(lfw, blufr)                              # the tiny set has one order


def test_cached_features_are_those_of_these_weights_and_images(names, synthetic, tmp_path):
    """Another image is embedded anew; other weights, size or device, and a broken cache make all anew."""
    root, ckpt, cache = tmp_path / 'image', tmp_path / 'net.ckpt', str(tmp_path / 'net.features.npz')
    shutil.copytree(synthetic / 'lfw' / 'image', root)
    ckpt.write_bytes(b'weights')
    paths = find_images(str(root), names)
    made = []

    def mean_pixel(some):
        made.append(len(some))
        return np.array([[read_face(path).mean(), 1] for path in some], np.float32)

    def run(image_size=16, target='CPU', order=slice(None)):
        network = Network(None, name='', face_format=face_format('lightcnn'), image_size=image_size, file=str(ckpt),
                          runtime=target)
        features, num_kept = embed_cached(mean_pixel, network, paths[order], cache)
        assert np.array_equal(features, mean_pixel(paths[order])) and made.pop() == len(features)
        return (made.pop() if made else 0), num_kept
    distinct = run()[0]
    assert 300 < distinct <= 336
    assert run() == (0, distinct) and run(order=slice(None, None, -1)) == (0, distinct)
    cv2.imwrite(paths[7], np.full((128, 128), 99, np.uint8))
    assert run()[0] == 1 and run()[0] == 0
    again = len({read_face(path).tobytes() for path in paths})
    for change in (lambda: run(32), lambda: run(target='GPU')):
        assert change() == (again, 0)
    run()
    ckpt.write_bytes(b'other weights')
    assert run() == (again, 0) and run() == (0, again)
    for spoil in (lambda data: data[:len(data) // 2], lambda data: b'', lambda data: data[:999] + b'x' + data[1000:]):
        with open(cache, 'rb') as file:
            data = file.read()
        with open(cache, 'wb') as file:
            file.write(spoil(data))
        assert run() == (again, 0) and run() == (0, again)
    assert sorted(os.listdir(tmp_path)) == ['image', 'net.ckpt', 'net.features.npz']


def test_no_cache_keeps_nothing(trained, synthetic, tmp_path):
    shutil.copy(checkpoint.newest(str(trained)), tmp_path / 'net.ckpt')
    done = script('eval_lfw.py', '--resume', tmp_path / 'net.ckpt', '--dataset_path', synthetic, '--device_target',
                  'CPU', '--no_cache', cwd=tmp_path)
    assert done.returncode == 0 and 'embedded 336 images' in done.stdout
    assert sorted(os.listdir(tmp_path)) == ['net.ckpt', 'thresholds.json']


def test_operating_points(evaluated, synthetic, tmp_path):
    """thresholds.json holds what is printed, and its threshold accepts just as many impostors as its FAR says."""
    _, numbers, file = evaluated['lfw']
    done = script('eval_lfw.py', '--features', file, '--dataset_path', synthetic, cwd=tmp_path)
    points = json.loads((tmp_path / 'thresholds.json').read_text())['points']
    assert [p['far'] for p in points] == [0.01, 0.001, 0.0]
    genuine, impostor = (np.array(numbers['scores'][key]) for key in ('genuine', 'impostor'))
    for point in points:
        assert set(point) == {'protocol', 'far', 'threshold', 'tpr', 'interval95', 'impostor_pairs'}
        assert (impostor >= point['threshold']).sum() <= point['far'] * 3000 and point['impostor_pairs'] == 3000
        assert 100 * np.mean(genuine >= point['threshold']) == pytest.approx(point['tpr'])
        assert f"{point['threshold']:.6f}" in done.stdout and point['interval95'][0] <= point['interval95'][1]
    only = script('eval_lfw.py', '--features', file, '--dataset_path', synthetic, '--threshold_for', points[1]['far'])
    assert float(only.stdout) == points[1]['threshold'] and only.stdout.count('\n') == 1
    script('eval_blufr.py', '--features', evaluated['blufr'][2], '--dataset_path', synthetic, '--thresholds',
           tmp_path / 't.json')
    points = json.loads((tmp_path / 't.json').read_text())['points']
    assert [p['far'] for p in points][:2] == [0.01, 0.001] and all(p['far'] * p['impostor_pairs'] >= 1 for p in points)


def test_only_the_threshold_is_printed_for_a_checkpoint_too(trained, synthetic, evaluated, tmp_path):
    done = script('eval_lfw.py', '--resume', trained, '--dataset_path', synthetic, '--device_target', 'CPU',
                  '--threshold_for', '0.001', cwd=tmp_path)
    assert done.returncode == 0 and -1 <= float(done.stdout) <= 1 and not (tmp_path / 'thresholds.json').exists()
    for far, message in (('0.0001', '3000 impostor pairs cannot resolve it'), ('2', 'is not a false accept rate')):
        done = script('eval_lfw.py', '--features', evaluated['lfw'][2], '--dataset_path', synthetic, '--threshold_for',
                      far)
        assert done.returncode == 2 and message in done.stderr and done.stdout == '' and done.stderr.count('\n') == 1


@pytest.mark.parametrize('protocol', ['lfw', 'blufr'])
def test_two_models_are_compared_pair_by_pair(evaluated, synthetic, tmp_path, protocol):
    """Against itself all is chance; features and the JSON of the same model give the same table."""
    features = np.load(evaluated[protocol][2])
    worse = tmp_path / 'worse.npy'
    np.save(worse, features + 2 * features.std() * np.random.default_rng(0).standard_normal(features.shape))
    arguments = [f'eval_{protocol}.py', '--dataset_path', synthetic, '--thresholds', tmp_path / 't.json']
    script(*arguments, '--features', worse, '--json', tmp_path / 'worse.json')
    tables = []
    for other in (evaluated[protocol][2], worse, tmp_path / 'worse.json'):
        done = script(*arguments, '--features', evaluated[protocol][2], '--compare', other)
        assert done.returncode == 0, done.stderr
        tables.append(done.stdout[done.stdout.index('against '):].splitlines())
        assert max(map(len, tables[-1])) <= 80
    assert tables[1][1:] == tables[2][1:] != tables[0][1:]
    value = -3 if protocol == 'lfw' else -1
    assert tables[0][1].split()[-1] == '1.000' and float(tables[1][1].split()[-1]) < 0.05, tables[1][value:]


@pytest.mark.parametrize('content, message', [
    ('{"protocol": "blufr"}', 'expected a result of lfw'), ('[1]', 'expected a result of lfw'), ('{', 'not readable'),
    ('{"protocol": "lfw", "scores": {"genuine": [1], "impostor": []}}', 'the scores of 6000 pairs'),
    ('{"protocol": "lfw", "scores": 3}', 'the scores of 6000 pairs')])
def test_a_result_that_cannot_be_compared_is_refused(evaluated, synthetic, tmp_path, content, message):
    (tmp_path / 'a.json').write_text(content)
    done = script('eval_lfw.py', '--features', evaluated['lfw'][2], '--dataset_path', synthetic, '--compare',
                  tmp_path / 'a.json', cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and 'Traceback' not in done.stderr


def test_rows_of_different_people_that_are_the_same_are_warned_of(evaluated, synthetic, tmp_path):
    for protocol in ('lfw', 'blufr'):
        features = np.load(evaluated[protocol][2])
        features[-1] = features[0]
        np.save(tmp_path / 'f.npy', features)
        done = script(f'eval_{protocol}.py', '--features', tmp_path / 'f.npy', '--dataset_path', synthetic)
        assert done.returncode == 0 and 'warning: 1 features equal that of another person' in done.stderr


def table_of(text):
    """Return LFW's table in what was printed, without what is known of the training set."""
    return re.sub(r'(In the training set|People and pictures).*?(?=Operating points)', '',
                  text[text.index('LFW, 6000 pairs'):], flags=re.S)


def test_labels_that_cannot_be_are_refused(evaluated, synthetic, names, tmp_path):
    def run(labels):
        lists.write_image_list(str(tmp_path / 'list.txt'), names, labels)
        return script('eval_lfw.py', '--features', evaluated['lfw'][2], '--dataset_path', synthetic, '--img_list',
                      tmp_path / 'list.txt', cwd=tmp_path)
    done = run([-1] + [1] * 335)
    assert done.returncode == 2 and 'label -1 of' in done.stderr and 'not in 0..336' in done.stderr
    done = run(range(336))
    assert done.returncode == 0 and 'genuine pairs differ' in done.stderr
    assert table_of(done.stdout) == table_of(evaluated['lfw'][0])


def test_features_score_like_the_network(evaluated, synthetic, tmp_path):
    for protocol, (_, numbers, file) in evaluated.items():
        done = script(f'eval_{protocol}.py', '--features', file, '--dataset_path', synthetic, '--json', tmp_path / 'j')
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / 'j').read_text())
        assert found.pop('training_set')['people'] is None               # a file of features tells no training set
        assert found == {key: value for key, value in numbers.items() if key != 'training_set'}


def test_files_on_the_command_line_override_the_settings(evaluated, synthetic, names, tmp_path):
    _, labels = lists.list_for_lfw(lists.load_blufr(str(synthetic / 'mat_files' / 'blufr_lfw_config.mat')))
    lists.write_image_list(str(tmp_path / 'list.txt'), names, labels)
    mats = synthetic / 'mat_files'
    done = script('eval_lfw.py', '--features', evaluated['lfw'][2], '--img_list', tmp_path / 'list.txt',
                  '--lfw_pairs_mat', mats / 'lfw_pairs.mat', '--blufr_config_mat', mats / 'blufr_lfw_config.mat',
                  '--root_path', synthetic / 'lfw' / 'image')
    assert done.returncode == 0 and table_of(done.stdout) == table_of(evaluated['lfw'][0])


def bad_features(kind, good):
    if kind == 'rows':
        return good[:-1]
    if kind == 'zero':
        good[5] = 0
    elif kind == 'nan':
        good[5, 3] = np.nan
    return {'integers': np.ones(good.shape, int), 'flat': good.ravel(), 'turned': good.T, 'narrow': good[:, :1],
            'objects': np.array([{}] * len(good), object)}.get(kind, good)


@pytest.mark.parametrize('kind, message', [
    ('rows', 'the list has 336 images'), ('zero', 'row 5'), ('nan', 'row 5'), ('integers', 'expected floats'),
    ('flat', 'expected floats'), ('objects', 'not a readable .npy'), ('turned', 'the list has 336 images'),
    ('narrow', 'expected at least 2')])
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
    result = metrics.lfw(rng.standard_normal((400, 8)), pairs, pairs + 200)
    scored = scored_pairs({**result, 'people': np.concatenate([pairs[:, [0, 0]], pairs + 200])}, LFW)
    numbers = scored.numbers
    assert numbers['tpr_at_far']['0.001'] is None and numbers['tpr_at_far']['0.01'] is not None
    assert [line.split()[1:] for line in report.table(scored).splitlines() if 'far=0.1%' in line] == [['-', '-']]
    assert [point['far'] for point in scored.points] == [0.01, 0.0]
    report.write_json(str(tmp_path / 'j'), numbers)
    assert json.loads((tmp_path / 'j').read_text())['tpr_at_far']['0.001'] is None


@pytest.mark.real
def test_all_lfw_faces_go_through(real_faces, tmp_path):
    """All 13,233 real faces embedded by a narrow input network and both protocols scored."""
    cfg = get_config('quickstart', ['image_size=16', 'resize_size=18'])
    network = build_backbone(cfg.network_type, init=Init(cfg.init, cfg.seed), image_size=16)
    ckpt = str(tmp_path / 'r.ckpt')
    checkpoint.save(ckpt, {f'backbone.{p.name}': p for p in network.get_parameters()}, {})
    done = script('eval_lfw.py', '--resume', ckpt, '--dataset_path', real_faces, '--device_target', 'CPU', '--json',
                  tmp_path / 'lfw.json', '--save_features', tmp_path / 'lfw.npy')
    assert done.returncode == 0, done.stderr
    assert 'embedded 13233 images' in done.stdout
    assert 50 < json.loads((tmp_path / 'lfw.json').read_text())['eer100'] < 80
    protocol = lists.load_blufr(str(real_faces / 'mat_files' / 'blufr_lfw_config.mat'))
    place = {name: row for row, name in enumerate(lists.list_for_lfw(protocol)[0])}
    features = np.load(tmp_path / 'lfw.npy')[[place[name] for name in lists.list_for_blufr(protocol)[0]]]
    done = script('eval_blufr.py', '--resume', ckpt, '--dataset_path', real_faces, '--device_target', 'CPU', '--json',
                  tmp_path / 'blufr.json', '--save_features', tmp_path / 'blufr.npy')
    assert done.returncode == 0, done.stderr
    assert '13233 features taken from' in done.stdout and 'embedded' not in done.stdout
    assert np.array_equal(np.load(tmp_path / 'blufr.npy'), features)
    assert 0 < json.loads((tmp_path / 'blufr.json').read_text())['vr']['mean'] < 50
