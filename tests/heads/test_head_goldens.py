"""Every head gives the losses, gradients and states of the original programs.

    python -m pytest tests/heads -s                      # also prints the largest difference of every key

Differences are in parts of the largest entry of the golden array, which comes from a float64 run. LIMIT is four times
what the originals themselves differ between float32 and float64 (2.6e-6).
"""
import mindspore as ms
import numpy as np
import pytest
from head_goldens import CASES, LEFT_OUT, GoldenHead, golden_names, goldens


LIMIT = 1e-5
SMALL, LIMIT_SMALL = 1e-3, 4e-5          # a small loss is a sum of exp(64 cos): rounding counts 64 times
UNUSED = {                               # {array: why no head gives it}
    'loss_per_sample': 'heads give means', 'triplets': 'tested through loss and gradients, and by itself below',
    'lamb': 'follows from the step', 'logits': 'a test of its own'}


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


def batches_of(key):
    """Yield (prefix of the golden keys, batch, whether it is an easy one, whether the state starts afresh)."""
    names = {name for name in goldens() if name.startswith(f'{key}/')}
    for prefix, easy in (('', False), ('easy/', True)):
        if any(name.startswith(f'{key}/{prefix}step0/') for name in names):
            yield from ((f'{key}/{prefix}step{k}/', k, easy, k == 0) for k in range(3))
        elif f'{key}/{prefix}loss' in names:
            yield f'{key}/{prefix}', 0, easy, True
    if f'{key}/loss' not in names and f'{key}/step0/loss' not in names:
        yield f'{key}/f32/', 0, False, True


def difference(ours, theirs):
    """Return the largest difference in parts of the largest entry; of a golden that is all zero, the difference."""
    ours, theirs = np.asarray(ours, np.float64).reshape(-1), np.asarray(theirs, np.float64).reshape(-1)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / (np.abs(theirs).max() or 1.0))


def limit_of(name):
    """Return how far our array may be from the golden one called `name`."""
    return LIMIT_SMALL if name.endswith('/loss') and goldens()[name] < SMALL else LIMIT


def compared(key, head, prefix, ours):
    """Return {golden key: difference} of the arrays below `prefix`."""
    names = [name for name in goldens() if name.startswith(prefix) and '/' not in name[len(prefix):]]
    kept = [name for name in names if name[len(prefix):] not in UNUSED]
    assert f'{prefix}loss' in kept or f'{prefix}grad_features' in kept
    return {name: difference(ours[name[len(prefix):]], goldens()[name]) for name in kept}


@pytest.mark.parametrize('key', CASES)
def test_a_head_meets_its_goldens(key):
    goldens()
    head = GoldenHead(CASES[key])
    found = {}
    for prefix, step, easy, starts in batches_of(key):
        if starts:
            head.restart()
        found.update(compared(key, head, prefix, head.run(step, easy)))
    assert found
    worst = max(found, key=found.get)
    print(f"\n{key:40} {CASES[key].head:18} {len(found):3} arrays, {found[worst]:.1e} ({worst[len(key) + 1:]})", end='')
    beyond = {name: value for name, value in found.items() if value > limit_of(name)}
    assert not beyond


def test_no_golden_is_forgotten():
    assert golden_names() == CASES.keys() | LEFT_OUT.keys() and not CASES.keys() & LEFT_OUT.keys()
    for key, reason in LEFT_OUT.items():
        print(f"\n{key:40} left out: {reason}", end='')
