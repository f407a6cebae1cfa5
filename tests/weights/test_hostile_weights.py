"""Hostile and damaged weight files: one line each that says why, nothing is executed, memory stays bounded."""
import json
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import weight_files as files

from src.weights.importing import read_weights

MARKER = 'executed'
GOOD = {'w': np.arange(6, dtype=np.float32).reshape(2, 3)}
PLAIN = files.tensor(files.storage(), (2, 3), (3, 1))
STATE = files.state({'w': PLAIN})
TEXT = '7767517\n2 2\nInput data 0 1 data\nConvolution c 1 1 data c 0=2 1=1 5=0 6=6\n'


class Call:
    """An object whose pickle calls os.system when Python's own reader loads it."""

    def __reduce__(self):
        import os
        return os.system, (f'touch {MARKER}',)


def calls(opcode):
    """Return a pickle that calls os.system the way `opcode` does."""
    touch = files.text(f'touch {MARKER}')
    return {'reduce': b'\x80\x02cos\nsystem\n(' + touch + b'tR.', 'inst': b'\x80\x02(' + touch + b'ios\nsystem\n.',
            'obj': b'\x80\x02(cos\nsystem\n' + touch + b'o.', 'newobj': b'\x80\x02cos\nsystem\n(' + touch + b't\x81.',
            'stack_global': b'\x80\x04\x8c\x02os\x8c\x06system\x93(' + touch + b'tR.',
            'eval': b'\x80\x02c__builtin__\neval\n(' + touch + b'tR.', 'ext': b'\x80\x02\x82\x01.',
            'reconstructor': b'\x80\x02ccopy_reg\n_reconstructor\n)R.',
            'numpy': b'\x80\x02cnumpy.core.multiarray\nscalar\n)R.'}[opcode]


def cut(data, share=0.6):
    return data[:int(len(data) * share)]


def patched(data, old, new):
    assert data.count(old) >= 1 and len(old) == len(new)
    return data.replace(old, new)


def tuples(levels):
    """Return a pickle of a dict whose key takes 2 ** levels steps to hash."""
    return b'\x80\x02K\x01q\x00' + b'h\x00h\x00\x86q\x00' * levels + b'}h\x00K\x01s.'


def many_dicts():
    """Return a pickle that copies a list of 1000 pairs into new dicts again and again."""
    pairs = b'](' + b'K\x01K\x02\x86' * 1000 + b'e\x85q\x01'
    return b'\x80\x02' + pairs + b'ccollections\nOrderedDict\nq\x02' + b'h\x02h\x01R' * 300_000 + b'.'


def changed(**entry):
    return lambda header: header['w'].update(entry)


def twice(header):
    header['v'] = dict(header['w'])


