"""Optimizers against float64 NumPy, multiples and clipping by part, and the steps that use them."""
import mindspore as ms
import numpy as np
import pytest
from toy_backbone import NAME as TOY
from toy_backbone import register

from src.config import get_config
from src.settings import CHOICES
from src.training import step as train_step
from src.training.network import training_network
from src.training.optimizers import OPTIMIZERS, build_optimizer
from src.training.step import SplitStep, TrainStep

STEPS = 20


def reference(cfg, weights, grads, lr_mult, decay, rates):
    """Return the weights after PyTorch's published formulas, in float64."""
    w, m, v = weights.astype(np.float64), 0.0, 0.0
    for t, (lr, grad) in enumerate(zip(lr_mult * np.float64(rates), grads), 1):
        if cfg.optimizer == 'adamw':
            w = w - lr * decay * w
            m = cfg.adam_beta1 * m + (1 - cfg.adam_beta1) * grad
            v = cfg.adam_beta2 * v + (1 - cfg.adam_beta2) * grad ** 2
            w = w - lr * m / (1 - cfg.adam_beta1 ** t) / (np.sqrt(v / (1 - cfg.adam_beta2 ** t)) + cfg.adam_eps)
        else:
            g = grad + decay * w
            m = cfg.momentum * m + g
            w = w - lr * (g + cfg.momentum * m if cfg.optimizer == 'nesterov' else m)
    return w


@pytest.mark.parametrize('mode', [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
@pytest.mark.parametrize('settings', [
    ['optimizer=sgd'], ['optimizer=nesterov', 'momentum=0.8'], ['optimizer=adamw'],
    ['optimizer=adamw', 'adam_beta1=0', 'adam_beta2=0.98', 'adam_eps=1e-3']])
def test_optimizers_are_the_published_formulas(settings, mode):
    """Gradients of very different sizes, zeros among them, and rates that change; 20 steps."""
    cfg, rng = get_config(settings=settings), np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((3, 4), (5,))]
    grads = [[(g * 10.0 ** rng.integers(-6, 2, g.shape) * (rng.random(g.shape) > 0.2)).astype(np.float32)
              for g in map(rng.standard_normal, ((3, 4), (5,)))] for _ in range(STEPS)]
    rates = (0.01 * rng.random(STEPS)).astype(np.float32)
    ms.set_context(mode=mode)
    try:
        parameters = ms.ParameterTuple([ms.Parameter(ms.Tensor(w), name=f'w{i}') for i, w in enumerate(weights)])
        optimizer = build_optimizer(cfg, parameters, [1.0, 10.0], [0.1, 0.0])
        for rate, step in zip(rates, grads):
            optimizer(tuple(map(ms.Tensor, step)), (0.5, 1.0), ms.Tensor(rate))
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)
    for i, (lr_mult, decay, factor) in enumerate([(1, 0.1, 0.5), (10, 0, 1)]):
        expected = reference(cfg, weights[i], [factor * step[i].astype(np.float64) for step in grads], lr_mult, decay,
                             rates)
        way = np.abs(expected - weights[i]).max()                # float32 rounds a weight in every step, and its change
        tolerance = STEPS * 2.0 ** -24 * (np.abs(expected).max() + 8 * way)
        assert np.abs(parameters[i].asnumpy() - expected).max() <= tolerance


def test_settings_name_the_optimizers():
    assert CHOICES['optimizer'] == tuple(OPTIMIZERS)


def toy(*settings):
    """Return the settings of a training of the toy backbone."""
    register()
    return get_config('quickstart', [f'network_type={TOY}', 'backbone.embedding_size=8', 'num_classes=6',
                                     'image_size=16', 'resize_size=16', 'batch_size=4', 'clip_norm=0', *settings])


def test_multiples_by_part():
    """The paper of MobileFaceNet: ten times the decay for what makes the embedding; none for BatchNorm and biases."""
    cfg = toy('weight_decay=4e-5', 'last_wd_mult=10', 'head_wd_mult=3', 'backbone_lr_mult=0.5', 'last_lr_mult=4',
              'head_lr_mult=7', 'fc2_weight_decay=1e-4', 'decay_norm_and_bias=false')
    network = training_network(cfg)
    groups = {w.name: network.parameter_group(w.name, cfg) for w in network.trainable_params()}
    expected = {'backbone.conv.weight': (0.5, 4e-5), 'backbone.bn.gamma': (0.5, 0), 'backbone.bn.beta': (0.5, 0),
                'backbone.fc.weight': (2, 4e-4), 'backbone.fc.bias': (2, 0), 'head.weight': (7, 3e-4),
                'head.bias': (7, 0)}
    assert groups.keys() == expected.keys()
    for name, pair in expected.items():
        assert groups[name] == pytest.approx(pair, rel=1e-12), name


