"""One step against NumPy, the loss scale, the deeper networks, and the check that ranks agree."""
import mindspore as ms
import numpy as np
import pytest

from src.config import get_config
from src.device import Device
from src.training import guards
from src.training import step as train_step
from src.training.network import training_network
from src.training.step import SplitStep, TrainStep


def batch(cfg, seed=0):
    rng = np.random.default_rng(seed)
    return [ms.Tensor(a) for a in (rng.random((4, 1, 16, 16), np.float32), np.arange(4, dtype=np.int32),
                                   np.ones((4, 256), np.float32))]


def test_the_four_groups():
    cfg = get_config()
    names = ['backbone.fc.layer.weight', 'backbone.fc.layer.bias', 'head.weight', 'head.bias']
    network = training_network(get_config(settings=['num_classes=9']))
    groups = [network.parameter_group(name, cfg) for name in names]
    assert groups == [(1.0, 1e-4), (2.0, 0.0), (10.0, 1e-4), (20.0, 0.0)]
    held = [p.name for p in network.trainable_params()]
    assert set(names) <= set(held)


def numpy_step(network, weights, moments, grads, cfg, lr):
    for name in weights:
        mult, decay = network.parameter_group(name, cfg)
        moments[name] = cfg.momentum * moments[name] + grads[name] + decay * weights[name]
        weights[name] = weights[name] - lr * mult * moments[name]


@pytest.mark.parametrize('mode', [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
@pytest.mark.parametrize('recipe', ['lightcnn9_ms1m', 'lightcnn9_celebrities'])
def test_steps_are_sgd_with_momentum(recipe, mode):
    """Two steps against NumPy's SGD, gradients from MindSpore; the published settings and the clipped ones."""
    cfg = get_config(recipe, ['num_classes=6', 'image_size=16', 'resize_size=16', 'weight_decay=0.01'])
    ms.set_context(mode=mode)
    try:
        network = training_network(cfg)
        step = TrainStep(network, cfg)

        def loss_of(images, labels, mask):
            return network(images, labels, mask)[0]

        gradient = ms.grad(loss_of, None, step.weights)
        weights = {p.name: p.asnumpy().copy() for p in step.weights}
        moments = {name: np.zeros_like(w) for name, w in weights.items()}
        for seed, lr in enumerate((0.02, 0.01)):
            grads = {p.name: g.asnumpy() for p, g in zip(step.weights, gradient(*batch(cfg, seed)))}
            length = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads.values()))
            factor = min(1, cfg.clip_norm / length) if cfg.clip_norm else 1
            numpy_step(network, weights, moments, {k: factor * g for k, g in grads.items()}, cfg, lr)
            step(*batch(cfg, seed), ms.Tensor(np.float32(lr)))
            for p in step.weights:
                assert np.allclose(p.asnumpy(), weights[p.name], rtol=1e-4, atol=2e-6), p.name
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


def test_loss_scaling_changes_nothing_but_skips_bad_steps(cfg):
    """The mixed-precision step with its scaler, run in fp32: same weights; an overflow updates none of them."""
    plain = TrainStep(training_network(cfg), cfg)
    scaler = ms.amp.DynamicLossScaler(scale_value=2.0 ** 10, scale_factor=2, scale_window=1000)
    scaled = TrainStep(training_network(cfg), cfg, loss_scaler=scaler)
    lr = ms.Tensor(np.float32(0.01))
    loss, _, _ = plain(*batch(cfg), lr)
    scaled_loss, _, updated = scaled(*batch(cfg), lr)
    assert bool(updated.asnumpy()) and float(loss.asnumpy()) == pytest.approx(float(scaled_loss.asnumpy()), rel=1e-5)
    for a, b in zip(plain.weights, scaled.weights):
        assert np.allclose(a.asnumpy(), b.asnumpy(), atol=1e-6)
    before = [w.asnumpy().copy() for w in scaled.weights]
    bad = batch(cfg)
    bad[0] = ms.Tensor(np.full((4, 1, 16, 16), np.inf, np.float32))
    _, _, updated = scaled(*bad, lr)
    assert not bool(updated.asnumpy()) and float(scaler.scale_value.asnumpy()) == 2.0 ** 9
    assert all(np.array_equal(w.asnumpy(), b) for w, b in zip(scaled.weights, before))


def test_parts_of_a_batch_make_the_same_step(cfg, monkeypatch):
    """Two steps of 12 images in three parts, with clipped gradients: the weights of the whole, within float error."""
    monkeypatch.setattr(train_step, 'PART', 5)
    cfg.batch_size, cfg.clip_norm = 12, 0.5
    rng = np.random.default_rng(0)
    split, whole = SplitStep(training_network(cfg), cfg), TrainStep(training_network(cfg), cfg)
    assert split.num_parts == 3
    for _ in range(2):
        images, mask = rng.random((12, 1, 16, 16), np.float32), rng.random((12, 256), np.float32)
        arrays = images, rng.integers(0, 6, 12).astype(np.int32), mask, np.float32(0.02)
        found, expected = (np.hstack([x.asnumpy() for x in step.run(*arrays)]) for step in (split, whole))
        assert found == pytest.approx(expected, rel=1e-5) and len(found) == 6
    for ours, other in zip((*split.weights, *split.moments), (*whole.weights, *whole.moments)):
        np.testing.assert_allclose(ours.asnumpy(), other.asnumpy(), rtol=1e-3, atol=1e-6, err_msg=ours.name)


def test_only_the_cpu_takes_large_batches_in_parts(cfg):
    assert [train_step.num_parts(n) for n in (1, 8, 32, 33, 36, 64, 67, 96, 100, 128)] == [1, 1, 1, 1, 2, 2, 1, 3, 4, 4]
    kinds = []
    for target, batch_size in (('CPU', 32), ('CPU', 36), ('Ascend', 64)):
        cfg.batch_size = batch_size
        kinds.append(type(train_step.build_step(cfg, Device(target, 0, 0, 1))))
    assert kinds == [TrainStep, SplitStep, TrainStep]


@pytest.mark.parametrize('name', ['LightCNN_29Layers', 'LightCNN_29Layers_v2'])
def test_the_deeper_networks_learn(name):
    """The loss on one batch falls within a few steps."""
    cfg = get_config('quickstart', [f'network_type={name}', 'num_classes=6', 'image_size=16', 'clip_norm=1'])
    step = TrainStep(training_network(cfg), cfg)
    losses = [float(step(*batch(cfg), ms.Tensor(np.float32(0.01)))[0].asnumpy()) for _ in range(6)]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


def test_ranks_that_drift_apart_are_an_error(cfg, monkeypatch):
    """AllReduce as if rank 1 held other weights: the sums of its half do not match."""
    step = train_step.build_step(cfg, Device('CPU', 0, 0, 1))
    for other in (0, 1):
        def reduce(mine, other=other):
            rows = mine.asnumpy()
            return ms.Tensor(np.stack([rows[0], rows[0] + np.float32(other)]))
        monkeypatch.setattr(guards.ops, 'AllReduce', lambda reduce=reduce: reduce)
        if other:
            with pytest.raises(RuntimeError, match='weights of rank 1 differ from those of rank 0'):
                guards.check_same_weights(step, Device('CPU', 0, 0, 2), 7)
        else:
            guards.check_same_weights(step, Device('CPU', 0, 0, 2), 7)
