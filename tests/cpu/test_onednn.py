"""oneDNN's convolutions against sums written out in NumPy, and the way around them."""
import numpy as np
import pytest
from conftest import rounding

from src.config import get_config
from src.cpu import onednn
from src.cpu.onednn import BLOCK
from src.device import Device
from src.lightcnn import MFM, FusedMFMConv
from src.training.step import build_step

fast = pytest.mark.skipif(not onednn.is_available(), reason="no oneDNN 2 with fast kernels for this processor")


def convolved(x, weight):
    """(N, C, H, W), (F, C, K, K) -> (N, F, H, W), one filter tap after the other."""
    pad, (height, width) = weight.shape[2] // 2, x.shape[2:]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    return sum(np.einsum('nchw,fc->nfhw', padded[:, :, r:r + height, q:q + width], weight[:, :, r, q])
               for r in range(weight.shape[2]) for q in range(weight.shape[3]))


def blocked(x):
    num, channels, height, width = x.shape
    return x if channels < BLOCK else np.ascontiguousarray(
        x.reshape(num, channels // BLOCK, BLOCK, height, width).transpose(0, 1, 3, 4, 2))


@fast
@pytest.mark.parametrize('shape, kernel_size', [((3, 1, 7, 10), 5), ((2, 3, 8, 6), 5), ((2, BLOCK, 6, 5), 1),
                                                ((3, 3 * BLOCK, 9, 6), 3), ((1, BLOCK, 2, 2), 3)])
def test_convolution_and_both_gradients(shape, kernel_size):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    weight = rng.standard_normal((2 * BLOCK, shape[1], kernel_size, kernel_size)).astype(np.float32)
    dy = rng.standard_normal((shape[0], 2 * BLOCK, *shape[2:])).astype(np.float32)

    forward = onednn.convolution(x.shape, weight.shape)
    y = np.full_like(blocked(dy), np.nan)
    forward.run(blocked(x), forward.pack(weight), y)
    np.testing.assert_allclose(y, blocked(convolved(x, weight)), rtol=0,
                               atol=rounding(weight[0].size) * np.abs(y).max())

    # every weight's gradient is what it would add to sum(y * dy)
    pad, (height, width) = kernel_size // 2, shape[2:]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    expected = np.stack([np.stack([np.einsum('nfhw,nchw->fc', dy, padded[:, :, r:r + height, q:q + width])
                                   for q in range(kernel_size)], -1) for r in range(kernel_size)], -2)
    found = onednn.weight_gradient(x.shape, weight.shape).run(blocked(x), blocked(dy))
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding(dy[:, 0].size) * np.abs(expected).max())

    if shape[1] > 1:                     # <convolved(e), dy> = <e, gradient> for any e
        turned = onednn.transposed(weight)
        backward, dx = onednn.convolution(dy.shape, turned.shape), np.full_like(blocked(x), np.nan)
        backward.run(blocked(dy), backward.pack(turned), dx)
        e = rng.standard_normal(shape).astype(np.float32)
        expected = np.vdot(convolved(e, weight), dy)
        allowed = rounding(turned[0].size) * np.linalg.norm(e) * np.linalg.norm(dx)
        assert np.vdot(blocked(e), dx) == pytest.approx(expected, abs=allowed)


@fast
def test_arrays_of_another_size_are_stopped_before_they_are_read():
    forward = onednn.convolution((2, BLOCK, 4, 4), (BLOCK, BLOCK, 3, 3))
    weight, x = np.ones((BLOCK, BLOCK, 3, 3), np.float32), np.ones((2, 1, 4, 4, BLOCK), np.float32)
    for bad in (x[:1], np.repeat(x, 2, 1), np.repeat(x, 2, 3)[:, :, :, ::2]):
        with pytest.raises(AssertionError):
            forward.run(bad, forward.pack(weight), np.empty_like(x))


@pytest.mark.parametrize('available', [True, False])
def test_training_goes_without_it(available, monkeypatch):
    """MindSpore 2.9 and later bring oneDNN 3: the network is then made of MindSpore's own operators."""
    monkeypatch.setattr(onednn, 'is_available', lambda: available)
    cfg = get_config('quickstart', ['num_classes=3', 'image_size=16', 'resize_size=18', 'batch_size=4'])
    layer = build_step(cfg, Device('CPU', 0, 0, 1)).backbone.features[0]
    assert type(layer) is (FusedMFMConv if available else MFM)


@pytest.mark.parametrize('error', [None, AttributeError("undefined symbol"), OSError("libgomp.so.1")])
def test_a_library_that_cannot_do_it_is_not_available(error, monkeypatch):
    def library():
        if error:
            raise error
    monkeypatch.setattr(onednn, 'library', library)
    onednn.is_available.cache_clear()
    onednn.convolution.cache_clear()
    try:
        assert not onednn.is_available()
    finally:
        onednn.is_available.cache_clear()
