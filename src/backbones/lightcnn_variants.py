"""LightCNN v4 and FaceX-Zoo's LightCNN-29 (Wu et al., arXiv:1511.02683); src/lightcnn.py has the other three.

    network = build_backbone('lightcnn_v4')                  # (N, 3, 128, 128) BGR / 255 -> (N, 256)
    network = build_backbone('lightcnn29_facexzoo')          # (N, 3, 112, 112) BGR -> (N, 512)

Both take any side that is a multiple of 16, and have no layers that a training on the CPU fuses.
"""
from mindspore import nn, ops

from src.backbone import COMMON_OPTIONS, Backbone
from src.backbones.blocks import BDFBTail, conv, linear
from src.initializers import Init, normal
from src.lightcnn import MaxAvgPool
from src.options import Option

_CHANNELS = (48, 96, 192, 128, 128)          # out channels of the stem and of the four stages
_BLOCKS = (1, 2, 3, 4)                       # residual blocks of the stages


class MFM(nn.Cell):
    """A convolution to twice the channels, of which the larger of each pair is kept: (N, C, H, W) -> (N, out, H, W)."""

    def __init__(self, init: Init, in_channels: int, out_channels: int, kernel: int):
        super().__init__()
        self.filter = conv(init, in_channels, 2 * out_channels, kernel, bias=True)

    def construct(self, x):
        a, b = ops.chunk(self.filter(x), 2, 1)            # (N, 2 * out, H, W) -> 2 x (N, out, H, W)
        return ops.maximum(a, b)


class Group(nn.Cell):
    """A 1x1 MFM convolution, then a 3x3 one: (N, C, H, W) -> (N, out, H, W)."""

    def __init__(self, init: Init, in_channels: int, out_channels: int):
        super().__init__()
        self.conv_a = MFM(init, in_channels, in_channels, 1)
        self.conv = MFM(init, in_channels, out_channels, 3)

    def construct(self, x):
        return self.conv(self.conv_a(x))


class ResBlock(nn.Cell):
    """Two 3x3 MFM convolutions around a shortcut: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, init: Init, channels: int):
        super().__init__()
        self.conv1 = MFM(init, channels, channels, 3)
        self.conv2 = MFM(init, channels, channels, 3)

    def construct(self, x):
        return self.conv2(self.conv1(x)) + x


def _blocks(init: Init, stage: int) -> nn.SequentialCell:
    """Return the residual blocks of stage 1 to 4."""
    return nn.SequentialCell([ResBlock(init, _CHANNELS[stage - 1]) for _ in range(_BLOCKS[stage - 1])])


class LightCNNVariant(Backbone):
    """Four stages of residual blocks and a layer that changes the width, with maximum and mean pooling."""

    def __init__(self, init: Init, options: dict):
        super().__init__(options)
        if self.image_size % 16:
            raise ValueError(f"image_size {self.image_size} is not a multiple of 16")
        self.side = self.image_size // 16
        self.pool = MaxAvgPool()
        self.block1, self.block2, self.block3, self.block4 = (_blocks(init, stage) for stage in (1, 2, 3, 4))


class LightCNNV4(LightCNNVariant):
    """LightCNN v4: 10.3 million weights, 3.6 GMAC at 128x128, one linear layer without dropout: (N, C, S, S) -> (N, D).
    """

    OPTIONS = {
        **COMMON_OPTIONS,
        'image_size': Option(128, 16, 1024, 'side of the faces, a multiple of 16'),
        'embedding_size': Option(256, 2, 8192, 'length of the embedding'),
    }
    face_format = 'lightcnn_v4'

    def __init__(self, init: Init, options: dict):
        super().__init__(init, options)
        self.conv1 = MFM(init, self.channels, 48, 3)
        self.conv2, self.conv3, self.conv4, self.conv5 = (
            MFM(init, *sizes, 3) for sizes in zip(_CHANNELS, _CHANNELS[1:]))
        self.flatten = nn.Flatten()
        self.fc = linear(init, 128 * self.side ** 2, self.embedding_size, rule=normal(0.001))

    def construct(self, images, noise=None):
        x = self.pool(self.conv1(images))                  # (N, C, S, S) -> (N, 48, S / 2, S / 2)
        x = self.pool(self.conv2(self.block1(x)))          # -> (N, 96, S / 4, S / 4)
        x = self.pool(self.conv3(self.block2(x)))          # -> (N, 192, S / 8, S / 8)
        x = self.conv5(self.block4(self.conv4(self.block3(x))))
        return self.fc(self.flatten(self.pool(x)))         # (N, 128, S / 8, S / 8) -> (N, D)


class LightCNN29FaceXZoo(LightCNNVariant):
    """FaceX-Zoo's LightCNN-29: 11.6 million weights, 2.8 GMAC, LFW 99.57: (N, C, S, S) -> (N, D)."""

    OPTIONS = {
        **COMMON_OPTIONS,
        'image_size': Option(112, 16, 1024, 'side of the faces, a multiple of 16'),
        'dropout': Option(0.2, 0.0, 0.99, 'share of the last maps that training drops'),
    }
    batch_statistics = True
    face_format = 'facexzoo'

    def __init__(self, init: Init, options: dict):
        super().__init__(init, options)
        self.conv1 = MFM(init, self.channels, 48, 5)
        self.group1, self.group2, self.group3, self.group4 = (
            Group(init, *sizes) for sizes in zip(_CHANNELS, _CHANNELS[1:]))
        self.output_layer = BDFBTail(init, 128, self.side, self.side, self.embedding_size, rate=options['dropout'])
        self.noise_size = self.output_layer.noise_size

    def construct(self, images, noise=None):
        x = self.pool(self.conv1(images))                  # (N, C, S, S) -> (N, 48, S / 2, S / 2)
        x = self.pool(self.group1(self.block1(x)))         # -> (N, 96, S / 4, S / 4)
        x = self.pool(self.group2(self.block2(x)))         # -> (N, 192, S / 8, S / 8)
        x = self.group4(self.block4(self.group3(self.block3(x))))
        return self.output_layer(self.pool(x), noise)      # (N, 128, S / 8, S / 8) -> (N, D)
