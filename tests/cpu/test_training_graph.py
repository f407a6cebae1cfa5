"""A backbone's training step by the CPU's executor: the originals' outputs, gradients and statistics; the same bits."""
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.backbones import build_backbone
from src.backbones.blocks import conv
from src.cpu import onednn
from src.cpu.fast_path import FastPath, inference, without_fast_path
from src.cpu.trace import Untraceable, trace
from src.cpu.training_graph import Executor
from src.initializers import Init

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'backbones'))
from golden import LIMIT, arrays, names_of, relative, relative_l2, training_pass  # noqa: E402

pytestmark = pytest.mark.skipif(not onednn.is_available(), reason="no oneDNN 2 with fast kernels for this processor")
TRAINING = [('facexzoo_mobilefacenet', 'conv1.conv.weight', 'conv1.bn', 'bn'),
            ('arcface_torch_mbf', 'layers.0.layers.0.weight', 'layers.0.layers.1', 'features.layers.3'),
            ('arcface_torch_r50', 'conv1.weight', 'bn1', 'features')]
# networks that train on it
FAST = ['mobilefacenet', 'mobilefacenet_y1', 'mbf', 'iresnet18', 'repvgg_a0', 'efficientnet_b0', 'tf_nas_a']


@pytest.mark.parametrize('key, first, first_norm, last_norm', TRAINING)
def test_a_training_step_is_the_originals(key, first, first_norm, last_norm, eager):
    out, gradient, backbone = training_pass(key, first, target='CPU')
    assert isinstance(backbone, FastPath)
    golden = {name: arrays()[f'{key}/train/{name}'] for name in ('train_out', 'grad_first')}
    assert relative(out, golden['train_out']) < LIMIT
    assert relative_l2(gradient, golden['grad_first']) < 2e-2
    for norm in (first_norm, last_norm):
        for ours, theirs in (('running_mean', 'rmean'), ('running_var', 'rvar')):
            found = names_of(backbone)[f'{norm}.{ours}'].asnumpy()
            assert relative(found, arrays()[f'{key}/train/{theirs}:{norm}']) < LIMIT, (norm, ours)


def drawn(name, target, size=32, batch=8, **options):
    """Return (backbone in training, images, noise, factor of each output)."""
    backbone = build_backbone(name, init=Init('xavier', 1, target), image_size=size, **options).set_train(True)
    rng = np.random.default_rng(0)
    for p in backbone.get_parameters():
        if p.name.endswith(('gamma', 'beta', '.w', 'bias')):
            p.set_data(Tensor((p.asnumpy() + 0.2 * rng.standard_normal(p.shape)).astype(np.float32)))
    contrast = np.linspace(0.2, 1, batch).reshape(-1, 1, 1, 1)
    images = (rng.uniform(-1, 1, (batch, backbone.channels, size, size)) * contrast).astype(np.float32)
    noise = rng.random((batch, backbone.noise_size), np.float32) if backbone.noise_size else None
    return backbone, images, noise, rng.standard_normal((batch, backbone.embedding_size)).astype(np.float32)


def step(backbone, images, noise, factor):
    """Return (outputs, {name: gradient}, {name: running statistic}) of a step in MindSpore's present mode."""
    weights = ms.ParameterTuple(backbone.trainable_params())
    inputs = [Tensor(images)] + ([] if noise is None else [Tensor(noise)])

    def loss(*inputs):
        out = backbone(*inputs)
        return (out * Tensor(factor)).sum(), out

    (_, out), grads = ms.value_and_grad(loss, None, weights, has_aux=True)(*inputs)
    return (out.asnumpy(), {w.name: g.asnumpy() for w, g in zip(weights, grads)},
            {p.name: p.asnumpy() for p in backbone.get_parameters() if '.moving_' in p.name})


@pytest.mark.parametrize('name', FAST)
def test_a_step_is_that_of_mindspores_operators(name, eager):
    """Gradients of a few images through many BatchNorms magnify rounding: the whole of them is compared."""
    found, expected = (step(*drawn(name, target)) for target in ('CPU', None))
    assert relative(found[0], expected[0]) < 1e-3
    for ours, theirs, limit in ((found[1], expected[1], 3e-2), (found[2], expected[2], 1e-3)):
        assert list(ours) == list(theirs)
        assert [a.shape for a in ours.values()] == [a.shape for a in theirs.values()]
        apart, size = (np.concatenate([values[n].ravel() for n in theirs]) for values in (ours, theirs))
        assert relative_l2(apart, size) < limit


