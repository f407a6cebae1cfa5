"""LightCNN-9, -29 and -29v2: convolutions with Max-Feature-Map (Wu et al., arXiv:1511.02683).

    network = embedding_network('LightCNN_9Layers', image_size=128)     # (N, 1, 128, 128) -> (N, 256)

The embedding network stands alone; a `Classifier` on top exists only while training. Initial weights come from NumPy's
generator and the run's seed, so they are the same in every process and for every MindSpore.
"""
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore import dtype as mstype

from src import onednn
from src.fused_mfm import Blocked, FusedMFM, Unblocked

EMBEDDING_SIZE = 256
_POOLED = 16                     # four poolings by two


def _xavier(rng, shape):
    """Uniform weights of variance 1 / fan_in."""
    limit = np.sqrt(3 / np.prod(shape[1:]))
    return rng.uniform(-limit, limit, shape).astype(np.float32)


def _centred(rng, shape):
    """Normal weights of zero mean over each filter, scaled so that faces keep unit power through every layer.

    Zero-mean filters ignore the constant that Max-Feature-Map adds to all maps, which otherwise grows from layer to
    layer and hides the face. What is left of the signal is smaller: 1 / 1.3 a layer, 1 / 9 on grey pixels. These
    gains were measured by layer-sequential unit-variance initialisation (arXiv:1511.06422) on aligned faces.
    """
    weight = rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))
    weight -= weight.mean(tuple(range(1, len(shape))), keepdims=True)
    return weight * np.float32(9.0 if shape[1] == 1 else 1.3)


INITS = {'xavier': _xavier, 'centred': _centred}


class Init:
    """How layers are made: initial weights, drawn one after another from one seed; all zero (to be loaded over)
    without a recipe. For the target 'CPU' convolutions are those of `src.fused_mfm` where it can; for None they are
    MindSpore's, which can be exported."""

    def __init__(self, name=None, seed=0, target=None):
        self.draw = INITS[name] if name else lambda rng, shape: np.zeros(shape, np.float32)
        self.rng = np.random.default_rng([seed, 0])
        self.fused = target == 'CPU' and onednn.is_available()

    def __call__(self, *shape):
        return Tensor(self.draw(self.rng, shape))


class MFM(nn.Cell):
    """A layer of twice the outputs, of which the larger of each pair is kept: (N, C, ...) -> (N, out, ...)."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.split = ops.Split(1, 2)
        self.maximum = ops.Maximum()

    def construct(self, x):
        a, b = self.split(self.layer(x))     # (N, 2 * out, ...) -> 2 x (N, out, ...)
        return self.maximum(a, b)


class FusedMFMConv(nn.Cell):
    """`MFM` of a convolution, for the CPU, on blocked maps: the same weights, and 2x2 max pooling with `pool`."""

    def __init__(self, layer, pool):
        super().__init__()
        self.layer = layer
        self.mfm = FusedMFM(pool)

    def construct(self, x):
        return self.mfm(x, self.layer.weight, self.layer.bias)[0]


def mfm_conv(init, in_channels, out_channels, kernel_size, pool=False):
    """(N, in, H, W) -> (N, out, H, W), of half the size with `pool`, which is for `init.fused` only."""
    weight = init(2 * out_channels, in_channels, kernel_size, kernel_size)
    layer = nn.Conv2d(in_channels, 2 * out_channels, kernel_size, pad_mode='pad', padding=kernel_size // 2,
                      has_bias=True, weight_init=weight, bias_init='zeros')
    return FusedMFMConv(layer, pool) if init.fused else MFM(layer)


def dense(init, in_size, out_size):
    """(N, in) -> (N, out)."""
    return nn.Dense(in_size, out_size, weight_init=init(out_size, in_size), bias_init='zeros')


class Group(nn.Cell):
    """1x1 MFM convolution, then a 3x3 one: (N, in, H, W) -> (N, out, H, W), of half the size with `pool`."""

    def __init__(self, init, in_channels, out_channels, pool):
        super().__init__()
        self.conv_a = mfm_conv(init, in_channels, in_channels, 1)
        self.conv = mfm_conv(init, in_channels, out_channels, 3, pool)

    def construct(self, x):
        return self.conv(self.conv_a(x))


class ResBlock(nn.Cell):
    """Two 3x3 MFM convolutions around a shortcut: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, init, channels):
        super().__init__()
        self.conv1 = mfm_conv(init, channels, channels, 3)
        self.conv2 = mfm_conv(init, channels, channels, 3)

    def construct(self, x):
        return self.conv2(self.conv1(x)) + x


class MaxPool(nn.Cell):
    """(N, C, H, W) -> (N, C, H / 2, W / 2)."""

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(2, 2)

    def construct(self, x):
        return self.pool(x)


class MaxAvgPool(nn.Cell):
    """The sum of the largest and the mean of 2x2: (N, C, H, W) -> (N, C, H / 2, W / 2)."""

    def __init__(self):
        super().__init__()
        self.max_pool = nn.MaxPool2d(2, 2)
        self.avg_pool = nn.AvgPool2d(2, 2)

    def construct(self, x):
        return self.max_pool(x) + self.avg_pool(x)


class Embedding(nn.Cell):
    """Convolutional features and one fully connected layer: (N, 1, S, S) -> (N, 256)."""

    def __init__(self, features, fc):
        super().__init__()
        self.features = nn.SequentialCell(features)
        self.fc = fc
        self.flatten = nn.Flatten()

    def construct(self, x):
        x = self.features(x)                 # (N, 1, S, S) -> (N, 128, S / 16, S / 16)
        return self.fc(self.flatten(x))      # -> (N, 256)


