"""Forward and backward of a traced network over a whole batch, on blocked maps.

    executor = Executor(trace(backbone.construct, images.shape), parameters)
    embedding, statistics = executor.forward(images, noise, arrays)      # arrays: values of `parameters`
    gradients = executor.backward(dembedding)                            # one for each of `parameters`

What is kept for the backward pass are the maps that convolutions, sums and gates write: `Held`. BatchNorm and the
activation after it are never written: whoever reads maps applies them to the images that it has at hand (`View`), in
the backward pass too. So BatchNorm costs sums while maps are in the cache (its statistics), and nothing else.

Each operation goes through its batch in parts, by as many threads as there are cores: part by part in a fixed order for
each thread, and sums of threads are added in order, so results are the same bits every time.
"""
from collections.abc import Callable, Sequence
from typing import Any, Optional

import numpy as np

from src.cpu import map_kernels, onednn
from src.cpu.convolutions import address, maps_shape, num_blocks
from src.cpu.fused_mfm import _threads, threads_available
from src.cpu.onednn import BLOCK, aligned
from src.cpu.trace import ACTIVATIONS, Graph, Node, Untraceable

PART_BYTES = 3 << 20             # of maps that an operation reads and writes at once
SLOPES = {'relu': 0.0}


def maps(shape: tuple) -> np.ndarray:
    """Return new float32 maps, aligned, not initialised."""
    return aligned(4 * int(np.prod(shape))).view(np.float32).reshape(shape)


def vector(values: np.ndarray, fill: float = 0.0) -> np.ndarray:
    """Return a number a channel as (C / BLOCK, BLOCK) float32, `fill` beyond C."""
    out = np.full(num_blocks(len(values)) * BLOCK, fill, np.float32)
    out[:len(values)] = values
    return out.reshape(-1, BLOCK)


class Pool:
    """Arrays for gradients, used again and again. A buffer is free when all who hold it have let go."""

    def __init__(self):
        self.free, self.holders = {}, {}

    def take(self, shape: tuple) -> np.ndarray:
        """Return an array of this shape; the caller holds it."""
        size = int(np.prod(shape))
        held = self.free.get(size)
        array = held.pop() if held else maps((size,))
        self.holders[address(array)] = [1, array]
        return array.reshape(shape)

    def hold(self, array: np.ndarray) -> None:
        """Hold an array once more."""
        self.holders[address(array)][0] += 1

    def drop(self, array: np.ndarray) -> None:
        """Let go of an array."""
        entry = self.holders[address(array)]
        entry[0] -= 1
        if not entry[0]:
            del self.holders[address(array)]
            self.free.setdefault(entry[1].size, []).append(entry[1])


class Norm:
    """BatchNorm over maps: its statistics, its part of a `View`, its gradients."""

    def __init__(self, node: Node):
        self.cell, self.channels = node.cell, node.shape[1]
        self.count = node.size() // node.shape[1]
        self.sums = None

    def measured(self, run: 'Executor', sums: np.ndarray) -> None:
        """Take the sums of the maps and of their squares; update the running statistics."""
        mean = sums[0].reshape(-1)[:self.channels] / self.count
        variance = np.maximum(sums[1].reshape(-1)[:self.channels] / self.count - mean ** 2, 0)
        self.use(run, mean, variance)
        run.keep_statistics(self.cell, mean, variance, self.count)
        self.sums = np.zeros((2, *self.scale.shape))

    def use(self, run: 'Executor', mean: np.ndarray, variance: np.ndarray) -> None:
        """Normalise by this mean and variance."""
        self.mean, self.inverse = mean, 1 / np.sqrt(variance + self.cell.eps)
        gamma, beta = (run.value(p).astype(np.float64) for p in (self.cell.gamma, self.cell.beta))
        self.gamma = gamma
        self.scale, self.shift = vector(gamma * self.inverse), vector(beta - mean * gamma * self.inverse)

    def finish(self, run: 'Executor') -> tuple:
        """Give the gradients of gamma and beta; return (factor of dz, of y, offset) of the maps' gradient."""
        of_dz, of_product = (total.reshape(-1)[:self.channels] for total in self.sums)
        dgamma = self.inverse * (of_product - self.mean * of_dz)
        run.give(self.cell.gamma, dgamma)
        run.give(self.cell.beta, of_dz)
        factor = self.gamma * self.inverse
        of_y = -factor * self.inverse * dgamma / self.count
        return vector(factor), vector(of_y), vector(-factor * of_dz / self.count - of_y * self.mean)


