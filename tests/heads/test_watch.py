"""Target cosine, hard negatives and embedding norm of every kind of head, against NumPy in float64."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.heads import HEADS, build_head
from src.heads.watch import SAMPLED, stride_of

ROWS, SIZE, CLASSES = 24, 16, 12


class Watched(nn.Cell):
    """(embedding, labels) -> sums (3,)."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def construct(self, embedding, labels):
        return self.head.watched(embedding, labels)


def batch(num_classes=CLASSES):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, SIZE)) * rng.uniform(1, 20, (ROWS, 1))
    return x.astype(np.float32), rng.permutation(np.arange(ROWS) // 2 * (num_classes // CLASSES)).astype(np.int32)


def unit(x):
    x = x.astype(np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def expected_of(x, labels, weight, num_classes):
    """Return the means (3,), every class looked at by itself."""
    cosine = np.einsum('nd,ckd->nck', unit(x), unit(weight.reshape(num_classes, -1, SIZE))).max(2)
    hard = []
    for row, label in zip(cosine, labels):
        others = [c for c in range(0, num_classes, stride_of(num_classes)) if c != label]
        hard.append(np.mean([row[c] > row[label] for c in others]))
    return cosine[np.arange(len(x)), labels].mean(), np.mean(hard), np.linalg.norm(x.astype(np.float64), axis=1).mean()


@pytest.mark.parametrize('name', [name for name, head in HEADS.items() if head.has_weight])
def test_heads_with_class_vectors(name):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    head = build_head(name, CLASSES, SIZE).set_train()
    before = [p.asnumpy().copy() for p in head.get_parameters()]
    x, labels = batch()
    found = Watched(head)(Tensor(x), Tensor(labels)).asnumpy() / ROWS
    assert found == pytest.approx(expected_of(x, labels, head.weight.asnumpy(), CLASSES), rel=1e-5)
    assert all(np.array_equal(p.asnumpy(), old) for p, old in zip(head.get_parameters(), before))


@pytest.mark.parametrize('name, options', [('arcface', {}), ('subcenter_arcface', {'sub_centers': 2})])
def test_of_many_classes_every_kth_is_looked_at(name, options):
    ms.set_context(mode=ms.GRAPH_MODE)
    num_classes = 2 * SAMPLED + 100
    assert stride_of(num_classes) == 3 and stride_of(SAMPLED) == 1
    head = build_head(name, num_classes, SIZE, **options)
    x, labels = batch(num_classes)
    found = Watched(head)(Tensor(x), Tensor(labels)).asnumpy() / ROWS
    assert found == pytest.approx(expected_of(x, labels, head.weight.asnumpy(), num_classes), rel=1e-5)
    half = Watched(head)(Tensor(x.astype(np.float16)), Tensor(labels)).asnumpy() / ROWS
    assert half == pytest.approx(found, rel=1e-2)


@pytest.mark.parametrize('name', ['triplet', 'contrastive', 'mps'])
def test_heads_that_compare_samples(name):
    ms.set_context(mode=ms.GRAPH_MODE)
    x, labels = batch()
    found = Watched(build_head(name, CLASSES, SIZE))(Tensor(x), Tensor(labels)).asnumpy() / ROWS
    cosine, same = unit(x) @ unit(x).T, labels[:, None] == labels
    genuine = cosine[same & ~np.eye(ROWS, dtype=bool)].mean()
    assert found == pytest.approx((genuine, (cosine[~same] > genuine).mean(),
                                   np.linalg.norm(x.astype(np.float64), axis=1).mean()), rel=1e-5)


def test_zero_rows_and_single_ones_are_finite():
    ms.set_context(mode=ms.GRAPH_MODE)
    for name in ('softmax', 'triplet'):
        found = Watched(build_head(name, 2, SIZE))(Tensor(np.zeros((1, SIZE), np.float32)), Tensor(np.int32([1])))
        assert found.asnumpy().tolist() == [0, 0, 0]
