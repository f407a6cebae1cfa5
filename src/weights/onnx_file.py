"""The weights in an ONNX file, such as insightface's w600k_r50.onnx: initialisers by name, and layers in order.

    weights = read_onnx('w600k_r50.onnx')          # needs the package onnx

Exporters fold a BatchNorm into the convolution before it, and such convolutions lose their names. `operations` holds
the layers in the order of the graph, so that a network whose layers compute in the same order can take them.
"""
from typing import Any, Optional

import numpy as np

from src.weights.state import (Budget, InputFile, Operation, Weights, as_float32, bfloat16_to_float32, checked_name,
                               checked_shape, count_of, shown)

_MAX_BYTES = 2**31                   # protobuf's own limit
_MAX_NODES = 100_000
_NORM_EPS = 1e-5                     # ONNX's default
# TensorProto's data_type: dtype of raw data
_DTYPES = {1: '<f4', 10: '<f2', 11: '<f8', 16: '<u2', 6: '<i4', 7: '<i8', 9: '?', 2: 'u1', 3: 'i1'}
_BFLOAT16 = 16
_NORM_INPUTS = ('weight', 'bias', 'running_mean', 'running_var')


def read_onnx(file: str) -> Weights:
    """Return the weights of an ONNX file; nothing in it is run. Raises ValueError with one line."""
    try:
        import onnx
    except ImportError:
        raise ValueError(f"{file}: reading ONNX weights needs one more package: pip install onnx") from None
    with InputFile(file) as data:
        if data.size > _MAX_BYTES:
            raise ValueError(f"{file}: {data.size} bytes, ONNX files have at most {_MAX_BYTES}")
        model, budget = onnx.ModelProto(), Budget(data)
        try:
            model.ParseFromString(data.read(0, data.size, 'the model'))
        except Exception as error:       # protobuf raises several kinds
            raise ValueError(f"{file}: not a whole ONNX file ({shown(error)})") from None
    tensors = {}
    if not model.graph.node or len(model.graph.node) > _MAX_NODES:
        raise ValueError(f"{file}: not an ONNX network: {len(model.graph.node)} nodes, expected 1 to {_MAX_NODES}")
    for proto in model.graph.initializer:
        tensors[checked_name(proto.name, file, tensors)] = _array(file, proto, budget)
    aliases = _with_constants(file, model.graph, tensors, budget)
    operations = [operation for node in model.graph.node
                  for operation in _operations(node, tensors, aliases)]
    return Weights(tensors, 'ONNX', operations=operations, input_scaling=_input_scaling(model.graph, tensors, aliases))


def _input_scaling(graph: Any, tensors: dict, aliases: dict) -> Optional[tuple]:
    """Return (mean, factor) of a subtraction and a multiplication among the first nodes, as MXNet's models have."""
    found = {}
    for node in graph.node[:8]:
        held = [_held(name, tensors, aliases) for name in node.input]
        if node.op_type in ('Sub', 'Mul') and len(held) == 2 and held[1] is not None and held[1].size == 1:
            found.setdefault(node.op_type, float(held[1].reshape(())))
    return (found['Sub'], found['Mul']) if len(found) == 2 else None


def _array(file: str, proto: Any, budget: Budget) -> np.ndarray:
    name, shape = proto.name, checked_shape(list(proto.dims), file, proto.name)
    if proto.data_location == 1 or proto.external_data:
        raise ValueError(f"{file}: refused: {shown(name)} lies in another file; save the model as one file")
    if proto.data_type not in _DTYPES:
        raise ValueError(f"{file}: {shown(name)} has the ONNX type {proto.data_type}, which weights do not have")
    dtype = np.dtype(_DTYPES[proto.data_type])
    budget.take(count_of(shape))
    if proto.raw_data:
        numbers = np.frombuffer(proto.raw_data, dtype) if len(proto.raw_data) % dtype.itemsize == 0 else np.zeros(0)
    elif proto.data_type in (1, 11, 7, 6):
        numbers = np.array({1: proto.float_data, 11: proto.double_data, 7: proto.int64_data,
                            6: proto.int32_data}[proto.data_type], dtype)
    else:
        numbers = np.array(proto.int32_data, np.int64).astype(np.uint16 if dtype.itemsize == 2 else np.uint8)
        numbers = numbers.view(dtype)
    if len(numbers) != count_of(shape):
        raise ValueError(f"{file}: {shown(name)} holds {len(numbers)} numbers, its shape {shape} takes "
                         f"{count_of(shape)}")
    numbers = numbers.reshape(shape)
    return bfloat16_to_float32(numbers) if proto.data_type == _BFLOAT16 else as_float32(numbers)


def _with_constants(file: str, graph: Any, tensors: dict, budget: Budget) -> dict:
    """Add Constant nodes to `tensors`; return {output: input} of nodes that only pass on or reshape."""
    aliases = {}
    for node in graph.node:
        if node.op_type == 'Constant' and node.output:
            for attribute in node.attribute:
                if attribute.name == 'value' and node.output[0] not in tensors:
                    tensors[checked_name(node.output[0], file, tensors)] = _array(file, attribute.t, budget)
        elif node.op_type in ('Identity', 'Unsqueeze', 'Reshape') and node.input and node.output:
            aliases[node.output[0]] = node.input[0]
    return aliases


def _operations(node: Any, tensors: dict, aliases: dict) -> list:
    """Return the layer that a node is, as a list of one or none."""
    held = [_held(name, tensors, aliases) for name in node.input]
    attributes = {attribute.name: attribute for attribute in node.attribute}
    kind, weights = node.op_type, held[1:]
    if kind == 'BatchNormalization' and len(weights) == 4 and all(array is not None for array in weights):
        eps = attributes['epsilon'].f if 'epsilon' in attributes else _NORM_EPS
        return [Operation('norm', dict(zip(_NORM_INPUTS, weights)), float(np.float32(eps)))]
    if kind not in ('Conv', 'PRelu', 'Gemm', 'MatMul') or not weights or weights[0] is None:
        return []
    weight, arrays = weights[0], {}
    if kind == 'PRelu':
        return [Operation('prelu', {'weight': weight.reshape(-1)})]
    if kind == 'MatMul' or kind == 'Gemm' and not ('transB' in attributes and attributes['transB'].i):
        weight = weight.T if weight.ndim == 2 else weight
    arrays['weight'] = np.ascontiguousarray(weight)
    if len(weights) > 1 and weights[1] is not None:
        arrays['bias'] = weights[1]
    return [Operation('conv' if kind == 'Conv' else 'linear', arrays)]


def _held(name: str, tensors: dict, aliases: dict) -> Any:
    """Return the array that a node's input is, through nodes that pass it on; None for what is computed."""
    for _ in range(8):
        if name in tensors or name not in aliases:
            return tensors.get(name)
        name = aliases[name]
    return None
