"""Backbones on the CPU: the same Cell, of which a training step is carried out by this project's own executor.

    backbone = with_fast_path(backbone)                   # its parameters, their names and its options stay

`build_backbone` does it for networks that are built for the CPU. In training the whole backbone is one operator forward
and one backward (`src.cpu.training_graph`); its gradient with respect to the images is zeros. What the executor does
not have stays with MindSpore's operators, which give the same numbers but for rounding.
"""
import inspect
from collections.abc import Callable
from typing import Any, Optional

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from src.backbone import Backbone
from src.cpu.inference_graph import InferenceNetwork
from src.cpu.trace import Untraceable, trace
from src.cpu.training_graph import Executor

_STATISTICS = ('moving_mean', 'moving_variance')


def _with_inputs(function: Callable, count: int) -> Callable:
    """Return a function for MindSpore, which counts a function's parameters to know its inputs."""
    kind = inspect.Parameter.POSITIONAL_ONLY
    function.__signature__ = inspect.Signature([inspect.Parameter(f'input{i}', kind) for i in range(count)])
    return function


class Passes:
    """The forward and backward pass of a network over NumPy arrays, with the executor for the batch at hand.

    noise is an array of one axis where there is none.
    """

    def __init__(self, backbone: Backbone, construct: Callable):
        self.backbone, self.construct = backbone, construct
        self.parameters = list(backbone.get_parameters())
        self.statistics = [i for i, p in enumerate(self.parameters) if p.name.endswith(_STATISTICS)]
        self.executor = self.key = None
        self.number = 0                                  # of the pass whose maps the executor holds

    def prepare(self, shape: tuple, takes_noise: bool) -> Executor:
        """Return the executor for images of this shape (N, C, S, S); Untraceable or RuntimeError if there is none."""
        if self.key != (shape, takes_noise):
            self.executor = self.key = None              # its maps are most of the memory
            graph = trace(lambda images, noise: self.construct(self.backbone, images, noise), shape,
                          self.backbone.noise_size if takes_noise else 0)
            self.executor, self.key = Executor(graph, self.parameters), (shape, takes_noise)
        return self.executor

    def run(self, images: np.ndarray, noise: np.ndarray, arrays: tuple) -> tuple:
        """Run forward; return (embedding, {id of a running statistic: its new value})."""
        self.number = self.number % (1 << 23) + 1
        takes_noise = noise.ndim > 1
        return self.prepare(images.shape, takes_noise).forward(images, noise if takes_noise else None, arrays)

    def forward(self, images: np.ndarray, noise: np.ndarray, *arrays: np.ndarray) -> tuple:
        """Return (embedding (N, D), number of this pass, running statistics...)."""
        out, statistics = self.run(images, noise, arrays)
        rows = [statistics.get(id(self.parameters[i]), arrays[i]) for i in self.statistics]
        return (out, np.float32([self.number]), *rows)

    def backward(self, gradient: np.ndarray, number: np.ndarray, images: np.ndarray, noise: np.ndarray,
                 *arrays: np.ndarray) -> tuple:
        """Return the gradients of the parameters."""
        if float(number[0]) != self.number:              # another pass came between, and took the maps
            self.run(images, noise, arrays)
        return tuple(self.executor.backward(gradient))


class TrainingOperator(nn.Cell):
    """(images, noise, parameters) -> (embedding, number of the pass, running statistics...)."""

    def __init__(self, passes: Passes, embedding_size: int):
        super().__init__()
        count = len(passes.parameters)
        shapes = [list(p.shape) for p in passes.parameters]
        kept = [shapes[i] for i in passes.statistics]
        self.passes = [passes]                           # in a list: MindSpore looks into attributes
        self.forward = ops.Custom(
            _with_inputs(lambda *inputs: passes.forward(*inputs), count + 2),
            lambda images, *_: ([images[0], embedding_size], [1], *kept),
            lambda *_: (mstype.float32,) * (len(kept) + 2), 'pyfunc')
        self.gradients = ops.Custom(
            _with_inputs(lambda *inputs: passes.backward(*inputs), count + 4),
            lambda *_: tuple(shapes), lambda *_: (mstype.float32,) * count, 'pyfunc')

    def construct(self, images, noise, parameters):
        return self.forward(images, noise, *parameters)

    def bprop(self, images, noise, parameters, out, dout):
        return (ops.zeros_like(images), ops.zeros_like(noise),
                self.gradients(dout[0], out[1], images, noise, *parameters))


class FastPath(nn.Cell):
    """What `with_fast_path` puts in front of a backbone's class; `plain_construct` is the backbone's own."""

    def construct(self, images, noise=None):
        if not self.training:
            return self.plain_construct(images, noise)
        out = self.training_operator(images, self.no_noise if noise is None else noise, self.passed)
        embedding = out[0]
        for i in range(len(self.running)):
            embedding = ops.depend(embedding, ops.assign(self.running[i], out[i + 2]))
        return embedding


def inference(backbone: Any) -> Optional[InferenceNetwork]:
    """Return a function images (N, C, S, S) -> features (N, D) of a backbone on the fast path, None for another.

    It keeps the weights of this moment.
    """
    if not isinstance(backbone, FastPath):
        return None
    network = InferenceNetwork(backbone, backbone.plain_construct.__func__)
    try:
        network.group((1, backbone.channels, backbone.image_size, backbone.image_size), 0)
    except (Untraceable, RuntimeError):
        return None
    return network


def with_fast_path(backbone: Backbone) -> Backbone:
    """Return the backbone, with the fast path where its operations are known and oneDNN has kernels for them."""
    plain = type(backbone)
    passes = Passes(backbone, plain.construct)
    shape = 2, backbone.channels, backbone.image_size, backbone.image_size
    try:
        for takes_noise in {False, backbone.noise_size > 0}:
            passes.prepare(shape, takes_noise)
    except (Untraceable, RuntimeError):
        return backbone
    passes.executor = passes.key = None
    backbone.__class__ = type(plain.__name__, (FastPath, plain), {'plain_construct': plain.construct,
                                                                  '__module__': plain.__module__})
    backbone.training_operator = TrainingOperator(passes, backbone.embedding_size)
    backbone.no_noise, backbone.passed = Tensor(np.zeros(1, np.float32)), tuple(passes.parameters)
    backbone.running = tuple(passes.parameters[i] for i in passes.statistics)
    return backbone


def without_fast_path(backbone: Backbone) -> Backbone:
    """Return the backbone, as it was before `with_fast_path`: for layers that are exchanged afterwards."""
    if isinstance(backbone, FastPath):
        backbone.__class__ = type(backbone).__bases__[1]
        for name in ('training_operator', 'no_noise', 'passed', 'running'):
            delattr(backbone, name)
    return backbone
