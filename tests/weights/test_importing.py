"""Weights of others become backbones: recognised by names and shapes, with the original's embedding, and go back."""
import argparse
import json

import numpy as np
import pytest
import weight_files as files
from conftest import rounding, terms_of
from golden import arrays, embedding, inputs, relative, rule_weights, shared, state, table_row
from mindspore import Tensor

from src.backbones import ALIASES, BACKBONES, build_backbone
from src.data.face_format import FACE_FORMATS
from src.data.lists import file_sha256
from src.initializers import Init
from src.training import checkpoint
from src.weights import importing
from src.weights.importing import export_weights, import_weights, read_weights
from src.weights.in_order import state_in_order
from src.weights.names import original_names
from src.weights.recognise import NUM_TENSORS
from src.weights.torch_files import write_torch

KEYS = ('lightcnn_9', 'lightcnn_29', 'lightcnn_29v2', 'arcface_torch_r18', 'facexzoo_mobilefacenet',
        'facexzoo_mobilefacenet_h4', 'arcface_torch_mbf', 'facexzoo_resnet50_irse', 'arcface_torch_vit_t',
        'facexzoo_swin_t', 'facexzoo_lightcnn29', 'facexzoo_efficientnet_b0', 'facexzoo_repvgg_a0',
        'facexzoo_rexnet_1.0_se', 'facexzoo_ghostnet')
PREFIX = {'lightcnn': 'module.', 'facexzoo': 'backbone.', 'arcface': ''}


def drawn(key):
    """Return {name: array} of all tensors of the original's state dict, by the rule; integers and buffers are zero."""
    rows = state(key)
    weights = rule_weights(rows, float(table_row('goldens/backbones.md', key)[1]))
    return {name: weights[name] if name in weights else
            np.zeros(shape, np.float32 if dtype.startswith('float') else np.int64) for name, shape, dtype in rows}


def small(name, **options):
    """Return a backbone with drawn weights and running statistics that are not those of the start."""
    network, rng = build_backbone(name, init=Init('xavier', 3), **options), np.random.default_rng(4)
    for parameter in network.get_parameters():
        if parameter.ndim == 1:
            low = 0.1 if 'gamma' in parameter.name or 'variance' in parameter.name else -0.5
            parameter.set_data(Tensor(rng.uniform(low, 1, parameter.shape).astype(np.float32)))
    return network.set_train(False)


def images_for(network, count=2):
    side = network.image_size
    return np.random.default_rng(6).uniform(-1, 1, (count, network.channels, side, side)).astype(np.float32)


@pytest.mark.parametrize('key', KEYS)
def test_original_file_gives_original_embedding(key, tmp_path):
    """The file as its authors' training writes it: recognised, the golden embedding, exported tensor for tensor."""
    prefix, tensors = PREFIX[key.split('_')[0]], drawn(key)
    write_torch(str(tmp_path / 'theirs.pt'), {prefix + name: array for name, array in tensors.items()})
    backbone, metadata, head = import_weights(str(tmp_path / 'theirs.pt'))
    assert backbone.name == ALIASES[key] == metadata['network_type']
    assert metadata['backbone_options'] == backbone.options
    assert metadata['face_format'] == FACE_FORMATS[backbone.face_format].as_metadata()
    assert metadata['source']['sha256'] == file_sha256(str(tmp_path / 'theirs.pt'))
    assert set(head) == {name for name in tensors if name.startswith('fc2.')}
    assert relative(embedding(backbone, inputs(key)).astype(np.float64), arrays()[f'{key}/f64']) < 1e-4
    export_weights(backbone, str(tmp_path / 'ours.pt'))
    ours, ignored = read_weights(str(tmp_path / 'ours.pt')).tensors, tuple(getattr(backbone, 'ignored', ()))
    expected = {name: array for name, array in tensors.items() if name not in head and (
        name.endswith('num_batches_tracked') or not (ignored and name.endswith(ignored)))}
    assert set(ours) == set(expected)
    assert all(np.array_equal(ours[name], array) for name, array in expected.items())


def test_table_of_sizes_is_right():
    """The number of tensors of every network: what decides which ones are compared first."""
    for name in set(BACKBONES) - {'vit_l', 'vit_h', 'iresnet200'}:
        assert NUM_TENSORS.get(name, 0) in (0, len(list(build_backbone(name).get_parameters()))), name
    assert set(NUM_TENSORS) <= set(BACKBONES)


