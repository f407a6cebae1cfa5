"""insightface's verification sets (.bin: lfw, cfp_fp, cfp_ff, agedb_30, calfw, cplfw, vgg2_fp), read and written.

    pictures, same = read_bin('lfw.bin')        # 12,000 encoded pictures, (6000,) bool: pair i is pictures 2i, 2i + 1
    write_bin('mine.bin', pictures, same)

A .bin is a pickle of (pictures, same). A pickle can run code, so this one is first gone through opcode by opcode: only
containers, numbers, text and bytes pass. The few callables that real files name are replaced by functions of this
module that build bytes from checked arguments; nothing is ever imported or called on a file's word.
"""
import io
import math
import os
import pickle
import pickletools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from src.data.lists import whole_file

MAX_BYTES = 1 << 32
_OPCODES = frozenset((
    'PROTO', 'FRAME', 'STOP', 'MARK', 'POP_MARK', 'EMPTY_LIST', 'LIST', 'APPEND', 'APPENDS', 'EMPTY_TUPLE', 'TUPLE',
    'TUPLE1', 'TUPLE2', 'TUPLE3', 'NONE', 'NEWTRUE', 'NEWFALSE', 'BININT', 'BININT1', 'BININT2', 'LONG1', 'STRING',
    'BINSTRING', 'SHORT_BINSTRING', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8', 'BINUNICODE',
    'SHORT_BINUNICODE', 'BINUNICODE8', 'BINPUT', 'LONG_BINPUT', 'MEMOIZE', 'BINGET', 'LONG_BINGET', 'GLOBAL',
    'STACK_GLOBAL', 'REDUCE', 'BUILD'))
_KINDS = 'biu'                           # NumPy kinds of pictures and of answers


class _Dtype:
    """A numeric dtype named in a pickle."""

    def __init__(self, name: object, *_: object):
        text = name.decode('ascii', 'replace') if isinstance(name, bytes) else name
        if not isinstance(text, str) or len(text) > 2 or np.dtype(text).kind not in _KINDS:
            raise ValueError(f'the dtype {str(text)[:20]!r}, expected bytes or bools')
        self.dtype = np.dtype(text)

    def __setstate__(self, state: object) -> None:
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if any(part is not None for part in state[2:5]):
            raise ValueError('a dtype with fields')
        self.dtype = self.dtype.newbyteorder('=' if order == '|' else order)


class _Array:
    """An array in a pickle: it holds nothing until its state has been checked."""

    array: Any = None

    def __setstate__(self, state: object) -> None:
        _, shape, dtype, _, data = state
        self.array = _array(data, dtype, shape)


def _array(data, dtype, shape):
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)) or not isinstance(shape, tuple) or \
            not all(isinstance(side, int) and side >= 0 for side in shape) or \
            math.prod(shape) * dtype.dtype.itemsize != len(data) or len(shape) > 4:
        raise ValueError('an array whose bytes do not fit its shape')
    return np.frombuffer(data, dtype.dtype).reshape(shape)


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(data: object, dtype: object, shape: object, _order: object = 'C') -> _Array:
    built = _Array()
    built.array = _array(data, dtype, shape)
    return built


def _scalar(dtype: object, data: object) -> int:
    return _array(data, dtype, ()).item()


def _encoded(text: object, codec: object) -> bytes:
    if not isinstance(text, str) or codec not in ('latin1', 'latin-1', b'latin1'):
        raise ValueError('text in an unknown encoding')
    return text.encode('latin1')


def _no_bytes() -> bytes:
    return b''


def _marker() -> None:
    raise ValueError('an array built in an unknown way')


