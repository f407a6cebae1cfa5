"""Every family of the zoo as ONNX and ncnn files: traced, folded, written, read back in both libraries."""
import json

import mindspore as ms
import numpy as np
import pytest
from conftest import script
from mindspore.train.mind_ir_pb2 import ModelProto

from src.api import load_network
from src.backbones import BACKBONES, build_backbone
from src.data.face_format import FACE_FORMATS, face_format
from src.data.synthetic import faces_as_input
from src.deploy import export
from src.deploy.fold import fold, simplify
from src.deploy.graph import BATCH
from src.deploy.inside import Deployed, Inside
from src.deploy.ncnn_backend import NcnnNet, write_pair
from src.deploy.ncnn_int8 import least_error
from src.deploy.ncnn_writer import without_batch
from src.deploy.onnx_backend import onnx_network
from src.deploy.onnx_writer import write_graph
from src.deploy.trace import trace
from src.initializers import Init
from src.weights.ncnn import read_ncnn

# one network of every file of src/backbones, with the options that change the graph
FAMILIES = [
    ('LightCNN_9Layers', {'image_size': 32, 'embedding_size': 40}), ('LightCNN_29Layers_v2', {'image_size': 32}),
    ('lightcnn_v4', {'image_size': 32}), ('lightcnn29_facexzoo', {'image_size': 32, 'channels': 1}),
    ('iresnet18', {'image_size': 40, 'channels': 1, 'embedding_size': 64}), ('resnet50_irse', {'image_size': 32}),
    ('mobilefacenet', {'image_size': 32, 'image_height': 20}), ('mobilefacenet_y1', {'image_size': 48}),
    ('mbf', {'image_size': 32, 'embedding_size': 96}), ('vit_t', {'image_size': 36}), ('ghostnet', {'image_size': 32}),
    ('efficientnet_b0', {'image_size': 32}), ('tf_nas_a', {'image_size': 32}), ('repvgg_a0', {'image_size': 32}),
    ('resnest50', {'image_size': 32}), ('rexnet_1.0_se', {'image_size': 32}), ('swin_t', {}),
    ('hrnet_w18', {'image_size': 32}), ('attentionnet56', {'image_size': 64})]


def lively(name, **options):
    """Return a network whose BatchNorms, slopes and biases are not what they are at the start."""
    network = build_backbone(name, init=Init('xavier', 1), **options).set_train(False)
    rng = np.random.default_rng(0)
    ranges = {'moving_mean': (-0.2, 0.2), 'beta': (-0.2, 0.2), 'bias': (-0.2, 0.2), 'moving_variance': (0.5, 1.5),
              'gamma': (0.5, 1.5), 'w': (0.1, 0.4)}
    for p in network.get_parameters():
        low_high = ranges.get(p.name.rpartition('.')[2])
        if low_high:
            p.set_data(ms.Tensor(rng.uniform(*low_high, p.shape).astype(np.float32)))
    return network


