"""An embedding network as a list of operations, which the writers of ONNX, ncnn and plain MINDIR files share.

    graph = trace(backbone)                    # src/deploy/trace.py
    report = fold(graph)                       # src/deploy/fold.py: BatchNorm goes into convolutions

Operations carry ONNX's names and meaning, with every setting an attribute; weights are constants by name. A dimension
that is a multiple of BATCH is that multiple of the batch size: a prime that no size of a network has as a factor.
"""
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from typing import Any, Optional

import numpy as np

BATCH = 10007                    # more than any option of a backbone allows


@dataclass
class Node:
    """One operation: ONNX's name, names of its inputs and its output, settings."""

    op: str
    inputs: list
    output: str
    attributes: dict = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        """Return an attribute."""
        return self.attributes[name]


class Graph:
    """Nodes in the order of computing, constants {name: array}, shapes {name: tuple} of everything computed."""

    def __init__(self, input_name: str, input_shape: tuple):
        self.input, self.output = input_name, ''
        self.nodes: list = []
        self.constants: dict = {}
        self.shapes: dict = {input_name: tuple(input_shape)}
        self._count = 0

    def add(self, op: str, inputs: list, dims: tuple, **attributes: Any) -> str:
        """Add an operation of output shape `dims` at the end; return the name of its output."""
        output = self.new_name(op.lower())
        self.nodes.append(Node(op, list(inputs), output, attributes))
        self.shapes[output] = tuple(dims)
        return output

    def new_name(self, stem: str) -> str:
        """Return a name that nothing has."""
        self._count += 1
        return f'{stem}_{self._count}'

    def add_constant(self, array: np.ndarray, stem: str = 'constant') -> str:
        """Keep an array; return its name, which is `stem` if that is free."""
        name = stem if stem not in self.constants and stem not in self.shapes else self.new_name(stem)
        self.constants[name] = array
        return name

    def shape(self, name: str) -> tuple:
        """Return the shape of a value, computed or constant."""
        return self.constants[name].shape if name in self.constants else self.shapes[name]

    def array(self, node: Node, place: int) -> Optional[np.ndarray]:
        """Return input `place` of a node if it is a constant, else None."""
        return self.constants.get(node.inputs[place]) if place < len(node.inputs) else None

    def users(self) -> Counter:
        """Return how often each value is used; the network's output counts as one use."""
        return Counter([name for node in self.nodes for name in node.inputs] + [self.output])

    def producers(self) -> dict:
        """Return {output: node}."""
        return {node.output: node for node in self.nodes}

    def rename(self, old: str, new: str) -> None:
        """Have everything that uses `old` use `new`."""
        for node in self.nodes:
            node.inputs = [new if name == old else name for name in node.inputs]
        self.output = new if self.output == old else self.output

    def prune(self) -> None:
        """Drop nodes and constants that nothing uses."""
        needed, kept = {self.output}, []
        for node in reversed(self.nodes):
            if node.output in needed:
                kept.append(node)
                needed.update(node.inputs)
        self.nodes = kept[::-1]
        self.constants = {name: array for name, array in self.constants.items() if name in needed}

    def operations(self) -> Counter:
        """Return how many nodes of each kind there are."""
        return Counter(node.op for node in self.nodes)

    def copy(self) -> 'Graph':
        """Return a graph of its own nodes; the arrays are shared."""
        twin = Graph(self.input, self.shapes[self.input])
        twin.output, twin.shapes, twin.constants = self.output, dict(self.shapes), dict(self.constants)
        twin.nodes = [Node(n.op, list(n.inputs), n.output, dict(n.attributes)) for n in self.nodes]
        twin._count = self._count
        return twin


def batch_axis(shape: tuple) -> Optional[int]:
    """Return the axis whose length is a multiple of the batch size, None without one."""
    return next((axis for axis, size in enumerate(shape) if size and size % BATCH == 0), None)


def for_batch(shape: tuple, batch_size: int) -> tuple:
    """Return a shape for batches of this size."""
    return tuple(size // BATCH * batch_size if size and size % BATCH == 0 else size for size in shape)


def elements(shape: tuple) -> int:
    """Return the number of elements."""
    return prod(shape)
