"""Gradients of several ranks of one host meet in memory that they share."""
import os

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from src.cpu.host_mean import host_mean
from src.device import SHARED_MEMORY

SHAPES = [(3, 2, 5, 5), (3,), (1,), (7, 256)]


class Exchange(nn.Cell):
    def __init__(self, exchange):
        super().__init__()
        self.exchange = exchange

    def construct(self, *grads):
        return self.exchange.mean(ops.depend(grads[1], self.exchange.write(*grads)))


@pytest.mark.parametrize('num_ranks', [2, 3])
def test_means_are_those_of_all_ranks(num_ranks, monkeypatch):
    memory = os.memfd_create('test')
    monkeypatch.setenv(SHARED_MEMORY, str(memory))
    rng = np.random.default_rng(0)
    grads = [[rng.standard_normal(shape).astype(np.float32) for shape in SHAPES] for _ in range(num_ranks)]
    ranks = [Exchange(host_mean(rank, num_ranks, SHAPES)) for rank in range(num_ranks)]
    for _ in range(2):                                       # the first round writes what the second reads whole
        found = [[x.asnumpy() for x in rank(*map(ms.Tensor, own))] for rank, own in zip(ranks, grads)]
    os.close(memory)                                         # the mappings hold it
    for rank in found:
        for mean, *parts in zip(rank, *grads):
            assert mean.shape == parts[0].shape
            np.testing.assert_allclose(mean, np.mean(parts, 0), rtol=1e-5, atol=1e-6)
    assert all(np.array_equal(a, b) for a, b in zip(found[0], found[-1]))


def test_without_a_launcher_there_is_none(monkeypatch):
    monkeypatch.delenv(SHARED_MEMORY, raising=False)
    assert host_mean(0, 2, SHAPES) is None
    monkeypatch.setenv(SHARED_MEMORY, '99')
    assert host_mean(0, 1, SHAPES) is None