@pytest.mark.parametrize('name, options', [
    ('iresnet18', {'image_size': 64, 'embedding_size': 128, 'channels': 1}),
    ('mobilefacenet_h4', {'embedding_size': 64}),
    ('mobilefacenet', {'image_size': 48, 'embedding_size': 32}), ('vit_t', {'image_size': 63, 'embedding_size': 64}),
    ('LightCNN_9Layers', {'image_size': 32, 'channels': 3, 'embedding_size': 64}), ('mbf', {'embedding_size': 128}),
    ('repvgg_a0', {'image_size': 32, 'deploy': True}), ('mobilefacenet_y2', {'image_size': 32})])
def test_sizes_are_told_by_shapes(name, options, tmp_path):
    network = small(name, **options)
    export_weights(network, str(tmp_path / 'a.pt'))
    found = import_weights(str(tmp_path / 'a.pt')).backbone
    assert found.name == name and {key: found.options[key] for key in options} == options
    images = images_for(network)
    assert np.array_equal(embedding(found, images), embedding(network, images))


def wrong(change, tmp_path, network=None):
    """Return the message about an iresnet18 that was changed."""
    file = str(tmp_path / 'a.pt')
    tensors = {name: p.asnumpy() for name, p in original_names(small('iresnet18', image_size=32)).items()}
    change(tensors)
    write_torch(file, tensors)
    with pytest.raises(ValueError) as error:
        import_weights(file, network=network)
    assert '\n' not in str(error.value) and 'a.pt' in str(error.value)
    return str(error.value)


def test_what_does_not_fit_is_listed(tmp_path):
    def change(tensors):
        del tensors['layer1.0.bn1.bias']
        tensors['extra.weight'] = np.zeros(3, np.float32)
        tensors['layer2.0.bn1.weight'] = np.zeros(7, np.float32)
    said = wrong(change, tmp_path)
    assert 'the nearest is iresnet18: 1 missing (layer1.0.bn1.bias), 1 left over (extra.weight), 1 of another shape ' \
        '(layer2.0.bn1.weight: (7,), expected (64,))' in said


def test_another_network_than_asked_for(tmp_path):
    said = wrong(lambda tensors: None, tmp_path, 'arcface_torch_r34')
    assert 'not the weights of a iresnet34: 120 missing (layer1.2.bn1.' in said
    assert "unknown backbone 'nonsense'" in str(pytest.raises(
        ValueError, import_weights, str(tmp_path / 'a.pt'), network='nonsense').value)


def test_wrong_numbers(tmp_path):
    def nan(tensors):
        tensors['bn1.bias'] = np.full_like(tensors['bn1.bias'], np.nan)

    def negative(tensors):
        tensors['bn1.running_var'] = -tensors['bn1.running_var']

    def integers(tensors):
        tensors['bn1.bias'] = np.zeros(64, np.int64)
    assert '1 tensors hold numbers that are not finite, or negative variances (bn1.bias)' in wrong(nan, tmp_path)
    assert '(bn1.running_var)' in wrong(negative, tmp_path)
    assert '1 tensors are int64, expected floating numbers (bn1.bias)' in wrong(integers, tmp_path)


def sample_faces():
    """Return the four procedural faces (4, 3, 112, 112) of the goldens, (pixel - 127.5) / 128."""
    y, x = np.mgrid[0:112, 0:112].astype(np.float64)
    faces = np.array([[127.5 + 60 * np.sin(2 * np.pi * ((k + 1) * x / 112 + c / 3))
                       + 50 * np.cos(2 * np.pi * ((c + 1) * y / 112 + k / 4)) for c in range(3)] for k in range(4)])
    pixels = np.clip(np.rint(faces), 0, 255)
    assert pixels.sum((1, 2, 3)).tolist() == [4798087, 4798098, 4798088, 4798110]
    return ((pixels - 127.5) / 128).astype(np.float32)


@pytest.mark.parametrize('file', ['model-0000.params', 'mobilefacenet.param', 'mobilefacenet.bin'])
def test_trained_mobilefacenet(file):
    """The real files, from MXNet and from ncnn, whose variances hold eps: the golden embeddings."""
    backbone, metadata, _ = import_weights(str(shared(f'weights/{file}')))
    assert backbone.name == 'mobilefacenet_y1' and metadata['face_format']['name'] == 'mobilefacenet_y1'
    assert len(metadata['source']['files']) == 2
    expected = arrays()['ncnn/mobilefacenet_ref64_scale78125']
    assert np.abs(embedding(backbone, sample_faces()) - expected).max() < 1e-4


