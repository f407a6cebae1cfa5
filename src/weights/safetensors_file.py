"""safetensors: a JSON header of names, types, shapes and positions, then the numbers. Its header is not trusted."""
import json
from typing import Any

import numpy as np

from src.weights.state import (Budget, InputFile, Weights, as_float32, bfloat16_to_float32, checked_name,
                               checked_shape, count_of, shown)

MAX_HEADER_BYTES = 16 * 2**20
_DTYPES = {'F64': '<f8', 'F32': '<f4', 'F16': '<f2', 'BF16': '<u2', 'I64': '<i8', 'I32': '<i4', 'I16': '<i2',
           'I8': 'i1', 'U8': 'u1', 'BOOL': '?'}


def read_safetensors(file: str) -> Weights:
    """Return the weights in a .safetensors file. Raises ValueError with one line where it is none or lies."""
    with InputFile(file) as data:
        length = int(np.frombuffer(data.read(0, 8, 'the length of the header'), '<u8')[0])
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"{file}: its header claims {length} bytes, expected at most {MAX_HEADER_BYTES}")
        header = _header(file, data.read(8, length, 'the header'))
        metadata = header.pop('__metadata__', {})
        tensors, budget, spans = {}, Budget(data), []
        for name, entry in header.items():
            name = checked_name(name, file, tensors)
            tensors[name] = _tensor(data, name, entry, 8 + length, budget, spans)
        _check_spans(file, spans, data.size - 8 - length)
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        raise ValueError(f"{file}: its __metadata__ are not text")
    plain = {shown(key): value for key, value in metadata.items() if len(value) <= 80}
    return Weights(tensors, 'safetensors', plain)


def _header(file: str, text: bytes) -> dict:
    def unique(pairs: list) -> dict:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands twice")
        return found
    try:
        header = json.loads(text.decode('utf-8'), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: its header is not JSON ({shown(error)})") from None
    if type(header) is not dict:
        raise ValueError(f"{file}: its header is no JSON object")
    return header


def _tensor(data: InputFile, name: str, entry: Any, start: int, budget: Budget, spans: list) -> np.ndarray:
    where = f"{data.name}: {shown(name)}"
    if type(entry) is not dict or set(entry) != {'dtype', 'shape', 'data_offsets'}:
        raise ValueError(f"{where} has no dtype, shape and data_offsets")
    if type(entry['dtype']) is not str or entry['dtype'] not in _DTYPES:
        raise ValueError(f"{where} has the dtype {shown(entry['dtype'], 20)}; read are {', '.join(_DTYPES)}")
    shape, dtype = checked_shape(entry['shape'], data.name, name), np.dtype(_DTYPES[entry['dtype']])
    offsets = checked_shape(entry['data_offsets'], data.name, f'data_offsets of {name}')
    begin, end = offsets if len(offsets) == 2 else (0, -1)
    if end - begin != count_of(shape) * dtype.itemsize:
        raise ValueError(f"{where} has {end - begin} bytes, its shape {shape} takes {count_of(shape) * dtype.itemsize}")
    spans.append((begin, end))
    budget.take(count_of(shape))
    array = np.frombuffer(data.read(start + begin, end - begin, shown(name)), dtype).reshape(shape)
    return bfloat16_to_float32(array) if entry['dtype'] == 'BF16' else as_float32(array)


def _check_spans(file: str, spans: list, size: int) -> None:
    """Raise ValueError unless the tensors fill the file without gap or overlap."""
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise ValueError(f"{file}: its tensors overlap or leave a gap at byte {min(begin, position)} of the data")
        position = end
    if position != size:
        raise ValueError(f"{file}: its tensors end at byte {position} of the data, the data at {size}")
