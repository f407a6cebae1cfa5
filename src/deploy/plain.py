"""`--ir 1`: a network in operators whose form has not changed since MindSpore 1, which MindSpore Lite 2.0 knows.

    cell = PlainNetwork(plain_graph(graph))        # (N, C, S, S) -> (N, D), the same function

BatchNorm is folded or a multiplication and an addition, a linear layer is a 1x1 convolution, a mean is a convolution
of each map by itself, and Max-Feature-Map two convolutions of half the channels: Lite 2.0 has no Split for MINDIR.
Concat has changed its form: GhostNet and ReXNet are refused.
"""
from collections.abc import Callable

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.deploy.fold import scale_and_shift
from src.deploy.graph import BATCH, Graph, Node

_PART = 40                       # operations


class Conv(nn.Cell):
    """A convolution and its bias as two operators: Conv2D and Add."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, strides: tuple, pads: tuple, groups: int):
        super().__init__()
        top, left, bottom, right = pads
        out_channels, in_channels, *kernel = weight.shape
        self.conv = nn.Conv2d(in_channels * groups, out_channels, tuple(kernel), strides, pad_mode='pad',
                              padding=(top, bottom, left, right), group=groups, has_bias=False,
                              weight_init=Tensor(weight))
        self.has_bias = bool(np.any(bias))
        if self.has_bias:
            self.bias = Parameter(Tensor(bias.reshape(1, -1, 1, 1)), name='bias')

    def construct(self, inputs):
        out = self.conv(inputs[0])
        return out + self.bias if self.has_bias else out


class Reshape(nn.Cell):
    """To a shape whose batch is -1."""

    def __init__(self, shape: tuple):
        super().__init__()
        self.shape = shape
        self.reshape = ops.Reshape()

    def construct(self, inputs):
        return self.reshape(inputs[0], self.shape)


class WithArray(nn.Cell):
    """An operator of one computed value and one weight."""

    def __init__(self, operator: nn.Cell, array: np.ndarray):
        super().__init__()
        self.operator, self.array = operator, Parameter(Tensor(array), name='array')

    def construct(self, inputs):
        return self.operator(inputs[0], self.array)


class Each(nn.Cell):
    """An operator of one value."""

    def __init__(self, operator: nn.Cell):
        super().__init__()
        self.operator = operator

    def construct(self, inputs):
        return self.operator(inputs[0])


class Both(nn.Cell):
    """An operator of two values."""

    def __init__(self, operator: nn.Cell):
        super().__init__()
        self.operator = operator

    def construct(self, inputs):
        return self.operator(inputs[0], inputs[1])


class Part(nn.Cell):
    """Some operations in a row: what was computed before -> the same and their results."""

    def __init__(self, cells: list, places: list):
        super().__init__()
        self.cells_in_order, self.places = nn.CellList(cells), tuple(places)

    def construct(self, values):
        for i in range(len(self.places)):
            inputs = ()
            for place in self.places[i]:
                inputs = inputs + (values[place],)
            values = values + (self.cells_in_order[i](inputs),)
        return values


class PlainNetwork(nn.Cell):
    """The operations of a graph, one cell each, in their order; in parts, for MindSpore unrolls a loop by recursion."""

    def __init__(self, graph: Graph):
        super().__init__()
        place = {graph.input: 0, **{node.output: i + 1 for i, node in enumerate(graph.nodes)}}
        cells = [_CELLS[node.op](graph, node) for node in graph.nodes]
        places = [tuple(place[name] for name in node.inputs if name in place) for node in graph.nodes]
        starts = range(0, len(cells), _PART)
        self.parts = nn.CellList([Part(cells[start:start + _PART], places[start:start + _PART]) for start in starts])
        self.last = place[graph.output]
        self.set_train(False)

    def construct(self, x):
        values = (x,)
        for part in self.parts:
            values = part(values)
        return values[self.last]


def plain_graph(graph: Graph, name: str = 'the network') -> Graph:
    """Return the folded `graph` in plain operations; ValueError names what Lite 2.0 does not know."""
    graph = graph.copy()
    steps = (_parts_of_layers, _linear, _norm, _mean, _gates)
    for step in steps:
        nodes = []
        for node in graph.nodes:
            nodes += step(graph, node)
        graph.nodes = nodes
        graph.prune()
    unknown = sorted({node.op for node in graph.nodes} - set(_CELLS))
    if unknown:
        raise ValueError(f"--ir 1: {name} needs operators that MindSpore Lite 2.0 does not know "
                         f"({', '.join(unknown)}); leave --ir away")
    return graph


def _parts_of_layers(graph: Graph, node: Node) -> list:
    """A slice of a layer's channels is a layer of those channels."""
    layer = graph.producers().get(node.inputs[0]) if node.op == 'Slice' else None
    if layer is None:
        return [node]
    if node['axes'] == (2, 3) and len(set(node['steps'])) == 1 and node['steps'][0] > 0 and not any(node['starts']):
        channels = graph.shapes[node.output][1]
        one = graph.add_constant(np.ones((channels, 1, 1, 1), np.float32))
        return [_conv_node(graph, node, [node.inputs[0], one], group=channels, strides=node['steps'])]
    whole = layer.op == 'Gemm' or layer.op == 'Conv' and layer['group'] == 1
    if not whole or node['axes'] != (1,) or node['steps'] != (1,):
        return [node]
    rows = slice(node['starts'][0], node['ends'][0])
    stem = layer.inputs[1].rpartition('.')[0]
    parts = [graph.add_constant(graph.constants[name][rows], f'{stem}.from{rows.start}.{kind}')
             for name, kind in zip(layer.inputs[1:], ('weight', 'bias'))]
    return [Node(layer.op, [layer.inputs[0], *parts], node.output, dict(layer.attributes))]