def parted(found, wanted):
    """Return the largest difference in parts of the largest feature."""
    return np.abs(found - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize('name, options', FAMILIES)
def test_onnx_and_ncnn_files_compute_the_network(name, options, tmp_path):
    network = lively(name, **options)
    faces = faces_as_input(network.image_size, 3, face_format(network.face_format)) if network.channels == \
        face_format(network.face_format).num_channels else np.random.default_rng(1).random(
            (3, network.channels, network.image_size, network.image_size), np.float32)
    wanted = network(ms.Tensor(faces)).asnumpy()
    graph = trace(Deployed(network, face_format(network.face_format), Inside()))
    norms = graph.operations()['BatchNormalization']
    report = fold(graph)
    assert report['kept'] == graph.operations()['BatchNormalization'] == report['batch_norms'] - \
        report['folded_behind'] - report['folded_before'] and report['batch_norms'] == norms
    assert not report['kept'] or name in ('iresnet18', 'resnet50_irse', 'attentionnet56')
    write_graph(graph, str(tmp_path / 'm.onnx'), batch_size=None)
    shape = ['N', network.channels, network.image_size, network.image_size]
    face = 'lightcnn' if network.channels == 1 else 'arcface'
    (tmp_path / 'm.json').write_text(json.dumps({'face_format': FACE_FORMATS[face].as_metadata(),
                                                 'input': {'shape': shape}}))
    onnx = onnx_network(str(tmp_path / 'm.onnx'))
    assert parted(onnx(faces), wanted) < export.TOLERANCE and parted(onnx(faces[1:2]), wanted[1:2]) < export.TOLERANCE
    write_pair(graph, str(tmp_path / 'm.param'), 'float32')
    assert parted(load_ncnn_file(tmp_path / 'm.param')(faces[:2]), wanted[:2]) < export.TOLERANCE


def load_ncnn_file(file):
    pytest.importorskip('ncnn', reason='pip install ncnn: the files are read back in it')
    return NcnnNet(str(file), threads=1)


def test_folding_changes_no_feature_and_leaves_fewer_layers(tmp_path):
    """BatchNorm behind a layer, before one without padding, through a flattening; kept before one with padding."""
    network = lively('iresnet18', image_size=32)
    graph = trace(network)
    simplify(graph)
    plain = graph.copy()
    report = fold(graph)
    assert (report['folded_before'], report['kept'], report['why_kept']) == (1, 8, '8 before padded convolutions')
    faces = faces_as_input(32, 2, face_format('arcface'))
    found = []
    for name, each in (('plain', plain), ('folded', graph)):
        layers = write_pair(each, str(tmp_path / f'{name}.param'), 'float32')
        found.append((layers, load_ncnn_file(tmp_path / f'{name}.param')(faces)))
    assert found[0][0] - found[1][0] == 23 and parted(found[1][1], found[0][1]) < export.TOLERANCE


def test_ncnn_files_of_ours_can_be_imported_again(tmp_path):
    """The reader of other people's files finds the weights that were written, float16 ones rounded."""
    graph = trace(lively('mobilefacenet_y1', image_size=32))
    fold(graph)
    for storage, allowed in (('float32', 0), ('float16', 2.0 ** -11)):
        write_pair(graph, str(tmp_path / 'm.param'), storage)
        held = read_ncnn(str(tmp_path / 'm.bin')).tensors['conv1.conv_weight']
        weight = graph.constants['conv1.conv.folded.weight']
        assert np.abs(held - weight).max() <= allowed * np.abs(weight).max()


@pytest.mark.parametrize('file_format, inside', [
    ('ONNX', Inside(True, True, True)), ('NCNN', Inside(True, True, True)), ('NCNN', Inside(scaling=True)),
    ('MINDIR', Inside(True, True, True))])
def test_scaling_mirror_and_length_can_be_inside(file_format, inside, tmp_path):
    network = lively('mobilefacenet_y1', image_size=32, embedding_size=24)
    face, faces = face_format('arcface'), faces_as_input(32, 3, face_format('arcface'))
    metadata = export.export_backbone(network, str(tmp_path / 'm'), file_format, face=face, faces=faces, inside=inside)
    assert metadata['largest_difference'] <= 1e-4 * metadata['largest_feature']
    assert metadata['input']['values'] == 'RGB, 0 to 255' and metadata['normalised'] == inside.normalise
    if file_format == 'NCNN':
        loaded = load_network(str(tmp_path / 'm.param'))
        assert loaded.runtime == 'ncnn' and (loaded.face_format.mean, loaded.face_format.scale) == (0, 1)
        pixels = np.rint(faces * face.scale + face.mean).astype(np.uint8)
        found = loaded(loaded.face_format.to_input(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))))
        assert found.shape == (3, 24) and (not inside.normalise or np.allclose(np.linalg.norm(found, axis=1), 1, 1e-4))


@pytest.mark.parametrize('name', ['mobilefacenet', 'iresnet18', 'repvgg_a0', 'efficientnet_b0',
                                  'resnet50_irse'])
def test_plain_operators_compute_the_network(name, tmp_path):
    network = lively(name, image_size=32)
    faces = faces_as_input(32, 2, face_format(network.face_format))
    export.export_backbone(network, str(tmp_path / 'm'), 'MINDIR', face=face_format(network.face_format), faces=faces,
                           ir=1, batch_size=2)
    model = ModelProto.FromString((tmp_path / 'm.mindir').read_bytes())
    kinds = {primitive.op_type for primitive in model.primitives}
    assert model.mind_ir_version == 1
    assert not kinds & {'BatchNorm', 'MatMul', 'SiLU', 'HSigmoid', 'ReduceMean', 'StridedSlice', 'BiasAdd', 'Split'}