def test_both_forms_of_the_trained_mobilefacenet_agree():
    """Bit for bit but for the variances, from which eps is taken off again."""
    mxnet, ncnn = (original_names(import_weights(str(shared(f'weights/{file}'))).backbone)
                   for file in ('model-0000.params', 'mobilefacenet.bin'))
    for name, parameter in mxnet.items():
        ours, theirs = parameter.asnumpy(), ncnn[name].asnumpy()
        if name.endswith('running_var'):
            assert np.abs(ours - theirs).max() <= 2.0 ** -23 * (np.abs(ours).max() + 1e-3), name
        else:
            assert np.array_equal(ours, theirs), name


def test_mxnet_without_symbol_means_the_same(tmp_path):
    """eps and the scale of 1 are known for insightface's symbols."""
    file = shared('weights/model-0000.params')
    (tmp_path / 'm-0000.params').write_bytes(file.read_bytes())
    alone, both = (original_names(import_weights(str(name)).backbone) for name in (tmp_path / 'm-0000.params', file))
    assert all(np.array_equal(both[name].asnumpy(), parameter.asnumpy()) for name, parameter in alone.items())


@pytest.mark.parametrize('key, pattern', [('mxnet_fmobilefacenet_y1_128', 'conv_5.model.1.conv_dw.prelu.weight'),
                                          ('mxnet_fmobilefacenet_y2_256', 'conv2_dw.model.1.project.bn.weight')])
def test_mxnet_names_of_mobilefacenet(key, pattern, tmp_path):
    rng = np.random.default_rng(1)
    tensors = {name: rng.uniform(0.1, 1, shape).astype(np.float32) for name, shape, _ in state(key)}
    (tmp_path / 'a.params').write_bytes(files.params_bytes(tensors))
    found = import_weights(str(tmp_path / 'a.params')).backbone
    assert found.name == ALIASES[key] and pattern in original_names(found)
    assert np.all(original_names(found)['bn.weight'].asnumpy() == 1)


FRESNET = {'conv1': 'conv0', 'bn1': 'bn0', 'prelu': 'relu0', 'bn2': 'bn1', 'fc': 'pre_fc1', 'features': 'fc1'}
MXNET_LAST = {'running_mean': 'moving_mean', 'running_var': 'moving_var'}


def fresnet_name(name):
    """Return the name that an iresnet's tensor has in insightface's MXNet symbol."""
    layer, _, last = name.rpartition('.')
    if 'bn' in layer or 'prelu' in layer or layer in ('features',) or layer.endswith('downsample.1'):
        last = MXNET_LAST.get(last) or {'weight': 'gamma', 'bias': 'beta'}[last]
    if layer.startswith('layer'):
        stage, unit, part = layer.split('.', 2)
        part = {'prelu': 'relu1', 'downsample.0': 'conv1sc', 'downsample.1': 'sc'}.get(part, part)
        return f'stage{stage[5:]}_unit{int(unit) + 1}_{part}_{last}'
    return f'{FRESNET[layer]}_{last}'


def test_mxnet_names_of_iresnet(tmp_path):
    """fresnet's eps is 2e-5 and its graph scales by 1 / 128: the weights are moved to ours, with the same embedding."""
    network = small('iresnet18', image_size=32, embedding_size=16)
    network.features.gamma.set_data(Tensor(np.ones(16, np.float32)))
    tensors = {f"arg:{fresnet_name(name)}": p.asnumpy() - np.float32(1e-5) * name.endswith('running_var')
               for name, p in original_names(network).items()}
    tensors['arg:conv0_weight'] = tensors['arg:conv0_weight'] * np.float32(128 / 127.5)
    (tmp_path / 'm-0000.params').write_bytes(files.params_bytes(tensors))
    nodes = [{'op': '_minus_scalar', 'name': 's', 'attrs': {'scalar': '127.5'}},
             {'op': '_mul_scalar', 'name': 'm', 'attrs': {'scalar': '0.0078125'}}]
    nodes += [{'op': 'BatchNorm', 'name': name[4:-6],
               'attrs': {'eps': '2e-05', 'fix_gamma': str(name == 'arg:fc1_gamma')}}
              for name in tensors if name.endswith('_gamma') and 'relu' not in name]
    (tmp_path / 'm-symbol.json').write_text(json.dumps({'nodes': nodes}))
    found = import_weights(str(tmp_path / 'm-0000.params')).backbone
    assert found.name == 'iresnet18' and found.image_size == 32
    images = images_for(network)
    assert relative(embedding(found, images), embedding(network, images)) < rounding(*terms_of(network))


