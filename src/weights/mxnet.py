"""MXNet's NAME-0000.params and, where it lies beside, NAME-symbol.json, read without MXNet.

    weights = read_mxnet('model-0000.params')      # .tensors: {'conv_1_conv2d_weight': float32 array, ...}

The symbol tells what the numbers mean: the eps of each BatchNorm (1e-3 unless it says else), whether its scale counts
(`fix_gamma`, true unless it says else), and how pixels are scaled inside the graph.
"""
import os
import re
from typing import Any, Optional

import numpy as np

from src.data.lists import read_json
from src.weights.state import (Budget, Cursor, InputFile, Weights, as_float32, checked_name, checked_shape, count_of,
                               shown)

LIST_START = (0x112).to_bytes(8, 'little')
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DTYPES = ('<f4', '<f8', '<f2', 'u1', '<i4', 'i1', '<i8')
_MAX_ARRAYS = 100_000
_NORM_EPS = 1e-3                     # MXNet's default
_MAX_NODES = 100_000


def read_mxnet(file: str) -> Weights:
    """Return the weights of a .params file, with `arg:` and `aux:` cut off. Raises ValueError with one line."""
    with InputFile(file) as data:
        cursor, budget = Cursor(data), Budget(data)
        if cursor.read(8, 'the list') != LIST_START or cursor.number('the list'):
            raise ValueError(f"{file}: not a list of MXNet arrays")
        count = _count(cursor, 'arrays')
        arrays = [_array(cursor, f'array {i}', budget) for i in range(count)]
        if _count(cursor, 'names') != count:
            raise ValueError(f"{file}: it has {count} arrays and another number of names")
        tensors = {}
        for array in arrays:
            name = _name(cursor)
            tensors[checked_name(name, file, tensors)] = array
        if cursor.position != data.size:
            raise ValueError(f"{file}: {data.size - cursor.position} bytes are left over behind the last name")
    weights = Weights(tensors, 'MXNet')
    symbol = symbol_file(file)
    return _with_symbol(weights, symbol) if symbol else weights


def symbol_file(file: str) -> Optional[str]:
    """Return the NAME-symbol.json of a NAME-0000.params, None where there is none."""
    found = re.sub(r'(-\d{4})?\.params$', '', file) + '-symbol.json'
    return found if os.path.isfile(found) else None


def _count(cursor: Cursor, what: str) -> int:
    count = cursor.number(f'the number of {what}')
    if count > _MAX_ARRAYS:
        raise ValueError(f"{cursor.data.name}: claims {count} {what}, expected at most {_MAX_ARRAYS}")
    return count


def _name(cursor: Cursor) -> str:
    length = cursor.number('the length of a name')
    if length > 1024:
        raise ValueError(f"{cursor.data.name}: claims a name of {length} characters")
    return re.sub('^(arg|aux):', '', shown(cursor.read(length, 'a name'), 600))


def _array(cursor: Cursor, what: str, budget: Budget) -> np.ndarray:
    shape = _shape(cursor, what)
    cursor.read(8, f'{what}, device')
    kind = cursor.number(f'{what}, type', '<i4')
    if not 0 <= kind < len(_DTYPES):
        raise ValueError(f"{cursor.data.name}: {what} has the unknown type {kind}, expected 0 to {len(_DTYPES) - 1}")
    budget.take(count_of(shape))
    return as_float32(cursor.array(_DTYPES[kind], count_of(shape), what).reshape(shape))


def _shape(cursor: Cursor, what: str) -> tuple:
    start = cursor.number(f'{what}, version', '<u4')
    if start in (_V2, _V3) and cursor.number(f'{what}, storage', '<i4') != 0:
        raise ValueError(f"{cursor.data.name}: {what} is sparse; only dense arrays are read")
    if start in (_V1, _V2, _V3):
        dtype, ndim = '<i8', cursor.number(f'{what}, dimensions', '<u4')
    else:
        dtype, ndim = '<u4', start                       # the oldest form begins with the number of dimensions
    if not 0 < ndim <= 8:
        raise ValueError(f"{cursor.data.name}: {what} claims {ndim} dimensions, expected 1 to 8")
    return checked_shape(cursor.array(dtype, ndim, f'{what}, shape').tolist(), cursor.data.name, what)


def _with_symbol(weights: Weights, symbol: str) -> Weights:
    """Add what the symbol says about BatchNorms and about the input."""
    nodes = _nodes(symbol)
    fixed, scaling = [], {}
    for node in nodes:
        attributes, name = _attributes(node), node.get('name')
        if node.get('op') == 'BatchNorm':
            weights.eps[name] = _number(symbol, name, attributes.get('eps', _NORM_EPS))
            if str(attributes.get('fix_gamma', 'True')).lower() in ('true', '1'):
                fixed.append(f'{name}_gamma')
        elif node.get('op') in ('_minus_scalar', '_MinusScalar', '_mul_scalar', '_MulScalar'):
            scaling[node['op'].strip('_').lower()[:3]] = _number(symbol, name, attributes.get('scalar'))
    weights.fixed = tuple(fixed)
    if scaling:
        weights.input_scaling = scaling.get('min', 0.0), scaling.get('mul', 1.0)
    return weights


def _nodes(symbol: str) -> list:
    held = read_json(symbol)
    nodes = held.get('nodes') if type(held) is dict else None
    if type(nodes) is not list or len(nodes) > _MAX_NODES or not all(
            type(node) is dict and type(node.get('name')) is str and type(node.get('op')) is str for node in nodes):
        raise ValueError(f"{symbol}: not an MXNet symbol: it has no list of nodes with op and name")
    return nodes


def _attributes(node: dict) -> dict:
    found = {}
    for key in ('param', 'attr', 'attrs'):               # by MXNet's version
        found.update(node[key] if type(node.get(key)) is dict else {})
    return found


def _number(symbol: str, name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float('nan')
    if not np.isfinite(number):
        raise ValueError(f"{symbol}: {shown(name)} has '{shown(value, 20)}' where a number is expected")
    return number
