"""LightCNN-9, -29 and -29v2: convolutions with Max-Feature-Map (Wu et al., arXiv:1511.02683).

    network = build_backbone('LightCNN_9Layers', image_size=128, channels=1)     # (N, 1, 128, 128) -> (N, 256)

They take any side that is a multiple of 16, and grey or colour. The head on top exists only while training.
"""
from typing import Any

from mindspore import nn, ops

from src.backbone import COMMON_OPTIONS, Backbone, keep_mask
from src.cpu.fused_mfm import Blocked, FusedMFM, Unblocked
from src.initializers import Init
from src.options import Option

EMBEDDING_SIZE = 256
_POOLED = 16                     # four poolings by two


class MFM(nn.Cell):
    """A layer of twice the outputs, of which the larger of each pair is kept: (N, C, ...) -> (N, out, ...)."""

    def __init__(self, layer: nn.Cell):
        super().__init__()
        self.layer = layer
        self.split = ops.Split(1, 2)
        self.maximum = ops.Maximum()

    def construct(self, x):
        a, b = self.split(self.layer(x))     # (N, 2 * out, ...) -> 2 x (N, out, ...)
        return self.maximum(a, b)


class FusedMFMConv(nn.Cell):
    """`MFM` of a convolution, for the CPU, on blocked maps: the same weights, and 2x2 max pooling with `pool`."""

    def __init__(self, layer: nn.Cell, pool: bool):
        super().__init__()
        self.layer = layer
        self.mfm = FusedMFM(pool)

    def construct(self, x):
        return self.mfm(x, self.layer.weight, self.layer.bias)[0]


def mfm_conv(init: Init, in_channels: int, out_channels: int, kernel_size: int, pool: bool = False) -> nn.Cell:
    """(N, in, H, W) -> (N, out, H, W), of half the size with `pool`, which is for `init.fused` only."""
    weight = init(2 * out_channels, in_channels, kernel_size, kernel_size)
    layer = nn.Conv2d(in_channels, 2 * out_channels, kernel_size, pad_mode='pad', padding=kernel_size // 2,
                      has_bias=True, weight_init=weight, bias_init='zeros')
    return FusedMFMConv(layer, pool) if init.fused else MFM(layer)


def dense(init: Init, in_size: int, out_size: int) -> nn.Dense:
    """(N, in) -> (N, out)."""
    return nn.Dense(in_size, out_size, weight_init=init(out_size, in_size), bias_init='zeros')


class Group(nn.Cell):
    """1x1 MFM convolution, then a 3x3 one: (N, in, H, W) -> (N, out, H, W), of half the size with `pool`."""

    def __init__(self, init: Init, in_channels: int, out_channels: int, pool: bool):
        super().__init__()
        self.conv_a = mfm_conv(init, in_channels, in_channels, 1)
        self.conv = mfm_conv(init, in_channels, out_channels, 3, pool)

    def construct(self, x):
        return self.conv(self.conv_a(x))


class ResBlock(nn.Cell):
    """Two 3x3 MFM convolutions around a shortcut: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, init: Init, channels: int):
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


# out channels of the four groups, and the residual blocks before each
_CHANNELS = (96, 192, 128, 128)
_BLOCKS_29 = (1, 2, 3, 4)


def _features(init, channels, pool, num_blocks):
    """Return the layers up to the last pooling; the third group is not followed by one."""
    fuse = init.fused and pool is MaxPool                    # then the convolution pools, and its pooling does nothing
    if init.fused:
        pool = nn.Identity if fuse else lambda plain=pool: nn.SequentialCell(Unblocked(), plain(), Blocked())
    layers = [mfm_conv(init, channels, 48, 5, fuse), pool()]
    channels = 48
    for i, (out_channels, blocks) in enumerate(zip(_CHANNELS, num_blocks)):
        layers += [ResBlock(init, channels) for _ in range(blocks)]
        layers.append(Group(init, channels, out_channels, fuse and i != 2))
        channels = out_channels
        if i != 2:
            layers.append(pool())
    return layers + [Unblocked()] * init.fused


class LightCNN(Backbone):
    """Convolutional features and one fully connected layer: (N, C, S, S) -> (N, D)."""

    OPTIONS = {
        **COMMON_OPTIONS,
        'image_size': Option(128, 16, 1024, 'side of the faces, a multiple of 16'),
        'channels': Option(1, (1, 3), None, '1: grey, 3: colour'),
        'embedding_size': Option(EMBEDDING_SIZE, 2, 8192, 'length of the embedding'),
        'dropout': Option(0.5, 0.0, 0.99, 'share of the embedding that training drops'),
    }
    face_format = 'lightcnn'
    flat_settings = {'dropout': 'dropout'}
    pool, num_blocks, mfm_embedding = MaxPool, (0, 0, 0, 0), True

    def __init__(self, init: Init, options: dict):
        super().__init__(options)
        if self.image_size % _POOLED:
            raise ValueError(f"image_size {self.image_size} is not a multiple of {_POOLED}")
        flat_size = _CHANNELS[-1] * (self.image_size // _POOLED) ** 2
        self.features = nn.SequentialCell(_features(init, self.channels, self.pool, self.num_blocks))
        self.fc = (MFM(dense(init, flat_size, 2 * self.embedding_size)) if self.mfm_embedding
                   else dense(init, flat_size, self.embedding_size))
        self.flatten = nn.Flatten()
        self.dropout, self.noise_size = options['dropout'], self.embedding_size

    def construct(self, x, noise=None):
        maps = self.features(x)                           # (N, C, S, S) -> (N, 128, S / 16, S / 16)
        embedding = self.fc(self.flatten(maps))           # -> (N, D)
        return embedding if noise is None else embedding * keep_mask(noise, self.dropout).astype(embedding.dtype)

    def parameter_group(self, name: str, cfg: Any) -> tuple:
        """Return (learning-rate multiple, weight decay) of a parameter: biases have their own, as published."""
        if name.endswith('.bias'):
            return cfg.bias_lr_mult, cfg.bias_weight_decay
        return 1.0, cfg.weight_decay


class LightCNN9(LightCNN):
    """LightCNN-9: 5.5 million parameters, 0.98 GMAC at 128x128."""


class LightCNN29(LightCNN):
    """LightCNN-29: 12.6 million parameters, 3.6 GMAC at 128x128."""

    num_blocks = _BLOCKS_29


class LightCNN29v2(LightCNN):
    """LightCNN-29 v2: maximum and mean pooling, a linear embedding, a softmax without bias."""

    pool, num_blocks, mfm_embedding, head_bias = MaxAvgPool, _BLOCKS_29, False, False
