"""From a MindSpore network to a `Graph`: what it computes for a batch of any size, operation by operation.

    graph = trace(backbone)                    # backbone: (N, C, S, S) -> (N, D), for evaluation

MindSpore compiles the network as it does for a MINDIR; dropout and drop path are gone by that. An operation that the
writers do not know is a ValueError.
"""
import tempfile
from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore.common.initializer import initializer

from src.deploy.graph import BATCH, Graph, batch_axis
from src.deploy.mindir_file import Operation, Parameter, read_mindir


def trace(network: Any) -> Graph:
    """Return the graph of a backbone, or of a Cell with its `channels` and `image_size`. Raises ValueError."""
    shape = (BATCH, network.channels, network.image_size, network.image_size)
    with tempfile.TemporaryDirectory() as folder:
        ms.export(network, initializer('zeros', shape, ms.float32), file_name=f'{folder}/network.mindir',
                  file_format='MINDIR')
        file = read_mindir(folder)
    weights = {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}
    tracer = _Tracer(Graph('x', file.input_shape), {file.input_name: 'x'}, weights)
    for operation in file.operations:
        tracer.take(operation)
    tracer.graph.output = tracer.tensor(file.output)
    tracer.graph.prune()
    return tracer.graph


class _Tracer:
    """Adds MindSpore's operations to a graph. values: {MindSpore's name: ours, or a tuple of ours}."""

    def __init__(self, graph: Graph, values: dict, weights: dict):
        self.graph, self.values, self.weights = graph, values, weights

    def take(self, operation: Operation) -> None:
        """Add one operation."""
        known = _OPERATIONS.get(operation.kind)
        if known is None:
            raise ValueError(f"the network computes {operation.kind}, which the export does not know; add it to "
                             "src/deploy/trace.py, or export to MINDIR")
        self.values[operation.name] = known(self, operation)

    def tensor(self, value: Any) -> Any:
        """Return our name of an input: a computed value, a weight, or a number that becomes a constant."""
        if isinstance(value, str):
            return self.values[value]
        if isinstance(value, Parameter):
            if value.name not in self.graph.constants:
                self.graph.constants[value.name] = self.weights[value.name]
            return value.name
        return self.graph.add_constant(np.asarray(value, np.float32 if isinstance(value, float) else None))

    def node(self, op: str, operation: Operation, places: int, **attributes: Any) -> str:
        """Add a node with the first `places` inputs of `operation`, computed now if all of them are constants."""
        return self.add(op, [self.tensor(value) for value in operation.inputs[:places]], operation.shapes[0],
                        **attributes)

    def add(self, op: str, inputs: list, dims: tuple, **attributes: Any) -> str:
        """Add a node of output shape `dims`; what depends on constants alone is computed now."""
        arrays = [self.graph.constants.get(name) for name in inputs]
        if all(array is not None for array in arrays) and op in _COMPUTED:
            return self.graph.add_constant(_COMPUTED[op](attributes, *arrays))
        return self.graph.add(op, inputs, dims, **attributes)


_COMPUTED = {
    'Add': lambda a, x, y: x + y, 'Sub': lambda a, x, y: x - y, 'Mul': lambda a, x, y: x * y,
    'Div': lambda a, x, y: x / y, 'Reshape': lambda a, x: x.reshape(a['shape']),
    'Transpose': lambda a, x: np.ascontiguousarray(x.transpose(a['perm'])),
    'Gather': lambda a, x, rows: np.take(x, rows, a['axis']),
}


def _alias(tracer: _Tracer, operation: Operation) -> Any:
    return tracer.tensor(operation.inputs[0])


def _plain(op: str, places: int = 1, **attributes: Any) -> Callable:
    """Return what adds a node `op` of the first inputs."""
    return lambda tracer, operation: tracer.node(op, operation, places, **attributes)