def test_input_scaling_of_another_network_is_refused(tmp_path):
    key = 'mxnet_fmobilefacenet_y1_128'
    (tmp_path / 'm-0000.params').write_bytes(files.params_bytes(
        {name: np.ones(shape, np.float32) for name, shape, _ in state(key)}))
    (tmp_path / 'm-symbol.json').write_text(json.dumps(
        {'nodes': [{'op': '_minus_scalar', 'name': 's', 'attrs': {'scalar': '104'}}]}))
    with pytest.raises(ValueError, match=r'feeds \(pixel - 104\) \* 1, a mobilefacenet_y1'):
        import_weights(str(tmp_path / 'm-0000.params'))


def onnx_of(network, folded):
    """Return the ONNX model of an iresnet or mbf in the order of its cells, BatchNorm folded as by PyTorch.
    """
    return OnnxWriter(network, folded).model()


class OnnxWriter:
    """Writes an iresnet as nodes with numbered names; convolutions may take in the BatchNorm behind them."""

    def __init__(self, network, folded):
        self.onnx = pytest.importorskip('onnx', reason='the package onnx is optional')
        self.network, self.folded, self.nodes, self.held, self.count = network, folded, [], [], 0

    def add(self, kind, inputs, arrays, **attributes):
        names = [f'n{self.count}_{i}' for i in range(len(arrays))]
        self.held += [self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
                      for name, array in zip(names, arrays)]
        self.count += 1
        self.nodes.append(self.onnx.helper.make_node(kind, [*inputs, *names], [f'v{self.count}'], **attributes))
        return f'v{self.count}'

    def norm(self, x, cell):
        arrays = [p.asnumpy() for p in (cell.gamma, cell.beta, cell.moving_mean, cell.moving_variance)]
        return self.add('BatchNormalization', [x], arrays, epsilon=cell.eps)

    def conv(self, x, cell, norm):
        weight = cell.weight.asnumpy()
        attributes = {'strides': list(cell.stride), 'pads': [cell.padding] * 4 if isinstance(cell.padding, int)
                      else list(cell.padding), 'group': cell.group}
        if not self.folded:
            return self.norm(self.add('Conv', [x], [weight], **attributes), norm)
        gamma, beta, mean, variance = (p.asnumpy().astype(np.float64) for p in (
            norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance))
        scale = gamma / np.sqrt(variance + norm.eps)
        arrays = [(weight * scale[:, None, None, None]).astype(np.float32), (beta - mean * scale).astype(np.float32)]
        return self.add('Conv', [x], arrays, **attributes)

    def prelu(self, x, cell):
        return self.add('PRelu', [x], [cell.w.asnumpy().reshape(-1, 1, 1)])

    def block(self, x, cell):
        out = self.prelu(self.conv(self.norm(x, cell.bn1), cell.conv1, cell.bn2), cell.prelu)
        out = self.conv(out, cell.conv2, cell.bn3)
        shortcut = list(cell.downsample.get_parameters())
        return self.add('Add', [out, self.conv(x, *cell.downsample) if shortcut else x], [])

    def model(self):
        network, helper = self.network, self.onnx.helper
        x = self.prelu(self.conv('input.1', network.conv1, network.bn1), network.prelu)
        for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
            for cell in layer:
                x = self.block(x, cell)
        x = self.add('Flatten', [self.norm(x, network.bn2)], [])
        x = self.add('Gemm', [x], [network.fc.weight.asnumpy(), network.fc.bias.asnumpy()], transB=1)
        x = self.norm(x, network.features)
        side, size = network.image_size, network.embedding_size
        values = [helper.make_tensor_value_info(name, 1, shape)
                  for name, shape in (('input.1', [2, 3, side, side]), (x, [2, size]))]
        graph = helper.make_graph(self.nodes, 'g', values[:1], values[1:], self.held)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 11)], ir_version=6)


@pytest.mark.parametrize('folded', [True, False])
def test_onnx_with_folded_batch_norms(folded, tmp_path):
    """As insightface's w600k_r50.onnx is made: names lost, BatchNorm in the convolutions; ONNX Runtime agrees."""
    network = small('iresnet18', image_size=32, embedding_size=16)
    (tmp_path / 'a.onnx').write_bytes(onnx_of(network, folded).SerializeToString())
    found = import_weights(str(tmp_path / 'a.onnx')).backbone
    assert found.name == 'iresnet18' and found.embedding_size == 16 and found.image_size == 32
    images = images_for(network)
    expected = embedding(network, images)
    assert relative(embedding(found, images), expected) < rounding(*terms_of(network))
    runtime = pytest.importorskip('onnxruntime', reason='ONNX Runtime is optional')
    session = runtime.InferenceSession(str(tmp_path / 'a.onnx'), providers=['CPUExecutionProvider'])
    assert relative(session.run(None, {'input.1': images})[0], expected) < rounding(*terms_of(network))