def _conv_node(graph: Graph, node: Node, inputs: list, **settings: object) -> Node:
    attributes = {'strides': (1, 1), 'pads': (0, 0, 0, 0), 'group': 1, 'dilations': (1, 1), **settings}
    return Node('Conv', inputs, node.output, attributes)


def _linear(graph: Graph, node: Node) -> list:
    """(N, K) -> (N, D) as (N, K, 1, 1) -> (N, D, 1, 1)."""
    if node.op != 'Gemm':
        return [node]
    weight = graph.constants[node.inputs[1]]
    kernel = graph.add_constant(weight[:, :, None, None], f'{node.inputs[1]}.4d')
    rows = graph.shapes[node.output][0]
    maps, out = graph.new_name('reshape'), graph.new_name('conv')
    graph.shapes[maps], graph.shapes[out] = (rows, weight.shape[1], 1, 1), (rows, len(weight), 1, 1)
    conv = _conv_node(graph, node, [maps, kernel, *node.inputs[2:]])
    conv.output = out
    return [Node('Reshape', [node.inputs[0]], maps, {}), conv, Node('Reshape', [out], node.output, {})]


def _norm(graph: Graph, node: Node) -> list:
    """A BatchNorm that is left: times a number a map, plus one."""
    if node.op != 'BatchNormalization':
        return [node]
    shape = graph.shapes[node.output]
    arrays = [graph.add_constant(array.astype(np.float32).reshape((1, -1) + (1,) * (len(shape) - 2)))
              for array in scale_and_shift(graph, node)]
    scaled = graph.new_name('mul')
    graph.shapes[scaled] = shape
    return [Node('Mul', [node.inputs[0], arrays[0]], scaled), Node('Add', [scaled, arrays[1]], node.output)]


def _mean(graph: Graph, node: Node) -> list:
    """A mean over the map or a window, as a convolution of each map: AvgPool has changed its form."""
    shape = graph.shape(node.inputs[0])
    if node.op == 'ReduceMean' and len(shape) == 4 and node['axes'] == (2, 3) and node['keepdims']:
        kernel, settings = shape[2:], {}
    elif node.op == 'AveragePool' and (node['counts_padding'] or not any(node['pads'])):
        kernel, settings = node['kernel'], {'strides': node['strides'], 'pads': node['pads']}
    else:
        return [node]
    weight = graph.add_constant(np.full((shape[1], 1, *kernel), 1 / (kernel[0] * kernel[1]), np.float32))
    return [_conv_node(graph, node, [node.inputs[0], weight], group=shape[1], **settings)]


def _gates(graph: Graph, node: Node) -> list:
    """SiLU, hard sigmoid and a limit of 0 to 6 in older operators."""
    x, out = node.inputs[0], node.output
    if node.op == 'Clip' and (node['low'], node['high']) == (0, 6):
        return [Node('Relu6', [x], out)]
    if node.op == 'Silu':
        gate = graph.new_name('sigmoid')
        return [Node('Sigmoid', [x], gate), Node('Mul', [x, gate], out)]
    if node.op == 'HardSigmoid' and abs(node['alpha'] - 1 / 6) < 1e-7 and node['beta'] == 0.5:
        three, sixth = (graph.add_constant(np.float32([value]).reshape(1, 1, 1, 1)) for value in (3, 1 / 6))
        plus, cut = graph.new_name('add'), graph.new_name('relu6')
        return [Node('Add', [x, three], plus), Node('Relu6', [plus], cut), Node('Mul', [cut, sixth], out)]
    return [node]


def _with_batch(shape: tuple) -> tuple:
    return tuple(-1 if size % BATCH == 0 else size for size in shape)


def _conv_cell(graph: Graph, node: Node) -> Conv:
    weight, bias = graph.constants[node.inputs[1]], graph.array(node, 2)
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    return Conv(weight, bias, tuple(node['strides']), node['pads'], node['group'])


def _pool_cell(graph: Graph, node: Node) -> nn.Cell:
    if any(node['pads']):
        raise ValueError("--ir 1: the network pads before a maximum, which MindSpore Lite 2.0 does not know; leave "
                         "--ir away")
    return Each(nn.MaxPool2d(tuple(node['kernel']), tuple(node['strides'])))


def _two(operator: type) -> Callable:
    def make(graph: Graph, node: Node) -> nn.Cell:
        arrays = [graph.constants[name] for name in node.inputs if name in graph.constants]
        if not arrays:
            return Both(operator())
        if node.inputs[0] in graph.constants and operator is ops.Sub:
            raise ValueError("--ir 1: a number minus a map is not known to MindSpore Lite 2.0; leave --ir away")
        return WithArray(operator(), np.atleast_1d(arrays[0]))
    return make


_CELLS: dict[str, Callable] = {
    'Conv': _conv_cell, 'Reshape': lambda graph, node: Reshape(_with_batch(graph.shapes[node.output])),
    'MaxPool': _pool_cell,
    'Add': _two(ops.Add), 'Sub': _two(ops.Sub), 'Mul': _two(ops.Mul), 'Max': _two(ops.Maximum),
    'PRelu': lambda graph, node: WithArray(ops.PReLU(), graph.constants[node.inputs[1]].reshape(-1)),
    'Relu': lambda graph, node: Each(ops.ReLU()), 'Relu6': lambda graph, node: Each(ops.ReLU6()),
    'Sigmoid': lambda graph, node: Each(ops.Sigmoid())}