DTYPE = 'torch\nQInt8Storage'
V1 = {'function': '_rebuild_tensor'}
# name: (file name, bytes, what the message says)
FILES = {
    'pickle of its own': ('a.pt', pickle.dumps(Call()), 'not one that PyTorch'),
    'nested in a zip': ('a.pt', files.zip_bytes(pickle.dumps({'state_dict': Call()}, 2)), 'asks for posix.system'),
    **{f'zip, {opcode}': ('a.pt', files.zip_bytes(calls(opcode)), said) for opcode, said in {
        'reduce': 'asks for os.system', 'inst': 'opcode 0x69', 'obj': 'asks for os.system',
        'newobj': 'asks for os.system', 'stack_global': 'asks for os.system', 'eval': 'asks for __builtin__.eval',
        'ext': 'opcode 0x82', 'reconstructor': 'asks for copy_reg._reconstructor',
        'numpy': 'asks for numpy.core.multiarray.scalar'}.items()},
    'legacy, reduce': ('a.pth', files.LEGACY_HEAD + calls('reduce'), 'asks for os.system'),
    'BUILD on a tensor': ('a.pt', files.zip_bytes(files.state({'w': PLAIN + b'}b'})), 'no dict'),
    'empty file': ('a.pt', b'', 'an empty file'),
    'text': ('a.pt', b'Not found\n' * 9, 'not a weight file'),
    'tar': ('a.tar', b'\0' * 257 + b'ustar' + b'\0' * 300, 'tar file'),
    'zip cut off': ('a.pt', cut(files.zip_bytes(STATE)), 'not a whole zip'),
    'zip with a flipped bit': ('a.pt', patched(files.zip_bytes(STATE, [b'A' * 24]), b'A' * 24, b'B' * 24), 'damaged'),
    'zip bomb': ('a.pt', files.zip_bytes(files.state({'w': files.tensor(files.storage(count=2**24), (2**24,), (1,))}),
                                         [bytes(2**26)], compression=zipfile.ZIP_DEFLATED), 'is compressed'),
    'path in a zip': ('a.pt', files.zip_bytes(STATE, more=[('../../etc/x', b'')]), 'a path out of the file'),
    'absolute path in a zip': ('a.pt', files.zip_bytes(STATE, more=[('/etc/x', b'')]), 'a path out of the file'),
    'TorchScript': ('a.pt', files.zip_bytes(STATE, more=[('archive/constants.pkl', b'')]), 'TorchScript'),
    'two pickles': ('a.pt', files.zip_bytes(STATE, more=[('b/data.pkl', b'')]), '2 members NAME/data.pkl'),
    'any zip': ('a.pt', files.zip_bytes(STATE, folder='x/y'), 'not PyTorch'),
    'big-endian': ('a.pt', files.zip_bytes(STATE, more=[('archive/byteorder', b'big')]), 'big-endian'),
    'storage too short': ('a.pt', files.zip_bytes(STATE, [b'\0' * 20]), 'has 20 bytes'),
    'storage missing': ('a.pt', files.zip_bytes(STATE, []), 'is missing'),
    'storage of 2**39 numbers': ('a.pt', files.zip_bytes(files.state(
        {'w': files.tensor(files.storage(count=2**39), (2, 3), (3, 1))})), 'take'),
    'negative count': ('a.pt', files.zip_bytes(files.state(
        {'w': files.tensor(files.storage(count=-6), (2, 3), (3, 1))})), 'without a type'),
    'strides beyond the storage': ('a.pt', files.zip_bytes(files.state(
        {'w': files.tensor(files.storage(), (2, 3), (4, 1))})), 'strides (4, 1)'),
    'negative stride': ('a.pt', files.zip_bytes(files.state(
        {'w': files.tensor(files.storage(), (2, 3), (-3, 1), 3)})), 'no shape'),
    'offset beyond the storage': ('a.pt', files.zip_bytes(files.state(
        {'w': files.tensor(files.storage(), (2, 3), (3, 1), 1)})), 'from 1 on'),
    'stride 0 of a million': ('a.pt', files.zip_bytes(files.state(
        {'w': files.tensor(files.storage(), (1000, 1000), (0, 0))})), 'of a storage of 6'),
    'one storage, many tensors': ('a.pt', files.zip_bytes(files.state(
        {f'w{i}': files.tensor(files.storage(count=25_000), (25_000,), (1,)) for i in range(500)}), [bytes(100_000)]),
        'far more memory'),
    'quantised storage': ('a.pt', files.zip_bytes(files.state(
        {'w': files.tensor(files.storage(kind=DTYPE), (2, 3), (3, 1))})), 'asks for torch.QInt8Storage'),
    'endless hashing': ('a.pt', files.zip_bytes(tuples(60)), 'neither text nor a number'),
    'copies of copies': ('a.pt', files.zip_bytes(many_dicts()), 'more than 1000000 operations'),
    'deep nesting': ('a.pt', files.zip_bytes(b'\x80\x02' + b'(' * 50_000 + b't' * 50_000 + b'.'), 'no dict'),
    'endless pickle': ('a.pt', files.zip_bytes(b'\x80\x02' + b'N' * 1_100_000), 'more than 1000000 operations'),
    'integer of 2**30 bytes': ('a.pt', files.zip_bytes(b'\x80\x02\x8b\0\0\0\x40.'), 'integer of 1073741824 bytes'),
    'text of 2**32 bytes': ('a.pt', files.zip_bytes(b'\x80\x02X\xff\xff\xff\xff.'), 'its pickle ends'),
    'name of control characters': ('a.pt', files.zip_bytes(b'\x80\x02ca\x1b[2J\nb\x07\n.'), 'asks for a?[2J.b?'),
    'no tensors': ('a.pt', files.zip_bytes(b'\x80\x02}.'), 'holds no tensors'),
    'a single tensor': ('a.pt', files.zip_bytes(b'\x80\x02' + PLAIN + b'.'), 'a single tensor'),
    'legacy cut off': ('a.pth', files.legacy_bytes(GOOD)[:-4], 'cut off'),
    'legacy with lying counts': ('a.pth', patched(files.legacy_bytes(GOOD), struct.pack('<q', 6) + b'\0\0\0\0\0\0\x80?',
                                                  struct.pack('<q', 7) + b'\0\0\0\0\0\0\x80?'), 'has 7 numbers'),
    'legacy protocol': ('a.pth', patched(files.legacy_bytes(GOOD), b'M\xe9\x03', b'M\xe8\x03'), 'protocol 1000'),
    'legacy view': ('a.pth', files.LEGACY_HEAD + files.state({'w': files.tensor(files.storage(
        view=b'(' + files.text('v') + b'K\0K\6t'), (6,), (1,))}) + b'\x80\x02].', 'before 0.4'),
    'safetensors, header of 2**60': ('a.safetensors', struct.pack('<Q', 2**60) + b'{}', 'claims 1152921504606846976'),
    'safetensors, cut off': ('a.safetensors', files.safetensors_bytes(GOOD)[:-4], 'cut off'),
    'safetensors, no JSON': ('a.safetensors', struct.pack('<Q', 4) + b'{"a"', 'not JSON'),
    'safetensors, deep JSON': ('a.safetensors', struct.pack('<Q', 200_000) + b'{"a":' + b'[' * 199_995, 'not JSON'),
    'safetensors, lying shape': ('a.safetensors', files.safetensors_bytes(GOOD, change=changed(shape=[2**20, 2**15])),
                                 'its shape'),
    'safetensors, overlap': ('a.safetensors', files.safetensors_bytes(GOOD, change=twice), 'overlap'),
    'safetensors, dtype': ('a.safetensors', files.safetensors_bytes(GOOD, change=changed(dtype='F4')), 'dtype F4'),
    'MXNet, a billion arrays': ('a.params', files.params_bytes(GOOD, count=10**9), 'claims 1000000000 arrays'),
    'MXNet, cut off': ('a.params', cut(files.params_bytes(GOOD)), 'cut off'),
    'MXNet, more behind': ('a.params', files.params_bytes(GOOD) + b'x', 'left over'),
    'MXNet, a huge shape': ('a.params', patched(files.params_bytes(GOOD), struct.pack('<qq', 2, 3),
                                                struct.pack('<qq', 2**39, 2**39)), 'far more memory'),
    'MXNet, sparse': ('a.params', patched(files.params_bytes(GOOD), b'\xc9\xfa\x93\xf9\0', b'\xc9\xfa\x93\xf9\1'),
                      'sparse'),
    'MXNet, type': ('a.params', patched(files.params_bytes(GOOD), struct.pack('<qiii', 3, 1, 0, 0),
                                        struct.pack('<qiii', 3, 1, 0, 9)), 'unknown type 9'),
    'ONNX, no protobuf': ('a.onnx', b'\x08\x07\xff\xff\xff', 'not a whole ONNX'),
}


