"""Embeddings by a traced network on blocked maps, with the weights and the running statistics that it has now.

    embed = InferenceNetwork(backbone, backbone.plain_construct)
    features = embed(images)                             # (N, C, S, S) float32 -> (N, D) float32

A thread takes a few images through all layers, so that maps stay in its cache: buffers are shared by maps that do not
live at the same time. Layers after the last maps, whose weights are large, see the whole batch. A single image is
halved instead: convolutions of two cores make half of the maps each.
"""
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from src.backbone import Backbone
from src.cpu.convolutions import compiled, flops
from src.cpu.fused_mfm import _threads, threads_available
from src.cpu.onednn import BLOCK
from src.cpu.row_ops import Flatten
from src.cpu.trace import trace
from src.cpu.training_graph import Executor, Held, View, maps
from src.cpu.training_ops import Conv

GROUP = 4                        # images that a thread takes through a network of large filters at once, at most
CACHED = 4 << 20                 # numbers of filters that stay in the cache: images go one by one then
WORTH_HALVING = 8e6              # operations of a convolution that repay waking another thread


@functools.cache
def _helper() -> ThreadPoolExecutor:
    """Return the thread that makes half of the maps of a single image."""
    return ThreadPoolExecutor(1)


class Group(Executor):
    """The network for a few images, in the thread that calls it. packs: packed weights that all groups share."""

    training = False

    def __init__(self, graph: Any, parameters: list, arrays: list, packs: dict):
        self.packs, self.arrays, self.statistics = packs, arrays, {}
        super().__init__(graph, parameters)
        for view in self.views.values():
            if view.norm is not None:
                view.norm.use(self, *(self.value(p).astype(np.float64) for p in (view.norm.cell.moving_mean,
                                                                                view.norm.cell.moving_variance)))
        for view in self.views.values():
            view.vectors = functools.cache(view.vectors)
        last = max(i for i, operation in enumerate(self.operations) if isinstance(operation, Flatten))
        self.of_maps, self.of_rows = self.operations[:last + 1], self.operations[last + 1:]
        self.end = self.of_maps[-1].node
        self._share_buffers()

    def _share_buffers(self):
        """Give maps the memory of others that nobody reads any more."""
        last_use, free = {}, {}
        for i, operation in enumerate(self.of_maps):
            for view in _read_by(operation):
                last_use[view.held] = i
        for i, operation in enumerate(self.of_maps):
            if isinstance(operation, Held):
                size = int(np.prod(operation.shape))
                held = free.get(size)
                operation.maps = (held.pop() if held else maps((size,))).reshape(operation.shape)
            for held in {view.held for view in _read_by(operation)}:
                if last_use[held] == i:
                    free.setdefault(held.maps.size, []).append(held.maps.reshape(-1))

    def packed(self, convolution: Any, weight: Any) -> np.ndarray:
        """Return a weight as a convolution wants it; packed once."""
        key = convolution, id(weight)
        if key not in self.packs:
            self.packs[key] = convolution.pack(self.value(weight))
        return self.packs[key]

    def rows(self, images: np.ndarray) -> np.ndarray:
        """Return what comes out of the last maps: (N, F)."""
        self.data, self.flat = {self.graph.images: images}, {}
        for operation in self.of_maps:
            operation.forward()
        return self.flat[self.end]

    def finished(self, rows: np.ndarray) -> np.ndarray:
        """Return the embeddings (N, D) of rows of any number of images."""
        self.flat = {self.end: rows}
        for operation in self.of_rows:
            operation.forward()
        return self.flat[self.graph.output]


def _read_by(operation: Any) -> list:
    """Return the views that an operation reads."""
    found = [*getattr(operation, 'sources', ()), getattr(operation, 'source', None), getattr(operation, 'view', None)]
    return [view for view in found if isinstance(view, View)]


class HalvedConv:
    """The forward pass of a convolution of one image, half of the maps in another thread."""

    def __init__(self, conv: Conv):
        shape, self.conv = conv.geometry, conv
        self.half = conv.shape[1] // 2 * BLOCK
        self.shape = shape._replace(filters=self.half)
        if shape.is_depthwise():
            self.shape = self.shape._replace(channels=self.half, groups=self.half)
        self.passes = compiled('forward', self.shape, 1)
        run, weight = conv.run, conv.node.cell.weight
        key = self.passes, id(weight)
        if key not in run.packs:
            run.packs[key] = [self.passes.pack(part) for part in np.split(run.value(weight), 2)]
        self.weights = run.packs[key]

    @staticmethod
    def fits(conv: Conv) -> bool:
        """Whether a convolution can be halved, and is worth it."""
        shape = conv.geometry
        return shape.filters % (2 * BLOCK) == 0 and (shape.groups == 1 or shape.is_depthwise()) and \
            flops(shape) > WORTH_HALVING

    def __call__(self) -> None:
        conv, everything = self.conv, slice(0, 1)
        if conv.source is None:
            x = conv.run.data[conv.node.inputs[0]]
        else:
            x = conv.source.reader()(everything, conv.scratch_x(everything))
        inputs, outputs, blocks = [x, x], conv.maps[0], conv.shape[1] // 2
        if conv.geometry.is_depthwise():
            inputs = [x[:, :blocks], x[:, blocks:]]
        other = _helper().submit(self.passes.run, inputs[1], self.weights[1], outputs[blocks:])
        self.passes.run(inputs[0], self.weights[0], outputs[:blocks])
        other.result()


class InferenceNetwork:
    """Images (N, C, S, S) float32 -> features (N, D) float32, for the weights of the moment when it is made.

    Raises Untraceable or RuntimeError where the executors do not have an operation.
    """

    def __init__(self, backbone: Backbone, construct: Callable):
        self.backbone, self.construct = backbone, construct
        self.parameters = list(backbone.get_parameters())
        self.arrays = [p.asnumpy().copy() for p in self.parameters]
        self.packs, self.groups = {}, {}

    def group(self, shape: tuple, thread: int) -> Group:
        """Return a thread's executor for images of this shape."""
        key = shape, thread
        if key not in self.groups:
            graph = trace(lambda images, noise: self.construct(self.backbone, images, noise), shape)
            group = Group(graph, self.parameters, self.arrays, self.packs)
            if shape[0] == 1 and threads_available() > 1:
                for operation in group.of_maps:
                    if isinstance(operation, Conv) and HalvedConv.fits(operation):
                        operation.forward = HalvedConv(operation)
            self.groups[key] = group
        return self.groups[key]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the features."""
        images = np.ascontiguousarray(images, np.float32)
        size = self.group_size(len(images))
        parts = [slice(i, i + size) for i in range(0, len(images), size)]
        threads = min(threads_available(), len(parts))
        shape, bounds = (size, *images.shape[1:]), [len(parts) * i // threads for i in range(threads + 1)]
        groups = [self.group(shape, thread) for thread in range(threads)]

        def work(thread):
            return [groups[thread].rows(images[part]) for part in parts[bounds[thread]:bounds[thread + 1]]]
        found = list(map(work, (0,)) if threads == 1 else _threads().map(work, range(threads)))
        return groups[0].finished(np.concatenate([rows for of_thread in found for rows in of_thread]))

    def group_size(self, num: int) -> int:
        """Return how many images a thread takes at once: a divisor of `num`, so that there is one size."""
        filters = sum(p.size for p in self.parameters if p.ndim == 4)
        largest = max(1, min(1 if filters < CACHED else GROUP, num // threads_available()))
        return max(n for n in range(1, largest + 1) if num % n == 0)
