"""Max-Feature-Map with its bias and, where one follows, 2x2 max pooling: one pass over memory instead of four.

    features, _ = FusedMFM(pool=True)(x, bias)          # (N, 2C, H, W), (2C,) -> (N, C, H / 2, W / 2)

Half of a training step on the CPU went into splitting, comparing and copying maps around the convolutions. These are
Numba kernels in custom operators, with their own gradients; the numbers are those of BiasAdd, Split, Maximum and
MaxPool. Training on the CPU uses them; other devices and exported graphs keep the plain operators.
"""
import numpy as np
from mindspore import dtype as mstype
from mindspore import nn, ops
from numba import njit, prange

_scratch = {}                    # MindSpore copies what a kernel returns: all layers share these buffers


@njit(inline='always')
def _larger(u, v):
    """Return (the larger, halves of the gradient that go to the second: 0, 1 if equal, 2). NaN is larger than all."""
    if u == v:
        return u, np.uint8(1)
    return (u, np.uint8(0)) if u > v or u != u else (v, np.uint8(2))


@njit(parallel=True, cache=True)
def _mfm(x, bias, y, halves):
    num_maps = y.shape[1]
    for i in prange(y.shape[0] * num_maps):
        n, c = i // num_maps, i % num_maps
        a, b, bias_a, bias_b = x[n, c], x[n, c + num_maps], bias[c], bias[c + num_maps]
        for p in range(y.shape[2]):
            y[n, c, p], halves[n, c, p] = _larger(a[p] + bias_a, b[p] + bias_b)


@njit(parallel=True, cache=True)
def _mfm_grad(dy, halves, dx, dbias):
    num_maps, num_pixels = dy.shape[1:]
    for c in prange(num_maps):
        sum_a, sum_b = np.zeros(num_pixels, np.float32), np.zeros(num_pixels, np.float32)
        for n in range(dy.shape[0]):
            grad_a, grad_b = dx[n, c], dx[n, c + num_maps]
            for p in range(num_pixels):
                grad_b[p] = dy[n, c, p] * (np.float32(0.5) * halves[n, c, p])
                grad_a[p] = dy[n, c, p] - grad_b[p]
            for p in range(num_pixels):                  # by pixel first: in a fixed order, and still many at a time
                sum_a[p] += grad_a[p]
                sum_b[p] += grad_b[p]
        dbias[c], dbias[c + num_maps] = sum_a.sum(), sum_b.sum()