class Held:
    """Maps that are written, and the gradient that comes back to them.

    terms: [(array, Norm or None)]: the gradient is the sum of the arrays, those that came through a Norm by its
    backward formula.
    """

    def __init__(self, run: 'Executor', node: Node):
        self.run, self.node, self.shape = run, node, maps_shape(node.shape[0], node.shape[1], node.shape[2:])
        self.maps, self.norms, self.terms, self.sums = maps(self.shape), [], [], None
        self.ones, self.zeros = vector(np.ones(node.shape[1])), vector(np.zeros(node.shape[1]))

    def start(self) -> None:
        """Before the forward pass writes the maps."""
        self.terms = []
        measured = self.norms and self.run.training
        self.sums = np.zeros((self.run.num_threads, 2, *self.ones.shape)) if measured else None

    def written(self, part: slice, thread: int) -> None:
        """A part of the maps is there: take its statistics, while it is in the cache."""
        if self.sums is not None:
            map_kernels.moments(self.maps[part], self.sums[thread])

    def finish(self) -> None:
        """All parts of the maps are there."""
        if self.sums is not None:
            for norm in self.norms:
                norm.measured(self.run, np.sum(self.sums, 0))

    def gradient(self) -> Callable:
        """Return a function (part, scratch array) -> gradient of that part of the maps, perhaps in scratch."""
        made = {norm: norm.finish(self.run) for norm in self.norms}
        terms = [(array, made[norm][0] if norm else None) for array, norm in self.terms]
        if len(terms) == 1 and terms[0][1] is None and not made:
            return lambda part, scratch: terms[0][0][part]
        of_y, offset = (sum((vectors[i] for vectors in made.values()), np.zeros_like(self.ones)) for i in (1, 2))
        (first, factor), *others = terms

        def combined(part, scratch):
            map_kernels.affine(first[part], self.ones if factor is None else factor, self.maps[part], of_y, offset,
                               scratch)
            for array, scale in others:
                map_kernels.add_scaled(array[part], self.ones if scale is None else scale, scratch)
            return scratch
        return combined

    def drop_terms(self) -> None:
        """The gradient has been used."""
        for array, _ in self.terms:
            self.run.pool.drop(array)
        self.terms = []


class View:
    """Maps as a consumer reads them: act(norm(held))."""

    def __init__(self, held: Held, norm: Optional[Norm] = None, act: Optional[Node] = None):
        self.held, self.norm, self.act = held, norm, act
        self.plain = norm is None and act is None

    def vectors(self) -> tuple:
        """Return (scale, shift, slope)."""
        scale, shift = (self.norm.scale, self.norm.shift) if self.norm else (self.held.ones, self.held.zeros)
        return scale, shift, self.slope()

    def slope(self) -> np.ndarray:
        """Return what negative numbers are multiplied with, a channel."""
        if self.act is None:
            return self.held.ones
        if self.act.op != 'prelu':
            return self.held.zeros
        values = self.held.run.value(self.act.cell.w)
        return vector(np.broadcast_to(values, self.act.shape[1:2]))

    def reader(self) -> Callable:
        """Return a function (part, scratch array) -> the part as consumers read it."""
        if self.plain:
            return lambda part, scratch: self.held.maps[part]
        vectors = self.vectors()

        def read(part, scratch):
            map_kernels.view(self.held.maps[part], *vectors, scratch)
            return scratch
        return read

    def edge(self) -> 'Edge':
        """Return where a consumer puts its gradient."""
        return Edge(self, self.held.run.pool.take(self.held.shape))

    def pass_on(self, dout: np.ndarray) -> Optional['Edge']:
        """Return an `Edge` that shares the array `dout`, the gradient of this view, or None if it has to be copied."""
        if self.act is not None:
            return None
        self.held.run.pool.hold(dout)
        return Edge(self, dout)


class Edge:
    """A consumer's gradient on its way back through a `View`: (N, C / BLOCK, H, W, BLOCK) in `array`."""

    def __init__(self, view: View, array: np.ndarray):
        self.view, self.array, self.vectors = view, array, view.vectors()
        self.sums = np.zeros((view.held.run.num_threads, 3, *view.held.ones.shape))

    def written(self, part: slice, thread: int) -> None:
        """The consumer has written the gradient of a part: take it back through the activation, in place."""
        array, source = self.array[part], self.view.held.maps[part]
        if self.view.act is not None:
            map_kernels.view_grad(array, source, *self.vectors, array, self.sums[thread])
        elif self.view.norm is not None:
            map_kernels.product_sums(array, source, self.sums[thread])

    def finish(self) -> None:
        """All parts are there."""
        view, sums = self.view, np.sum(self.sums, 0)
        if view.norm is not None:
            view.norm.sums += sums[:2]
        if view.act is not None and view.act.op == 'prelu':
            slopes = sums[2].reshape(-1)[:view.act.shape[1]]
            weight = view.act.cell.w
            view.held.run.give(weight, slopes if weight.size > 1 else slopes.sum(keepdims=True))
        view.held.terms.append((self.array, view.norm))


