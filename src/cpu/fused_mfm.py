"""A convolution with its bias, Max-Feature-Map and, where one follows, 2x2 max pooling, in one custom operator.

    features, _ = FusedMFM(pool=True)(x, weight, bias)   # blocked (N, C, H, W) -> (N, M, H / 2, W / 2) for 2M filters

For training on the CPU, where splitting, comparing and copying maps took as long as the convolutions. Those are
oneDNN's (see `src.cpu.onednn`), the rest Numba kernels. Maps travel in oneDNN's layout, (N, C / BLOCK, H, W, BLOCK);
the 2M maps of a convolution never leave this module. The numbers are those of Conv2D, BiasAdd, Split, Maximum and
MaxPool up to rounding. Slices of a batch go through on as many threads as there are cores, and their gradients are
summed in order.
"""
import functools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from mindspore import dtype as mstype
from mindspore import nn, ops
from numba import njit

from src.cpu import onednn
from src.cpu.onednn import BLOCK, KEEP_KERNELS

SLICE = 16                       # images that a thread takes at once, at most


@njit(inline='always')
def _larger(u, v):
    """Return (the larger, halves of the gradient that go to the second: 0, 1 if equal, 2). NaN is larger than all."""
    return u if (u > v) | (u != u) else v, np.uint8(np.int32(v > u) + np.int32(v >= u))      # no branch: 4 times faster


@njit(nogil=True, cache=KEEP_KERNELS)
def _mfm(y, bias, z, halves):
    """y: (N, 2M, P, BLOCK), bias (2M, BLOCK) -> z, halves: (N, M, P, BLOCK)."""
    num_maps = z.shape[1]
    for n in range(z.shape[0]):
        for c in range(num_maps):
            a, b, bias_a, bias_b = y[n, c], y[n, c + num_maps], bias[c], bias[c + num_maps]
            for p in range(z.shape[2]):
                for j in range(BLOCK):
                    z[n, c, p, j], halves[n, c, p, j] = _larger(a[p, j] + bias_a[j], b[p, j] + bias_b[j])


@njit(nogil=True, cache=KEEP_KERNELS)
def _mfm_grad(dz, halves, dy, dbias):
    num_maps = dz.shape[1]
    dbias[:] = 0
    for n in range(dz.shape[0]):
        for c in range(num_maps):
            grad_a, grad_b, sum_a, sum_b = dy[n, c], dy[n, c + num_maps], dbias[c], dbias[c + num_maps]
            for p in range(dz.shape[2]):
                for j in range(BLOCK):
                    of_b = dz[n, c, p, j] * (np.float32(0.5) * halves[n, c, p, j])
                    grad_b[p, j], grad_a[p, j] = of_b, dz[n, c, p, j] - of_b
                    sum_a[j] += grad_a[p, j]
                    sum_b[j] += of_b


@njit(nogil=True, cache=KEEP_KERNELS)
def _pooled(y, bias, z, source):
    """y: (N, 2M, H, W, BLOCK) -> z, source: (N, M, H / 2, W / 2, BLOCK); source is 4 * halves + pixel of the window."""
    num_maps, height, width = z.shape[1:4]
    for n in range(z.shape[0]):
        for c in range(num_maps):
            a, b, bias_a, bias_b = y[n, c], y[n, c + num_maps], bias[c], bias[c + num_maps]
            for r in range(height):
                for q in range(width):
                    for j in range(BLOCK):
                        best, at = _larger(a[2 * r, 2 * q, j] + bias_a[j], b[2 * r, 2 * q, j] + bias_b[j])
                        at = 4 * at
                        for k in range(1, 4):            # the pixels of a window, row by row; the first wins
                            row, column = 2 * r + k // 2, 2 * q + k % 2
                            u, halves = _larger(a[row, column, j] + bias_a[j], b[row, column, j] + bias_b[j])
                            larger = (u > best) | (u != u)
                            best, at = u if larger else best, 4 * halves + k if larger else at
                        z[n, c, r, q, j], source[n, c, r, q, j] = best, np.uint8(at)


