"""No input gives a head a loss or a gradient that is not finite: random and adversarial rows, float16 and float32."""
import mindspore as ms
import numpy as np
import pytest
from head_goldens import Runner

from src.heads import HEADS, build_head

CLASSES, SIZE, NUM_INPUTS = 20, 16, 10000
COMPARING = ('triplet', 'contrastive', 'mps')
VARIANTS = {**{name: (name, {}) for name in HEADS},
            'arcface none': ('arcface', {'hard_region': 'none'}), 'arcface easy': ('arcface', {'hard_region': 'easy'}),
            'arcface straight': ('arcface', {'derivative': 'straight_through', 'filter': 0.3}),
            'combined turned': ('combined', {'m1': 1.3}),
            'all penalties': ('cosface', {'center': 0.1, 'git': 0.1, 'ring': 0.1, 'magnitude': 1.0}),
            'triplet semihard': ('triplet', {'mining': 'semihard'}), 'triplet all': ('triplet', {'mining': 'all'}),
            'triplet angle': ('triplet', {'distance': 'angle'}), 'contrastive all': ('contrastive', {'pairs': 'all'})}


def adversarial(rng, weight, rows):
    """Return rows (features, labels): random, zero, tiny, huge, along class vectors and against them."""
    labels = rng.integers(0, CLASSES, rows)
    x = rng.standard_normal((rows, SIZE))
    kind = rng.integers(0, 10, rows)
    others = (labels + rng.integers(1, CLASSES, rows)) % CLASSES
    for k, classes, sign in ((1, labels, 1), (2, labels, -1), (3, others, 1), (4, others, -1)):
        x[kind == k] = sign * weight[classes[kind == k]] * rng.uniform(0.01, 30, (int((kind == k).sum()), 1))
    x[kind == 5] = 0
    x[kind == 6] *= 1e-4
    x[kind == 7] *= 1e3
    x[kind == 8] = x[0]
    near = kind == 9
    x[near] = weight[labels[near]] * (1 + 1e-4 * x[near])
    return x, labels.astype(np.int32)


@pytest.mark.parametrize('name', VARIANTS)
def test_every_gradient_is_finite(name):
    ms.set_context(mode=ms.GRAPH_MODE)
    kind, options = VARIANTS[name]
    rng = np.random.default_rng(5)
    rows = 50 if kind in COMPARING else 500
    for dtype in (np.float32, np.float16):
        head = build_head(kind, CLASSES, SIZE, **options).set_train()
        weight = head.weight.asnumpy() if head.has_weight else rng.standard_normal((CLASSES, SIZE))
        runner = Runner(head)
        for _ in range(NUM_INPUTS // 2 // rows):
            found = runner.run(*adversarial_as(dtype, rng, weight, rows))
            wrong = [key for key, value in found.items() if not np.isfinite(value).all()]
            assert not wrong, (dtype, wrong)
            assert 0 <= found['hits'] <= rows and found['loss'] >= 0


def adversarial_as(dtype, rng, weight, rows):
    """Return adversarial rows of a type."""
    x, labels = adversarial(rng, weight[:CLASSES], rows)
    return x.astype(dtype), labels
