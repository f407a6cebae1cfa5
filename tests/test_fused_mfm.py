"""The CPU's one-pass Max-Feature-Map against the plain operators: same numbers, same gradients."""
import os
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from conftest import PROJECT
from mindspore import nn, ops

from src.config import get_config
from src.fused_mfm import FusedMFM
from src.lightcnn import NETWORKS, Init, embedding_network, training_network


class Plain(nn.Cell):
    def __init__(self, pool):
        super().__init__()
        self.add, self.split, self.maximum = ops.BiasAdd(), ops.Split(1, 2), ops.Maximum()
        self.pool = nn.MaxPool2d(2, 2) if pool else nn.Identity()

    def construct(self, x, bias):
        a, b = self.split(self.add(x, bias))
        return self.pool(self.maximum(a, b)), None


class Weighted(nn.Cell):
    """A scalar whose gradient is `weight`, so that every output pixel counts differently."""

    def __init__(self, network, weight):
        super().__init__()
        self.network, self.weight = network, ms.Tensor(weight)

    def construct(self, x, bias):
        return (self.network(x, bias)[0] * self.weight).sum()


@pytest.mark.parametrize('mode', [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
@pytest.mark.parametrize('pool', [False, True])
def test_values_and_gradients_are_those_of_the_plain_operators(pool, mode):
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (3, 10, 6, 8)).astype(np.float32)       # many ties
    bias = rng.integers(-1, 2, 10).astype(np.float32)
    weight = rng.standard_normal((3, 5, 3, 4) if pool else (3, 5, 6, 8)).astype(np.float32)
    ms.set_context(mode=mode)
    try:
        found = []
        for network in (FusedMFM(pool), Plain(pool)):
            grads = ms.grad(Weighted(network, weight), (0, 1))(ms.Tensor(x), ms.Tensor(bias))
            found.append([network(ms.Tensor(x), ms.Tensor(bias))[0].asnumpy(), *(g.asnumpy() for g in grads)])
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)
    for ours, plain in zip(*found):
        assert ours.shape == plain.shape
        np.testing.assert_allclose(ours, plain, atol=1e-5)
    assert np.array_equal(found[0][1], found[1][1])                  # ties go the same way


@pytest.mark.parametrize('pool', [False, True])
@pytest.mark.parametrize('place', [(0, 0, 1, 1), (0, 1, 1, 1)])
def test_what_is_not_a_number_is_not_hidden(pool, place):
    x = np.zeros((1, 2, 2, 2), np.float32)
    x[place] = np.nan
    assert np.isnan(FusedMFM(pool)(ms.Tensor(x), ms.Tensor(np.zeros(2, np.float32)))[0].asnumpy()).any()


@pytest.mark.parametrize('name', NETWORKS)
def test_fused_networks_have_the_same_weights_and_features(name):
    x = ms.Tensor(np.random.default_rng(0).random((2, 1, 32, 32), np.float32))
    plain, fused = (embedding_network(name, 32, Init('centred', 1, flag)).set_train(False) for flag in (False, True))
    assert [p.name for p in plain.get_parameters()] == [p.name for p in fused.get_parameters()]
    assert np.array_equal(plain(x).asnumpy(), fused(x).asnumpy())


def test_a_training_step_has_the_same_gradients():
    cfg = get_config(settings=['num_classes=5', 'image_size=32', 'resize_size=36', 'init=centred'])
    rng = np.random.default_rng(0)
    batch = (ms.Tensor(rng.random((4, 1, 32, 32), np.float32)), ms.Tensor(np.arange(4, dtype=np.int32)),
             ms.Tensor(np.ones((4, 256), np.float32)))
    grads = []
    for flag in (False, True):
        network = training_network(cfg, flag)
        step = ms.value_and_grad(network, None, ms.ParameterTuple(network.trainable_params()), has_aux=True)
        grads.append([g.asnumpy() for g in step(*batch)[1]])
    for plain, fused in zip(*grads):
        np.testing.assert_allclose(fused, plain, atol=1e-4 * np.abs(plain).max() + 1e-7)


GRADIENTS = """
import numpy as np
from src.fused_mfm import mfm_grad, pooled_grad
rng = np.random.default_rng(0)
for grad, top in ((mfm_grad, 3), (pooled_grad, 12)):
    dy = rng.standard_normal((7, 5, 9, 11)).astype(np.float32)
    print(*(part.tobytes().hex() for part in grad(dy, rng.integers(0, top, dy.shape).astype(np.uint8))))
"""


def test_kernels_from_the_cache_give_the_same_bits(tmp_path):
    """Sums that a compiler may reorder came out otherwise in the process that compiled them than in the next."""
    printed = []
    for _ in range(2):
        done = subprocess.run([sys.executable, '-c', GRADIENTS], cwd=PROJECT, capture_output=True, text=True,
                              env={**os.environ, 'NUMBA_CACHE_DIR': str(tmp_path), 'PYTHONPATH': str(PROJECT)})
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert list(tmp_path.rglob('*.nbc')) and printed[0] == printed[1] != ''
