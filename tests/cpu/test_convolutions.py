"""Convolutions of every kind on blocked maps, forward and backward, against float64 sums; the kernels between them."""
import numpy as np
import pytest
from conftest import rounding

from src.cpu import map_kernels, onednn
from src.cpu.convolutions import ConvShape, compiled, expanded, reduced, to_blocked, to_plain
from src.cpu.onednn import BLOCK, aligned

pytestmark = pytest.mark.skipif(not onednn.is_available(), reason="no oneDNN 2 with fast kernels for this processor")
NUM = 3
SHAPES = [
    ConvShape(3, 24, (12, 10), (3, 3), (2, 2), (1, 1, 1, 1), 1, True),
    ConvShape(1, 32, (9, 9), (5, 5), (1, 1), (2, 2, 2, 2), 1, True),
    ConvShape(32, 48, (8, 10), (3, 3), (1, 1), (1, 1, 1, 1), 1),
    ConvShape(16, 16, (9, 7), (3, 3), (2, 2), (1, 1, 1, 1), 1),
    ConvShape(20, 12, (6, 5), (1, 1), (1, 1), (0, 0, 0, 0), 1),
    ConvShape(32, 64, (7, 7), (1, 1), (2, 2), (0, 0, 0, 0), 1),
    ConvShape(32, 32, (8, 6), (3, 3), (1, 1), (1, 1, 1, 1), 32),
    ConvShape(24, 24, (9, 8), (3, 3), (2, 2), (1, 1, 1, 1), 24),
    ConvShape(20, 20, (9, 9), (5, 5), (2, 2), (1, 2, 1, 2), 20),
    ConvShape(32, 32, (7, 7), (7, 7), (1, 1), (0, 0, 0, 0), 32),
    ConvShape(64, 64, (6, 6), (3, 3), (1, 1), (1, 1, 1, 1), 32),
    ConvShape(64, 128, (5, 6), (3, 3), (1, 1), (1, 1, 1, 1), 2),
]


def convolved(x, weight, shape):
    """Return the convolution in float64, one filter tap after the other."""
    top, bottom, left, right = shape.padding
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    weight = expanded(weight, shape.groups, 1).astype(np.float64)
    height, width = shape.output_size()
    down, across = shape.stride
    return sum(np.einsum('nchw,fc->nfhw', padded[:, :, r:r + height * down:down, q:q + width * across:across][
        :, :, :height, :width], weight[:, :, r, q]) for r in range(shape.kernel[0]) for q in range(shape.kernel[1]))