def _same_padding(shape: tuple, kernel: tuple, strides: tuple) -> tuple:
    """Return (top, left, bottom, right) of pad_mode 'same'."""
    total = [max((-(-size // step) - 1) * step + side - size, 0)
             for size, side, step in zip(shape[2:], kernel, strides)]
    return total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2


def _conv(tracer: _Tracer, operation: Operation) -> str:
    settings = operation.settings
    image = tracer.graph.shape(tracer.tensor(operation.inputs[0]))
    kernel, strides, dilation = settings['kernel_size'], settings['stride'][-2:], settings['dilation'][-2:]
    mode = settings['pad_mode'].lower()
    if mode == 'pad':
        top, bottom, left, right = settings['pad']
        pads = top, left, bottom, right
    else:
        spread = tuple((side - 1) * step + 1 for side, step in zip(kernel, dilation))
        pads = _same_padding(image, spread, strides) if mode == 'same' else (0, 0, 0, 0)
    return tracer.node('Conv', operation, 2, strides=tuple(strides), pads=pads, group=settings['group'],
                       dilations=tuple(dilation))


def _bias_add(tracer: _Tracer, operation: Operation) -> str:
    """Give the bias to the convolution or linear layer that it belongs to."""
    x, bias = (tracer.tensor(value) for value in operation.inputs[:2])
    node = tracer.graph.producers().get(x)
    if node is not None and node.op in ('Conv', 'Gemm') and len(node.inputs) == 2 and tracer.graph.nodes[-1] is node:
        node.inputs.append(bias)
        return x
    rank = len(operation.shapes[0])
    array = tracer.graph.constants[bias].reshape((1, -1) + (1,) * (rank - 2))
    return tracer.add('Add', [x, tracer.graph.add_constant(array, bias)], operation.shapes[0])


def _matmul(tracer: _Tracer, operation: Operation) -> str:
    """A linear layer if the second factor is a weight, else a product of what was computed."""
    a, b, *further = operation.inputs
    turned = [bool(value) for value in further[:2]] or [operation.settings.get('transpose_a', False),
                                                        operation.settings.get('transpose_b', False)]
    names = [tracer.tensor(value) for value in (a, b)]
    weight = tracer.graph.constants.get(names[1])
    if weight is not None and weight.ndim == 2 and len(tracer.graph.shape(names[0])) == 2 and not turned[0]:
        if not turned[1]:
            names[1] = tracer.graph.add_constant(np.ascontiguousarray(weight.T), names[1] + '.T')
        return tracer.add('Gemm', names, operation.shapes[0])
    for place in (0, 1):
        if turned[place]:
            shape = tracer.graph.shape(names[place])
            perm = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
            names[place] = tracer.add('Transpose', [names[place]], (*shape[:-2], shape[-1], shape[-2]), perm=perm)
    return tracer.add('MatMul', names, operation.shapes[0])


def _batch_norm(tracer: _Tracer, operation: Operation) -> tuple:
    eps = operation.inputs[6] if len(operation.inputs) > 6 else operation.settings['epsilon']
    return (tracer.node('BatchNormalization', operation, 5, epsilon=float(eps)),)


def _layer_norm(tracer: _Tracer, operation: Operation) -> tuple:
    values = [*operation.inputs[3:], *(operation.settings.get(name) for name in ('begin_norm_axis', '_', 'epsilon'))]
    rank = len(operation.shapes[0])
    if values[0] not in (-1, rank - 1):
        raise ValueError(f"the network normalises over more than the last of {rank} axes, which cannot be exported")
    return (tracer.node('LayerNormalization', operation, 3, axis=-1, epsilon=float(values[2])),)


def _axes(value: Any, rank: int) -> tuple:
    """Return axes as a sorted tuple of numbers from 0."""
    given = range(rank) if value is None or value == () else [value] if isinstance(value, int) else value
    return tuple(sorted(axis % rank for axis in given))


def _reduced(op: str) -> Callable:
    def add(tracer: _Tracer, operation: Operation) -> str:
        name = tracer.tensor(operation.inputs[0])
        keeps = operation.inputs[2] if len(operation.inputs) > 2 else operation.settings.get('keep_dims', False)
        return tracer.add(op, [name], operation.shapes[0], keepdims=bool(keeps),
                          axes=_axes(operation.inputs[1], len(tracer.graph.shape(name))))
    return add


def _softmax(tracer: _Tracer, operation: Operation) -> str:
    axis = operation.inputs[1] if len(operation.inputs) > 1 else operation.settings['axis']
    axis, = _axes(axis, len(operation.shapes[0]))
    return tracer.node('Softmax', operation, 1, axis=axis)


def _split(tracer: _Tracer, operation: Operation) -> tuple:
    """(N, 2C, ...) -> two slices of C channels."""
    name, start, parts = tracer.tensor(operation.inputs[0]), 0, []
    axis, = _axes(operation.inputs[1] if len(operation.inputs) > 1 else operation.settings['axis'],
                  len(tracer.graph.shape(name)))
    for shape in operation.shapes:
        parts.append(tracer.add('Slice', [name], shape, axes=(axis,), starts=(start,), ends=(start + shape[axis],),
                                steps=(1,)))
        start += shape[axis]
    return tuple(parts)


def _strided_slice(tracer: _Tracer, operation: Operation) -> str:
    name = tracer.tensor(operation.inputs[0])
    begin, end, steps = operation.inputs[1:4]
    named = ('begin_mask', 'end_mask', 'ellipsis_mask', 'new_axis_mask', 'shrink_axis_mask')
    masks = [*operation.inputs[4:9], *(operation.settings.get(mask, 0) for mask in named[len(operation.inputs) - 4:])]
    if masks[2] or masks[3]:
        raise ValueError("the network slices with an ellipsis or a new axis, which the export does not know")
    shape, kept, cuts = list(tracer.graph.shape(name)), [], []
    for axis, size in enumerate(shape):
        if axis >= len(begin):
            continue
        first = None if masks[0] >> axis & 1 else begin[axis]
        last = None if masks[1] >> axis & 1 else end[axis]
        single = bool(masks[4] >> axis & 1)
        start, stop, step = slice(begin[axis], begin[axis] + 1 or None, 1).indices(size) if single else \
            slice(first, last, steps[axis]).indices(size)
        if (start, stop, step) != (0, size, 1):
            cuts.append((axis, start, stop, step))
            shape[axis] = len(range(start, stop, step))
        kept += [axis] * single
    if cuts:
        axes, starts, ends, strides = zip(*cuts)
        if any(size % BATCH == 0 for size in (tracer.graph.shape(name)[axis] for axis in axes)):
            raise ValueError("the network takes a part of a batch, which cannot be exported")
        name = tracer.add('Slice', [name], shape, axes=axes, starts=starts, ends=ends, steps=strides)
    return tracer.add('Reshape', [name], operation.shapes[0], shape=operation.shapes[0]) if kept else name


def _concat(tracer: _Tracer, operation: Operation) -> str:
    *parts, axis = operation.inputs if len(operation.inputs) > 1 else (*operation.inputs, operation.settings['axis'])
    names = [name for part in parts for name in _flat(tracer.tensor(part))]
    return tracer.add('Concat', names, operation.shapes[0], axis=axis % len(operation.shapes[0]))


def _flat(value: Any) -> list:
    return list(value) if isinstance(value, tuple) else [value]


def _transpose(tracer: _Tracer, operation: Operation) -> str:
    rank = len(operation.shapes[0])
    return tracer.node('Transpose', operation, 1, perm=tuple(axis % rank for axis in operation.inputs[1]))


def _pool(op: str) -> Callable:
    """MaxPool and AvgPool of (N, C, H, W)."""
    def add(tracer: _Tracer, operation: Operation) -> str:
        values = operation.inputs[1:4] if len(operation.inputs) > 3 else [
            operation.settings[name] for name in ('kernel_size', 'strides', 'pad_mode')]
        kernel, strides, mode = tuple(values[0])[-2:], tuple(values[1])[-2:], values[2]
        name = tracer.tensor(operation.inputs[0])
        same = mode in (1, 'SAME', 'same')
        if mode not in (1, 2, 'SAME', 'VALID', 'same', 'valid'):
            raise ValueError(f"the network pools with pad_mode {mode}, which the export does not know")
        pads = _same_padding(tracer.graph.shape(name), kernel, strides) if same else (0, 0, 0, 0)
        return tracer.add(op, [name], operation.shapes[0], kernel=kernel, strides=strides, pads=pads,
                          counts_padding=False)
    return add


def _pool_3d(op: str, pads_of: Callable, kernel_name: str) -> Callable:
    """The pooling of (N, C, 1, H, W), which is how MindSpore pads: as (N, C, H, W)."""
    def add(tracer: _Tracer, operation: Operation) -> Any:
        settings = operation.settings
        name = tracer.tensor(operation.inputs[0])
        n, c, depth, *sides = tracer.graph.shape(name)
        kernel, strides = settings[kernel_name][-3:], settings['strides'][-3:]
        if depth != 1 or kernel[0] != 1 or settings['ceil_mode']:
            raise ValueError("the network pools over depth or with ceil_mode, which the export does not know")
        flat = tracer.add('Reshape', [name], (n, c, *sides), shape=(n, c, *sides))
        shape = operation.shapes[0]
        pooled = tracer.add(op, [flat], (*shape[:2], *shape[3:]), kernel=kernel[1:], strides=strides[1:],
                            pads=pads_of(settings), counts_padding=bool(settings.get('count_include_pad', False)))
        pooled = tracer.add('Reshape', [pooled], shape, shape=shape)
        return (pooled,) if len(operation.shapes) > 1 else pooled
    return add


def _max_3d_pads(settings: dict) -> tuple:
    _, height, width = settings['pads']
    return height, width, height, width


def _average_3d_pads(settings: dict) -> tuple:
    top, bottom, left, right = settings['pad_list'][2:]
    return top, left, bottom, right


def _resize(tracer: _Tracer, operation: Operation) -> str:
    _, size, aligned, half_pixel = operation.inputs
    if not aligned or half_pixel:
        raise ValueError("the network resizes without aligned corners, which the export does not know")
    return tracer.node('Resize', operation, 1, mode='linear', sides=tuple(size))


def _expand(tracer: _Tracer, operation: Operation) -> str:
    return tracer.node('Expand', operation, 1, shape=operation.shapes[0])


def _reshape(tracer: _Tracer, operation: Operation) -> str:
    return tracer.node('Reshape', operation, 1, shape=operation.shapes[0])


def _reverse(tracer: _Tracer, operation: Operation) -> str:
    value = operation.inputs[1] if len(operation.inputs) > 1 else operation.settings['axis']
    shape = operation.shapes[0]
    axes = _axes(value, len(shape))
    if batch_axis(shape) in axes:
        raise ValueError("the network reverses a batch, which cannot be exported")
    return tracer.node('Slice', operation, 1, axes=axes, starts=(-1,) * len(axes),
                       ends=tuple(-shape[axis] - 1 for axis in axes), steps=(-1,) * len(axes))


def _clamp(tracer: _Tracer, operation: Operation) -> str:
    return tracer.node('Clip', operation, 1, low=operation.inputs[1], high=operation.inputs[2])


def _gather(tracer: _Tracer, operation: Operation) -> str:
    table, rows = (tracer.tensor(value) for value in operation.inputs[:2])
    if table not in tracer.graph.constants or rows not in tracer.graph.constants:
        raise ValueError("the network gathers by computed numbers, which the export does not know")
    return tracer.add('Gather', [table, rows], operation.shapes[0], axis=operation.inputs[2])


def _tuple_item(tracer: _Tracer, operation: Operation) -> Any:
    return tracer.tensor(operation.inputs[0])[operation.inputs[1]]


def _make_tuple(tracer: _Tracer, operation: Operation) -> tuple:
    return tuple(tracer.tensor(value) for value in operation.inputs if isinstance(value, (str, Parameter)))


_OPERATIONS: dict = {
    **dict.fromkeys(('Load', 'Depend', 'Identity', 'Cast', 'Contiguous'), _alias),
    'UpdateState': lambda tracer, operation: None, 'MakeTuple': _make_tuple, 'TupleGetItem': _tuple_item,
    'Conv2D': _conv, 'BiasAdd': _bias_add, 'BatchNorm': _batch_norm, 'LayerNorm': _layer_norm,
    **dict.fromkeys(('MatMul', 'BatchMatMul', 'MatMulExt', 'BatchMatMulExt'), _matmul),
    **dict.fromkeys(('Reshape', 'Flatten', 'ExpandDims', 'Squeeze'), _reshape), 'Transpose': _transpose,
    'Split': _split, 'StridedSlice': _strided_slice, 'Concat': _concat, 'BroadcastTo': _expand, 'Gather': _gather,
    'ReverseV2': _reverse, 'ResizeBilinearV2': _resize, 'Softmax': _softmax, 'ClampScalar': _clamp,
    **dict.fromkeys(('ReduceMean', 'MeanExt'), _reduced('ReduceMean')),
    **dict.fromkeys(('ReduceSum', 'SumExt'), _reduced('ReduceSum')),
    'MaxPool': _pool('MaxPool'), 'AvgPool': _pool('AveragePool'),
    'MaxPool3DWithArgmax': _pool_3d('MaxPool', _max_3d_pads, 'ksize'),
    'AvgPool3D': _pool_3d('AveragePool', _average_3d_pads, 'kernel_size'),
    **{kind: _plain(op, 2) for kind, op in (
        ('Add', 'Add'), ('Sub', 'Sub'), ('Mul', 'Mul'), ('Div', 'Div'), ('RealDiv', 'Div'), ('Maximum', 'Max'),
        ('Minimum', 'Min'), ('Muls', 'Mul'), ('Adds', 'Add'), ('Divs', 'Div'), ('PReLU', 'PRelu'))},
    **{kind: _plain(op) for kind, op in (
        ('ReLU', 'Relu'), ('Sigmoid', 'Sigmoid'), ('SiLU', 'Silu'), ('Erf', 'Erf'), ('Sqrt', 'Sqrt'),
        ('Rsqrt', 'Rsqrt'), ('Tanh', 'Tanh'), ('Exp', 'Exp'), ('Abs', 'Abs'), ('HSwish', 'HardSwish'))},
    'ReLU6': _plain('Clip', low=0.0, high=6.0), 'HSigmoid': _plain('HardSigmoid', alpha=1 / 6, beta=0.5),
}
