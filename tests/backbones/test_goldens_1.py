"""MobileFaceNet, iresnet, ResNet-ir, LightCNN, GhostNet, EfficientNet, TF-NAS: the originals' outputs and gradients."""
import numpy as np
import pytest
from golden import (LIMIT, arrays, check_embedding, check_parameter_count, embedding, names_of, network,
                    relative, relative_l2, shared, training_pass)

KEYS = ['facexzoo_mobilefacenet', 'facexzoo_mobilefacenet_h4', 'arcface_torch_mbf', 'arcface_torch_mbf_large',
        'arcface_torch_r18', 'arcface_torch_r34', 'arcface_torch_r50', 'arcface_torch_r100', 'arcface_torch_r200',
        'facexzoo_resnet50_ir', 'facexzoo_resnet50_irse', 'facexzoo_resnet100_ir', 'facexzoo_resnet152_irse',
        'lightcnn_v4', 'facexzoo_lightcnn29', 'facexzoo_ghostnet', 'facexzoo_efficientnet_b0', 'facexzoo_tf_nas_a']
# first convolution, first and last BatchNorm
TRAINING = [('facexzoo_mobilefacenet', 'conv1.conv.weight', 'conv1.bn', 'bn'),
            ('arcface_torch_mbf', 'layers.0.layers.0.weight', 'layers.0.layers.1', 'features.layers.3'),
            ('arcface_torch_r50', 'conv1.weight', 'bn1', 'features')]


pytestmark = pytest.mark.usefixtures('eager')


@pytest.mark.parametrize('key', KEYS)
def test_embedding_is_the_originals(key):
    check_embedding(key)


@pytest.mark.parametrize('key', KEYS)
def test_parameters_are_as_many_as_the_originals(key):
    check_parameter_count(key)


@pytest.mark.parametrize('key, first, first_norm, last_norm', TRAINING)
def test_training_pass_is_the_originals(key, first, first_norm, last_norm):
    out, gradient, backbone = training_pass(key, first)
    golden = {name: arrays()[f'{key}/train/{name}'] for name in ('train_out', 'grad_first')}
    print(key, relative(out, golden['train_out']), relative_l2(gradient, golden['grad_first']))
    assert relative(out, golden['train_out']) < LIMIT
    assert relative_l2(gradient, golden['grad_first']) < 2e-2
    for norm in (first_norm, last_norm):
        for ours, theirs in (('running_mean', 'rmean'), ('running_var', 'rvar')):
            found = names_of(backbone)[f'{norm}.{ours}'].asnumpy()
            print(norm, ours, relative(found, arrays()[f'{key}/train/{theirs}:{norm}']))
            assert relative(found, arrays()[f'{key}/train/{theirs}:{norm}']) < LIMIT, (norm, ours)


def trained_y1():
    """Return MobileFaceNet y1 with the trained weights of the shared ncnn file, whose variances include eps."""
    from mindspore import Tensor

    from src.backbones import build_backbone
    backbone = build_backbone('mobilefacenet_y1')
    held = {leaf: [p for p in backbone.get_parameters() if p.name.endswith('.' + leaf)]
            for leaf in ('weight', 'bias', 'gamma', 'beta', 'moving_mean', 'moving_variance', 'w')}
    data = shared('weights/mobilefacenet.bin').read_bytes()
    for row in shared('goldens/states/ncnn_mobilefacenet.tsv').read_text().splitlines()[1:]:
        layer, tensor, size, offset = row.split('\t')
        leaf = {'slope': 'w', 'mean': 'moving_mean', 'var': 'moving_variance'}.get(tensor, tensor)
        values = np.frombuffer(data, '<f4', int(size), int(offset)) - np.float32(
            0 if tensor != 'var' else 2e-5 if layer == 'fc1' else 1e-3)
        parameter = held[leaf].pop(0)
        parameter.set_data(Tensor(values.reshape(parameter.shape)))
    assert not any(held.values())
    return backbone.set_train(False)


def test_trained_mobilefacenet_y1_gives_the_mxnet_models_embedding():
    from src.data.face_format import face_format
    face, channel, y, x = np.ogrid[0:4, 0:3, 0:112, 0:112]
    images = np.clip(np.rint(127.5 + 60 * np.sin(2 * np.pi * ((face + 1) * x / 112 + channel / 3))
                             + 50 * np.cos(2 * np.pi * ((channel + 1) * y / 112 + face / 4))), 0, 255)
    backbone = trained_y1()
    faces = face_format(backbone.face_format).to_input(images.astype(np.uint8).transpose(0, 2, 3, 1))
    assert relative(embedding(backbone, faces), arrays()['ncnn/mobilefacenet_ref64_scale78125']) < LIMIT


@pytest.mark.parametrize('name, size, count', [('mobilefacenet_y1', 128, 1_003_264),
                                               ('mobilefacenet_y2', 256, 1_996_288)])
def test_mxnet_forms(name, size, count):
    """Their parameters are as many as those of the MXNet symbols; eps is too small to be seen in an output."""
    from src.backbones import build_backbone
    backbone = build_backbone(name)
    assert embedding(backbone, np.zeros((1, 3, 112, 112), np.float32)).shape == (1, size)
    assert sum(p.size for p in backbone.get_parameters() if '.moving_' not in p.name) == count
    assert {cell.eps for _, cell in backbone.cells_and_names() if hasattr(cell, 'eps')} == {1e-3, 2e-5}
    assert not backbone.bn.gamma.requires_grad


def check_sizes(name, options):
    """Assert that a backbone gives embeddings of another size from faces of another size."""
    from src.backbones import build_backbone
    backbone = build_backbone(name, embedding_size=7, **options).set_train(False)
    shape = 2, options.get('channels', 3), options['image_size'], options['image_size']
    assert embedding(backbone, np.zeros(shape, np.float32)).shape == (2, 7)


