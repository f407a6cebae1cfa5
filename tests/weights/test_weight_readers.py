"""Honest weight files of every kind give their numbers back, and the names lose what training put before them."""
import json
import struct
import zipfile

import numpy as np
import pytest
import weight_files as files

from src.weights.importing import read_weights
from src.weights.names import without_prefix
from src.weights.pickles import STORAGES
from src.weights.state import bfloat16_to_float32
from src.weights.torch_files import write_torch

DRAWN = np.random.default_rng(5).standard_normal((4, 3, 2)).astype(np.float32)
TENSORS = {'a.weight': DRAWN, 'a.bias': DRAWN[0, :, 0].copy(), 'scalar': np.float32(3).reshape(())}


def written(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    return str(tmp_path / name)


def check(found, expected=TENSORS):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == np.float32 and found[name].shape == array.shape
        assert np.array_equal(found[name], array), name


def test_torch_zip_round_trip(tmp_path):
    """The same tensors give the same bytes; data are aligned as PyTorch has them, so that it can map them."""
    for name in ('a.pt', 'b.pt'):
        write_torch(str(tmp_path / name), TENSORS)
    check(read_weights(str(tmp_path / 'a.pt')).tensors)
    data = (tmp_path / 'a.pt').read_bytes()
    assert data == (tmp_path / 'b.pt').read_bytes()
    with zipfile.ZipFile(tmp_path / 'a.pt') as archive:
        for member in archive.infolist():
            start = data.index(member.filename.encode()) + len(member.filename) + len(member.extra)
            assert '/data/' not in member.filename or start % 64 == 0


def test_torch_reads_what_we_write(tmp_path):
    torch = pytest.importorskip('torch', reason='PyTorch is not needed by this project')
    write_torch(str(tmp_path / 'a.pt'), TENSORS)
    check({name: tensor.numpy() for name, tensor in torch.load(tmp_path / 'a.pt').items()})


@pytest.mark.parametrize('kind, function, location', [
    ('torch\n{}Storage', '_rebuild_tensor_v2', 'cpu'), ('torch.cuda\n{}Storage', '_rebuild_tensor', 'cuda:0')])
def test_torch_legacy_form(tmp_path, kind, function, location):
    """As torch 0.4 to 1.5 wrote it, and as earlier ones did, from a card."""
    data = files.legacy_bytes(TENSORS, kind=kind, function=function, location=location)
    found = read_weights(written(tmp_path, 'a.pth.tar', data))
    check(found.tensors)
    assert found.form == 'PyTorch (legacy)'


def test_python_2_strings(tmp_path):
    """SHORT_BINSTRING and BINSTRING hold text in files that Python 2 wrote."""
    tensor = files.tensor(files.storage(count=24, view=b'N'), (4, 3, 2), (6, 2, 1), function='_rebuild_tensor')
    tensor = tensor.replace(files.text('storage'), b'U\x07storage').replace(files.text('cpu'), b'T\3\0\0\0cpu')
    pickle = b'\x80\x02}(U\x05epochK\x07U\x0astate_dictccollections\nOrderedDict\n](' + b'](U\x08a.weight' + tensor + \
        b'ee\x85Ru.'
    data = files.LEGACY_HEAD + pickle + b'\x80\x02]U\x010a.' + struct.pack('<q', 24) + DRAWN.tobytes()
    found = read_weights(written(tmp_path, 'a.pth.tar', data))
    check(found.tensors, {'a.weight': DRAWN})
    assert found.metadata == {'epoch': 7}


@pytest.mark.parametrize('kind, dtype', [('Half', '<f2'), ('Double', '<f8'), ('BFloat16', None)])
def test_other_storages_become_float32(tmp_path, kind, dtype):
    bits = DRAWN.astype(dtype).tobytes() if dtype else (DRAWN.view(np.uint32) >> 16).astype('<u2').tobytes()
    expected = DRAWN.astype(dtype).astype(np.float32) if dtype else (
        DRAWN.view(np.uint32) & np.uint32(0xffff0000)).view(np.float32)
    pickle = files.state({'w': files.tensor(files.storage(count=24, kind=f'torch\n{kind}Storage'), (4, 3, 2),
                                            (6, 2, 1))})
    check(read_weights(written(tmp_path, 'a.pt', files.zip_bytes(pickle, [bits]))).tensors, {'w': expected})
    assert kind in STORAGES


def test_views_share_a_storage(tmp_path):
    """A transposed tensor and a part of it, of one storage."""
    storage, base = files.storage(count=24), DRAWN.reshape(6, 4)
    pickle = files.state({'whole': files.tensor(storage, (6, 4), (4, 1)),
                          'turned': files.tensor(storage, (4, 6), (1, 4)),
                          'part': files.tensor(storage, (2, 2), (4, 1), 5)})
    check(read_weights(written(tmp_path, 'a.pt', files.zip_bytes(pickle, [base.tobytes()]))).tensors,
          {'whole': base, 'turned': base.T, 'part': base[1:3, 1:3]})


def test_state_dict_inside_a_checkpoint(tmp_path):
    """arcface_torch's whole state: the backbone, the classes of one rank, and an optimizer that is passed over."""
    weight = files.tensor(files.storage(), (2, 3), (3, 1))
    items = {'epoch': b'K\x05', 'state_dict_backbone': files.state({'w': weight})[2:-1],
             'state_optimizer': b'}' + files.text('state') + weight + b's',
             'state_dict_softmax_fc': b'}' + files.text('weight') + weight + b's'}
    pickle = b'\x80\x02}(' + b''.join(files.text(name) + made for name, made in items.items()) + b'u.'
    found = read_weights(written(tmp_path, 'a.pt', files.zip_bytes(pickle, [DRAWN.tobytes()[:24]])))
    check(found.tensors, {'w': DRAWN.ravel()[:6].reshape(2, 3), 'head.weight': DRAWN.ravel()[:6].reshape(2, 3)})
    assert found.metadata == {'epoch': 5}


@pytest.mark.parametrize('prefix', ['', 'module.', 'backbone.', 'module.backbone.', 'feat_net.'])
def test_prefixes(prefix):
    module = 'module.' if prefix.startswith('module.') else ''
    names = without_prefix({f'{prefix}conv1.weight': 1, f'{prefix}features.0.bias': 2, f'{module}head.weight': 3})
    assert names == {'conv1.weight': 1, 'features.0.bias': 2, 'head.weight': 3}


@pytest.mark.parametrize('dtype', ['F32', 'F16', 'F64', 'BF16'])
def test_safetensors(tmp_path, dtype):
    if dtype == 'BF16':
        held = {name: (np.atleast_1d(array).view(np.uint32) >> 16).astype('<u2').reshape(array.shape)
                for name, array in TENSORS.items()}
        expected = {name: bfloat16_to_float32(array.reshape(-1)).reshape(array.shape) for name, array in held.items()}
        assert all(np.abs(expected[name] - TENSORS[name]).max() <= 2.0 ** -7 * np.abs(TENSORS[name]).max()
                   for name in TENSORS)
    else:
        held = {name: array.astype({'F32': '<f4', 'F16': '<f2', 'F64': '<f8'}[dtype])
                for name, array in TENSORS.items()}
        expected = {name: array.astype(np.float32) for name, array in held.items()}
    found = read_weights(written(tmp_path, 'a.safetensors', files.safetensors_bytes(held, dtype=dtype)))
    check(found.tensors, expected)
    assert found.metadata == {'format': 'pt'}


def test_safetensors_of_its_own_package(tmp_path):
    numpy_form = pytest.importorskip('safetensors.numpy', reason='the package safetensors is not needed')
    numpy_form.save_file({name: np.asarray(array) for name, array in TENSORS.items()}, tmp_path / 'a.safetensors')
    found = read_weights(str(tmp_path / 'a.safetensors')).tensors
    check({name: found[name] for name in TENSORS})


@pytest.mark.parametrize('version', [0xF993FAC8, 0xF993FAC9, 0xF993FACA])
def test_mxnet_and_its_symbol(tmp_path, version):
    arrays = {'arg:c_weight': DRAWN, 'arg:b_gamma': DRAWN[0, 0].copy(), 'aux:b_moving_var': DRAWN[1, 0].copy()}
    file = written(tmp_path, 'm-0000.params', files.params_bytes(arrays, version=version))
    plain = read_weights(file)
    check(plain.tensors, {name.split(':')[1]: array for name, array in arrays.items()})
    assert not plain.eps and not plain.fixed and plain.input_scaling is None
    nodes = [{'op': '_minus_scalar', 'name': 's', 'attr': {'scalar': '127.5'}},
             {'op': '_mul_scalar', 'name': 'm', 'param': {'scalar': '0.0078125'}},
             {'op': 'BatchNorm', 'name': 'b', 'attrs': {}},
             {'op': 'BatchNorm', 'name': 'd', 'attrs': {'eps': '2e-05', 'fix_gamma': 'False'}}]
    (tmp_path / 'm-symbol.json').write_text(json.dumps({'nodes': nodes}))
    found = read_weights(file)
    assert found.eps == {'b': 1e-3, 'd': 2e-5} and found.fixed == ('b_gamma',)
    assert found.input_scaling == (127.5, 0.0078125)


def test_ncnn_float16(tmp_path):
    """The tag says how weights are stored; float16 is padded to four bytes, biases stay float32."""
    text = ('7767517\n3 3\nInput data 0 1 data\nConvolution c 1 1 data c 0=1 1=1 5=1 6=3\n'
            'BatchNorm b 1 1 c b 0=1 1=0.5\n')
    (tmp_path / 'a.param').write_text(text)
    weights = np.array([1, 2, -3], '<f2')
    data = struct.pack('<I', 0x01306B47) + weights.tobytes() + b'\0\0' + struct.pack('<f', 7) + \
        np.arange(4, dtype='<f4').tobytes()
    found = read_weights(written(tmp_path, 'a.bin', data))
    check(found.tensors, {'c_weight': weights.astype(np.float32).reshape(1, 3, 1, 1), 'c_bias': np.float32([7]),
                          'b_gamma': np.float32([0]), 'b_moving_mean': np.float32([1]),
                          'b_moving_var': np.float32([2]), 'b_beta': np.float32([3])})
    assert found.eps == {'b': 0.5}