@pytest.mark.parametrize('name', FILES)
def test_refused_with_one_line(name, tmp_path, monkeypatch):
    file_name, data, said = FILES[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / file_name).write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as error:
            read_weights(str(tmp_path / file_name))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(error.value)
    assert said in message and file_name in message
    assert '\n' not in message and len(message) < 500 and message.isprintable()
    assert not (tmp_path / MARKER).exists()
    assert peak < 400 * 2**20


NCNN = {
    'cut off': (TEXT, b'\0' * 24, 'cut off'),
    'more behind': (TEXT, b'\0' * 32, 'left over'),
    'int8': (TEXT, struct.pack('<I', 0x000D4B38) + b'\0' * 24, 'int8'),
    'a table': (TEXT, struct.pack('<I', 1) + b'\0' * 24, 'quantised by a table'),
    'unknown layer': (TEXT.replace('Convolution', 'Deconvolution'), b'', 'of type Deconvolution'),
    'lying number of layers': (TEXT.replace('2 2', '999999999 2'), b'', 'has 2 layers'),
    'sizes that do not fit': (TEXT.replace('6=6', '6=7'), b'', 'claims 7 weights'),
    'huge sizes': (TEXT.replace('6=6', '6=2000000000'), b'\0' * 28, 'far more memory'),
    'no size': (TEXT.replace('6=6', '6=-6'), b'', 'expected a count'),
    'no layer': (TEXT + 'Convolution\n', b'', 'not a layer'),
    'other magic': (TEXT.replace('7767517', '7767518'), b'', 'starts with'),
}


