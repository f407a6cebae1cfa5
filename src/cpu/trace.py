"""What a backbone computes, as a list of nodes: its `construct` is run once with nodes in place of tensors.

    graph = trace(backbone, (64, 3, 112, 112))           # graph.nodes in the order of computation, graph.output

Networks are written once, in MindSpore: this reads them for the CPU's own executors (`src.cpu.training_graph`,
`src.cpu.inference_graph`). What it does not know raises `Untraceable`, and the network then runs in MindSpore.
"""
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Optional

import numpy as np
from mindspore import dtype as mstype
from mindspore import nn, ops

_LOCK = threading.RLock()                 # MindSpore's classes are patched while a network is traced


class Untraceable(ValueError):
    """A network with an operation that the executors do not have."""


class Node:
    """A value while a network is traced: `shape` is that of the plain tensor, `op` says how it comes from `inputs`.

    cell: where its weights are. data: True for what is made of images and noise alone, by `function` of NumPy arrays.
    """

    def __init__(self, op: str, inputs: tuple, shape: tuple, *, cell: Any = None, function: Optional[Callable] = None,
                 data: bool = False, **settings: Any):
        self.op, self.inputs, self.shape, self.cell = op, inputs, tuple(map(int, shape)), cell
        self.function, self.data, self.settings, self.users = function, data, settings, []
        self.index = -1
        graph = _tracing.graph
        if graph is None:
            raise Untraceable('a node outside of a trace')
        graph.add(self)

    ndim = property(lambda self: len(self.shape))
    dtype = mstype.float32

    def size(self) -> int:
        """Return the numbers that the value holds."""
        return int(np.prod(self.shape))

    def _made_of_data(self, function):
        if not self.data:
            raise Untraceable('an operation on maps')
        shape = function(np.zeros(self.shape, np.float32)).shape
        return Node('data', (self,), shape, function=function, data=True)

    def __getitem__(self, key):
        if self.data:
            return self._made_of_data(lambda x: x[key])
        keys = key if isinstance(key, tuple) else (key,)
        steps = {k.step for k in keys[2:] if isinstance(k, slice) and (k.start, k.stop) == (None, None)}
        if len(keys) == 4 and keys[:2] == (slice(None),) * 2 and len(steps) == 1 and len(self.shape) == 4:
            step = steps.pop() or 1
            return Node('subsample', (self,), (*self.shape[:2], *(-(-side // step) for side in self.shape[2:])),
                        stride=step)
        if len(keys) == 2 and keys[0] == slice(None) and isinstance(keys[1], slice) and keys[1].step is None:
            start, stop, _ = keys[1].indices(self.shape[1])
            return Node('channels', (self,), (self.shape[0], stop - start, *self.shape[2:]), start=start, stop=stop)
        raise Untraceable(f'slices {key}')

    def __ge__(self, limit):
        return self._made_of_data(lambda x: (x >= limit).astype(np.float32))

    def __truediv__(self, divisor):
        return self._made_of_data(lambda x: x / np.float32(divisor))

    def astype(self, dtype: Any) -> 'Node':
        """Return the value itself: all are float32."""
        if dtype != mstype.float32:
            raise Untraceable(f'numbers of type {dtype}')
        return self

    def reshape(self, *shape: Any) -> 'Node':
        """Return the value in another shape: noise, or all maps of an image in a row."""
        shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        if self.data:
            return self._made_of_data(lambda x: x.reshape(shape))
        if tuple(shape) in ((self.shape[0], -1), (self.shape[0], self.size() // self.shape[0])):
            return _flatten(self)
        raise Untraceable(f'reshape to {shape}')

    def __add__(self, other):
        if not isinstance(other, Node) or other.shape != self.shape or self.data or other.data:
            raise Untraceable('a sum of unlike shapes')
        return Node('add', (self, other), self.shape)

    __radd__ = __add__

    def __mul__(self, other):
        if not isinstance(other, Node):
            raise Untraceable('a product with a number')
        maps, gate = (other, self) if self.data or self.size() < other.size() else (self, other)
        n = maps.shape[0]
        fits = gate.shape in (maps.shape, (*maps.shape[:2], 1, 1), (n, 1, 1, 1), (n, 1))
        if maps.data or not fits or len(gate.shape) != len(maps.shape):
            raise Untraceable('a product of unlike shapes')
        return Node('mul', (maps, gate), maps.shape)

    __rmul__ = __mul__

    def __iter__(self):
        raise Untraceable('a loop over a tensor')

    def __bool__(self):
        raise Untraceable('a branch on a value')

    def __repr__(self):
        return f"{self.index}: {self.op}({', '.join(str(x.index) for x in self.inputs)}) {self.shape}"


class Graph:
    """The nodes of a network in the order of computation. images, noise (None: not used), output: nodes."""

    def __init__(self):
        self.nodes: list = []
        self.images = self.noise = self.output = None

    def add(self, node: Node) -> None:
        """Take in a node, and tell its inputs who uses them."""
        node.index = len(self.nodes)
        self.nodes.append(node)
        for source in node.inputs:
            source.users.append(node)

    def prune(self) -> None:
        """Leave out what the output does not need."""
        needed, waiting = set(), [self.output]
        while waiting:
            node = waiting.pop()
            if node not in needed:
                needed.add(node)
                waiting.extend(node.inputs)
        self.nodes = [node for node in self.nodes if node in needed or node is self.images]
        for index, node in enumerate(self.nodes):
            node.index, node.users = index, [user for user in node.users if user in needed]


class _Tracing(threading.local):
    graph: Optional[Graph] = None


_tracing = _Tracing()


def _side(size, kernel, stride, before, after):
    return (size + before + after - kernel) // stride + 1


def _conv(cell, x):
    if cell.dilation not in (1, (1, 1)) or x.ndim != 4:
        raise Untraceable('a dilated convolution')
    kernel, stride = cell.kernel_size, cell.stride
    stride = stride if isinstance(stride, tuple) else (stride, stride)
    padding = {'pad': cell.padding, 'valid': 0}.get(cell.pad_mode)
    if padding is None:
        raise Untraceable(f'padding {cell.pad_mode}')
    padding = tuple(padding) if isinstance(padding, (tuple, list)) else (padding,) * 4     # top, bottom, left, right
    height, width = _side(x.shape[2], kernel[0], stride[0], *padding[:2]), _side(x.shape[3], kernel[1], stride[1],
                                                                                  *padding[2:])
    return Node('conv', (x,), (x.shape[0], cell.out_channels, height, width), cell=cell, kernel=tuple(kernel),
                stride=stride, padding=padding, groups=cell.group)


def _norm(cell, x):
    if cell.use_batch_statistics is not None:
        raise Untraceable('BatchNorm with statistics of its own choice')
    return Node('norm', (x,), x.shape, cell=cell)


def _pool(kind):
    def pooled(cell, x):
        pairs = (value if isinstance(value, (tuple, list)) else (value,) * 2
                 for value in (cell.kernel_size, cell.stride))
        kernel, stride = (tuple(pair[-2:]) for pair in pairs)
        padding = getattr(cell, 'padding', 0) if cell.pad_mode.lower() == 'pad' else 0
        if kernel != (2, 2) or stride != (2, 2) or padding not in (0, (0, 0)) or any(s % 2 for s in x.shape[2:]):
            raise Untraceable('a pooling that is not 2x2')
        return Node(kind, (x,), (*x.shape[:2], *(side // 2 for side in x.shape[2:])))
    return pooled


def _flatten(x):
    return Node('flatten', (x,), (x.shape[0], x.size() // x.shape[0]))


def _linear(cell, x):
    if cell.activation is not None or x.ndim != 2:
        raise Untraceable('a linear layer over more than rows')
    return Node('linear', (x,), (x.shape[0], cell.out_channels), cell=cell)


def _act(name):
    return lambda x: Node(name, (x,), x.shape)


def _mean(x, axis=None, keep_dims=False):
    if axis != (2, 3) or not keep_dims or x.ndim != 4:
        raise Untraceable('a mean over other axes')
    return Node('mean', (x,), (*x.shape[:2], 1, 1))


def _concat(tensors, axis=0):
    if axis != 1 or any(not isinstance(x, Node) or x.ndim != 4 for x in tensors):
        raise Untraceable('a concatenation of other axes')
    first = tensors[0].shape
    return Node('concat', tuple(tensors), (first[0], sum(x.shape[1] for x in tensors), *first[2:]))


ACTIVATIONS = {'relu': nn.ReLU, 'relu6': nn.ReLU6, 'silu': nn.SiLU, 'sigmoid': nn.Sigmoid, 'hsigmoid': nn.HSigmoid}
_CELLS = {
    nn.Conv2d: _conv, nn.BatchNorm2d: _norm, nn.BatchNorm1d: _norm, nn.Dense: _linear,
    nn.PReLU: lambda cell, x: Node('prelu', (x,), x.shape, cell=cell),
    nn.Identity: lambda cell, x: x, nn.Flatten: lambda cell, x: _flatten(x),
    nn.MaxPool2d: _pool('max_pool'), nn.AvgPool2d: _pool('avg_pool'),
    **{kind: (lambda act: lambda cell, x: act(x))(_act(name)) for name, kind in ACTIVATIONS.items()},
}
_OPS = {'relu': _act('relu'), 'silu': _act('silu'), 'sigmoid': _act('sigmoid'), 'relu6': _act('relu6'),
        'mean': _mean, 'concat': _concat}


def _holds_nodes(values):
    return any(isinstance(v, Node) or isinstance(v, (tuple, list)) and _holds_nodes(v) for v in values)


@contextmanager
def _patched() -> Iterator[None]:
    """Have cells and operators make nodes where they are given nodes, in this thread."""
    real_call, real_ops = nn.Cell.__call__, {name: getattr(ops, name) for name in _OPS}

    def call(cell, *args, **kwargs):
        if not _holds_nodes([*args, *kwargs.values()]):
            return real_call(cell, *args, **kwargs)
        known = _CELLS.get(type(cell))
        return known(cell, *args) if known else cell.construct(*args, **kwargs)

    def wrapped(name):
        def operation(*args, **kwargs):
            return (_OPS if _holds_nodes([*args, *kwargs.values()]) else real_ops)[name](*args, **kwargs)
        return operation

    nn.Cell.__call__ = call
    for name in _OPS:
        setattr(ops, name, wrapped(name))
    try:
        yield
    finally:
        nn.Cell.__call__ = real_call
        for name, real in real_ops.items():
            setattr(ops, name, real)


def trace(construct: Callable, shape: tuple, noise_size: int = 0) -> Graph:
    """Return what construct(images, noise) computes of images of `shape` (N, C, S, S).

    noise_size: numbers an image of the noise, 0: it is called without. Raises Untraceable.
    """
    with _LOCK, _patched():
        graph = _tracing.graph = Graph()
        try:
            graph.images = Node('images', (), shape, data=True)
            if noise_size:
                graph.noise = Node('noise', (), (shape[0], noise_size), data=True)
            graph.output = construct(graph.images, graph.noise)
        except (TypeError, AttributeError, RuntimeError, ValueError, KeyError) as error:
            raise error if isinstance(error, Untraceable) else Untraceable(str(error)) from error
        finally:
            _tracing.graph = None
    if not isinstance(graph.output, Node) or graph.output.ndim != 2 or graph.output.data:
        raise Untraceable('an output that is not a row an image')
    graph.prune()
    return graph