def test_what_ncnn_cannot_hold_is_said(tmp_path):
    network = lively('mobilefacenet_y1', image_size=32)
    settings = {'face': face_format('arcface'), 'faces': faces_as_input(32, 1, face_format('arcface'))}
    for arguments, message in (
            ({'batch_size': 4}, 'ncnn takes one face a call'), ({'storage': 'float64'}, "unknown storage 'float64'"),
            ({'ir': 1}, '--ir is for --file_format MINDIR')):
        with pytest.raises(ValueError, match=message):
            export.export_backbone(network, str(tmp_path / 'm'), 'NCNN', **settings, **arguments)
    with pytest.raises(ValueError, match='--storage is for --file_format NCNN'):
        export.export_backbone(network, str(tmp_path / 'm'), 'ONNX', storage='float16', **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['vit_t', 'ghostnet', 'rexnet_1.0'])
def test_what_lite_2_does_not_know_is_said(tmp_path, name):
    network = lively(name, image_size=36 if name == 'vit_t' else 32)
    face = face_format(network.face_format)
    with pytest.raises(ValueError, match=f'--ir 1: {name} needs operators that MindSpore Lite 2.0 does not know'):
        export.export_backbone(network, str(tmp_path / 'm'), 'MINDIR', ir=1, face=face,
                               faces=faces_as_input(network.image_size, 1, face))
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'ncnn', None)
    with pytest.raises(ValueError, match='ncnn needs one more package: pip install ncnn'):
        export.export_backbone(lively('mobilefacenet_y1', image_size=32), str(tmp_path / 'm'), 'NCNN',
                               face=face_format('arcface'), faces=faces_as_input(32, 1, face_format('arcface')))


def test_the_command_writes_ncnn_and_evaluation_runs_it(trained, synthetic, tmp_path):
    """float32 and float16, int8 with its table, and the same LFW number by --backend ncnn and from the files."""
    load = {}
    for name, further in (('whole', []), ('half', ['--storage', 'float16']), ('int8', ['--int8'])):
        done = script('export.py', '--ckpt_file', trained, '--file_format', 'NCNN', '--file_name', tmp_path / name,
                      '--dataset_path', synthetic, *further)
        assert done.returncode == 0, done.stderr
        load[name] = json.loads((tmp_path / f'{name}.json').read_text())
    sizes = {name: metadata['bytes'] for name, metadata in load.items()}
    assert sizes['half'] < 0.52 * sizes['whole'] and sizes['int8'] < 0.3 * sizes['whole']
    assert load['int8']['int8_smallest_cosine'] > 0.8 and load['half']['float16_smallest_cosine'] > 0.999
    lines = (tmp_path / 'int8.table').read_text().splitlines()
    assert sum('_param_0 ' in line for line in lines) * 2 == len(lines) and {len(line.split()) for line in lines} != {2}
    numbers = []
    for source in (['--resume', trained], ['--resume', trained, '--backend', 'ncnn'],
                   ['--resume', tmp_path / 'whole.param']):
        done = script('eval_lfw.py', *source, '--dataset_path', synthetic, '--no_cache', '--json', tmp_path / 'r.json',
                      '--thresholds', tmp_path / 't.json')
        assert done.returncode == 0, done.stderr
        numbers.append(json.loads((tmp_path / 'r.json').read_text())['eer100'])
    assert 'on ncnn' in done.stdout and max(numbers) - min(numbers) <= 0.02


def test_the_limit_of_least_error_cuts_a_lonely_outlier():
    counts = np.zeros(2048)
    counts[:200] = 1000
    assert least_error(counts, 2048.0) <= 300                     # everything lies below 200
    counts[-1] = 1
    assert least_error(counts, 2048.0) > 190
    assert least_error(np.ones(2048), 1.0) > 0.9                  # nothing to gain from cutting


def test_a_batch_is_an_axis_or_a_part_of_one():
    assert without_batch((BATCH, 3, 8, 8)) == (3, 8, 8) and without_batch((64 * BATCH, 49, 96)) == (64, 49, 96)
    assert without_batch((3, BATCH, 4)) == (3, 4) and without_batch((5, 6)) == (5, 6)
    assert all(kind.OPTIONS['embedding_size'].high < BATCH for kind in BACKBONES.values())