@pytest.mark.parametrize('name', NCNN)
def test_ncnn_refused_with_one_line(name, tmp_path):
    text, data, said = NCNN[name]
    (tmp_path / 'a.param').write_text(text)
    (tmp_path / 'a.bin').write_bytes(data)
    with pytest.raises(ValueError, match=said) as error:
        read_weights(str(tmp_path / 'a.bin'))
    assert '\n' not in str(error.value)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such weight file'):
        read_weights(str(tmp_path / 'a.pt'))
    (tmp_path / 'a.param').write_text(TEXT)
    with pytest.raises(FileNotFoundError, match='a.bin'):
        read_weights(str(tmp_path / 'a.param'))


@pytest.mark.parametrize('symbol', ['[]', '{"nodes": 3}', '{"nodes": [{"op": "BatchNorm", "name": "b", "attrs": '
                                    '{"eps": "inf"}}]}', '{"nodes": [', '[' * 100_000])
def test_hostile_symbol(symbol, tmp_path):
    (tmp_path / 'm-0001.params').write_bytes(files.params_bytes(GOOD))
    (tmp_path / 'm-symbol.json').write_text(symbol)
    with pytest.raises(ValueError, match='m-symbol.json') as error:
        read_weights(str(tmp_path / 'm-0001.params'))
    assert '\n' not in str(error.value)


def test_onnx_data_outside_the_file(tmp_path):
    onnx = pytest.importorskip('onnx', reason='the package onnx is optional')
    array = onnx.helper.make_tensor('w', 1, [2], np.zeros(2, np.float32).tobytes(), raw=True)
    node = onnx.helper.make_node('Add', ['x', 'w'], ['y'])
    values = [onnx.helper.make_tensor_value_info(name, 1, [2]) for name in 'xy']
    model = onnx.helper.make_model(onnx.helper.make_graph([node], 'g', values[:1], values[1:], [array]))
    held = model.graph.initializer[0]
    held.dims[0] = 2**40 - 1
    (tmp_path / 'a.onnx').write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match='far more memory'):
        read_weights(str(tmp_path / 'a.onnx'))
    held.dims[0] = 2
    onnx.external_data_helper.set_external_data(held, '/etc/passwd')
    (tmp_path / 'a.onnx').write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match='lies in another file'):
        read_weights(str(tmp_path / 'a.onnx'))


def test_the_marker_would_have_been_made(tmp_path, monkeypatch):
    """The hostile pickles do call a function in Python's own reader: the tests above can fail."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(calls('reduce'))
    assert (tmp_path / MARKER).exists()


def test_safetensors_header_with_a_name_twice(tmp_path):
    entry = json.dumps({'dtype': 'F32', 'shape': [0], 'data_offsets': [0, 0]})
    head = f'{{"w": {entry}, "w": {entry}}}'.encode()
    (tmp_path / 'a.safetensors').write_bytes(struct.pack('<Q', len(head)) + head)
    with pytest.raises(ValueError, match='stands twice'):
        read_weights(str(tmp_path / 'a.safetensors'))