class Executor:
    """The forward and backward pass of a `Graph`; see the module. Raises Untraceable for what it does not have."""

    training = True

    def __init__(self, graph: Graph, parameters: Sequence):
        from src.cpu.training_ops import OPERATIONS
        self.graph, self.parameters = graph, list(parameters)
        self.places = {id(parameter): i for i, parameter in enumerate(self.parameters)}
        self.num, self.pool = graph.images.shape[0], Pool()
        self.num_threads = threads_available() if self.training else 1
        self.views, self.flat, self.dflat, self.data = {}, {}, {}, {}
        self.operations, self.statistics_of = [], []
        for node in graph.nodes:
            self._add(node, OPERATIONS)

    def _add(self, node, operations):
        """Make the operation of a node, or the view that it is."""
        source = self.views.get(node.inputs[0]) if node.inputs else None
        if source is not None and not source.plain and (
                node.op == 'norm' or source.act is not None and node.op in ('prelu', *ACTIVATIONS)):
            copy = operations['copy'](self, node.inputs[0])          # written, so that it has statistics of its own
            self.operations.append(copy)
            source = self.views[node.inputs[0]] = View(copy)
        if source is not None and node.op == 'norm' and source.plain:
            norm = Norm(node)
            source.held.norms.append(norm)
            self.statistics_of.append(node.cell)
            self.views[node] = View(source.held, norm)
        elif source is not None and node.op in ('relu', 'prelu') and source.act is None:
            self.views[node] = View(source.held, source.norm, node)
        else:
            if node.op not in operations or source is not None and node.op in set(ACTIVATIONS) - {'silu'}:
                raise Untraceable(f'{node.op} of maps')
            operation = operations[node.op](self, node)
            self.operations.append(operation)
            if isinstance(operation, Held):
                self.views[node] = View(operation)

    def parts(self, num_floats: int) -> list:
        """Return the slices of the batch, for operations that touch so many numbers an image."""
        if not self.training:
            return [slice(0, self.num)]
        largest = max(1, min(PART_BYTES // (4 * num_floats), -(-self.num // self.num_threads)))
        size = max(n for n in range(1, largest + 1) if self.num % n == 0)
        return [slice(i, i + size) for i in range(0, self.num, size)]

    def parallel(self, parts: list, work: Callable) -> None:
        """Call work(part, thread) for every part; each thread takes neighbouring parts, in order."""
        threads = min(self.num_threads, len(parts))
        bounds = [len(parts) * i // threads for i in range(threads + 1)]

        def all_of(thread):
            for part in parts[bounds[thread]:bounds[thread + 1]]:
                work(part, thread)
        list((_threads().map if threads > 1 else map)(all_of, range(threads)))

    def packed(self, convolution: Any, weight: Any) -> np.ndarray:
        """Return a weight as a convolution wants it."""
        return convolution.pack(self.value(weight))

    def value(self, parameter: Any) -> np.ndarray:
        """Return the numbers that a parameter has in this step."""
        return self.arrays[self.places[id(parameter)]]

    def give(self, parameter: Any, gradient: np.ndarray) -> None:
        """Add to the gradient of a parameter."""
        place = self.places[id(parameter)]
        gradient = np.asarray(gradient, np.float32).reshape(parameter.shape)
        self.gradients[place] = gradient if self.gradients[place] is None else self.gradients[place] + gradient

    def keep_statistics(self, cell: Any, mean: np.ndarray, variance: np.ndarray, count: int) -> None:
        """Update the running statistics of a BatchNorm as MindSpore does: variances without bias."""
        share = cell.momentum
        unbiased = variance * count / max(count - 1, 1)
        for parameter, new in ((cell.moving_mean, mean), (cell.moving_variance, unbiased)):
            self.statistics[id(parameter)] = ((1 - share) * self.value(parameter) + share * new).astype(np.float32)

    def forward(self, images: np.ndarray, noise: Optional[np.ndarray], arrays: Sequence) -> tuple:
        """Return (embedding (N, D), {id of a running statistic: its new value})."""
        self.arrays, self.statistics, self.flat = arrays, {}, {}
        self.data = {self.graph.images: images, self.graph.noise: noise}
        for operation in self.operations:
            operation.forward()
        return self.flat[self.graph.output], self.statistics

    def backward(self, gradient: np.ndarray) -> list:
        """Return the gradients of the parameters for the last forward pass; that of the embedding is (N, D)."""
        self.gradients = [None] * len(self.parameters)
        self.dflat = {self.graph.output: np.asarray(gradient, np.float32)}
        for operation in reversed(self.operations):
            operation.backward()
        return [np.zeros(p.shape, np.float32) if g is None else np.ascontiguousarray(g)
                for g, p in zip(self.gradients, self.parameters)]

    def scratch(self, name: str, like: np.ndarray, part: slice) -> np.ndarray:
        """Return this thread's array for a part of maps like these."""
        return onednn.scratch(name, (part.stop - part.start, *like.shape[1:]))

    def add_flat(self, node: Node, gradient: np.ndarray) -> None:
        """Add to the gradient of a value that is one row an image."""
        self.dflat[node] = self.dflat[node] + gradient if node in self.dflat else gradient
