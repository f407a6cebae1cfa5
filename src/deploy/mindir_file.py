"""The operations in a MINDIR of one function: what MindSpore computes, with the values of all settings.

    file = read_mindir(path, {'conv1.weight': array, ...})
    for operation in file.operations: ...        # Operation('Conv2D', inputs, settings, shapes, name)

An input is a string, the name of what another operation computes, or a `Parameter`, or a Python value.
"""
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore.train.mind_ir_pb2 import AttributeProto, ModelProto

_KIND = AttributeProto.AttributeType
_SEQUENCES = (_KIND.Value('TUPLE'), _KIND.Value('LIST'))
_NOTHING = tuple(_KIND.Value(name) for name in ('UMONAD', 'IOMONAD', 'NONE'))
_FLOATS = (_KIND.Value('FLOAT'), _KIND.Value('DOUBLE'))
_TENSORS, _STRING, _BOOL = _KIND.Value('TENSORS'), _KIND.Value('STRING'), _KIND.Value('BOOL')
_DTYPES = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16, 11: np.float64}


@dataclass(frozen=True)
class Parameter:
    """A weight by name."""

    name: str


@dataclass
class Operation:
    """A primitive, its inputs, its own settings, the shapes of its outputs, the name of its output."""

    kind: str
    inputs: list
    settings: dict
    shapes: list
    name: str


@dataclass
class MindirFile:
    """Name and shape of the input, operations in order, name of the output."""

    input_name: str
    input_shape: tuple
    operations: list
    output: str


def read_mindir(folder: str) -> MindirFile:
    """Return what the only .mindir file in `folder` computes. Raises ValueError for one with functions of its own."""
    file = next(os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith('.mindir'))
    with open(file, 'rb') as data:
        model = ModelProto.FromString(data.read())
    graph = model.graph
    if model.functions or len(graph.input) != 1 or len(graph.output) != 1:
        raise ValueError(f"{file}: has {len(model.functions)} functions, {len(graph.input)} inputs and "
                         f"{len(graph.output)} outputs, expected a network without branches of control flow, with one "
                         "of each")
    primitives = {primitive.name: primitive for primitive in model.primitives}
    values: dict = {parameter.name: Parameter(parameter.name.rpartition(':')[2]) for parameter in graph.parameter}
    operations = []
    for node in graph.node:
        if node.op_type == 'Constant':
            values[node.output[0]] = next(value_of(a) for a in node.attribute if a.name == 'value')
            continue
        primitive = primitives.get(node.op_type.removeprefix('REF::'))
        settings = {a.name: value_of(a) for a in (primitive.attribute if primitive else node.attribute)}
        kind = primitive.op_type if primitive else node.op_type
        operations.append(Operation(kind, [values.get(name, name) for name in node.input], settings, _shapes(node),
                                    node.output[0]))
    shape = tuple(graph.input[0].tensor[0].dims)
    return MindirFile(graph.input[0].name, shape, operations, graph.output[0].name)


def value_of(attribute: AttributeProto) -> Any:
    """Return the Python value of an attribute: number, text, tuple, array or None."""
    if attribute.type in _SEQUENCES:
        return tuple(value_of(inner) for inner in attribute.values) or tuple(attribute.ints) or tuple(attribute.floats)
    if attribute.type in _NOTHING:
        return None
    if attribute.type == _TENSORS:
        return _array(attribute.tensors[0])
    if attribute.type == _STRING:
        text = attribute.strings[0] if attribute.strings else attribute.s
        return text.decode() if isinstance(text, bytes) else text
    if attribute.type in _FLOATS:
        numbers = attribute.floats or attribute.doubles
        return float(numbers[0]) if numbers else float(attribute.f or attribute.d)
    number = attribute.ints[0] if attribute.ints else attribute.i
    return bool(number) if attribute.type == _BOOL else int(number)


def _array(tensor: Any) -> np.ndarray:
    return np.frombuffer(tensor.raw_data, _DTYPES[tensor.data_type]).reshape(tuple(tensor.dims))


def _shapes(node: Any) -> list:
    """Return the shapes of a node's outputs."""
    for attribute in node.attribute:
        if attribute.name == 'shape':
            held = [value.tensors[0] for value in attribute.values if value.tensors] or attribute.tensors
            return [tuple(tensor.dims) for tensor in held]
    return []