def drawn(shape, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((NUM, shape.channels, *shape.size)).astype(np.float32)
    weight = rng.standard_normal(shape.weight_shape()).astype(np.float32)
    dy = rng.standard_normal((NUM, shape.filters, *shape.output_size())).astype(np.float32)
    return x, weight, dy


@pytest.mark.parametrize('shape', SHAPES)
def test_forward_and_gradients(shape):
    if BLOCK == 8 and shape.picture and shape.kernel == (5, 5):
        pytest.skip("oneDNN has no AVX2 kernel for the gradient of this weight: such a network takes MindSpore's path")
    x, weight, dy = drawn(shape)
    expected = convolved(x, weight, shape)
    forward, y = compiled('forward', shape, NUM), np.full_like(to_blocked(dy), np.nan)
    forward.run(x if shape.picture else to_blocked(x), forward.pack(weight), y)
    np.testing.assert_allclose(to_plain(y, shape.filters), expected, rtol=0,
                               atol=4 * rounding(weight[0].size) * np.abs(expected).max())
    assert np.array_equal(y, to_blocked(to_plain(y, shape.filters)))       # zeros beyond the last channel

    # gradients are exact for a convolution, which is linear in x and in the weight: <conv(e), dy> = <e, gradient>
    other, turned, _ = drawn(shape, 1)
    if not shape.picture:
        data, dx = compiled('backward_data', shape, NUM), np.full_like(to_blocked(x), np.nan)
        data.run(to_blocked(dy), data.pack(weight), dx)
        allowed = rounding(dy[0].size) * np.linalg.norm(other) * np.linalg.norm(dx)
        assert np.vdot(other, to_plain(dx, shape.channels)) == pytest.approx(
            np.vdot(convolved(other, weight, shape), dy), abs=allowed)
    found = weight_gradient(shape, x, dy)
    assert found.shape == weight.shape
    allowed = rounding(dy[:, 0].size) * np.linalg.norm(turned) * np.linalg.norm(found)
    assert np.vdot(turned, found) == pytest.approx(np.vdot(convolved(x, turned, shape), dy), abs=allowed)


def weight_gradient(shape, x, dy):
    """Return the gradient of the weight as a training step computes it."""
    if shape.is_depthwise():
        total = np.zeros((to_blocked(x).shape[1], *shape.kernel, BLOCK), np.float32)
        map_kernels.depthwise_weights(to_blocked(x), to_blocked(dy), shape.stride[0], shape.padding[0],
                                      shape.padding[2], total)
        return total.transpose(0, 3, 1, 2).reshape(-1, 1, *shape.kernel)[:shape.filters]
    weights = compiled('backward_weights', shape, NUM)
    packed = aligned(weights.num_bytes)
    weights.run(x if shape.picture else to_blocked(x), to_blocked(dy), packed)
    return weights.unpack(packed)


def test_groups_are_joined_without_a_change():
    weight = np.random.default_rng(0).standard_normal((12, 2, 3, 3)).astype(np.float32)
    assert np.array_equal(reduced(expanded(weight, 6, 2), 6, 2), weight)
    assert expanded(weight, 6, 2).shape == (12, 6, 3, 3) and (expanded(weight, 6, 2) != 0).sum() == weight.size


CHANNELS = BLOCK + 3


def maps_and_vectors(count):
    rng = np.random.default_rng(0)
    maps = [rng.standard_normal((2, CHANNELS, 11, 13)).astype(np.float32) for _ in range(count)]
    vectors = [rng.standard_normal(CHANNELS).astype(np.float32) for _ in range(3)]
    blocked = [to_blocked(v[None, :, None, None]).reshape(-1, BLOCK) for v in vectors]
    return maps, [to_blocked(m) for m in maps], [v[:, None, None].astype(np.float64) for v in vectors], blocked


def test_view_and_its_gradient():
    (y, da), (of_y, of_da), (scale, shift, slope), vectors = maps_and_vectors(2)
    out, dz, sums = np.empty_like(of_y), np.empty_like(of_y), np.zeros((3, *vectors[0].shape))
    map_kernels.view(of_y, *vectors, out)
    z = scale * y + shift
    np.testing.assert_allclose(to_plain(out, CHANNELS), np.where(z > 0, z, slope * z), rtol=1e-5, atol=1e-6)
    map_kernels.view_grad(of_da, of_y, *vectors, dz, sums)
    expected = np.where(z > 0, da, slope * da)
    np.testing.assert_allclose(to_plain(dz, CHANNELS), expected, rtol=1e-5, atol=1e-6)
    for found, product in zip(sums, (expected, expected * y, da * np.minimum(z, 0))):
        np.testing.assert_allclose(found.reshape(-1)[:CHANNELS], product.sum((0, 2, 3)), rtol=0,
                                   atol=rounding(product[:, 0].size) * np.abs(product).sum((0, 2, 3)).max())


def test_statistics_are_exact_where_the_mean_is_far_from_zero():
    y = (1000 + np.random.default_rng(0).standard_normal((4, BLOCK, 56, 56))).astype(np.float32)
    sums = np.zeros((2, 1, BLOCK))
    map_kernels.moments(to_blocked(y), sums)
    count = y.size // BLOCK
    mean = sums[0, 0] / count
    np.testing.assert_allclose(mean, y.mean((0, 2, 3), dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(sums[1, 0] / count - mean ** 2, y.var((0, 2, 3), dtype=np.float64), rtol=1e-6)


def test_silu_and_its_gradient():
    (y, dout), (of_y, of_dout), (scale, shift, _), vectors = maps_and_vectors(2)
    y[:, 0], of_y[:, 0, :, :, 0] = 60 * y[:, 0], 60 * of_y[:, 0, :, :, 0]       # far out on both sides
    out, dz = np.empty_like(of_y), np.empty_like(of_y)
    map_kernels.silu(of_y, *vectors[:2], out)
    map_kernels.silu_grad(of_dout, of_y, *vectors[:2], dz)
    z = scale * y + shift
    share = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(to_plain(out, CHANNELS), z * share, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(to_plain(dz, CHANNELS), dout * share * (1 + z * (1 - share)), rtol=2e-5, atol=1e-6)
