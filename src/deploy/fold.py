"""Fewer operations for the same function: BatchNorm goes into the convolution or linear layer beside it.

    report = fold(graph)                       # {'folded behind': 50, 'folded before': 0, 'kept': 0, 'why': ''}

A BatchNorm behind a layer, y = scale * (W x + b) + shift, becomes part of its weights; so does one before a layer that
does not pad. Before a padded convolution it stays: the border of the map would be 0 before the shift, not after it.
All of it is computed in float64 and rounded once.
"""
from collections.abc import Callable
from typing import Optional

import numpy as np

from src.deploy.graph import Graph, Node

_LAYERS = ('Conv', 'Gemm')


def fold(graph: Graph) -> dict:
    """Fold every BatchNorm that can be, in place; return how many went where and how many stayed, and why."""
    simplify(graph)
    found = graph.operations()['BatchNormalization']
    behind = _until_done(graph, _fold_behind)
    before = _until_done(graph, _fold_before)
    kept = [node for node in graph.nodes if node.op == 'BatchNormalization']
    padded = sum(_first_user(graph, node, ('Conv',)) is not None for node in kept)
    reasons = [f'{padded} before padded convolutions'] * (padded > 0)
    reasons += [f'{len(kept) - padded} beside no layer that could take them'] * (len(kept) > padded)
    return {'batch_norms': found, 'folded_behind': behind, 'folded_before': before, 'kept': len(kept),
            'why_kept': ', '.join(reasons)}


def simplify(graph: Graph) -> None:
    """Drop what changes nothing and give well-known groups of operations their names, in place."""
    for step in (_join_reshapes, _norm_of_vectors, _join_reshapes, _nearest, _gelu):
        _until_done(graph, step)
    graph.prune()


def _until_done(graph: Graph, step: Callable) -> int:
    """Call step(graph, node) for every node until nothing changes; return how often it changed something."""
    changes, changed = 0, True
    while changed:
        changed = False
        context = Context(graph)
        for node in list(graph.nodes):
            if node.output in context.users and step(context, node):
                changes, changed = changes + 1, True
                context = Context(graph)
        graph.prune()
    return changes


class Context:
    """A graph with its producers and users at hand."""

    def __init__(self, graph: Graph):
        self.graph, self.producers, self.users = graph, graph.producers(), graph.users()

    def source(self, name: str, *ops: str) -> Optional[Node]:
        """Return the node that computes `name` if it is one of `ops` and nothing else uses its result."""
        node = self.producers.get(name)
        return node if node is not None and node.op in ops and self.users[name] == 1 else None

    def only_user(self, name: str, *ops: str) -> Optional[Node]:
        """Return the only node that uses `name`, if it is one of `ops`."""
        if self.users[name] != 1:
            return None
        return next((node for node in self.graph.nodes if name in node.inputs and node.op in ops), None)


def _join_reshapes(context: Context, node: Node) -> bool:
    """A reshape of a reshape is one; a reshape to the same shape is none."""
    graph = context.graph
    if node.op != 'Reshape':
        return False
    if graph.shape(node.inputs[0]) == graph.shapes[node.output]:
        graph.rename(node.output, node.inputs[0])
        return True
    earlier = context.producers.get(node.inputs[0])
    if earlier is None or earlier.op != 'Reshape':
        return False
    node.inputs = [earlier.inputs[0]]
    return True


def _norm_of_vectors(context: Context, node: Node) -> bool:
    """BatchNorm over (N, C) comes as one over (N, C, 1, 1) between two reshapes."""
    graph = context.graph
    if node.op != 'BatchNormalization' or graph.shapes[node.output][2:] != (1, 1):
        return False
    before, after = context.source(node.inputs[0], 'Reshape'), context.only_user(node.output, 'Reshape')
    if before is None or after is None or len(graph.shape(before.inputs[0])) != 2:
        return False
    node.inputs[0] = before.inputs[0]
    graph.shapes[node.output] = graph.shape(before.inputs[0])
    return True


def _nearest(context: Context, node: Node) -> bool:
    """(N, C, H, 1, W, 1) spread over (N, C, H, f, W, f) is a resize by f to the nearest."""
    graph = context.graph
    if node.op != 'Expand':
        return False
    before, after = context.producers.get(node.inputs[0]), context.only_user(node.output, 'Reshape')
    n, c, *sides = graph.shapes[node.output]
    if before is None or before.op != 'Reshape' or after is None or len(sides) != 4:
        return False
    height, first, width, second = sides
    small, large = (n, c, height, width), (n, c, height * first, width * second)
    if (graph.shape(before.inputs[0]), graph.shape(before.output), graph.shapes[after.output]) != \
            (small, (n, c, height, 1, width, 1), large):
        return False
    after.op, after.inputs, after.attributes = 'Resize', [before.inputs[0]], {'mode': 'nearest', 'sides': large[2:]}
    return True


