"""From a `Graph` to an ONNX file: opset 13, or 17 where LayerNormalization is in it.

    write_graph(graph, 'model.onnx', batch_size=None)          # None: any; needs the package onnx
"""
from collections.abc import Callable
from math import sqrt
from typing import Any, Optional

import numpy as np

from src.deploy.graph import BATCH, Graph, Node, batch_axis, for_batch

MISSING = "ONNX needs two more packages: pip install onnx onnxruntime"


def need_onnx() -> None:
    """Raise ValueError where the package onnx is missing."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise ValueError(MISSING) from None


def write_graph(graph: Graph, file: str, *, batch_size: Optional[int]) -> str:
    """Write the graph; return the name of its input. batch_size: None for any."""
    import onnx
    writer = _Writer(graph, onnx.helper, onnx.numpy_helper)
    for node in graph.nodes:
        _NODES.get(node.op, _same)(writer, node)
    taken, given = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, _declared(shape, batch_size))
                    for name, shape in ((graph.input, graph.shape(graph.input)),
                                        ('embedding', graph.shape(graph.output))))
    for node in writer.nodes:
        node.output[:] = ['embedding' if name == graph.output else name for name in node.output]
        node.input[:] = ['embedding' if name == graph.output else name for name in node.input]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(writer.nodes, 'embedding network', [taken], [given], writer.initializers),
        producer_name='lightcnn-mindspore', ir_version=8,
        opset_imports=[onnx.helper.make_opsetid('', 17 if 'LayerNormalization' in graph.operations() else 13)])
    onnx.checker.check_model(model)
    onnx.save(model, file)
    return graph.input


def _declared(shape: tuple, batch_size: Optional[int]) -> list:
    return ['N', *shape[1:]] if batch_size is None else list(for_batch(shape, batch_size))


class _Writer:
    """Nodes and initializers of an ONNX graph."""

    def __init__(self, graph: Graph, helper: Any, arrays: Any):
        self.graph, self.helper, self.arrays = graph, helper, arrays
        self.nodes: list = []
        self.initializers: list = []
        self.held: set = set()

    def constant(self, name: str, array: np.ndarray) -> str:
        """Keep an initializer once; return its name."""
        if name not in self.held:
            self.held.add(name)
            self.initializers.append(self.arrays.from_array(np.ascontiguousarray(array), name))
        return name

    def inputs(self, node: Node) -> list:
        """Return the names of a node's inputs, constants kept."""
        for name in node.inputs:
            if name in self.graph.constants:
                self.constant(name, self.graph.constants[name])
        return list(node.inputs)

    def add(self, op: str, inputs: list, output: str, **attributes: Any) -> str:
        """Add a node; return its output."""
        self.nodes.append(self.helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def numbers(self, node: Node, what: str, values: Any, dtype: type = np.int64) -> str:
        """Return the name of a setting that ONNX takes as an input."""
        return self.constant(f'{node.output}.{what}', np.asarray(values, dtype))


def _same(writer: _Writer, node: Node) -> None:
    """An operation whose name and attributes are ONNX's own."""
    writer.add(node.op, writer.inputs(node), node.output, **node.attributes)


def _conv(writer: _Writer, node: Node) -> None:
    kernel = writer.graph.shape(node.inputs[1])[2:]
    writer.add('Conv', writer.inputs(node), node.output, kernel_shape=kernel, **node.attributes)


def _gemm(writer: _Writer, node: Node) -> None:
    writer.add('Gemm', writer.inputs(node), node.output, transB=1)


def _prelu(writer: _Writer, node: Node) -> None:
    """Slopes (C,) -> (C, 1, 1)."""
    slopes = writer.graph.constants[node.inputs[1]]
    rank = len(writer.graph.shapes[node.output])
    name = writer.constant(node.inputs[1], slopes.reshape((-1,) + (1,) * (rank - 2)))
    writer.add('PRelu', [node.inputs[0], name], node.output)


def _target(shape: tuple) -> list:
    """Return a shape with -1 for what grows with the batch."""
    return [-1 if axis == batch_axis(shape) else size for axis, size in enumerate(shape)]


def _reshape(writer: _Writer, node: Node) -> None:
    shape = _target(writer.graph.shapes[node.output])
    writer.add('Reshape', [*writer.inputs(node), writer.numbers(node, 'shape', shape)], node.output)


def _expand(writer: _Writer, node: Node) -> None:
    shape = [1 if size % BATCH == 0 else size for size in node['shape']]
    writer.add('Expand', [*writer.inputs(node), writer.numbers(node, 'shape', shape)], node.output)


def _slice(writer: _Writer, node: Node) -> None:
    given = [writer.numbers(node, what, node[what]) for what in ('starts', 'ends', 'axes', 'steps')]
    writer.add('Slice', [*writer.inputs(node), *given], node.output)


def _clip(writer: _Writer, node: Node) -> None:
    limits = ['' if node[name] is None else writer.numbers(node, name, node[name], np.float32)
              for name in ('low', 'high')]
    writer.add('Clip', [*writer.inputs(node), *limits], node.output)


def _resize(writer: _Writer, node: Node) -> None:
    n, c, height, width = writer.graph.shape(node.inputs[0])
    scales = [1, 1, *(large / small for large, small in zip(node['sides'], (height, width)))]
    nearest = node['mode'] == 'nearest'
    further = {'nearest_mode': 'floor', 'coordinate_transformation_mode': 'asymmetric'} if nearest else \
        {'coordinate_transformation_mode': 'align_corners'}
    writer.add('Resize', [*writer.inputs(node), '', writer.numbers(node, 'scales', scales, np.float32)], node.output,
               mode=node['mode'], **further)


def _pool(writer: _Writer, node: Node) -> None:
    further = {'count_include_pad': int(node['counts_padding'])} if node.op == 'AveragePool' else {}
    writer.add(node.op, writer.inputs(node), node.output, kernel_shape=node['kernel'], strides=node['strides'],
               pads=node['pads'], **further)


def _reduce_sum(writer: _Writer, node: Node) -> None:
    writer.add('ReduceSum', [*writer.inputs(node), writer.numbers(node, 'axes', node['axes'])], node.output,
               keepdims=int(node['keepdims']))


def _reduce_mean(writer: _Writer, node: Node) -> None:
    if node['axes'] == (2, 3) and node['keepdims'] and len(writer.graph.shapes[node.output]) == 4:
        writer.add('GlobalAveragePool', writer.inputs(node), node.output)
    else:
        writer.add('ReduceMean', writer.inputs(node), node.output, axes=node['axes'], keepdims=int(node['keepdims']))


def _silu(writer: _Writer, node: Node) -> None:
    gate = writer.add('Sigmoid', writer.inputs(node), f'{node.output}.gate')
    writer.add('Mul', [node.inputs[0], gate], node.output)


def _hard_swish(writer: _Writer, node: Node) -> None:
    gate = writer.add('HardSigmoid', writer.inputs(node), f'{node.output}.gate', alpha=1 / 6, beta=0.5)
    writer.add('Mul', [node.inputs[0], gate], node.output)


def _rsqrt(writer: _Writer, node: Node) -> None:
    root = writer.add('Sqrt', writer.inputs(node), f'{node.output}.root')
    writer.add('Reciprocal', [root], node.output)


def _gelu(writer: _Writer, node: Node) -> None:
    x, out = node.inputs[0], node.output
    divided = writer.add('Div', [x, writer.numbers(node, 'root', sqrt(2), np.float32)], f'{out}.divided')
    erf = writer.add('Erf', [divided], f'{out}.erf')
    plus = writer.add('Add', [erf, writer.numbers(node, 'one', 1, np.float32)], f'{out}.plus')
    half = writer.add('Mul', [x, writer.numbers(node, 'half', 0.5, np.float32)], f'{out}.x')
    writer.add('Mul', [half, plus], out)


_NODES: dict[str, Callable] = {
    'Conv': _conv, 'Gemm': _gemm, 'PRelu': _prelu, 'Reshape': _reshape, 'Expand': _expand, 'Slice': _slice,
    'Clip': _clip, 'Resize': _resize, 'MaxPool': _pool, 'AveragePool': _pool, 'ReduceSum': _reduce_sum,
    'ReduceMean': _reduce_mean, 'Silu': _silu, 'HardSwish': _hard_swish, 'Rsqrt': _rsqrt, 'Gelu': _gelu}
