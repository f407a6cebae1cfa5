"""The Python API on the tiny checkpoint, and a tiny training in colour from pictures to features."""
import json

import cv2
import numpy as np
import pytest
from conftest import FACES, TINY, script

from src import api
from src.config import get_config
from src.data.images import find_images
from src.protocols import PROTOCOLS
from src.scoring import report


@pytest.fixture(scope='module')
def network(trained):
    return api.load_network(str(trained), device_target='CPU')


def test_a_network_from_a_folder_or_a_file(network, trained):
    assert (network.name, network.image_size, network.embedding_size) == ('LightCNN_9Layers', 16, 256)
    assert network.face_format.name == 'lightcnn'
    images = np.random.default_rng(0).random((3, 1, 16, 16), np.float32)
    features = network(images)
    assert isinstance(features, np.ndarray) and features.shape == (3, 256) and features.dtype == np.float32
    again = api.load_network(network.file, device_target='CPU')
    assert np.array_equal(again(images), features)


def test_features_scored_as_the_command_does(network, synthetic, trained, tmp_path):
    cfg = get_config(dataset_path=str(synthetic))
    names, _ = PROTOCOLS['lfw'].images(cfg)
    features = api.embed(network, find_images(cfg.root_path, names))
    done = script('evaluate.py', '--protocol', 'lfw', 'blufr', '--resume', trained, '--dataset_path', synthetic,
                  '--device_target', 'CPU', '--json', tmp_path / 'j', '--thresholds', tmp_path / 't.json', '--no_cache')
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('embedded') == 1                    # one pass for both protocols
    numbers = json.loads((tmp_path / 'j').read_text())
    for name in ('lfw', 'blufr'):
        scored = api.score(name, features, names, cfg)
        scored.numbers['training_set'] = numbers[name]['training_set']      # features do not tell who was trained on
        assert report.table(scored) in done.stdout
        assert json.loads(json.dumps(scored.numbers)) == numbers[name]
    points = json.loads((tmp_path / 't.json').read_text())['points']
    assert {point['protocol'] for point in points} == {'lfw', 'blufr'}


def test_two_faces_are_compared(network):
    a, b = network(np.random.default_rng(0).random((2, 1, 16, 16), np.float32))
    assert api.compare(a, a) == pytest.approx(1, abs=1e-12) and api.compare(a, b) == api.compare(b, a) < 1
    with pytest.raises(ValueError, match='row 1 is zero'):
        api.compare(a, 0 * a)


def test_wrong_files_and_names_are_one_line(tmp_path, synthetic):
    with pytest.raises(FileNotFoundError, match='no such checkpoint'):
        api.load_network(str(tmp_path / 'none'), device_target='CPU')
    with pytest.raises(ValueError, match="unknown protocol 'nonsense'; protocols: lfw, blufr"):
        api.score('nonsense', np.ones((2, 2)), ['a', 'b'], get_config(dataset_path=str(synthetic)))
    done = script('evaluate.py', '--protocol', 'nonsense', '--resume', tmp_path, '--dataset_path', synthetic)
    assert done.returncode == 2 and "unknown protocol 'nonsense'" in done.stderr and done.stderr.count('\n') == 1


@pytest.fixture(scope='module')
def colour(synthetic, tmp_path_factory):
    """The synthetic faces as 112x112 colour pictures: only the red channel tells people apart."""
    out = tmp_path_factory.mktemp('colour')
    (out / 'mat_files').symlink_to(synthetic / 'mat_files')
    (out / 'train_list.txt').symlink_to(synthetic / 'train_list.txt')
    for folder in ('train', 'lfw/image'):
        for path in (synthetic / folder).rglob('*.png'):
            grey = cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (112, 112))
            target = out / folder / path.relative_to(synthetic / folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(target), np.dstack([np.full_like(grey, 90), 255 - grey, grey]))
    return out


COLOUR = [*TINY, 'face_format=arcface', 'image_size=32', 'resize_size=32', 'epochs=1']


@pytest.fixture(scope='module')
def colour_ckpt(colour, tmp_path_factory):
    out = tmp_path_factory.mktemp('colour_ckpt')
    done = script('train.py', *COLOUR, '--dataset_path', colour, '--ckpt_path', out, '--eval_every', '1')
    assert done.returncode == 0, done.stderr
    return out