def test_graph_mode_and_evaluation(eager):
    """A compiled step gives the bits of an eager one; evaluation uses the running statistics of the training."""
    eager_step = step(*drawn('mobilefacenet_y1', 'CPU'))
    ms.set_context(mode=ms.GRAPH_MODE)
    backbone, images, noise, factor = drawn('mobilefacenet_y1', 'CPU')
    compiled_step = step(backbone, images, noise, factor)
    for ours, theirs in zip(eager_step[1:], compiled_step[1:]):
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    plain = drawn('mobilefacenet_y1', None)[0]
    for ours, theirs in zip(plain.get_parameters(), backbone.get_parameters()):
        assert ours.name == theirs.name
        ours.set_data(theirs)
    both = [b.set_train(False)(Tensor(images)).asnumpy() for b in (plain, backbone)]
    assert relative(*both) < LIMIT


def executor_of(name, batch=8):
    backbone, images, _, factor = drawn(name, None, 64, batch)       # oneDNN has no AVX2 kernels for maps of 2x2
    parameters = list(backbone.get_parameters())
    executor = Executor(trace(backbone.construct, images.shape), parameters)
    return executor, images, factor, [p.asnumpy().copy() for p in parameters]


@pytest.mark.parametrize('name', ['mobilefacenet', 'iresnet18'])
def test_the_same_bits_every_time(name):
    """Threads take their parts in a fixed order, buffers of an earlier step leave nothing behind."""
    first, images, factor, arrays_ = executor_of(name)
    passes = []
    for executor in (first, first, executor_of(name)[0]):
        out, statistics = executor.forward(images, None, arrays_)
        passes.append([out, *statistics.values(), *executor.backward(factor)])
        executor.forward(images[::-1].copy(), None, arrays_)
        executor.backward(-factor)
    for other in passes[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(passes[0], other))


def test_a_pass_between_forward_and_backward_changes_nothing(eager):
    """A network may look at two batches before their gradients come back: maps of the first are computed again."""
    backbone, images, noise, factor = drawn('mobilefacenet_y1', 'CPU', batch=4)
    weights = ms.ParameterTuple(backbone.trainable_params())

    def loss(a, b):
        return (backbone(a) * Tensor(factor)).sum() + (backbone(b) * Tensor(factor)).sum()

    halves = [Tensor(images), Tensor(images[::-1].copy() * 2)]
    together = [g.asnumpy() for g in ms.grad(loss, None, weights)(*halves)]
    alone = [step(backbone, half.asnumpy(), noise, factor)[1] for half in halves]
    for weight, gradient in zip(weights, together):
        np.testing.assert_allclose(gradient, alone[0][weight.name] + alone[1][weight.name], rtol=1e-4,
                                   atol=1e-5 * np.abs(gradient).max() + 1e-30)


class Unknown(nn.Cell):
    """A network with an operation that the executor does not have."""

    def __init__(self):
        super().__init__()
        self.conv = conv(Init(), 3, 8, 3)

    def construct(self, x, noise=None):
        return self.conv(x).transpose(0, 2, 3, 1).reshape(x.shape[0], -1)


def test_what_is_not_known_stays_with_mindspore():
    with pytest.raises(Untraceable):
        trace(Unknown().construct, (2, 3, 8, 8))
    assert not isinstance(build_backbone('vit_t', init=Init('xavier', 1, 'CPU'), image_size=36), FastPath)
    assert not isinstance(build_backbone('mobilefacenet', init=Init('xavier', 1)), FastPath)      # for exported files
    assert nn.Cell.__call__.__name__ == '__call__'                   # nothing stays patched


def test_who_changes_the_cells_gets_the_plain_network(eager):
    """Its executor was made for the cells that were there."""
    backbone, images, _, _ = drawn('mobilefacenet_y1', 'CPU')
    names = [p.name for p in backbone.get_parameters()]
    without_fast_path(backbone)
    assert not isinstance(backbone, FastPath) and inference(backbone) is None
    assert [p.name for p in backbone.get_parameters()] == names and backbone(Tensor(images)).shape == (8, 128)


class Sparse(nn.Cell):
    """A convolution with bias, of which every second pixel counts: linear in its weights."""

    def __init__(self):
        super().__init__()
        self.conv = conv(Init('xavier', 1), 3, 20, 3, bias=True)

    def construct(self, x, noise=None):
        return self.conv(x)[:, :, ::2, ::2].reshape(x.shape[0], -1)


def test_pixels_that_are_left_out_get_no_gradient():
    """For a linear network <out(w), d> = <w, gradient for d> for any weights w, exactly."""
    network, rng = Sparse(), np.random.default_rng(0)
    parameters = list(network.get_parameters())
    executor = Executor(trace(network.construct, (4, 3, 9, 9)), parameters)
    images, weights = rng.standard_normal((4, 3, 9, 9), np.float32), [rng.standard_normal(p.shape, np.float32)
                                                                      for p in parameters]
    out, _ = executor.forward(images, None, weights)
    assert out.shape == (4, 20 * 5 * 5)
    factor = rng.standard_normal(out.shape, np.float32)
    found = sum(np.vdot(w, g) for w, g in zip(weights, executor.backward(factor)))
    assert found == pytest.approx(np.vdot(out, factor), abs=1e-5 * np.abs(out * factor).sum())
