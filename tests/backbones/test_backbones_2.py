"""Transformers, RepVGG and the wide nets: masks and drop path from noise, the merged RepVGG, sizes, constants."""
import numpy as np
import pytest
from golden import LIMIT, arrays, embedding, inputs, network, relative, state


def noise_of(backbone, images, seed):
    """Return noise (images, noise_size) uniform in [0, 1)."""
    from mindspore import Tensor
    return Tensor(np.random.default_rng(seed).uniform(0, 1, (images, backbone.noise_size)).astype(np.float32))


def random_images(images, channels, side):
    from mindspore import Tensor
    return Tensor(np.random.default_rng(5).uniform(-1, 1, (images, channels, side, side)).astype(np.float32))


def started(name, **options):
    from src.backbones import build_backbone
    from src.initializers import Init
    return build_backbone(name, init=Init('xavier', seed=2), **options)


def test_merged_repvgg():
    """One convolution a block, the names of the original's deploy form, the golden embedding; the source unchanged."""
    from src.backbones.repvgg import merged
    source = network('facexzoo_repvgg_a0')
    before = source.stage0.rbr_dense.conv.weight.asnumpy()
    deployed = merged(source)
    from golden import names_of
    expected = {name: shape for name, shape, _ in state('facexzoo_repvgg_a0_deploy') if 'num_batches' not in name}
    assert {name: parameter.shape for name, parameter in names_of(deployed).items()} == expected
    found = embedding(deployed, inputs('facexzoo_repvgg_a0'))
    assert relative(found, arrays()['facexzoo_repvgg_a0/f64']) < LIMIT
    assert np.array_equal(embedding(merged(deployed), inputs('facexzoo_repvgg_a0')), found)
    assert not source.deploy and np.array_equal(source.stage0.rbr_dense.conv.weight.asnumpy(), before)
    assert deployed.name == source.name and deployed.options['deploy']


