"""The operations of `src.cpu.training_graph` whose results are rows, NumPy arrays (N, F).

These come after the last maps, or are the gates of squeeze-and-excitation: small, so NumPy computes them.
"""
from collections.abc import Callable
from typing import Optional

import numpy as np

from src.cpu import map_kernels
from src.cpu.convolutions import num_blocks, to_blocked, to_plain
from src.cpu.onednn import BLOCK
from src.cpu.trace import Node, Untraceable
from src.cpu.training_graph import Executor


class Flat:
    """An operation whose result is a NumPy array (N, F)."""

    def __init__(self, run: Executor, node: Node):
        self.run, self.node, self.source = run, node, node.inputs[0]
        self.view = run.views.get(self.source)

    def forward(self) -> None:
        self.run.flat[self.node] = self.value(self.run.flat.get(self.source))

    def backward(self) -> None:
        gradient = self.run.dflat.pop(self.node, None)
        if gradient is not None:
            self.run.add_flat(self.source, self.gradient(gradient))

    def backward_to_maps(self, write: Callable) -> None:
        """Give the maps a gradient: write(part, array) fills a part of it."""
        edge, view = self.view.edge(), self.view

        def work(part, thread):
            write(part, edge.array[part])
            edge.written(part, thread)
        self.run.parallel(self.run.parts(2 * int(np.prod(view.held.shape[1:]))), work)
        edge.finish()


class Flatten(Flat):
    """All maps of an image in a row, channel after channel."""

    def value(self, x: Optional[np.ndarray]) -> np.ndarray:
        if self.view is None:
            return x
        everything = slice(0, self.run.num)
        read = self.view.reader()(everything, np.empty(self.view.held.shape, np.float32))
        return to_plain(read, self.source.shape[1]).reshape(self.run.num, -1)

    def backward(self) -> None:
        gradient = self.run.dflat.pop(self.node)
        if self.view is None:
            self.run.add_flat(self.source, gradient)
            return
        blocked = to_blocked(gradient.reshape(self.source.shape))
        self.backward_to_maps(lambda part, out: np.copyto(out, blocked[part]))


class Mean(Flat):
    """The mean of each map."""

    def value(self, x: Optional[np.ndarray]) -> np.ndarray:
        out, vectors = np.empty((self.run.num, self.view.held.shape[1], BLOCK), np.float32), self.view.vectors()

        def work(part, thread):
            map_kernels.means(self.view.held.maps[part], *vectors, out[part])
        self.run.parallel(self.run.parts(int(np.prod(self.view.held.shape[1:]))), work)
        return out.reshape(self.run.num, -1)[:, :self.source.shape[1]]

    def backward(self) -> None:
        pixels = np.float32(1 / np.prod(self.source.shape[2:]))
        gradient = self.run.dflat.pop(self.node).reshape(*self.source.shape[:2], 1, 1) * pixels
        values = to_blocked(gradient).reshape(self.run.num, num_blocks(self.source.shape[1]), BLOCK)
        self.backward_to_maps(lambda part, out: map_kernels.spread(values[part], out))


class Linear(Flat):
    """A linear layer, or a 1x1 convolution of maps of one pixel."""

    def __init__(self, run: Executor, node: Node):
        super().__init__(run, node)
        if node.op == 'conv' and (node.settings['groups'] != 1 or node.settings['kernel'] != (1, 1)):
            raise Untraceable('a convolution of single pixels in groups')

    def matrix(self) -> np.ndarray:
        """Return the weight (F, C)."""
        return self.run.value(self.node.cell.weight).reshape(self.node.shape[1], -1)

    def value(self, x: Optional[np.ndarray]) -> np.ndarray:
        self.x = x if self.run.training else None
        out = x @ self.matrix().T
        return out + self.run.value(self.node.cell.bias) if self.node.cell.has_bias else out

    def gradient(self, dy: np.ndarray) -> np.ndarray:
        self.run.give(self.node.cell.weight, dy.T @ self.x)
        if self.node.cell.has_bias:
            self.run.give(self.node.cell.bias, dy.sum(0, dtype=np.float64))
        return dy @ self.matrix()


class FlatNorm(Flat):
    """BatchNorm of rows."""

    def value(self, x: Optional[np.ndarray]) -> np.ndarray:
        cell, x = self.node.cell, x.astype(np.float64)
        if not self.run.training:
            mean, variance = (self.run.value(p) for p in (cell.moving_mean, cell.moving_variance))
            inverse = self.run.value(cell.gamma) / np.sqrt(variance.astype(np.float64) + cell.eps)
            return ((x - mean) * inverse + self.run.value(cell.beta)).astype(np.float32)
        mean, variance = x.mean(0), x.var(0)
        self.inverse = 1 / np.sqrt(variance + cell.eps)
        self.normed = (x - mean) * self.inverse
        self.run.keep_statistics(cell, mean, variance, len(x))
        return (self.normed * self.run.value(cell.gamma) + self.run.value(cell.beta)).astype(np.float32)

    def gradient(self, dy: np.ndarray) -> np.ndarray:
        cell, dy = self.node.cell, dy.astype(np.float64)
        dgamma, dbeta = (dy * self.normed).sum(0), dy.sum(0)
        self.run.give(cell.gamma, dgamma)
        self.run.give(cell.beta, dbeta)
        factor = self.run.value(cell.gamma) * self.inverse
        return (factor * (dy - (dbeta + self.normed * dgamma) / len(dy))).astype(np.float32)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


# (value, derivative) of each activation of rows
ACTS = {
    'relu': (lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(np.float32)),
    'relu6': (lambda x: np.clip(x, 0, 6), lambda x: ((x > 0) & (x < 6)).astype(np.float32)),
    'sigmoid': (_sigmoid, lambda x: _sigmoid(x) * (1 - _sigmoid(x))),
    'silu': (lambda x: x * _sigmoid(x), lambda x: _sigmoid(x) * (1 + x * (1 - _sigmoid(x)))),
    'hsigmoid': (lambda x: np.clip(x / 6 + 0.5, 0, 1), lambda x: ((x > -3) & (x < 3)).astype(np.float32) / 6),
}


class FlatAct(Flat):
    """An activation of rows."""

    def value(self, x: Optional[np.ndarray]) -> np.ndarray:
        self.x = x
        return ACTS[self.node.op][0](x)

    def gradient(self, dy: np.ndarray) -> np.ndarray:
        return dy * ACTS[self.node.op][1](self.x)


class FlatMask(Flat):
    """Rows times a mask made of noise."""

    def __init__(self, run: Executor, node: Node):
        super().__init__(run, node)
        if not node.inputs[1].data:
            raise Untraceable('a product of rows')

    def value(self, x: Optional[np.ndarray]) -> np.ndarray:
        return x * self.run.data[self.node.inputs[1]].reshape(len(x), -1)

    def gradient(self, dy: np.ndarray) -> np.ndarray:
        return dy * self.run.data[self.node.inputs[1]].reshape(len(dy), -1)
