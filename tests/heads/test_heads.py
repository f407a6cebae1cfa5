"""Heads by name and option, what they add to each other, and what the golden file has no number for."""
import mindspore as ms
import numpy as np
import pytest
from head_goldens import CASES, GoldenHead, Runner, goldens, inputs, parameters
from mindspore import Tensor, nn

from src.heads import ALIASES, HEADS, build_head
from src.heads.penalties import PENALTY_OPTIONS, Penalties
from src.heads.ranks import Ranks
from src.initializers import Init

SIZE, CLASSES = 16, 12
LOGITS = [key for key in CASES if key.startswith(('facex', 'adaface')) and 'triplet' not in key
          and 'contrastive' not in key]


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


def batch(rows=24, seed=0):
    """Return (features, labels) with several rows of every label that occurs."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, SIZE)) * rng.uniform(1, 20, (rows, 1))
    return x.astype(np.float32), rng.permutation(np.arange(rows) % 6).astype(np.int32)


class Logits(nn.Cell):
    """(features, labels) -> a head's logits."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def construct(self, features, labels):
        return self.head.logits(features, labels)


@pytest.mark.parametrize('key', LOGITS)
def test_logits_meet_their_goldens(key):
    prefix = 'step0/' if f'{key}/step0/logits' in goldens() else ''
    golden = GoldenHead(CASES[key])
    ours = Logits(golden.head).set_train()(*map(Tensor, inputs(CASES[key], 0, False))).asnumpy()
    theirs = goldens()[f'{key}/{prefix}logits']
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize('name', HEADS)
def test_both_modes_give_the_same(name):
    found = []
    for mode in (ms.GRAPH_MODE, ms.PYNATIVE_MODE):
        ms.set_context(mode=mode)
        head = build_head(name, CLASSES, SIZE).set_train()
        found.append({**Runner(head).run(*batch()), **{n: p.asnumpy() for n, p in parameters(head).items()
                                                       if not p.requires_grad}})
    for key, theirs in found[0].items():
        assert np.abs(found[1][key] - theirs).max() <= 2e-5 * max(np.abs(theirs).max(), 1e-3), key


@pytest.mark.parametrize('name', [n for n in HEADS if n in ('adacos', 'adaface', 'curricularface', 'sphereface')])
def test_only_training_changes_the_state(name):
    head = build_head(name, CLASSES, SIZE).set_train(False)
    features, labels = map(Tensor, batch())
    before = {n: p.asnumpy().copy() for n, p in parameters(head).items()}
    head(features, labels)
    assert all(np.array_equal(before[n], p.asnumpy()) for n, p in parameters(head).items())
    head.set_train()(features, labels)
    states = [n for n, p in parameters(head).items() if not p.requires_grad]
    assert states and all(not np.array_equal(before[n], parameters(head)[n].asnumpy()) for n in states)


def test_center_loss_by_the_paper_moves_centers():
    features, labels = inputs(CASES['gluon.centerloss'], 0, False)
    options = {name: option.default for name, option in PENALTY_OPTIONS.items()}
    penalty = Penalties(40, 32, Init('xavier', 1), {**options, 'center': 1.0, 'center_update': 'paper'}, Ranks())
    penalty.set_train().centers.set_data(Tensor(3 * goldens()['inputs/weight']))
    loss, grad = ms.value_and_grad(penalty)(Tensor(features), Tensor(labels))
    for name, ours in (('loss', loss), ('grad_features', grad), ('centers_after_alpha0.5', penalty.centers)):
        theirs = goldens()[f'formula.center_paper/{name}']
        assert np.abs(ours.asnumpy() - theirs).max() < 1e-5 * np.abs(theirs).max(), name


def test_penalties_add_to_any_classification_head():
    features, labels = batch()
    x = features.astype(np.float64)
    plain = Runner(build_head('arcface', CLASSES, SIZE).set_train()).run(features, labels)
    both = Runner(build_head('arcface', CLASSES, SIZE, ring=0.5, ring_radius=3.0).set_train()).run(features, labels)
    ring = 0.25 * ((np.linalg.norm(x, axis=1) - 3.0) ** 2).mean()
    assert both['loss'] - plain['loss'] == pytest.approx(ring, rel=1e-5) and both['hits'] == plain['hits']


def test_one_sub_center_is_arcface_and_the_nearest_of_several_counts():
    features, labels = batch()
    weight = np.random.default_rng(3).standard_normal((CLASSES, 3, SIZE)).astype(np.float32)
    head = build_head('subcenter_arcface', CLASSES, SIZE, margin=0.0).set_train()
    head.weight.set_data(Tensor(weight.reshape(-1, SIZE)))
    units = [a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (features.astype(np.float64), weight)]
    logits = 64 * np.einsum('nd,ckd->nck', *units).max(2)
    losses = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    expected = (losses - logits[np.arange(len(labels)), labels]).mean()
    assert Runner(head).run(features, labels)['loss'] == pytest.approx(expected, rel=1e-5)
    one = build_head('subcenter_arcface', CLASSES, SIZE, sub_centers=1).set_train()
    arcface = build_head('arcface', CLASSES, SIZE).set_train()
    assert Runner(one).run(features, labels)['loss'] == Runner(arcface).run(features, labels)['loss']


@pytest.mark.parametrize('mining', ['random', 'semihard'])
def test_spread_choices_are_candidates_and_change_from_step_to_step(mining):
    head = build_head('triplet', CLASSES, SIZE, mining=mining, margin=1.0).set_train()
    features, labels = batch()
    x = features / np.linalg.norm(features, axis=1, keepdims=True)
    distance = ((x[:, None] - x[None]) ** 2).sum(2)
    seen = []
    for _ in range(3):
        taken, negative = (part.asnumpy() for part in head.chosen(Tensor(distance), Tensor(labels)))
        for a, p in zip(*np.nonzero(taken)):
            excess = distance[a, p] - distance[a, negative[a, p]] + 1.0
            assert labels[a] == labels[p] != labels[negative[a, p]] and a < p
            assert -1e-5 < excess < (1.0 + 1e-5 if mining == 'semihard' else 5.0)
        seen.append(negative[taken > 0])
    assert len(seen[0]) and any(not np.array_equal(seen[0], other) for other in seen[1:])


def test_hits_of_comparing_heads_count_nearest_rows_of_the_same_label():
    features, labels = batch()
    x = features / np.linalg.norm(features, axis=1, keepdims=True)
    nearest = (x @ x.T - 9 * np.eye(len(x))).argmax(1)
    expected = (labels[nearest] == labels).sum()
    for name in ('triplet', 'contrastive', 'mps'):
        assert Runner(build_head(name, CLASSES, SIZE).set_train()).run(features, labels)['hits'] == expected


def test_a_batch_without_pairs_has_no_loss():
    features, _ = batch()
    for name in ('triplet', 'contrastive'):
        found = Runner(build_head(name, CLASSES, SIZE).set_train()).run(features, np.arange(24, dtype=np.int32))
        assert found['loss'] == 0 and not found['grad_features'].any()


def test_names():
    assert ALIASES.keys().isdisjoint(HEADS) and set(ALIASES.values()) <= set(HEADS)
    assert type(build_head('am_softmax', 5, 4)) is HEADS['cosface']
    with pytest.raises(ValueError, match="unknown head 'arc'"):
        build_head('arc', 5, 4)
    with pytest.raises(ValueError, match='head arcface has no option'):
        build_head('arcface', 5, 4, m=0.5)
    with pytest.raises(ValueError, match='head triplet has no option'):
        build_head('triplet', 5, 4, center=0.1)
