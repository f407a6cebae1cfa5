"""What is done to blocked maps between convolutions, as Numba kernels: BatchNorm, activations, sums of gradients.

Maps are (N, C / BLOCK, H, W, BLOCK) float32; vectors a channel are (C / BLOCK, BLOCK). A `view` of maps y is
act(scale * y + shift), where act leaves what is positive and multiplies the rest with `slope`: 0 for ReLU, 1 for no
activation. Sums are float32 over RUN pixels and float64 beyond, always in the same order.
"""
import numpy as np
from numba import njit

from src.cpu.onednn import BLOCK, KEEP_KERNELS
from src.cpu.vectors import (add, as_double, divide, larger, load, multiply, multiply_add, nearest, power_of_two,
                             smaller, splat, store, subtract, where_positive)

RUN = 64                         # pixels that are summed in float32


@njit(nogil=True, cache=KEEP_KERNELS)
def _sizes(y):
    """Return (images, blocks, numbers of a block's map)."""
    return y.shape[0], y.shape[1], y.shape[2] * y.shape[3] * BLOCK


@njit(nogil=True, cache=KEEP_KERNELS)
def _activated(z, slope):
    """Return act(z) of a vector."""
    zero = splat(np.float32(0))
    return multiply_add(smaller(z, zero), slope, larger(z, zero))


@njit(nogil=True, cache=KEEP_KERNELS)
def view(y: np.ndarray, scale: np.ndarray, shift: np.ndarray, slope: np.ndarray, out: np.ndarray) -> None:
    """out = act(scale * y + shift)."""
    num, blocks, size = _sizes(y)
    a, b = y.reshape(-1), out.reshape(-1)
    for n in range(num):
        for c in range(blocks):
            s, t, w = load(scale[c], 0), load(shift[c], 0), load(slope[c], 0)
            start = (n * blocks + c) * size
            for i in range(start, start + size, BLOCK):
                z = multiply_add(load(a, i), s, t)
                store(b, i, _activated(z, w))


@njit(nogil=True, cache=KEEP_KERNELS)
def moments(y: np.ndarray, sums: np.ndarray) -> None:
    """Add to sums (2, C / BLOCK, BLOCK) float64 those of y and of its squares over images and pixels."""
    num, blocks, size = _sizes(y)
    a = y.reshape(-1)
    for n in range(num):
        for c in range(blocks):
            total, squares = load(sums[0, c], 0), load(sums[1, c], 0)
            start = (n * blocks + c) * size
            for i in range(start, start + size, BLOCK):
                x = as_double(load(a, i))
                total, squares = add(total, x), multiply_add(x, x, squares)
            store(sums[0, c], 0, total)
            store(sums[1, c], 0, squares)


@njit(nogil=True, cache=KEEP_KERNELS)
def view_grad(da: np.ndarray, y: np.ndarray, scale: np.ndarray, shift: np.ndarray, slope: np.ndarray, dz: np.ndarray,
              sums: np.ndarray) -> None:
    """dz = da * act'(z), z = scale * y + shift; add to sums (3, C / BLOCK, BLOCK): dz, dz * y, da * min(z, 0)."""
    num, blocks, size = _sizes(y)
    g, a, b, zero = da.reshape(-1), y.reshape(-1), dz.reshape(-1), splat(np.float32(0))
    for n in range(num):
        for c in range(blocks):
            s, t, w = load(scale[c], 0), load(shift[c], 0), load(slope[c], 0)
            end = (n * blocks + c + 1) * size
            for start in range(end - size, end, RUN * BLOCK):
                of_dz, of_product, of_slope = zero, zero, zero
                for i in range(start, min(start + RUN * BLOCK, end), BLOCK):
                    x, d = load(a, i), load(g, i)
                    z = multiply_add(x, s, t)
                    e = where_positive(z, d, multiply(d, w))
                    store(b, i, e)
                    of_dz, of_product = add(of_dz, e), multiply_add(e, x, of_product)
                    of_slope = multiply_add(d, smaller(z, zero), of_slope)
                store(sums[0, c], 0, add(load(sums[0, c], 0), as_double(of_dz)))
                store(sums[1, c], 0, add(load(sums[1, c], 0), as_double(of_product)))
                store(sums[2, c], 0, add(load(sums[2, c], 0), as_double(of_slope)))