def test_drop_path_drops_images():
    from mindspore import Tensor
    from src.backbones.transformer import drop_path, drop_path_rates
    branch, noise = np.full((4, 2, 3), 3, np.float32), np.array([0.0, 0.24, 0.25, 0.99], np.float32)
    out = drop_path(Tensor(branch), Tensor(noise), 0.25).asnumpy()
    assert np.allclose(out[:, 0, 0], [0, 0, 4, 4], rtol=1e-6) and (out == out[:, :1, :1]).all()
    assert drop_path_rates(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize('ratio, kept', [(0.05, 15), (0.1, 14), (0.5, 8)])
def test_mask_ratio_is_the_one_given(ratio, kept):
    """16 tokens; those that stay are where they were, mask_token is in the other places."""
    from mindspore import Tensor, ops
    from src.backbones.vit import gather_tokens
    vit = started('vit_t', image_size=36, mask_ratio=ratio, drop_path=0.0)
    assert (vit.kept, vit.noise_size) == (kept, 16)
    order = ops.argsort(noise_of(vit, 3, 1), axis=1)
    tokens = np.random.default_rng(0).standard_normal((3, 16, 256)).astype(np.float32)
    filled = vit.filled(gather_tokens(Tensor(tokens), order[:, :kept]), order).asnumpy()
    same = (filled == tokens).all(-1)
    assert (same.sum(1) == kept).all() and (filled[~same] == vit.mask_token.asnumpy()[0, 0]).all()
    assert [set(row) for row in order.asnumpy()[:, :kept].tolist()] == [set(np.flatnonzero(row)) for row in same]


@pytest.mark.parametrize('name, options', [('vit_t', {'image_size': 36}), ('rexnet_1.0', {'image_size': 32}),
                                           ('resnest50', {'image_size': 32}), ('swin_t', {})])
def test_noise_decides_training(name, options):
    """The same noise gives the same embedding, other noise another one; none gives that of a network without rates."""
    backbone = started(name, **options).set_train(False)
    images = random_images(2, 3, backbone.image_size)
    found = [backbone(images, noise_of(backbone, 2, seed)).asnumpy() for seed in (1, 1, 2)]
    assert np.array_equal(found[0], found[1]) and not np.allclose(found[0], found[2])
    rates = {key: 0.0 for key in backbone.options if key in ('dropout', 'drop_path', 'mask_ratio')}
    plain = started(name, **options, **rates).set_train(False)
    assert plain.noise_size == 0 < backbone.noise_size
    assert np.array_equal(plain(images).asnumpy(), backbone(images).asnumpy())


def gradients_of(backbone, images, noise):
    """Return {name: gradient} of the sum of a training embedding's positive entries."""
    import mindspore
    from mindspore import ops
    backbone.set_train()

    def loss(images, noise):
        return ops.relu(backbone(images, noise)).sum()
    gradients = mindspore.grad(loss, None, backbone.trainable_params())(images, noise)
    return {p.name: g.asnumpy() for p, g in zip(backbone.trainable_params(), gradients)}


def test_graph_and_pynative_train_alike():
    """ViT with masks and drop path: the gradient of every parameter is the same in both modes."""
    import mindspore
    found = []
    before = mindspore.get_context('mode')
    try:
        for mode in (mindspore.PYNATIVE_MODE, mindspore.GRAPH_MODE):
            mindspore.set_context(mode=mode)
            vit = started('vit_t', image_size=27, embedding_size=16, mask_ratio=0.4)
            found.append(gradients_of(vit, random_images(8, 3, 27), noise_of(vit, 8, 3)))
    finally:
        mindspore.set_context(mode=before)
    largest = max(np.abs(gradient).max() for gradient in found[0].values())
    for name, gradient in found[0].items():
        assert np.isfinite(gradient).all() and gradient.any(), name
        assert np.abs(found[1][name] - gradient).max() < 1e-3 * largest, name


def test_resnest_has_unit_embeddings_and_finite_gradients():
    import mindspore
    from src.backbones import build_backbone
    images = random_images(2, 3, 32)
    out = started('resnest50', image_size=32).set_train(False)(images).asnumpy()
    assert np.allclose(np.linalg.norm(out.astype(np.float64), axis=1), 1, rtol=1e-5)
    empty = build_backbone('resnest50', image_size=32).set_train(False)           # all embeddings zero

    def total(images):
        return empty(images).sum()
    gradients = mindspore.grad(total, None, empty.trainable_params())(images)
    assert not empty(images).asnumpy().any() and all(np.isfinite(g.asnumpy()).all() for g in gradients)


@pytest.mark.parametrize('name, side', [('vit_t', 20), ('repvgg_a0', 30), ('resnest50', 35), ('rexnet_1.0_se', 17),
                                        ('hrnet_w18', 32), ('attentionnet56', 41)])
def test_other_sizes(name, side):
    """Any side, embedding size and number of channels that the family allows. With the statistics of the batch."""
    backbone = started(name, image_size=side, embedding_size=24, channels=1).set_train()
    found = embedding(backbone, random_images(4, 1, side).asnumpy())
    assert found.shape == (4, 24) and np.isfinite(found).all() and not np.allclose(found[0], found[1])


@pytest.mark.parametrize('name, options, message', [
    ('swin_t', {'image_size': 112}, 'image_size 112 is not a multiple of 224'),
    ('hrnet_w18', {'image_size': 40}, 'image_size 40 is not a multiple of 16'),
    ('vit_t', {'image_size': 16, 'mask_ratio': 0.1}, 'of which mask_ratio 0.1 leaves none')])
def test_sizes_that_do_not_fit(name, options, message):
    from src.backbones import build_backbone
    with pytest.raises(ValueError, match=message):
        build_backbone(name, **options)


@pytest.mark.parametrize('name', ['vit_t', 'swin_t', 'repvgg_a0', 'hrnet_w18', 'resnest50', 'attentionnet56',
                                  'rexnet_1.0_se'])
def test_eps_and_momentum(name):
    """Too small a difference to see in the golden embeddings."""
    from mindspore import nn
    from src.backbones import build_backbone
    norms = [cell for _, cell in build_backbone(name).cells_and_names()
             if isinstance(cell, (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        if isinstance(norm, nn.LayerNorm):
            assert norm.epsilon == 1e-5
        else:
            assert norm.eps == (2e-5 if name == 'vit_t' else 1e-5)
            assert norm.momentum == pytest.approx(0.1)             # MindSpore's cell holds the share of the batch
    assert norms