@pytest.mark.parametrize('name, options', [
    ('mobilefacenet', {'image_size': 96, 'image_height': 50, 'channels': 1}), ('mbf', {'image_size': 75}),
    ('iresnet18', {'image_size': 50, 'channels': 1}), ('resnet50_ir', {'image_size': 61}),
    ('lightcnn_v4', {'image_size': 32, 'channels': 1}), ('lightcnn29_facexzoo', {'image_size': 48}),
    ('ghostnet', {'image_size': 49}), ('tf_nas_a', {'image_size': 50}),
    *(('efficientnet_b0', {'image_size': size}) for size in (40, 61, 64, 90, 128))])
def test_other_sizes_of_faces_and_embeddings(name, options):
    check_sizes(name, options)


@pytest.mark.parametrize('name, options, message', [
    ('mobilefacenet', {'image_height': 130}, 'image_height 130 is not between 16 and image_size 112'),
    ('lightcnn_v4', {'image_size': 100}, 'image_size 100 is not a multiple of 16'),
    ('lightcnn29_facexzoo', {'image_size': 100}, 'image_size 100 is not a multiple of 16'),
    ('iresnet18', {'channels': 2}, 'channels')])
def test_sizes_that_do_not_fit_are_refused(name, options, message):
    from src.backbones import build_backbone
    with pytest.raises(ValueError, match=message):
        build_backbone(name, **options)


def test_half_face_network_sees_the_upper_rows_only():
    backbone = network('facexzoo_mobilefacenet_h4')
    faces = np.random.default_rng(0).uniform(-1, 1, (2, 3, 112, 112)).astype(np.float32)
    whole = embedding(backbone, faces)
    assert np.array_equal(whole, embedding(backbone, faces[:, :, :60]))
    faces[:, :, :60] *= -1
    assert not np.allclose(whole, embedding(backbone, faces))


DROPOUT = [('iresnet18', {'dropout': 0.4}, 512 * 9), ('resnet50_ir', {}, 512 * 9), ('lightcnn29_facexzoo', {}, 128 * 9),
           ('ghostnet', {}, 960 * 9), ('efficientnet_b0', {}, 16 + 1280 * 9), ('tf_nas_a', {}, 1280 * 9),
           ('efficientnet_b0', {'dropout': 0.0}, 16), ('efficientnet_b0', {'drop_connect': 0.0}, 1280 * 9)]


@pytest.mark.parametrize('name, options, noise_size', DROPOUT)
def test_noise_decides_what_is_dropped(name, options, noise_size):
    """Other noise gives other embeddings, the same noise the same ones. BatchNorm sees the batch, as in training."""
    from mindspore import Tensor

    from src.backbones import build_backbone
    from src.initializers import Init
    backbone = build_backbone(name, init=Init('xavier'), image_size=48, **options).set_train(True)
    assert backbone.noise_size == noise_size
    rng = np.random.default_rng(1)
    faces = Tensor(rng.uniform(-1, 1, (4, 3, 48, 48)).astype(np.float32))
    noises = [Tensor(rng.random((4, noise_size), np.float32)) for _ in range(2)]
    first, second, again = (backbone(faces, noise).asnumpy() for noise in (*noises, noises[0]))
    assert np.isfinite(first).all() and np.allclose(first, again, rtol=0, atol=1e-3)
    for other in (second, backbone(faces).asnumpy()):
        assert np.abs(first - other).max() > 0.05


@pytest.mark.parametrize('name', ['mobilefacenet', 'mbf', 'iresnet18', 'resnet50_ir', 'lightcnn29_facexzoo', 'ghostnet',
                                  'efficientnet_b0', 'tf_nas_a'])
def test_without_dropout_no_noise_is_taken(name):
    from src.backbones import backbone_class, build_backbone
    rates = {option: 0.0 for option in ('dropout', 'drop_connect') if option in backbone_class(name).OPTIONS}
    assert build_backbone(name, **rates).noise_size == 0


def test_drop_connect_grows_block_by_block():
    """Drop connect takes whole blocks that have a shortcut, with the rate 0.2 * i / 16."""
    from src.backbones import build_backbone
    rates = build_backbone('efficientnet_b0').drop_rates
    assert [i for i, rate in enumerate(rates) if rate] == [2, 4, 6, 7, 9, 10, 12, 13, 14]
    assert rates[14] == pytest.approx(0.2 * 14 / 16)


def test_initial_weights_are_drawn_as_in_the_sources():
    """The spread of initial weights: normal 0.1 (iresnet), kaiming (mbf, y1), PyTorch's default (the others)."""
    from src.backbones import build_backbone
    from src.initializers import Init
    expected = [('iresnet18', 'layer1.0.conv1.weight', 0.1), ('mbf', 'conv_sep.layers.0.weight', (2 / 512) ** 0.5),
                ('mobilefacenet_y1', 'conv_6_sep.conv.weight', (2 / 512) ** 0.5),
                ('mobilefacenet', 'conv_6_sep.conv.weight', (3 * 128) ** -0.5),
                ('lightcnn_v4', 'fc.weight', 0.001), ('tf_nas_a', 'output_layer.2.weight', (3 * 62720) ** -0.5)]
    for name, parameter, spread in expected:
        weight = names_of(build_backbone(name, init=Init('xavier')))[parameter].asnumpy()
        assert abs(weight.std() / spread - 1) < 6 / (2 * weight.size) ** 0.5, (name, weight.std(), spread)


def test_scale_of_iresnets_last_norm_is_not_trained():
    from src.backbones import build_backbone
    names = {parameter.name for parameter in build_backbone('iresnet18').trainable_params()}
    assert 'features.beta' in names and 'features.gamma' not in names