def test_colour_goes_through_training_and_evaluation(colour, colour_ckpt, tmp_path):
    network = api.load_network(str(colour_ckpt), device_target='CPU')
    assert network.face_format.name == 'arcface'
    path = next((colour / 'lfw' / 'image').rglob('*.png'))
    rgb = cv2.cvtColor(cv2.resize(cv2.imread(str(path)), (32, 32), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
    expected = network((rgb.transpose(2, 0, 1)[None].astype(np.float32) - 127.5) / np.float32(127.5))
    found = api.embed(network, [str(path)], batch_size=1)
    assert np.array_equal(found, expected)
    swapped = network((rgb[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32) - 127.5) / np.float32(127.5))
    assert np.abs(swapped - expected).max() > 0.01 * np.abs(expected).max()       # the order of channels matters
    done = script('evaluate.py', '--protocol', 'lfw', 'blufr', '--resume', colour_ckpt, '--dataset_path', colour,
                  '--device_target', 'CPU', '--report', tmp_path)
    assert done.returncode == 0 and (tmp_path / 'report.html').stat().st_size > 100_000, done.stderr


@pytest.mark.parametrize('encoding', ['raw', 'jpeg'])
def test_a_pack_in_colour_trains_as_its_pictures(colour, colour_ckpt, tmp_path, encoding):
    done = script('prepare.py', 'pack', '--root', colour / 'train', '--list', colour / 'train_list.txt', '--out',
                  tmp_path / 'pack', '--face_format', 'arcface', '--encoding', encoding)
    assert done.returncode == 0, done.stderr
    held = json.loads((tmp_path / 'pack.json').read_text())
    assert held['format'] == 2 and held['face_format']['name'] == 'arcface' and held['size'] == 112
    done = script('train.py', *COLOUR, f'train_list={tmp_path / "pack.json"}', '--dataset_path', colour, '--ckpt_path',
                  tmp_path / 'ckpt')
    assert done.returncode == 0, done.stderr
    losses = [[json.loads(line)['loss'] for line in (folder / 'train_log.jsonl').read_text().splitlines()
               if '"loss"' in line] for folder in (colour_ckpt, tmp_path / 'ckpt')]
    assert losses[0] == losses[1] if encoding == 'raw' else np.allclose(*losses, rtol=0.05)


@pytest.mark.parametrize('suffix, arguments', [('mindir', []), ('mindir', ['--ir', '1']),
                                               ('onnx', ['--file_format', 'ONNX', '--batch_size', 'dynamic'])])
def test_colour_goes_through_export(colour, colour_ckpt, tmp_path, suffix, arguments):
    done = script('export.py', '--ckpt_file', colour_ckpt, '--file_name', tmp_path / 'm', '--device_target', 'CPU',
                  '--dataset_path', colour, *arguments)
    assert done.returncode == 0, done.stderr
    held = json.loads((tmp_path / 'm.json').read_text())
    assert held['input']['shape'][1:] == [3, 32, 32] and held['face_format']['name'] == 'arcface'
    if suffix == 'onnx':
        network = api.load_network(str(tmp_path / 'm.onnx'), device_target='CPU')
        assert network.face_format.name == 'arcface' and network.image_size == 32
    done = script('preprocess.py', '--data_path', colour, '--model', tmp_path / f'm.{suffix}', '--result_path',
                  tmp_path / 'in')
    assert done.returncode == 0, done.stderr
    assert next((tmp_path / 'in').glob('*.bin')).stat().st_size == 4 * 3 * 32 * 32


def test_another_alignment_is_refused_in_one_line(colour, synthetic, trained, colour_ckpt, tmp_path):
    """112x112 ArcFace crops do not go into the 144x144 recipe, nor the other way round, unless the user insists."""
    for arguments, data in ((TINY, colour), (COLOUR, synthetic)):
        done = script('train.py', *arguments, '--dataset_path', data, '--ckpt_path', tmp_path / 'c')
        assert done.returncode == 2 and 'the faces are aligned as' in done.stderr and done.stderr.count('\n') == 1
    for ckpt, data in ((trained, colour), (colour_ckpt, synthetic)):
        done = script('eval_lfw.py', '--resume', ckpt, '--dataset_path', data, '--device_target', 'CPU')
        assert done.returncode == 2 and '--assume_format' in done.stderr and done.stderr.count('\n') == 1
    done = script('train.py', *TINY, 'epochs=1', '--dataset_path', colour, '--ckpt_path', tmp_path / 'c',
                  '--assume_format', 'lightcnn')
    assert done.returncode == 0, done.stderr


def test_grey_packs_do_not_become_colour(synthetic, tmp_path):
    done = script('prepare.py', 'pack', '--root', synthetic / 'train', '--list', synthetic / 'train_list.txt', '--out',
                  tmp_path / 'pack')
    assert done.returncode == 0, done.stderr
    done = script('train.py', *TINY, 'face_format=lightcnn_v4', f'train_list={tmp_path / "pack.json"}',
                  '--dataset_path', synthetic, '--ckpt_path', tmp_path / 'c')
    assert done.returncode == 2 and 'the faces are grey, the network takes BGR' in done.stderr


def test_parts_are_chosen_with_their_options():
    cfg = get_config('quickstart', ['head=cosface', 'head.scale=24', 'head.margin=0.1', 'backbone.dropout=0.2'])
    assert cfg.loss == 'cosface' and cfg.head_options == {'scale': 24.0, 'margin': 0.1}
    assert cfg.backbone_options == {'dropout': 0.2}
    for setting, message in (('head=sphereface9', "unknown head 'sphereface9'; heads: softmax, "),
                             ('backbone=vgg', "unknown backbone 'vgg'; backbones: LightCNN_9Layers"),
                             ('head.slope=1', "head softmax has no option 'slope'; options: bias"),
                             ('backbone.dropout=2', 'out of range; allowed: 0.0 to 0.99'),
                             ('backbone.dropout=half', 'is not a number'), ('face_format=jpeg', 'is not one of')):
        with pytest.raises(ValueError, match=message):
            get_config('quickstart', [setting])


def test_weights_of_others_through_command_and_api(tmp_path):
    """The trained MobileFaceNet in MXNet's form: imported, or loaded as it is, the same bits."""
    file = FACES.parent / 'weights' / 'model-0000.params'
    if not file.exists():
        pytest.skip(f"the real weights are not at {file}: they come with the real faces")
    done = script('prepare.py', 'import', '--file', file, '--out', tmp_path / 'y1.ckpt')
    assert done.returncode == 0 and 'mobilefacenet_y1 from MXNet' in done.stdout, done.stderr
    networks = [api.load_network(str(path), device_target='CPU') for path in (file, tmp_path / 'y1.ckpt')]
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, 112, 112)).astype(np.float32)
    assert np.array_equal(*(network(images) for network in networks))
    assert {network.face_format.name for network in networks} == {'mobilefacenet_y1'}
    (tmp_path / 'bad.pt').write_bytes(b'no weights')
    done = script('prepare.py', 'import', '--file', tmp_path / 'bad.pt', '--out', tmp_path / 'bad.ckpt')
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and not (tmp_path / 'bad.ckpt').exists()
