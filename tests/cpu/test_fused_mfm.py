"""The CPU's fused convolution with Max-Feature-Map against the plain operators: same numbers, same gradients."""
import os
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from conftest import LIGHTCNNS, PROJECT, lightcnn, lightcnn_in_numpy, rounding, terms_of
from mindspore import nn, ops

from src.config import get_config
from src.cpu import onednn
from src.cpu.fused_mfm import Blocked, FusedMFM, Unblocked
from src.cpu.onednn import BLOCK
from src.initializers import Init
from src.training.network import training_network

pytestmark = pytest.mark.skipif(not onednn.is_available(), reason="no oneDNN 2 with fast kernels for this processor")


class Plain(nn.Cell):
    """Convolution, bias, larger half of the maps, pooling: (x, weight, bias) -> maps."""

    def __init__(self, pool):
        super().__init__()
        self.split, self.maximum = ops.Split(1, 2), ops.Maximum()
        self.pool = nn.MaxPool2d(2, 2) if pool else nn.Identity()

    def construct(self, x, weight, bias):
        a, b = self.split(ops.conv2d(x, weight, bias, pad_mode='pad', padding=weight.shape[2] // 2))
        return self.pool(self.maximum(a, b))


class Fused(nn.Cell):
    """The same, from and to plain maps."""

    def __init__(self, pool, num_inputs):
        super().__init__()
        self.blocked = Blocked() if num_inputs > 1 else nn.Identity()
        self.mfm, self.unblocked = FusedMFM(pool), Unblocked()

    def construct(self, x, weight, bias):
        return self.unblocked(self.mfm(self.blocked(x), weight, bias)[0])


class Weighted(nn.Cell):
    """A scalar whose gradient is `factor`, so that every output pixel counts differently."""

    def __init__(self, network, factor):
        super().__init__()
        self.network, self.factor = network, ms.Tensor(factor)

    def construct(self, x, weight, bias):
        return (self.network(x, weight, bias) * self.factor).sum()


def outputs_and_gradients(network, factor, inputs):
    """Return [output, gradients of x, weight and bias] as arrays."""
    inputs = [ms.Tensor(array) for array in inputs]
    grads = ms.grad(Weighted(network, factor), (0, 1, 2))(*inputs)
    return [network(*inputs).asnumpy(), *(grad.asnumpy() for grad in grads)]


@pytest.mark.parametrize('mode', [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
@pytest.mark.parametrize('pool', [False, True])
@pytest.mark.parametrize('num_inputs, kernel_size', [(1, 5), (BLOCK, 1), (2 * BLOCK, 3)])
def test_values_and_gradients_are_those_of_the_plain_operators(num_inputs, kernel_size, pool, mode):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((18, num_inputs, 6, 8)).astype(np.float32)            # two slices of nine images
    weight = rng.standard_normal((4 * BLOCK, num_inputs, kernel_size, kernel_size)).astype(np.float32)
    bias = rng.standard_normal(4 * BLOCK).astype(np.float32)
    factor = rng.standard_normal((18, 2 * BLOCK, 3, 4) if pool else (18, 2 * BLOCK, 6, 8)).astype(np.float32)
    ms.set_context(mode=mode)
    try:
        ours, plain = (outputs_and_gradients(network, factor, (x, weight, bias))
                       for network in (Fused(pool, num_inputs), Plain(pool)))
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)
    terms = [num_inputs * kernel_size ** 2, 4 * BLOCK * kernel_size ** 2, x[:, 0].size, x[:, 0].size]   # y, dx, dw, db
    if num_inputs == 1:
        assert not ours.pop(1).any() and plain.pop(1).any()          # pictures get no gradient
        terms.pop(1)
    for found, expected, num_terms in zip(ours, plain, terms):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=2 * rounding(num_terms) * np.abs(expected).max())


@pytest.mark.parametrize('pool', [False, True])
def test_gradients_of_ties_go_where_the_plain_operators_send_them(pool):
    rng = np.random.default_rng(0)
    x = rng.integers(-1, 2, (3, BLOCK, 6, 8)).astype(np.float32)
    weight = rng.integers(-1, 2, (2 * BLOCK, BLOCK, 1, 1)).astype(np.float32)
    bias = rng.integers(-1, 2, 2 * BLOCK).astype(np.float32)
    factor = rng.integers(-4, 5, (3, BLOCK, 3, 4) if pool else (3, BLOCK, 6, 8)).astype(np.float32)
    ours, plain = (outputs_and_gradients(network, factor, (x, weight, bias))
                   for network in (Fused(pool, BLOCK), Plain(pool)))
    for found, expected in zip(ours, plain):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize('pool', [False, True])
@pytest.mark.parametrize('half', [0, 1])
def test_what_is_not_a_number_is_not_hidden(pool, half):
    bias = np.zeros(2 * BLOCK, np.float32)
    bias[half * BLOCK] = np.nan
    x, weight = np.zeros((1, 1, 2, 2), np.float32), np.zeros((2 * BLOCK, 1, 1, 1), np.float32)
    found = Fused(pool, 1)(*map(ms.Tensor, (x, weight, bias))).asnumpy()
    assert np.isnan(found[:, 0]).all() and not found[:, 1:].any()


@pytest.mark.parametrize('name', LIGHTCNNS)
def test_fused_networks_have_the_same_weights_and_features(name):
    x = np.random.default_rng(0).random((2, 1, 32, 32), np.float32)
    plain, fused = (lightcnn(name, 32, Init('centred', 1, target)) for target in (None, 'CPU'))
    assert [p.name for p in plain.get_parameters()] == [p.name for p in fused.get_parameters()]
    expected = lightcnn_in_numpy(plain, name, x.astype(np.float64))
    for network in (plain, fused):
        np.testing.assert_allclose(network(ms.Tensor(x)).asnumpy(), expected, rtol=0,
                                   atol=rounding(*terms_of(plain)) * np.abs(expected).max())


def set_whole_numbers(network):
    """Give a network weights of which each filter has one, 1 or -1, and whole biases: its maps are then exact.

    Rounding would turn a maximum of a deep network over now and then, and send its gradient elsewhere.
    """
    rng = np.random.default_rng(0)
    for p in network.get_parameters():
        value = rng.integers(-1, 2, p.shape).astype(np.float32)
        if p.ndim > 1:
            value = np.zeros((len(p), p.size // len(p)), np.float32)
            value[range(len(p)), rng.integers(0, value.shape[1], len(p))] = rng.choice([-1, 1], len(p))
        p.set_data(ms.Tensor(value.reshape(p.shape)))


@pytest.mark.parametrize('name', LIGHTCNNS)
def test_a_training_step_has_the_same_gradients(name, monkeypatch):
    cfg = get_config(settings=['num_classes=5', 'image_size=32', 'resize_size=36', 'init=centred',
                               f'network_type={name}'])
    rng = np.random.default_rng(0)
    batch = (ms.Tensor(rng.integers(0, 4, (4, 1, 32, 32)).astype(np.float32)),
             ms.Tensor(np.arange(4, dtype=np.int32)), ms.Tensor(np.ones((4, 256), np.float32)))
    monkeypatch.setattr(onednn, '_WINOGRAD', onednn._DIRECT)                # Winograd's sums hold fractions
    onednn.convolution.cache_clear()
    grads = []
    for target in (None, 'CPU'):
        network = training_network(cfg, target)
        set_whole_numbers(network.backbone)
        network.head.weight.set_data(ms.Tensor(np.random.default_rng(1).normal(0, 1e-3, (5, 256)).astype(np.float32)))
        step = ms.value_and_grad(network, None, ms.ParameterTuple(network.trainable_params()), has_aux=True)
        grads.append([g.asnumpy() for g in step(*batch)[1]])
    onednn.convolution.cache_clear()
    allowed = rounding(*terms_of(network), 4 * 32 * 32)
    for plain, fused in zip(*grads):
        np.testing.assert_allclose(fused, plain, rtol=0, atol=allowed * np.abs(plain).max() + 1e-30)
    assert all(g.any() for g in grads[0][:4] + grads[0][-2:])


KERNELS = """
import os
import sys
import numpy as np
from llvmlite import binding
real = binding.get_host_cpu_features
if 'DNNL_MAX_CPU_ISA' in os.environ:
    binding.get_host_cpu_features = dict
from src.cpu import onednn
binding.get_host_cpu_features = real
from src.cpu import fused_mfm
from src.cpu.onednn import BLOCK
assert onednn.is_available() and BLOCK == int(sys.argv[1]), BLOCK
def plain(maps):
    return maps.transpose(0, 1, 4, 2, 3).reshape(len(maps), -1, *maps.shape[2:4])
rng = np.random.default_rng(0)
x = rng.standard_normal((6, 32, 10, 12)).astype(np.float32)
x = np.ascontiguousarray(x.reshape(6, -1, BLOCK, 10, 12).transpose(0, 1, 3, 4, 2))
weight = rng.standard_normal((64, 32, 3, 3)).astype(np.float32)
picture = rng.random((6, 1, 32, 48)).astype(np.float32)
filters = rng.standard_normal((32, 1, 5, 5)).astype(np.float32)
z, source = (part.copy() for part in fused_mfm.forward(True, picture, filters, filters[:, 0, 0, 0]))
_, *grads = fused_mfm.gradient(True, z, source, picture, filters)
print(*(part.tobytes().hex() for part in (plain(z), *grads)))
compiled = onednn.weight_gradient((6, 1, 32, 48), filters.shape).primitive.implementation
assert 'jit' in compiled, compiled
for pool in (False, True):
    z, source = (part.copy() for part in fused_mfm.forward(pool, x, weight, weight[:, 0, 0, 0]))
    dx, *grads = fused_mfm.gradient(pool, z, source, x, weight)
    print(*(part.tobytes().hex() for part in (plain(z), plain(dx), *grads)))
"""


def run_kernels(cache_dir, block=BLOCK, **env):
    """Return what the kernels print in a process that keeps its compiled code in `cache_dir`."""
    done = subprocess.run([sys.executable, '-c', KERNELS, str(block)], cwd=PROJECT, capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': str(PROJECT), 'NUMBA_CACHE_DIR': str(cache_dir), **env})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kernels_from_the_cache_give_the_same_bits(tmp_path):
    """Sums that a compiler may reorder came out otherwise in the process that compiled them than in the next."""
    printed = [run_kernels(tmp_path) for _ in range(2)]
    assert list(tmp_path.rglob('*.nbc')) and printed[0] == printed[1] != ''


@pytest.mark.skipif(BLOCK != 16, reason="this processor has no AVX-512, so it is what the other tests run on")
def test_processors_without_avx512_get_the_same_numbers(tmp_path):
    wide, narrow = run_kernels(tmp_path / 'wide'), run_kernels(tmp_path / 'narrow', 8, DNNL_MAX_CPU_ISA='AVX2')
    for found, expected in zip(narrow.split(), wide.split()):
        found, expected = (np.frombuffer(bytes.fromhex(text), np.float32) for text in (found, expected))
        allowed = 2 * rounding(6 * 32 * 48)                                 # the longest sum: a picture's gradient
        np.testing.assert_allclose(found, expected, rtol=0, atol=allowed * np.abs(expected).max())