@njit(nogil=True, cache=KEEP_KERNELS)
def _pooled_grad(dz, source, dy, dbias):
    num_maps, height, width = dz.shape[1:4]
    dbias[:] = 0
    for n in range(dz.shape[0]):
        for c in range(num_maps):
            grad_a, grad_b, sum_a, sum_b = dy[n, c], dy[n, c + num_maps], dbias[c], dbias[c + num_maps]
            for r in range(height):
                for q in range(width):
                    for k in range(4):
                        u, v = grad_a[2 * r + k // 2, 2 * q + k % 2], grad_b[2 * r + k // 2, 2 * q + k % 2]
                        for j in range(BLOCK):           # a product, where a branch would take nine times as long
                            grad = dz[n, c, r, q, j] * np.float32(source[n, c, r, q, j] & 3 == k)
                            of_b = grad * (np.float32(0.5) * (source[n, c, r, q, j] >> 2))
                            u[j], v[j] = grad - of_b, of_b
                    for j in range(BLOCK):
                        of_b = dz[n, c, r, q, j] * (np.float32(0.5) * (source[n, c, r, q, j] >> 2))
                        sum_a[j] += dz[n, c, r, q, j] - of_b
                        sum_b[j] += of_b


def threads_available() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


@functools.cache
def _threads():
    return ThreadPoolExecutor(threads_available())


def _slices(num):
    """Return equal slices of `num` images, one for every core or more: each size has primitives of its own."""
    largest = min(SLICE, -(-num // len(os.sched_getaffinity(0))))
    size = max(n for n in range(1, largest + 1) if num % n == 0)
    return [slice(i, i + size) for i in range(0, num, size)]


_results = {}                    # MindSpore copies an operator's outputs: all layers share these buffers


def _result(name, shape, dtype=np.float32):
    num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if name not in _results or len(_results[name]) < num_bytes:
        _results[name] = onednn.aligned(num_bytes)
    return _results[name][:num_bytes].view(dtype).reshape(shape)


def _output_shape(pool, x, weight):
    height, width = (size // 2 if pool else size for size in x[2:4])
    return onednn.blocked(x[0], weight[0] // 2, height, width)


def _plain_shape(x):
    """Return the (N, C, H, W) of blocked maps, or of pictures."""
    return x.shape if x.ndim == 4 else (len(x), x.shape[1] * BLOCK, *x.shape[2:4])


def _y_shape(x, weight):
    """Return the blocked shape of a slice's convolution."""
    return onednn.blocked(_slices(len(x))[0].stop, len(weight), *x.shape[2:4])


def _flat(maps):
    return maps.reshape(*maps.shape[:2], -1, BLOCK)      # (N, C, H, W, BLOCK) -> (N, C, H * W, BLOCK)


def forward(pool: bool, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> tuple:
    """Return (the larger maps, their sources), both (N, M / BLOCK, H, W, BLOCK).

    x: (N, C / BLOCK, H, W, BLOCK), or pictures (N, 1 or 3, H, W); weight: (2M, C, K, K); bias: (2M,).
    """
    slices, y_shape = _slices(len(x)), _y_shape(x, weight)
    convolution = onednn.convolution(_plain_shape(x[slices[0]]), weight.shape)
    packed, bias = convolution.pack(weight), bias.reshape(-1, BLOCK)
    shape = _output_shape(pool, x.shape, weight.shape)
    z, source = _result('z', shape), _result('source', shape, np.uint8)

    def work(part):
        y = onednn.scratch('y', y_shape)
        convolution.run(x[part], packed, y)
        if pool:
            _pooled(y, bias, z[part], source[part])
        else:
            _mfm(_flat(y), bias, _flat(z[part]), _flat(source[part]))

    list(_threads().map(work, slices))
    return z, source


def gradient(pool: bool, dz: np.ndarray, source: np.ndarray, x: np.ndarray, weight: np.ndarray) -> tuple:
    """Return the gradients of x, weight and bias; for pictures, (N, 1 or 3, H, W), that of x is zeros."""
    slices, y_shape = _slices(len(x)), _y_shape(x, weight)
    dx, x_shape = _result('dx', x.shape), _plain_shape(x[slices[0]])
    weight_gradient = onednn.weight_gradient(x_shape, weight.shape)
    if x.ndim == 4:
        dx[:] = 0
    else:
        convolution = onednn.convolution((x_shape[0], len(weight), *x_shape[2:]), onednn.transposed(weight).shape)
        packed = convolution.pack(onednn.transposed(weight))

    def work(part):
        dy, dbias = onednn.scratch('y', y_shape), np.empty((len(weight) // BLOCK, BLOCK), np.float32)
        if pool:
            _pooled_grad(dz[part], source[part], dy, dbias)
        else:
            _mfm_grad(_flat(dz[part]), _flat(source[part]), _flat(dy), dbias)
        if x.ndim > 4:
            convolution.run(dy, packed, dx[part])
        return weight_gradient.run(x[part], dy), dbias.reshape(-1)

    dweight, dbias = (np.sum(parts, 0) for parts in zip(*_threads().map(work, slices)))
    return dx, dweight, dbias


class FusedMFM(nn.Cell):
    """(x, weight, bias) -> (the larger maps, their sources); with `pool` these are half as wide and high.

    CPU only. x: blocked (N, C, H, W), or pictures, (N, 1 or 3, H, W); weight: (2M, C, K, K), stride 1, padding
    K // 2; bias: (2M,). C and M are multiples of BLOCK; H and W are even with `pool`. See `src.cpu.onednn` for
    blocked maps.
    """

    def __init__(self, pool: bool):
        super().__init__()

        def output(x, weight, bias):
            return forward(pool, x, weight, bias)

        def gradients(dz, source, x, weight):
            return gradient(pool, dz, source, x, weight)

        def output_shapes(x, weight, _):
            return (list(_output_shape(pool, x, weight)),) * 2

        def gradient_shapes(_, __, x, weight):
            return list(x), list(weight), [weight[0]]

        self.forward = ops.Custom(output, output_shapes, lambda *_: (mstype.float32, mstype.uint8), 'pyfunc')
        self.grad = ops.Custom(gradients, gradient_shapes, lambda *_: (mstype.float32,) * 3, 'pyfunc')

    def construct(self, x, weight, bias):
        return self.forward(x, weight, bias)

    def bprop(self, x, weight, bias, out, dout):
        return self.grad(dout[0], out[1], x, weight)


class Unblocked(nn.Cell):
    """(N, C / BLOCK, H, W, BLOCK) -> (N, C, H, W)."""

    def construct(self, x):
        num, blocks, height, width, block = x.shape
        return x.transpose(0, 1, 4, 2, 3).reshape(num, blocks * block, height, width)


class Blocked(nn.Cell):
    """(N, C, H, W) -> (N, C / BLOCK, H, W, BLOCK)."""

    def construct(self, x):
        num, channels, height, width = x.shape
        return x.reshape(num, channels // BLOCK, BLOCK, height, width).transpose(0, 1, 3, 4, 2)