def _gelu(context: Context, node: Node) -> bool:
    """x * (1 + erf(x / sqrt 2)) * 0.5."""
    if node.op != 'Erf':
        return False
    divided = context.source(node.inputs[0], 'Div')
    plus = context.only_user(node.output, 'Add')
    times = context.only_user(plus.output, 'Mul') if plus else None
    half = context.only_user(times.output, 'Mul') if times else None
    if divided is None or half is None or divided.inputs[0] not in times.inputs:
        return False
    numbers = [_number(context.graph, divided), _number(context.graph, plus), _number(context.graph, half)]
    if None in numbers or not np.allclose(numbers, [2 ** 0.5, 1, 0.5], 1e-6):
        return False
    half.op, half.inputs = 'Gelu', [divided.inputs[0]]
    return True


def _number(graph: Graph, node: Node) -> Optional[float]:
    """Return the single number that is the second input of a node."""
    array = graph.array(node, 1)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def scale_and_shift(graph: Graph, node: Node) -> tuple:
    """Return what a BatchNorm multiplies with and adds, (C,) float64 each."""
    gamma, beta, mean, variance = (graph.constants[name].astype(np.float64) for name in node.inputs[1:])
    scale = gamma / np.sqrt(variance + node['epsilon'])
    return scale, beta - mean * scale


def _weights(graph: Graph, layer: Node) -> tuple:
    """Return (weight, bias) of a layer as float64; zeros without a bias."""
    weight = graph.constants[layer.inputs[1]].astype(np.float64)
    bias = graph.constants[layer.inputs[2]].astype(np.float64) if len(layer.inputs) > 2 else np.zeros(len(weight))
    return weight, bias


def _set_weights(graph: Graph, layer: Node, weight: np.ndarray, bias: np.ndarray) -> None:
    stem = layer.inputs[1].removesuffix('.weight').removesuffix('.folded')
    layer.inputs[1:] = [_shared(graph, weight.astype(np.float32), f'{stem}.folded.weight'),
                        _shared(graph, bias.astype(np.float32), f'{stem}.folded.bias')]


def _shared(graph: Graph, array: np.ndarray, name: str) -> str:
    """Keep an array under `name`, or find it there: with --flip a layer stands twice in the graph."""
    held = graph.constants.get(name)
    return name if held is not None and np.array_equal(held, array) else graph.add_constant(array, name)


def _fold_behind(context: Context, node: Node) -> bool:
    """Convolution or linear layer, then BatchNorm."""
    graph = context.graph
    layer = context.source(node.inputs[0], *_LAYERS) if node.op == 'BatchNormalization' else None
    if layer is None or graph.array(layer, 1) is None:
        return False
    scale, shift = scale_and_shift(graph, node)
    weight, bias = _weights(graph, layer)
    _set_weights(graph, layer, weight * scale.reshape((-1,) + (1,) * (weight.ndim - 1)), bias * scale + shift)
    graph.rename(node.output, layer.output)
    return True


def _first_user(graph: Graph, node: Node, ops: tuple) -> Optional[Node]:
    return next((user for user in graph.nodes if node.output in user.inputs[:1] and user.op in ops), None)


def _fold_before(context: Context, node: Node) -> bool:
    """BatchNorm, a flattening perhaps, then a layer that does not pad."""
    graph = context.graph
    if node.op != 'BatchNormalization':
        return False
    layer = context.only_user(node.output, 'Reshape', *_LAYERS)
    flattened = layer is not None and layer.op == 'Reshape'
    if flattened:
        layer = context.only_user(layer.output, 'Gemm')
    if layer is None or graph.array(layer, 1) is None or any(layer.attributes.get('pads', ())):
        return False
    scale, shift = scale_and_shift(graph, node)
    weight, bias = _weights(graph, layer)
    if layer.op == 'Gemm':
        channels = len(scale)
        if weight.shape[1] % channels:
            return False
        each = weight.shape[1] // channels
        scale, shift = np.repeat(scale, each), np.repeat(shift, each)          # (C,) -> (C * H * W,)
        bias, weight = bias + weight @ shift, weight * scale
    else:
        groups, inputs = layer['group'], weight.shape[1]                       # (out, in / groups, h, w)
        rows = np.repeat(np.arange(groups), len(weight) // groups)[:, None] * inputs + np.arange(inputs)
        bias = bias + (weight.sum((2, 3)) * shift[rows]).sum(1)
        weight = weight * scale[rows][:, :, None, None]
    _set_weights(graph, layer, weight, bias)
    graph.rename(node.output, node.inputs[0])
    return True
