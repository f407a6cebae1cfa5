"""iresnet-18 to -200: the improved residual networks of ArcFace (Deng et al., arXiv:1801.07698; arcface_torch).

    network = build_backbone('iresnet50')                    # (N, 3, 112, 112) RGB -> (N, 512), 43.6 million weights
"""
from mindspore import nn

from src.backbone import COMMON_OPTIONS, Backbone
from src.backbones.blocks import batch_norm, batch_norm_1d, conv, dropout, halved, linear, prelu
from src.initializers import Init, normal
from src.options import Option

_WIDTHS = (64, 128, 256, 512)
_CONV_RULE = normal(0.1)


class Block(nn.Cell):
    """BatchNorm, 3x3, BatchNorm, PReLU, 3x3 of `stride`, BatchNorm, plus the shortcut of the raw input."""

    def __init__(self, init: Init, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = batch_norm(in_channels)
        self.conv1 = conv(init, in_channels, channels, 3, rule=_CONV_RULE)
        self.bn2 = batch_norm(channels)
        self.prelu = prelu(channels)
        self.conv2 = conv(init, channels, channels, 3, stride, rule=_CONV_RULE)
        self.bn3 = batch_norm(channels)
        self.downsample = nn.Identity() if stride == 1 else nn.SequentialCell(
            conv(init, in_channels, channels, 1, stride, rule=_CONV_RULE), batch_norm(channels))

    def construct(self, x):
        out = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(out)) + self.downsample(x)         # (N, in, H, W) -> (N, C, H / stride, W / stride)


def _layer(init: Init, in_channels: int, channels: int, blocks: int) -> nn.SequentialCell:
    return nn.SequentialCell([Block(init, channels if i else in_channels, channels, 1 if i else 2)
                              for i in range(blocks)])


class IResNet(Backbone):
    """A 3x3 stem of stride 1, four groups of residual blocks, one linear layer: (N, C, S, S) -> (N, D).

    The scale of the last BatchNorm is 1 and is not trained, as in the original.
    """

    OPTIONS = {**COMMON_OPTIONS, 'dropout': Option(0.0, 0.0, 0.99, 'share of the last maps that training drops')}
    batch_statistics = True
    num_blocks = (0, 0, 0, 0)

    def __init__(self, init: Init, options: dict):
        super().__init__(options)
        side = halved(self.image_size, 4)
        self.conv1 = conv(init, self.channels, 64, 3, rule=_CONV_RULE)
        self.bn1, self.prelu = batch_norm(64), prelu(64)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _layer(init, *sizes) for sizes in zip((64, *_WIDTHS), _WIDTHS, self.num_blocks))
        self.bn2 = batch_norm(512)
        self.flatten = nn.Flatten()
        self.fc = linear(init, 512 * side * side, self.embedding_size)
        self.features = batch_norm_1d(self.embedding_size)
        self.features.gamma.requires_grad = False
        self.dropout = options['dropout']
        self.noise_size = 512 * side * side if self.dropout else 0

    def construct(self, images, noise=None):
        x = self.prelu(self.bn1(self.conv1(images)))                  # (N, C, S, S) -> (N, 64, S, S)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))     # -> (N, 512, S / 16, S / 16)
        x = self.flatten(self.bn2(x))
        if noise is not None:
            x = dropout(x, noise, self.dropout)
        return self.features(self.fc(x))                              # -> (N, D)


class IResNet18(IResNet):
    """iresnet-18: 24.0 million weights, 2.6 GMAC."""

    num_blocks = (2, 2, 2, 2)


class IResNet34(IResNet):
    """iresnet-34: 34.1 million weights, 4.5 GMAC."""

    num_blocks = (3, 4, 6, 3)


class IResNet50(IResNet):
    """iresnet-50: 43.6 million weights, 6.3 GMAC."""

    num_blocks = (3, 4, 14, 3)


class IResNet100(IResNet):
    """iresnet-100: 65.2 million weights, 12.1 GMAC."""

    num_blocks = (3, 13, 30, 3)


class IResNet200(IResNet):
    """iresnet-200: 118.8 million weights, 23.4 GMAC."""

    num_blocks = (6, 26, 60, 6)