@njit(parallel=True, cache=True)
def _pooled(x, bias, y, source):
    num_maps, height, width = y.shape[1:]
    for i in prange(y.shape[0] * num_maps):
        n, c = i // num_maps, i % num_maps
        bias_a, bias_b = bias[c], bias[c + num_maps]
        for r in range(height):
            for q in range(width):
                best, best_at = np.float32(-np.inf), np.uint8(0)
                for k in range(4):                       # the four pixels of a window, row by row; the first wins
                    u, halves = _larger(x[n, c, 2 * r + k // 2, 2 * q + k % 2] + bias_a,
                                        x[n, c + num_maps, 2 * r + k // 2, 2 * q + k % 2] + bias_b)
                    if k == 0 or u > best or u != u:
                        best, best_at = u, np.uint8(4 * halves + k)
                y[n, c, r, q], source[n, c, r, q] = best, best_at


@njit(parallel=True, cache=True)
def _pooled_grad(dy, source, dx, dbias):
    num_maps, height, width = dy.shape[1:]
    for c in prange(num_maps):
        sum_a, sum_b = np.float32(0), np.float32(0)
        for n in range(dy.shape[0]):
            dx[n, c] = 0
            dx[n, c + num_maps] = 0
            for r in range(height):
                for q in range(width):
                    at = source[n, c, r, q]
                    grad_b = dy[n, c, r, q] * (np.float32(0.5) * (at >> 2))
                    grad_a = dy[n, c, r, q] - grad_b
                    row, column = 2 * r + (at >> 1 & 1), 2 * q + (at & 1)
                    dx[n, c, row, column], dx[n, c + num_maps, row, column] = grad_a, grad_b
                    sum_a += grad_a
                    sum_b += grad_b
        dbias[c], dbias[c + num_maps] = sum_a, sum_b


def _buffer(name, shape, dtype):
    num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if name not in _scratch or len(_scratch[name]) < num_bytes:
        _scratch[name] = np.empty(num_bytes, np.uint8)
    return _scratch[name][:num_bytes].view(dtype).reshape(shape)


def _flat(x):
    return x.reshape(*x.shape[:2], -1)                   # (N, C, H, W) -> (N, C, H * W)


def mfm(x, bias):
    """Return (larger of each pair of maps, halves of its gradient that go to the second), both (N, C, H, W).

    x: (N, 2C, H, W); bias: (2C,).
    """
    shape = (x.shape[0], x.shape[1] // 2, *x.shape[2:])
    y, halves = _buffer('y', shape, np.float32), _buffer('source', shape, np.uint8)
    _mfm(_flat(x), bias, _flat(y), _flat(halves))
    return y, halves


def mfm_grad(dy, halves):
    """Return the gradients of x and of the bias."""
    num, maps, *size = dy.shape
    dx, dbias = _buffer('dx', (num, 2 * maps, *size), np.float32), np.empty(2 * maps, np.float32)
    _mfm_grad(_flat(dy), _flat(halves), _flat(dx), dbias)
    return dx, dbias


def pooled(x, bias):
    """Return (largest of 2x2 pixels of a pair of maps, 4 * halves + pixel), both (N, C, H / 2, W / 2)."""
    shape = (x.shape[0], x.shape[1] // 2, x.shape[2] // 2, x.shape[3] // 2)
    y, source = _buffer('y', shape, np.float32), _buffer('source', shape, np.uint8)
    _pooled(x, bias, y, source)
    return y, source


def pooled_grad(dy, source):
    """Return the gradients of x and of the bias."""
    num, maps, height, width = dy.shape
    dx, dbias = _buffer('dx', (num, 2 * maps, 2 * height, 2 * width), np.float32), np.empty(2 * maps, np.float32)
    _pooled_grad(dy, source, dx, dbias)
    return dx, dbias


# what MindSpore's compiler asks of a custom operator: shapes and types of the outputs from those of the inputs
def _mfm_shapes(x, _):
    return [x[0], x[1] // 2, x[2], x[3]], [x[0], x[1] // 2, x[2], x[3]]


def _mfm_grad_shapes(dy, _):
    return [dy[0], 2 * dy[1], dy[2], dy[3]], [2 * dy[1]]


def _pooled_shapes(x, _):
    return [x[0], x[1] // 2, x[2] // 2, x[3] // 2], [x[0], x[1] // 2, x[2] // 2, x[3] // 2]


def _pooled_grad_shapes(dy, _):
    return [dy[0], 2 * dy[1], 2 * dy[2], 2 * dy[3]], [2 * dy[1]]


def _types(_, __):
    return mstype.float32, mstype.uint8


def _grad_types(_, __):
    return mstype.float32, mstype.float32


class FusedMFM(nn.Cell):
    """(N, 2C, H, W), bias (2C,) -> (the larger maps, where they come from): (N, C, H, W), or with `pool` half as wide.

    CPU only. H and W must be even with `pool`.
    """

    def __init__(self, pool):
        super().__init__()
        if pool:
            self.forward = ops.Custom(pooled, _pooled_shapes, _types, 'pyfunc')
            self.grad = ops.Custom(pooled_grad, _pooled_grad_shapes, _grad_types, 'pyfunc')
        else:
            self.forward = ops.Custom(mfm, _mfm_shapes, _types, 'pyfunc')
            self.grad = ops.Custom(mfm_grad, _mfm_grad_shapes, _grad_types, 'pyfunc')

    def construct(self, x, bias):
        return self.forward(x, bias)

    def bprop(self, x, bias, out, dout):
        return self.grad(dout[0], out[1])