def test_load_network_takes_onnx_of_others(tmp_path):
    """Colour faces and no metadata: the weights tell the network and its face format; others keep the message."""
    from src import api
    network = small('iresnet18', image_size=32, embedding_size=16)
    (tmp_path / 'a.onnx').write_bytes(onnx_of(network, True).SerializeToString())
    found, images = api.load_network(str(tmp_path / 'a.onnx'), device_target='CPU'), images_for(network)
    assert found.name == 'iresnet18' and found.face_format.name == 'arcface'
    assert relative(found(images), embedding(network, images)) < rounding(*terms_of(network))
    pytest.importorskip('onnxruntime', reason='ONNX Runtime is optional')
    run = api.load_network(str(tmp_path / 'a.onnx'), face_format='arcface', device_target='CPU')
    assert run.runtime == 'ONNX Runtime' and relative(run(images), found(images)) < rounding(*terms_of(network))
    with pytest.raises(ValueError, match='--face_format'):
        api.load_network(str(tmp_path / 'a.onnx'), network_type='iresnet34', device_target='CPU')


def test_finetuning_starts_from_a_weight_file(tmp_path):
    """--finetune takes somebody's file: the weights are theirs; another network or size is told."""
    from types import SimpleNamespace

    from src.training.saver import load_for_finetuning
    network, file = small('mobilefacenet', image_size=32, embedding_size=16), str(tmp_path / 'a.pt')
    export_weights(network, file)
    settings = SimpleNamespace(face_format='facexzoo', assume_format='')
    step = SimpleNamespace(backbone=build_backbone('mobilefacenet', image_size=32, embedding_size=16))
    assert load_for_finetuning(step, settings, file) == file
    for theirs, ours in zip(network.get_parameters(), step.backbone.get_parameters()):
        assert np.array_equal(theirs.asnumpy(), ours.asnumpy()), ours.name
    step.backbone = build_backbone('mobilefacenet', image_size=48, embedding_size=16)
    with pytest.raises(ValueError, match='--finetune .*a.pt: has image_size 32, this run has 48'):
        load_for_finetuning(step, settings, file)
    step.backbone = build_backbone('mobilefacenet_y1')
    with pytest.raises(ValueError, match='not the weights of a mobilefacenet_y1'):
        load_for_finetuning(step, settings, file)


def test_layers_in_another_order_are_refused(tmp_path):
    network = small('iresnet18', image_size=32, embedding_size=16)
    (tmp_path / 'a.onnx').write_bytes(onnx_of(network, True).SerializeToString())
    operations = read_weights(str(tmp_path / 'a.onnx')).operations
    assert state_in_order(operations, network) is not None
    assert state_in_order(operations[1:], network) is None
    assert state_in_order(operations + operations[-1:], network) is None
    with pytest.raises(ValueError, match='not the weights of a iresnet34'):
        import_weights(str(tmp_path / 'a.onnx'), network='iresnet34')


def test_onnx_is_optional(tmp_path, monkeypatch):
    (tmp_path / 'a.onnx').write_bytes(b'\x08\x06')
    monkeypatch.setitem(__import__('sys').modules, 'onnx', None)
    with pytest.raises(ValueError, match='pip install onnx'):
        import_weights(str(tmp_path / 'a.onnx'))


def test_checkpoint_of_imported_weights(tmp_path, capsys):
    """The command writes a normal checkpoint; a name too many is a mistake of the user, told before the work."""
    network = small('mobilefacenet', image_size=32, embedding_size=16)
    held = {f'backbone.{name}': p.asnumpy() for name, p in original_names(network).items()}
    write_torch(str(tmp_path / 'a.pt'), {**held,
                                         'head.weight': np.zeros((16, 5), np.float32)})
    parser = argparse.ArgumentParser()
    importing.add_flags(parser)
    arguments = ['--file', str(tmp_path / 'a.pt'), '--out', str(tmp_path / 'b.ckpt')]
    importing.run(parser.parse_args(arguments), checkpoint.save)
    assert 'mobilefacenet from PyTorch (zip), embedding 16, faces facexzoo 32x32; left out the head: head.weight' in \
        capsys.readouterr().out
    found, images = checkpoint.load_backbone(str(tmp_path / 'b.ckpt')), images_for(network)
    assert found.name == 'mobilefacenet' and found.face_format == 'facexzoo'
    assert np.array_equal(embedding(found, images), embedding(network, images))
    with pytest.raises(ValueError, match='expected NAME.ckpt'):
        importing.run(parser.parse_args([*arguments[:3], 'b.pt']), checkpoint.save)