@pytest.mark.parametrize('name, layers', [
    ('mobilefacenet_y1', ['linear.weight', 'linear.bias', 'bn.beta']), ('LightCNN_9Layers', ['fc.layer.weight',
                                                                                             'fc.layer.bias']),
    ('iresnet18', ['fc.weight', 'fc.bias', 'features.beta'])])
def test_the_last_layers_are_those_after_the_pooling(name, layers):
    network = training_network(get_config(settings=[f'backbone={name}', 'num_classes=5']))
    assert list(network.last_layers) == [f'backbone.{layer}' for layer in layers]


def batch(rng, size=4):
    return (rng.random((size, 1, 16, 16), np.float32), rng.integers(0, 6, size).astype(np.int32),
            np.zeros((size, 1), np.float32), np.float32(0.01))


def changes(cfg):
    """Return {weight: its change} of one step without momentum."""
    step = TrainStep(training_network(cfg), cfg)
    before = {w.name: w.asnumpy().copy() for w in step.weights}
    step.run(*batch(np.random.default_rng(0)))
    return {w.name: w.asnumpy().astype(np.float64) - before[w.name] for w in step.weights}


def test_clipping_the_backbone_leaves_the_head():
    """The backbone's gradient is clip_norm long afterwards; the head's is what it is without clipping."""
    plain = ['weight_decay=0', 'fc2_weight_decay=0', 'bias_lr_mult=1', 'fc2_bias_lr_mult=1']
    free, clipped, whole = (changes(toy(*plain, *more)) for more in (
        [], ['clip_norm=0.001', 'clip_part=backbone'], ['clip_norm=0.001']))

    def length(found, part):
        return np.sqrt(sum((change ** 2).sum() for name, change in found.items() if name.startswith(part)))
    # a change is lr times the gradient, seen through the rounding of a weight of size 1 in float32
    rounding = 2.0 ** -23 * np.sqrt(sum(change.size for change in free.values()))
    assert length(free, 'backbone') > 0.01 * 0.01
    assert length(clipped, 'backbone') == pytest.approx(0.01 * 0.001, abs=rounding)
    assert length(whole, '') == pytest.approx(0.01 * 0.001, abs=rounding)
    for name in free:
        if name.startswith('head.'):
            assert np.array_equal(clipped[name], free[name])


def test_adamw_in_parts_and_with_a_loss_scale(monkeypatch):
    """A batch in three parts, and scaled losses: the weights of the plain step; an overflow changes no state at all."""
    monkeypatch.setattr(train_step, 'PART', 5)
    cfg = toy('batch_size=12', 'optimizer=adamw', 'adam_eps=0.01', 'weight_decay=0.05', 'clip_norm=0.5',
              'clip_part=backbone')
    scaler = ms.amp.DynamicLossScaler(scale_value=2.0 ** 10, scale_factor=2, scale_window=1000)
    plain, split, scaled = (kind(training_network(cfg), cfg, **more) for kind, more in (
        (TrainStep, {}), (SplitStep, {}), (TrainStep, {'loss_scaler': scaler})))
    rng = np.random.default_rng(0)
    for _ in range(3):
        images, *further = batch(rng, 12)
        for step in (plain, split, scaled):
            step.run(images, *further)
    for other in (split, scaled):
        for a, b in zip((*plain.weights, *plain.moments), (*other.weights, *other.moments)):
            # with a small eps, Adam would make whole steps of gradients that are rounding alone
            np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), rtol=1e-3, atol=1e-5, err_msg=a.name)
    held = [p.asnumpy().copy() for p in (*scaled.weights, *scaled.moments)]
    images[:] = np.inf
    assert not scaled.run(images, *further)[2].asnumpy()
    assert all(np.array_equal(p.asnumpy(), old) for p, old in zip((*scaled.weights, *scaled.moments), held))
    assert int(scaled.moments[-1].asnumpy()) == 3