_ARRAYS = ('numpy.core.multiarray', 'numpy._core.multiarray')
_CALLABLES = {
    ('numpy', 'ndarray'): _marker, ('numpy', 'dtype'): _Dtype, ('_codecs', 'encode'): _encoded,
    ('__builtin__', 'bytes'): _no_bytes, ('builtins', 'bytes'): _no_bytes,
    **{(module, '_reconstruct'): _reconstruct for module in _ARRAYS},
    **{(module, 'scalar'): _scalar for module in _ARRAYS},
    **{(module, '_frombuffer'): _from_buffer for module in ('numpy.core.numeric', 'numpy._core.numeric')},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in _CALLABLES:
            raise ValueError(f"it names {module}.{name}, which pictures do not need")
        return _CALLABLES[module, name]

    def persistent_load(self, _: object) -> None:
        raise ValueError('it refers to things outside')


def _check_opcodes(data):
    """Raise ValueError for a pickle of another protocol, with an opcode that containers and bytes do not need."""
    for number, (opcode, argument, place) in enumerate(pickletools.genops(data)):
        if opcode.name not in _OPCODES:
            raise ValueError(f'its opcode {opcode.name} at byte {place} is not one of containers, bytes and bools')
        if opcode.name == 'PROTO' and not 2 <= argument <= 5:
            raise ValueError(f'pickle protocol {argument}, expected 2 to 5')
        if opcode.name in ('BINPUT', 'LONG_BINPUT') and argument > number:         # the unpickler reserves that much
            raise ValueError(f'a memo of {argument} entries at byte {place}')


def read_bin(path: str) -> tuple:
    """Return (pictures, same) of a .bin: 2P encoded pictures as bytes, and (P,) bool, True where a pair is one person.

    Raises FileNotFoundError, or ValueError if the file is anything else than such a pickle.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such .bin file")
    if not 0 < os.path.getsize(path) <= MAX_BYTES:
        raise ValueError(f"{path}: {os.path.getsize(path)} bytes, expected 1 to {MAX_BYTES}")
    with open(path, 'rb') as file:
        data = file.read()
    try:
        _check_opcodes(data)
        held = _Unpickler(io.BytesIO(data), encoding='bytes').load()
    except Exception as error:                               # pickle raises anything on a broken file
        raise ValueError(f"{path}: not a verification set of insightface's: "
                         f"{' '.join(str(error).split())[:200] or type(error).__name__}") from None
    if not isinstance(held, (tuple, list)) or len(held) != 2:
        raise ValueError(f"{path}: holds a {type(held).__name__}, expected (pictures, same)")
    same = _answers(held[1], path)
    pictures = held[0] if isinstance(held[0], (list, tuple)) else []
    if len(pictures) != 2 * len(same) or not len(same):
        raise ValueError(f"{path}: {len(pictures)} pictures and {len(same)} pairs, expected two pictures a pair")
    return [_picture(picture, row, path) for row, picture in enumerate(pictures)], same


def _answers(held, path):
    values = held.array.ravel().tolist() if isinstance(held, _Array) and held.array is not None else held
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{path}: no list of answers beside the pictures")
    wrong = next((i for i, value in enumerate(values) if not isinstance(value, int) or value not in (0, 1)), None)
    if wrong is not None:
        raise ValueError(f"{path}: pair {wrong} has the answer {str(values[wrong])[:40]!r}, expected True or False")
    return np.array(values, bool)


def _picture(held, row, path):
    if isinstance(held, _Array) and held.array is not None and held.array.dtype.itemsize == 1 \
            and held.array.size == max(held.array.shape, default=0):                 # (n,), (n, 1) or (1, n)
        return held.array.tobytes()
    if not isinstance(held, (bytes, bytearray)):
        raise ValueError(f"{path}: picture {row} is a {type(held).__name__.lstrip('_')}, expected the bytes of a "
                         "picture file")
    return bytes(held)


def write_bin(path: str, pictures: Sequence, same: Sequence, *, protocol: int = 4) -> None:
    """Write encoded pictures, two a pair, and whether each pair is of one person as insightface's .bin.

    protocol: of the pickle; 2 can be read by Python 2.
    """
    if len(pictures) != 2 * len(same):
        raise ValueError(f"{path}: {len(pictures)} pictures and {len(same)} pairs, expected two pictures a pair")
    with whole_file(path) as file:
        pickle.dump(([bytes(picture) for picture in pictures], [bool(answer) for answer in same]), file,
                    protocol=protocol)
