"""Golden outputs of the original backbones: weights by a rule from the names of a state dict, inputs, comparisons.

    check_embedding('facexzoo_mobilefacenet')      # raises AssertionError where our network gives something else

../shared/goldens/backbones.md has the rule, the inputs and the tolerances; docs/backbones.md the numbers of parameters.
"""
import ast
import math
import zlib
from functools import lru_cache

import numpy as np
import pytest
from conftest import PROJECT

SHARED = PROJECT.parent / 'shared'
GOLDENS = SHARED / 'goldens'
LIMIT = 1e-4             # of the largest entry; PyTorch's float32 stays within 8e-6 of its float64


def shared(file):
    """Return the path of a shared file; the test is skipped where the shared data is absent."""
    path = SHARED / file
    if not path.exists():
        pytest.skip(f"the golden files are not at {SHARED}")
    return path


@lru_cache(None)
def arrays():
    """Return {key: array} of the golden outputs."""
    return np.load(shared('goldens/backbones.npz'))


def table_row(file, key):
    """Return the cells of the first table row that starts with `key`."""
    for line in shared(file).read_text().splitlines():
        cells = [cell.strip() for cell in line.split('|')[1:-1]]
        if cells and cells[0] == key:
            return cells
    raise KeyError(key)


def state(key):
    """Return [(name, shape, dtype)] of the original's state dict."""
    rows = [line.split('\t') for line in shared(f'goldens/states/{key}.tsv').read_text().splitlines()]
    return [(name, ast.literal_eval(shape), dtype) for name, shape, dtype in rows]


def rule_weights(rows, gain):
    """Return {name: float32 array}: what the rule draws for the tensors of a state dict."""
    names, weights = {name for name, _, _ in rows}, {}
    for name, shape, dtype in rows:
        prefix, dot, leaf = name.rpartition('.')
        if not dtype.startswith('float') or leaf == 'attn_mask':
            continue
        n = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        if leaf == 'running_var':
            n = np.exp(0.2 * n)
        elif leaf in ('running_mean', 'pos_embed', 'mask_token', 'relative_position_bias_table', 'bias'):
            n = 0.1 * n
        elif len(shape) >= 2:
            n = n * math.sqrt(gain / np.prod(shape[1:]))
        elif names & {prefix + dot + 'running_mean', prefix + dot + 'bias'}:
            n = 1 + 0.1 * n
        else:
            n = 0.25 + 0.05 * n
        weights[name] = n.astype(np.float32)
    return weights


def inputs(key):
    """Return the two images (2, C, H, W) float32 that the golden embedding belongs to."""
    size = tuple(map(int, table_row('goldens/backbones.md', key)[2].split('x')))
    low = 0 if key.startswith('lightcnn') else -1
    draw = np.random.default_rng(20261124).uniform(low, 1, (2, size[0], size[2], size[2])).astype(np.float32)
    return draw[:, :, :size[1]]


def training_inputs():
    """Return the eight images (8, 3, 112, 112) float32 of the training goldens: of unlike contrast and brightness."""
    uniform = np.random.default_rng(20261125).uniform(-1, 1, (8, 3, 112, 112))
    contrast, brightness = (np.linspace(a, b, 8).reshape(8, 1, 1, 1) for a, b in ((0.2, 1), (0.6, -0.6)))
    return (uniform * contrast + brightness).astype(np.float32)


def names_of(backbone):
    """Return {name in the original's state dict: parameter}."""
    from src.backbones.blocks import torch_name
    return {torch_name(name): parameter for name, parameter in backbone.parameters_and_names()}


def network(key, target=None, **options):
    """Return the backbone of a golden key with the rule's weights; every name and shape is that of the original.

    target: where it is to run, 'CPU' for the fast path.
    """
    from mindspore import Tensor

    from src.backbones import backbone_class, build_backbone
    from src.initializers import Init
    gain = float(table_row('goldens/backbones.md', key)[1])
    side = inputs(key).shape[3]
    backbone = build_backbone(key, init=Init(target=target), image_size=side, channels=inputs(key).shape[1],
                              **{'embedding_size': arrays()[key].shape[1], **options})
    ignored = getattr(backbone_class(key), 'ignored', ())
    weights = {name: weight for name, weight in rule_weights(state(key), gain).items() if not name.endswith(ignored)}
    found = names_of(backbone)
    assert set(found) == set(weights), sorted(set(found) ^ set(weights))[:6]
    for name, parameter in found.items():
        assert parameter.shape == weights[name].shape, (name, parameter.shape, weights[name].shape)
        parameter.set_data(Tensor(weights[name]))
    return backbone.set_train(False)


def embedding(backbone, images):
    """Return the embeddings (N, D) float32 of images."""
    from mindspore import Tensor
    return backbone(Tensor(images)).asnumpy()


def relative(found, expected):
    """Return the largest difference in parts of the largest expected entry."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def check_embedding(key, limit=LIMIT, **options):
    """Assert that the network of a golden key gives the original's embedding of the golden images."""
    found = embedding(network(key, **options), inputs(key))
    difference = relative(found.astype(np.float64), arrays()[f'{key}/f64'])
    print(f'{key}\t{difference:.1e}')
    assert difference < limit, f'{key}: {difference:.2e} of the largest entry'


def check_parameter_count(key):
    """Assert that the backbone at its default options has as many weights as the original reads."""
    from src.backbones import build_backbone
    held = sum(parameter.size for parameter in build_backbone(key).get_parameters()
               if not parameter.name.endswith(('moving_mean', 'moving_variance')))
    assert held == int(table_row('docs/backbones.md', key)[3].replace(',', ''))


def training_pass(key, first, target=None):
    """Return (outputs (8, 512), gradient of the parameter `first`, backbone) of one training step's forward, backward.

    The loss is the sum of the outputs times fixed normal numbers.
    """
    import mindspore as ms
    from mindspore import Tensor
    backbone = network(key, target).set_train(True)
    factors = Tensor(np.random.default_rng(20261126).standard_normal((8, 512)).astype(np.float32))

    def loss(images):
        out = backbone(images)
        return (out * factors).sum(), out

    weight = names_of(backbone)[first]
    backward = ms.value_and_grad(loss, None, [weight], has_aux=True)
    (_, out), (gradient,) = backward(Tensor(training_inputs()))
    return out.asnumpy(), gradient.asnumpy(), backbone


def relative_l2(found, expected):
    """Return the L2 norm of the difference in parts of that of `expected`."""
    return float(np.linalg.norm((found - expected).ravel()) / np.linalg.norm(expected.ravel()))