@njit(nogil=True, cache=KEEP_KERNELS)
def product_sums(dz: np.ndarray, y: np.ndarray, sums: np.ndarray) -> None:
    """Add to sums (2 or more, C / BLOCK, BLOCK) those of dz and of dz * y."""
    num, blocks, size = _sizes(y)
    g, a, zero = dz.reshape(-1), y.reshape(-1), splat(np.float32(0))
    for n in range(num):
        for c in range(blocks):
            end = (n * blocks + c + 1) * size
            for start in range(end - size, end, RUN * BLOCK):
                of_dz, of_product = zero, zero
                for i in range(start, min(start + RUN * BLOCK, end), BLOCK):
                    e = load(g, i)
                    of_dz, of_product = add(of_dz, e), multiply_add(e, load(a, i), of_product)
                store(sums[0, c], 0, add(load(sums[0, c], 0), as_double(of_dz)))
                store(sums[1, c], 0, add(load(sums[1, c], 0), as_double(of_product)))


@njit(nogil=True, cache=KEEP_KERNELS)
def affine(dz: np.ndarray, factor: np.ndarray, y: np.ndarray, of_y: np.ndarray, offset: np.ndarray,
           out: np.ndarray) -> None:
    """out = factor * dz + of_y * y + offset."""
    num, blocks, size = _sizes(y)
    g, a, b = dz.reshape(-1), y.reshape(-1), out.reshape(-1)
    for n in range(num):
        for c in range(blocks):
            s, t, u = load(factor[c], 0), load(of_y[c], 0), load(offset[c], 0)
            start = (n * blocks + c) * size
            for i in range(start, start + size, BLOCK):
                store(b, i, multiply_add(load(g, i), s, multiply_add(load(a, i), t, u)))


@njit(nogil=True, cache=KEEP_KERNELS)
def add_scaled(dz: np.ndarray, factor: np.ndarray, out: np.ndarray) -> None:
    """out += factor * dz."""
    num, blocks, size = _sizes(dz)
    g, b = dz.reshape(-1), out.reshape(-1)
    for n in range(num):
        for c in range(blocks):
            s = load(factor[c], 0)
            start = (n * blocks + c) * size
            for i in range(start, start + size, BLOCK):
                store(b, i, multiply_add(load(g, i), s, load(b, i)))