# out channels of the four groups, and the residual blocks before each
_CHANNELS = (96, 192, 128, 128)
_BLOCKS_29 = (1, 2, 3, 4)


def _features(init, pool, num_blocks=(0, 0, 0, 0)):
    """Return the layers up to the last pooling; the third group is not followed by one."""
    fuse = init.fused and pool is MaxPool                    # then the convolution pools, and its pooling does nothing
    if init.fused:
        pool = nn.Identity if fuse else lambda plain=pool: nn.SequentialCell(Unblocked(), plain(), Blocked())
    layers = [mfm_conv(init, 1, 48, 5, fuse), pool()]
    channels = 48
    for i, (out_channels, blocks) in enumerate(zip(_CHANNELS, num_blocks)):
        layers += [ResBlock(init, channels) for _ in range(blocks)]
        layers.append(Group(init, channels, out_channels, fuse and i != 2))
        channels = out_channels
        if i != 2:
            layers.append(pool())
    return layers + [Unblocked()] * init.fused


def _mfm_dense(init, in_size):
    return MFM(dense(init, in_size, 2 * EMBEDDING_SIZE))


def _lightcnn9(init, flat_size):
    return Embedding(_features(init, MaxPool), _mfm_dense(init, flat_size))


def _lightcnn29(init, flat_size):
    return Embedding(_features(init, MaxPool, _BLOCKS_29), _mfm_dense(init, flat_size))


def _lightcnn29v2(init, flat_size):
    return Embedding(_features(init, MaxAvgPool, _BLOCKS_29), dense(init, flat_size, EMBEDDING_SIZE))


NETWORKS = {'LightCNN_9Layers': _lightcnn9, 'LightCNN_29Layers': _lightcnn29, 'LightCNN_29Layers_v2': _lightcnn29v2}


def embedding_network(network_type, image_size=128, init=None):
    """Return the embedding network `network_type`: (N, 1, image_size, image_size) -> (N, 256).

    init: an `Init`, or None for zeros that a checkpoint replaces. Raises ValueError for an unknown type or size.
    """
    if network_type not in NETWORKS:
        raise ValueError(f"unknown network_type '{network_type}'; networks: {', '.join(NETWORKS)}")
    if image_size < _POOLED or image_size % _POOLED:
        raise ValueError(f"image_size {image_size} is not a multiple of {_POOLED}")
    return NETWORKS[network_type](init or Init(), _CHANNELS[-1] * (image_size // _POOLED) ** 2)


class Classifier(nn.Cell):
    """Embeddings and labels -> (mean loss, number of top-1 hits); the weight is called fc2 as in the paper's code.

    'softmax': cross-entropy of a linear layer. 'cosface': of scaled cosines, the true class lowered by a margin.
    """

    def __init__(self, cfg, init):
        super().__init__()
        self.cosine = cfg.loss == 'cosface'
        # embeddings of length 16 and unit weights would start a softmax far off: a tenth is a calm beginning
        weight = init(cfg.num_classes, EMBEDDING_SIZE) * (0.1 if cfg.init == 'centred' and not self.cosine else 1.0)
        self.fc2_weight = Parameter(weight, name='fc2_weight')
        has_bias = not self.cosine and cfg.network_type != 'LightCNN_29Layers_v2'
        self.fc2_bias = Parameter(Tensor(np.zeros(cfg.num_classes, np.float32)), name='fc2_bias') if has_bias else None
        self.matmul = ops.MatMul(transpose_b=True)
        self.on, self.off = Tensor(1.0, mstype.float32), Tensor(0.0, mstype.float32)
        self.scale, self.margin = cfg.cosface_scale, cfg.cosface_margin
        self.num_classes = cfg.num_classes

    def construct(self, embedding, labels):
        if self.cosine:
            cosine = self.matmul(_unit(embedding), _unit(self.fc2_weight))               # (N, num_classes)
            logits = self.scale * (cosine - self.margin * ops.one_hot(labels, self.num_classes, self.on, self.off))
        else:
            logits = self.matmul(embedding, self.fc2_weight)
            if self.fc2_bias is not None:
                logits = logits + self.fc2_bias
        logits = logits.astype(mstype.float32)
        hits = (logits.argmax(1).astype(mstype.int32) == labels).astype(mstype.float32).sum()
        return ops.cross_entropy(logits, labels), hits


def _unit(x):
    return x / ops.sqrt((x * x).sum(1, keepdims=True) + 1e-12)


class TrainingNetwork(nn.Cell):
    """(images (N, 1, S, S), labels (N,), dropout mask (N, 256)) -> (loss, top-1 hits)."""

    def __init__(self, embedding, classifier):
        super().__init__()
        self.embedding = embedding
        self.classifier = classifier

    def construct(self, images, labels, mask):
        return self.classifier(self.embedding(images) * mask, labels)


def training_network(cfg, target=None):
    """Return the embedding network and its classifier with the initial weights of `cfg.seed`."""
    init = Init(cfg.init, cfg.seed, target)
    return TrainingNetwork(embedding_network(cfg.network_type, cfg.image_size, init), Classifier(cfg, init))


def initial_embedding(cfg, target=None):
    """Return the embedding network with the weights that a training with `cfg` starts from."""
    return embedding_network(cfg.network_type, cfg.image_size, Init(cfg.init, cfg.seed, target)).set_train(False)
