import mindspore as ms
import numpy as np
import pytest
from conftest import LIGHTCNNS, lightcnn, lightcnn_in_numpy, rounding, terms_of

from src.config import get_config
from src.initializers import Init
from src.training.network import training_network

EMBEDDING_PARAMETERS = {'LightCNN_9Layers': 5480864, 'LightCNN_29Layers': 12573280, 'LightCNN_29Layers_v2': 10475872}
ALL_PARAMETERS = {'LightCNN_9Layers': 25803653, 'LightCNN_29Layers': 32896069, 'LightCNN_29Layers_v2': 30719584}


def count(cells):
    return sum(p.size for p in cells.trainable_params())


@pytest.mark.parametrize('name', LIGHTCNNS)
def test_published_parameter_counts(name):
    assert count(lightcnn(name)) == EMBEDDING_PARAMETERS[name]
    cfg = get_config(settings=[f'network_type={name}', 'num_classes=100'])
    per_class = 256 if name.endswith('v2') else 257
    assert count(training_network(cfg)) == ALL_PARAMETERS[name] - (79077 - 100) * per_class


@pytest.mark.parametrize('mode', [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
@pytest.mark.parametrize('name', LIGHTCNNS)
def test_graph_and_pynative_mode_agree(name, mode):
    ms.set_context(mode=mode)
    try:
        network = lightcnn(name, 32, Init('centred', 1)).set_train(False)
        x = np.random.default_rng(0).random((2, 1, 32, 32), np.float32)
        expected = lightcnn_in_numpy(network, name, x.astype(np.float64))
        allowed = rounding(*terms_of(network)) * np.abs(expected).max()
        assert np.abs(network(ms.Tensor(x)).asnumpy() - expected).max() < allowed
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.parametrize('size, width', [(128, 8192), (64, 2048), (144, 10368)])
def test_other_image_sizes(size, width):
    assert lightcnn('LightCNN_9Layers', size).fc.layer.weight.shape == (512, width)


@pytest.mark.parametrize('name, size', [('ResNet', 128), ('LightCNN_9Layers', 100), ('LightCNN_9Layers', 0)])
def test_unknown_networks_and_sizes_are_refused(name, size):
    with pytest.raises(ValueError):
        lightcnn(name, size)


@pytest.mark.parametrize('init', ['xavier', 'centred'])
def test_initial_values(init):
    cfg = get_config('quickstart', [f'init={init}', 'seed=5', 'image_size=128', 'resize_size=144'])
    one, other = training_network(cfg), training_network(cfg)
    for a, b in zip(one.trainable_params(), other.trainable_params()):
        assert np.array_equal(a.asnumpy(), b.asnumpy())
    for p in one.trainable_params():
        value = p.asnumpy()
        if p.name.endswith('bias'):
            assert not value.any()
        elif init == 'xavier':
            assert value.var() * np.prod(value.shape[1:]) == pytest.approx(1, rel=0.1)
        elif value[0].size > 1:
            assert np.abs(value.reshape(len(value), -1).mean(1)).max() < 1e-6


def test_head_losses():
    cfg = get_config('quickstart', ['num_classes=3'])
    e = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
    labels = np.array([0, 1, 2, 1])
    for loss in ('softmax', 'cosface'):
        cfg.loss = loss
        head = training_network(cfg).head
        w = head.weight.asnumpy()
        logits = e @ w.T
        if loss == 'cosface':
            cosine = logits / np.linalg.norm(e, axis=1)[:, None] / np.linalg.norm(w, axis=1)
            logits = cfg.cosface_scale * (cosine - cfg.cosface_margin * np.eye(3)[labels])
        expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[range(4), labels])
        found, hits = head(ms.Tensor(e), ms.Tensor(labels.astype(np.int32)))
        assert float(found.asnumpy()) == pytest.approx(expected, rel=1e-4)
        assert hits.asnumpy() == (logits.argmax(1) == labels).sum()
