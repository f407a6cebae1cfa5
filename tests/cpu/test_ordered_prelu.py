"""PReLU's gradients: those of float64, and the same bits every time, as MindSpore's own do not have."""
import mindspore as ms
import numpy as np
import pytest
from conftest import rounding
from mindspore import nn

from src.cpu.ordered_prelu import sum_in_order


def gradients(cell, x, weight):
    """Return (dx, dslopes) of the sum of weight * cell(x)."""
    weight = ms.Tensor(weight)

    def loss(x):
        return (cell(x) * weight).sum()
    dx, dslopes = ms.grad(loss, 0, cell.trainable_params())(ms.Tensor(x))
    return dx.asnumpy(), (dslopes[0] if isinstance(dslopes, tuple) else dslopes).asnumpy()


@pytest.mark.parametrize('mode', [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
@pytest.mark.parametrize('shape', [(16, 64, 32, 32), (4, 48, 7, 7), (5, 6)])
def test_gradients(shape, mode):
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, *shape)).astype(np.float32)
    plain, ordered = nn.PReLU(shape[1], 0.3), nn.SequentialCell(nn.PReLU(shape[1], 0.3))
    sum_in_order(ordered)
    assert [p.name for p in ordered.get_parameters()] == ['0.w']
    before = ms.get_context('mode')
    ms.set_context(mode=mode)
    try:
        found = [gradients(ordered, x, weight) for _ in range(8)]
        assert np.array_equal(ordered(ms.Tensor(x)).asnumpy(), plain(ms.Tensor(x)).asnumpy())
    finally:
        ms.set_context(mode=before)
    axes, slopes = tuple(i for i in range(x.ndim) if i != 1), np.float32(0.3).astype(float)
    exact = np.where(x > 0, weight, slopes * weight), (weight.astype(float) * np.minimum(x, 0)).sum(axes)
    terms = x.size // shape[1]
    for got, expected, limit in zip(found[0], exact, (2.0 ** -22, rounding(terms))):
        assert np.abs(got - expected).max() < limit * np.abs(expected).max()
    assert all(np.array_equal(a, b) for other in found[1:] for a, b in zip(found[0], other))
