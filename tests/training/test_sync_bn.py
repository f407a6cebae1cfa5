"""sync_bn: BatchNorm over the batches of all ranks is BatchNorm over the whole batch, forward, backward and running."""
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import shared_statistics
from conftest import on_two_ranks, run_in_process, weights_of
from mindspore import nn

from src.device import Device
from src.heads.ranks import Ranks
from src.training.step import build_step
from src.training.sync_bn import SharedBatchNorm, share_batch_statistics

CPU = Device('CPU', 0, 0, 1)
LIMIT = 2e-5                     # of the largest entry: sums of up to 1,024 terms in another order, through 3 layers


@pytest.fixture(scope='module')
def ranks(synthetic, tmp_path_factory):
    """The folder in which two ranks left what they computed."""
    out = tmp_path_factory.mktemp('shared')
    on_two_ranks(Path(__file__).with_name('shared_statistics.py'), out, synthetic)
    return out


def apart(a, b):
    """Return {kind: largest difference in parts of the largest entry}, of losses, gradients, weights and statistics."""
    assert set(a) == set(b)
    kinds = {'loss': 'loss', 'moments': 'moments.', 'mean': 'moving_mean', 'variance': 'moving_variance', 'weights': ''}
    names = {}
    for name in b:
        names.setdefault(next(kind for kind, part in kinds.items() if part in name), []).append(name)
    return {kind: max(float(np.abs(np.float64(a[name]) - b[name]).max()) for name in held)
            / max(float(np.abs(b[name]).max()) for name in held) for kind, held in names.items()}


def test_two_ranks_are_one_with_the_whole_batch(ranks, synthetic):
    """Loss, gradients, weights, running statistics: 2 x 4 images against 8. Each rank's own statistics are far off."""
    whole = shared_statistics.after_a_step(shared_statistics.settings(synthetic), CPU)
    shared = [np.load(ranks / f'shared_{rank}.npz') for rank in range(2)]
    difference = apart(dict(shared[0]), whole)
    assert max(difference.values()) < LIMIT, difference
    assert all(np.array_equal(shared[0][name], shared[1][name]) for name in whole)
    own = apart(dict(np.load(ranks / 'own_0.npz')), whole)
    assert min(own.values()) > 100 * LIMIT, own


def test_a_run_of_two_ranks_is_the_run_of_one(ranks, synthetic, tmp_path):
    """Twelve steps through the trainer, the ranks compared after each; checkpoints have the same names."""
    assert run_in_process(shared_statistics.settings(synthetic), tmp_path) == 12
    one, two = (weights_of(folder / 'lightcnn-2_6.ckpt') for folder in (tmp_path, ranks / 'ckpt'))
    start = {p.name: p.asnumpy() for p in build_step(shared_statistics.settings(synthetic), CPU).weights}
    way = sum(float(((one[name] - start[name]) ** 2).sum()) for name in start)
    assert one.keys() == two.keys()
    assert (sum(float(((one[name] - two[name]) ** 2).sum()) for name in start) / way) ** 0.5 < 1e-2


def test_ranks_compare_what_must_be_equal(ranks):
    """A running mean that differs: an error where statistics are shared, none where they are each rank's own."""
    for rank in range(2):
        shared, own = (ranks / f'drift_{rank}.txt').read_text().split('\n')
        assert shared.startswith('after 7 steps the weights of rank 1 differ') and own == 'None'


