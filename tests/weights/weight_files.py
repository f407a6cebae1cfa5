"""Writers of other people's weight files, honest and hostile ones, without PyTorch or MXNet."""
import io
import json
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'backbones'))       # golden.py

STORAGE_NAMES = {'<f4': 'Float', '<f2': 'Half', '<f8': 'Double', '<i8': 'Long'}
LEGACY_HEAD = bytes.fromhex('80028a0a6cfc9c46f9206aa850192e') + b'\x80\x02M\xe9\x03.' + \
    b'\x80\x02}X\x0d\x00\x00\x00little_endian\x88s.'


def text(value):
    """Return the operation that pushes text."""
    return b'X' + struct.pack('<I', len(value.encode())) + value.encode()


def integers(values):
    """Return the operations that push a tuple of integers."""
    return b'(' + b''.join(b'J' + struct.pack('<i', value) for value in values) + b't'


def storage(key='0', count=6, kind='torch\nFloatStorage', location='cpu', view=b''):
    """Return the operations that push a storage."""
    return b'(' + text('storage') + b'c' + kind.encode() + b'\n' + text(key) + text(location) + b'\x8a\x08' + \
        struct.pack('<q', count) + view + b'tQ'


def tensor(held, shape, strides, offset=0, function='_rebuild_tensor_v2'):
    """Return the operations that push a tensor; v1 has four arguments."""
    more = b'\x89ccollections\nOrderedDict\n)R' if function.endswith('v2') else b''
    return b'ctorch._utils\n' + function.encode() + b'\n(' + held + b'J' + struct.pack('<i', offset) + \
        integers(shape) + integers(strides) + more + b'tR'


def state(items):
    """Return a pickle of an OrderedDict of {name: operations}."""
    return b'\x80\x02ccollections\nOrderedDict\n)R(' + b''.join(text(name) + made for name, made in items.items()) + \
        b'u.'


def strides_of(array):
    """Return the strides of an array in numbers."""
    return tuple(step // array.itemsize for step in np.asarray(array, order='C').strides)


def zip_bytes(pickle, storages=(b'\0' * 24,), *, compression=zipfile.ZIP_STORED, folder='archive', more=()):
    """Return a file of the zip form: a pickle, bytes a storage, more members (name, bytes)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', compression) as archive:
        archive.writestr(f'{folder}/data.pkl', pickle)
        for i, data in enumerate(storages):
            archive.writestr(f'{folder}/data/{i}', data)
        for name, data in more:
            archive.writestr(name, data)
    return out.getvalue()


def legacy_bytes(tensors, *, kind='torch\n{}Storage', function='_rebuild_tensor_v2', location='cpu'):
    """Return {name: array} in the legacy form."""
    items = {name: tensor(storage(str(i), array.size, kind.format(STORAGE_NAMES[array.dtype.str]), location, b'N'),
                          array.shape, strides_of(array), function=function)
             for i, (name, array) in enumerate(tensors.items())}
    keys = b'\x80\x02](' + b''.join(text(str(i)) for i in range(len(tensors))) + b'e.'
    return LEGACY_HEAD + state(items) + keys + b''.join(
        struct.pack('<q', array.size) + array.tobytes() for array in tensors.values())


def safetensors_bytes(tensors, *, dtype='F32', change=None):
    """Return {name: array} as safetensors; change: function that changes the header."""
    header, data = {'__metadata__': {'format': 'pt'}}, b''
    for name, array in tensors.items():
        header[name] = {'dtype': dtype, 'shape': list(array.shape),
                        'data_offsets': [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    if change:
        change(header)
    head = json.dumps(header).encode()
    return struct.pack('<Q', len(head)) + head + data


def params_bytes(tensors, *, count=None, version=0xF993FAC9):
    """Return {name: float32 array} as MXNet's list of arrays."""
    out = struct.pack('<QQQ', 0x112, 0, len(tensors) if count is None else count)
    for array in tensors.values():
        out += struct.pack('<I', version) + (b'\0' * 4 if version != 0xF993FAC8 else b'')
        out += struct.pack(f'<I{array.ndim}q', array.ndim, *array.shape) + struct.pack('<iii', 1, 0, 0)
        out += array.astype('<f4').tobytes()
    return out + struct.pack('<Q', len(tensors)) + b''.join(
        struct.pack('<Q', len(name)) + name.encode() for name in tensors)
