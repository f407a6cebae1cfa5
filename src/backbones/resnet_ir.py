"""ResNet-ir and -irse of FaceX-Zoo, 50, 100 and 152 layers (He et al., arXiv:1512.03385; SE: arXiv:1709.01507).

    network = build_backbone('resnet152_irse')               # (N, 3, 112, 112) BGR -> (N, 512), 71 million weights

Unlike iresnet: no BatchNorm after a block's first convolution, shortcuts without weights in the first group, a trained
last scale, dropout 0.4.
"""
from mindspore import nn, ops

from src.backbone import COMMON_OPTIONS, Backbone
from src.backbones.blocks import BDFBTail, batch_norm, conv, halved, prelu
from src.initializers import Init
from src.options import Option

_WIDTHS = (64, 128, 256, 512)


class SE(nn.Cell):
    """Scale each map by a gate made of all maps' means, without biases: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, init: Init, channels: int):
        super().__init__()
        self.fc1 = conv(init, channels, channels // 16)
        self.fc2 = conv(init, channels // 16, channels)

    def construct(self, x):
        mean = ops.mean(x, (2, 3), True)                              # (N, C, H, W) -> (N, C, 1, 1)
        return x * ops.sigmoid(self.fc2(ops.relu(self.fc1(mean))))


class Subsample(nn.Cell):
    """Every `stride`-th pixel: (N, C, H, W) -> (N, C, H / stride, W / stride)."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def construct(self, x):
        return x[:, :, ::self.stride, ::self.stride]


class Block(nn.Cell):
    """BatchNorm, 3x3, PReLU, 3x3 of `stride`, BatchNorm, SE if asked, plus the shortcut of the raw input."""

    def __init__(self, init: Init, in_channels: int, channels: int, stride: int, excite: bool):
        super().__init__()
        self.res_layer = nn.SequentialCell([
            batch_norm(in_channels), conv(init, in_channels, channels, 3), prelu(channels),
            conv(init, channels, channels, 3, stride), batch_norm(channels),
            *([SE(init, channels)] if excite else [])])
        if in_channels != channels:
            self.shortcut_layer = nn.SequentialCell(conv(init, in_channels, channels, 1, stride), batch_norm(channels))
        else:
            self.shortcut_layer = nn.Identity() if stride == 1 else Subsample(stride)

    def construct(self, x):
        return self.res_layer(x) + self.shortcut_layer(x)             # (N, in, H, W) -> (N, C, H / stride, W / stride)


def _body(init: Init, num_blocks: tuple, excite: bool) -> nn.SequentialCell:
    blocks, in_channels = [], 64
    for channels, count in zip(_WIDTHS, num_blocks):
        for i in range(count):
            blocks.append(Block(init, in_channels, channels, 1 if i else 2, excite))
            in_channels = channels
    return nn.SequentialCell(blocks)


class ResNetIR(Backbone):
    """A 3x3 stem of stride 1, residual blocks in a row, the tail with dropout: (N, C, S, S) -> (N, D)."""

    OPTIONS = {**COMMON_OPTIONS, 'dropout': Option(0.4, 0.0, 0.99, 'share of the last maps that training drops')}
    batch_statistics = True
    face_format = 'facexzoo'
    num_blocks, excite = (0, 0, 0, 0), False

    def __init__(self, init: Init, options: dict):
        super().__init__(options)
        side = halved(self.image_size, 4)
        self.input_layer = nn.SequentialCell(conv(init, self.channels, 64, 3), batch_norm(64), prelu(64))
        self.body = _body(init, self.num_blocks, self.excite)
        self.output_layer = BDFBTail(init, 512, side, side, self.embedding_size, rate=options['dropout'])
        self.noise_size = self.output_layer.noise_size

    def construct(self, images, noise=None):
        maps = self.body(self.input_layer(images))                    # (N, C, S, S) -> (N, 512, S / 16, S / 16)
        return self.output_layer(maps, noise)                         # -> (N, D)


class ResNet50IR(ResNetIR):
    """ResNet50-ir: 43.6 million weights, 6.3 GMAC."""

    num_blocks = (3, 4, 14, 3)


class ResNet50IRSE(ResNet50IR):
    """ResNet50-irse: 43.8 million weights, 6.3 GMAC."""

    excite = True


class ResNet100IR(ResNetIR):
    """ResNet100-ir: 65.1 million weights, 12.1 GMAC."""

    num_blocks = (3, 13, 30, 3)


class ResNet100IRSE(ResNet100IR):
    """ResNet100-irse: as ResNet100-ir, with SE."""

    excite = True


class ResNet152IR(ResNetIR):
    """ResNet152-ir: as ResNet152-irse, without SE."""

    num_blocks = (3, 8, 36, 3)


class ResNet152IRSE(ResNet152IR):
    """ResNet152-irse: 71.1 million weights, 12.3 GMAC; LFW 99.85 in FaceX-Zoo."""

    excite = True
