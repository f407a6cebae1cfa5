"""Embeddings by the CPU's executor: the originals' numbers, for any number of images, with the weights it was given."""
import sys
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from src.backbones import build_backbone
from src.cpu import inference_graph, onednn
from src.cpu.fast_path import inference
from src.embedding import network_of
from src.initializers import Init

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'backbones'))
from golden import LIMIT, arrays, inputs, network, relative  # noqa: E402

pytestmark = pytest.mark.skipif(not onednn.is_available(), reason="no oneDNN 2 with fast kernels for this processor")
KEYS = ['facexzoo_mobilefacenet', 'facexzoo_mobilefacenet_h4', 'arcface_torch_mbf', 'arcface_torch_r18',
        'arcface_torch_r50', 'facexzoo_repvgg_a0', 'facexzoo_resnet50_irse', 'facexzoo_efficientnet_b0',
        'facexzoo_tf_nas_a']


@pytest.mark.parametrize('key', KEYS)
def test_embedding_is_the_originals(key):
    backbone = network(key, target='CPU').set_train(False)
    embed = inference(backbone)
    assert embed is not None
    for num in (2, 1):                                   # one image goes another way than several
        found = embed(inputs(key)[:num])
        assert relative(found.astype(np.float64), arrays()[f'{key}/f64'][:num]) < LIMIT


def test_any_number_of_images(monkeypatch):
    """Groups of any size, each image by itself: a number does not depend on its neighbours."""
    monkeypatch.setattr(inference_graph, 'WORTH_HALVING', 0)
    monkeypatch.setattr(inference_graph, 'CACHED', 0)
    embed = network_of(build_backbone('mobilefacenet_y1', init=Init('xavier', 1, 'CPU'), image_size=32))
    images = np.random.default_rng(0).uniform(-1, 1, (9, 3, 32, 32)).astype(np.float32)
    whole = embed(images)
    for num in (1, 2, 5, 8):
        assert relative(embed(images[:num]), whole[:num]) < 1e-5
    assert np.array_equal(whole, embed(images))


def test_weights_are_those_of_the_moment():
    backbone = build_backbone('iresnet18', init=Init('xavier', 1, 'CPU'), image_size=32)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)
    before = network_of(backbone)(images)
    backbone.bn1.moving_mean.set_data(Tensor(backbone.bn1.moving_mean.asnumpy() + 1))
    assert relative(network_of(backbone)(images), before) > 1e-3