@pytest.mark.parametrize('kind, shape', [(nn.BatchNorm2d, (6, 3, 5, 4)), (nn.BatchNorm1d, (6, 3))])
@pytest.mark.parametrize('mode', [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
def test_against_float64(kind, shape, mode):
    """Output, gradients and running statistics of one rank, in both modes; inputs of mean 100 and variance 1."""
    rng = np.random.default_rng(1)
    x, weight = 100 + rng.standard_normal(shape), rng.standard_normal(shape)
    gamma, beta = rng.uniform(0.5, 2, 3), rng.standard_normal(3)
    norm = kind(3, eps=1e-3, momentum=0.7)
    norm.gamma.set_data(ms.Tensor(gamma, ms.float32)), norm.beta.set_data(ms.Tensor(beta, ms.float32))
    cell = SharedBatchNorm(norm, Ranks()).set_train()
    before = ms.get_context('mode')
    ms.set_context(mode=mode)
    try:
        def loss(x):
            y = cell(x)
            return (y * ms.Tensor(weight, ms.float32)).sum(), y
        both = ms.value_and_grad(loss, 0, ms.ParameterTuple([cell.gamma, cell.beta]), has_aux=True)
        (_, y), (dx, (dgamma, dbeta)) = both(ms.Tensor(x, ms.float32))
        scored = cell.set_train(False)(ms.Tensor(x, ms.float32)).asnumpy()
    finally:
        ms.set_context(mode=before)
    axes, rows = tuple(i for i in range(x.ndim) if i != 1), (1, 3, *[1] * (x.ndim - 2))
    x = np.float32(x).astype(np.float64)
    mean, variance = x.mean(axes), x.var(axes)
    unit = (x - mean.reshape(rows)) / np.sqrt(variance + 1e-3).reshape(rows)
    expected = {'y': unit * gamma.reshape(rows) + beta.reshape(rows), 'gamma': (weight * unit).sum(axes),
                'beta': weight.sum(axes)}
    count = x.size / 3
    expected['x'] = (gamma / np.sqrt(variance + 1e-3)).reshape(rows) * (
        weight - expected['beta'].reshape(rows) / count - unit * expected['gamma'].reshape(rows) / count)
    found = {'y': y, 'gamma': dgamma, 'beta': dbeta, 'x': dx}
    for name, values in expected.items():                  # 100 in float32 is exact to 4e-6 of the spread
        assert np.abs(found[name].asnumpy() - values).max() < 5e-5 * np.abs(values).max(), name
    moving = 0.3 * mean, 0.7 + 0.3 * variance * count / (count - 1)
    np.testing.assert_allclose(norm.moving_mean.asnumpy(), moving[0], rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance.asnumpy(), moving[1], rtol=1e-4)
    unit = (x - moving[0].reshape(rows)) / np.sqrt(moving[1] + 1e-3).reshape(rows)
    np.testing.assert_allclose(scored, unit * gamma.reshape(rows) + beta.reshape(rows), rtol=1e-4, atol=1e-3)


def test_every_batch_norm_is_replaced_and_keeps_its_parameters():
    """Of a MobileFaceNet and a ResNet with gates: names, order and the parameters themselves; none is left over."""
    from src.backbones import build_backbone
    for name in ('mobilefacenet', 'resnet50_irse'):
        network = build_backbone(name, image_size=32)
        before = list(network.get_parameters())
        count = sum(isinstance(cell, (nn.BatchNorm1d, nn.BatchNorm2d)) for _, cell in network.cells_and_names())
        share_batch_statistics(network, Device('GPU', 0, 0, 1))
        assert not any(isinstance(cell, SharedBatchNorm) for _, cell in network.cells_and_names())      # one rank
        from src.training import sync_bn
        sync_bn._replace(network, Ranks(), False)
        kinds = [type(cell) for _, cell in network.cells_and_names()]
        assert kinds.count(SharedBatchNorm) == count and nn.BatchNorm2d not in kinds and nn.BatchNorm1d not in kinds
        after = list(network.get_parameters())
        assert [p.name for p in after] == [p.name for p in before] and all(a is b for a, b in zip(after, before))


def test_ascends_get_mindspores_own(monkeypatch):
    """nn.SyncBatchNorm over the world group, made as on rank 1 of 2 Ascends, with the parameters that were there."""
    from mindspore.nn.layer import normalization

    from src.backbones import build_backbone
    monkeypatch.setattr(normalization, 'get_rank', lambda: 1)
    monkeypatch.setattr(normalization, 'get_group_size', lambda: 2)
    real = normalization.context.get_context
    monkeypatch.setattr(normalization.context, 'get_context', lambda key: 'Ascend' if key == 'device_target' else
                        real(key))
    network = build_backbone('efficientnet_b0', image_size=32)
    before = list(network.get_parameters())
    norms = [cell for _, cell in network.cells_and_names() if isinstance(cell, (nn.BatchNorm1d, nn.BatchNorm2d))]
    share_batch_statistics(network, Device('Ascend', 1, 1, 2))
    shared = [cell for _, cell in network.cells_and_names() if type(cell) is nn.SyncBatchNorm]
    assert len(shared) == len(norms) > 50
    assert all(a is b for a, b in zip(network.get_parameters(), before))
    for new, old in zip(shared, norms):
        assert (new.eps, new.num_features, new.gamma) == (old.eps, old.num_features, old.gamma)
        assert new.momentum == pytest.approx(old.momentum)
        assert new.is_global and new.bn_train.group == 'hccl_world_group' and new.bn_train.device_num == 2