@njit(nogil=True, cache=KEEP_KERNELS)
def depthwise_weights(x: np.ndarray, dy: np.ndarray, stride: int, top: int, left: int, out: np.ndarray) -> None:
    """Add to out (C / BLOCK, K, K, BLOCK) the gradient of a depthwise weight."""
    height, width, rows, columns = x.shape[2], x.shape[3], dy.shape[2], dy.shape[3]
    a, g, blocks, step = x.reshape(-1), dy.reshape(-1), x.shape[1], stride * BLOCK
    for n in range(x.shape[0]):
        for c in range(blocks):
            of_x, of_dy = (n * blocks + c) * height * width * BLOCK, (n * blocks + c) * rows * columns * BLOCK
            for ky in range(out.shape[1]):
                for kx in range(out.shape[2]):
                    first = max(0, -((kx - left) // stride))              # columns of dy whose pixel lies in the map
                    last = min(columns, (width - 1 - kx + left) // stride + 1)
                    total, other = load(out[c, ky, kx], 0), splat(np.float32(0))
                    for r in range(max(0, -((ky - top) // stride)), min(rows, (height - 1 - ky + top) // stride + 1)):
                        at = of_x + ((r * stride + ky - top) * width + first * stride + kx - left) * BLOCK
                        begin, end = of_dy + (r * columns + first) * BLOCK, of_dy + (r * columns + last) * BLOCK
                        even = begin + (end - begin) // (2 * BLOCK) * 2 * BLOCK
                        for i in range(begin, even, 2 * BLOCK):
                            total = multiply_add(load(g, i), load(a, at), total)
                            other = multiply_add(load(g, i + BLOCK), load(a, at + step), other)
                            at += 2 * step
                        if even < end:
                            total = multiply_add(load(g, even), load(a, at), total)
                    store(out[c, ky, kx], 0, add(total, other))


@njit(nogil=True, cache=KEEP_KERNELS)
def gated(y: np.ndarray, scale: np.ndarray, shift: np.ndarray, slope: np.ndarray, gate: np.ndarray,
          out: np.ndarray) -> None:
    """out = gate * act(scale * y + shift); gate: (N, C / BLOCK, BLOCK)."""
    num, blocks, size = _sizes(y)
    a, b = y.reshape(-1), out.reshape(-1)
    for n in range(num):
        for c in range(blocks):
            s, t, w, g = load(scale[c], 0), load(shift[c], 0), load(slope[c], 0), load(gate[n, c], 0)
            start = (n * blocks + c) * size
            for i in range(start, start + size, BLOCK):
                z = multiply_add(load(a, i), s, t)
                store(b, i, multiply(g, _activated(z, w)))


@njit(nogil=True, cache=KEEP_KERNELS)
def gated_grad(dout: np.ndarray, y: np.ndarray, scale: np.ndarray, shift: np.ndarray, slope: np.ndarray,
               gate: np.ndarray, da: np.ndarray, dgate: np.ndarray) -> None:
    """da = gate * dout; dgate (N, C / BLOCK, BLOCK) = sums over pixels of dout * act(scale * y + shift)."""
    num, blocks, size = _sizes(y)
    d, a, b, zero = dout.reshape(-1), y.reshape(-1), da.reshape(-1), splat(np.float32(0))
    for n in range(num):
        for c in range(blocks):
            s, t, w, g, total = load(scale[c], 0), load(shift[c], 0), load(slope[c], 0), load(gate[n, c], 0), zero
            start = (n * blocks + c) * size
            for i in range(start, start + size, BLOCK):
                z, u = multiply_add(load(a, i), s, t), load(d, i)
                total = multiply_add(u, _activated(z, w), total)
                store(b, i, multiply(g, u))
            store(dgate[n, c], 0, total)


@njit(nogil=True, cache=KEEP_KERNELS)
def means(y: np.ndarray, scale: np.ndarray, shift: np.ndarray, slope: np.ndarray, out: np.ndarray) -> None:
    """out (N, C / BLOCK, BLOCK) = means over pixels of act(scale * y + shift)."""
    num, blocks, size = _sizes(y)
    a, zero, share = y.reshape(-1), splat(np.float32(0)), splat(np.float32(BLOCK / size))
    for n in range(num):
        for c in range(blocks):
            s, t, w, total = load(scale[c], 0), load(shift[c], 0), load(slope[c], 0), zero
            start = (n * blocks + c) * size
            for i in range(start, start + size, BLOCK):
                z = multiply_add(load(a, i), s, t)
                total = add(total, _activated(z, w))
            store(out[n, c], 0, multiply(total, share))


@njit(nogil=True, cache=KEEP_KERNELS)
def spread(values: np.ndarray, out: np.ndarray) -> None:
    """out[n, c, pixel] = values[n, c]; values: (N, C / BLOCK, BLOCK)."""
    num, blocks, size = _sizes(out)
    b = out.reshape(-1)
    for n in range(num):
        for c in range(blocks):
            v = load(values[n, c], 0)
            start = (n * blocks + c) * size
            for i in range(start, start + size, BLOCK):
                store(b, i, v)


@njit(nogil=True, cache=KEEP_KERNELS)
def sum_of_views(y: np.ndarray, scale: np.ndarray, shift: np.ndarray, slope: np.ndarray, other: np.ndarray,
                 scale_2: np.ndarray, shift_2: np.ndarray, slope_2: np.ndarray, out: np.ndarray) -> None:
    """out = the sum of two views."""
    num, blocks, size = _sizes(y)
    a, d, b = y.reshape(-1), other.reshape(-1), out.reshape(-1)
    for n in range(num):
        for c in range(blocks):
            s, t, w = load(scale[c], 0), load(shift[c], 0), load(slope[c], 0)
            s2, t2, w2 = load(scale_2[c], 0), load(shift_2[c], 0), load(slope_2[c], 0)
            start = (n * blocks + c) * size
            for i in range(start, start + size, BLOCK):
                z, u = multiply_add(load(a, i), s, t), multiply_add(load(d, i), s2, t2)
                store(b, i, add(_activated(z, w), _activated(u, w2)))


@njit(nogil=True, cache=KEEP_KERNELS)
def add_to(part: np.ndarray, total: np.ndarray) -> None:
    """total += part; flat arrays of whole blocks."""
    for i in range(0, len(total), BLOCK):
        store(total, i, add(load(total, i), load(part, i)))


# exp(r) - 1 - r over r squared, |r| < ln(2) / 2, by powers of r from the highest (S. Moshier's Cephes)
_EXP = tuple(map(np.float32, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
                              5.0000001201e-1)))


@njit(nogil=True, cache=KEEP_KERNELS)
def _sigmoid(z):
    """Return 1 / (1 + exp(-z)) of a vector, within 2 units in the last place."""
    one = splat(np.float32(1))
    x = subtract(splat(np.float32(0)), larger(smaller(z, splat(np.float32(87))), splat(np.float32(-87))))
    n = nearest(multiply(x, splat(np.float32(1.44269504))))
    r = multiply_add(n, splat(np.float32(2.12194440e-4)), multiply_add(n, splat(np.float32(-0.693359375)), x))
    p = splat(_EXP[0])
    for k in range(1, 6):
        p = multiply_add(p, r, splat(_EXP[k]))
    p = add(multiply_add(multiply(p, r), r, r), one)
    return divide(one, multiply_add(p, power_of_two(n), one))


@njit(nogil=True, cache=KEEP_KERNELS)
def silu(y: np.ndarray, scale: np.ndarray, shift: np.ndarray, out: np.ndarray) -> None:
    """out = z * sigmoid(z), z = scale * y + shift."""
    num, blocks, size = _sizes(y)
    a, b = y.reshape(-1), out.reshape(-1)
    for n in range(num):
        for c in range(blocks):
            s, t = load(scale[c], 0), load(shift[c], 0)
            start = (n * blocks + c) * size
            for i in range(start, start + size, BLOCK):
                z = multiply_add(load(a, i), s, t)
                store(b, i, multiply(z, _sigmoid(z)))


@njit(nogil=True, cache=KEEP_KERNELS)
def silu_grad(dout: np.ndarray, y: np.ndarray, scale: np.ndarray, shift: np.ndarray, dz: np.ndarray) -> None:
    """dz = dout * the derivative of z * sigmoid(z)."""
    num, blocks, size = _sizes(y)
    g, a, b, one = dout.reshape(-1), y.reshape(-1), dz.reshape(-1), splat(np.float32(1))
    for n in range(num):
        for c in range(blocks):
            s, t = load(scale[c], 0), load(shift[c], 0)
            start = (n * blocks + c) * size
            for i in range(start, start + size, BLOCK):
                z = multiply_add(load(a, i), s, t)
                share = _sigmoid(z)
                slope = multiply(share, multiply_add(z, subtract(one, share), one))
                store(b, i, multiply(load(g, i), slope))
