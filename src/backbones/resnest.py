"""ResNeSt-50: attention over two halves of every 3x3 convolution (Zhang et al., arXiv:2004.08955).

    network = build_backbone('resnest50')                              # (N, 3, 112, 112) BGR -> (N, 512), of length 1

Source: FaceX-Zoo, whose stem is one 3x3 convolution of stride 1 and whose embedding has length 1: a head that looks
at the norm of the embedding (MagFace, AdaFace) learns nothing from it.
"""
from mindspore import nn, ops

from src.backbone import COMMON_OPTIONS, Backbone
from src.backbones.blocks import BDFBTail, batch_norm, conv, halved, prelu
from src.initializers import Init
from src.options import Option

_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4
_SHORTEST = 1e-12        # shorter embeddings keep their length: PyTorch's eps of `normalize`


class SplitAttention(nn.Cell):
    """3x3 convolution to two halves and their weighted sum: (N, C, H, W) -> (N, C, H, W).

    The weights of a channel's two halves are a softmax made of the means of all channels.
    """

    def __init__(self, init: Init, channels: int):
        super().__init__()
        reduced = max(channels // 2, 32)
        self.conv = conv(init, channels, 2 * channels, 3, groups=2)
        self.bn0, self.bn1 = batch_norm(2 * channels), batch_norm(reduced)
        self.fc1, self.fc2 = conv(init, channels, reduced, bias=True), conv(init, reduced, 2 * channels, bias=True)

    def construct(self, x):
        n, c, h, w = x.shape
        halves = ops.relu(self.bn0(self.conv(x))).reshape(n, 2, c, h, w)       # (N, C, H, W) -> (N, 2, C, H, W)
        mean = ops.mean(halves.sum(1), (2, 3), True)                           # -> (N, C, 1, 1)
        scores = self.fc2(ops.relu(self.bn1(self.fc1(mean))))                  # -> (N, 2C, 1, 1)
        return (halves * ops.softmax(scores.reshape(n, 2, c, 1, 1), 1)).sum(1)


class Block(nn.Cell):
    """1x1, split attention, 1x1 to four times the channels, plus the shortcut: (N, in, H, W) -> (N, 4C, H', W').

    `halves`: mean pooling after the attention and in the shortcut, H' = H / 2.
    """

    def __init__(self, init: Init, in_channels: int, channels: int, halves: bool):
        super().__init__()
        out_channels = _EXPANSION * channels
        self.conv1, self.bn1 = conv(init, in_channels, channels), batch_norm(channels)
        self.conv2 = SplitAttention(init, channels)
        self.avd_layer = nn.AvgPool2d(3, 2, pad_mode='pad', padding=1) if halves else nn.Identity()
        self.conv3, self.bn3 = conv(init, channels, out_channels), batch_norm(out_channels)
        # 'same' leaves what lies outside of the map out of its mean, and rounds odd sides up
        self.downsample = nn.SequentialCell([nn.AvgPool2d(2, 2, pad_mode='same'), conv(init, in_channels, out_channels),
                                             batch_norm(out_channels)]) if halves else nn.Identity()

    def construct(self, x):
        out = self.conv2(ops.relu(self.bn1(self.conv1(x))))
        out = self.bn3(self.conv3(self.avd_layer(out)))                        # -> (N, 4C, H', W')
        return ops.relu(out + self.downsample(x))


class Body(nn.Cell):
    """Four groups of blocks, each halves the sides: (N, 64, S, S) -> (N, 2048, S / 16, S / 16)."""

    def __init__(self, init: Init, num_blocks: tuple):
        super().__init__()
        ins = (64, *(_EXPANSION * width for width in _WIDTHS))
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.SequentialCell([Block(init, _EXPANSION * width if i else channels, width, i == 0)
                               for i in range(blocks)])
            for channels, width, blocks in zip(ins, _WIDTHS, num_blocks))

    def construct(self, x):
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class ResNeSt50(Backbone):
    """(N, C, S, S) -> (N, D), every row of length 1. 76.8 million parameters, 5.5 GMAC at 112x112."""

    OPTIONS = {**COMMON_OPTIONS, 'dropout': Option(0.4, 0.0, 0.99, 'share of the last maps that training drops')}
    batch_statistics = True
    face_format = 'facexzoo'
    ignored = ('num_batches_tracked',)

    def __init__(self, init: Init, options: dict):
        super().__init__(options)
        side = halved(self.image_size, 4)
        self.input_layer = nn.SequentialCell([conv(init, self.channels, 64, 3), batch_norm(64), prelu(64)])
        self.body = Body(init, (3, 4, 6, 3))
        self.output_layer = BDFBTail(init, _EXPANSION * _WIDTHS[-1], side, side, self.embedding_size,
                                     rate=options['dropout'])
        self.noise_size = self.output_layer.noise_size

    def construct(self, x, noise=None):
        maps = self.body(self.input_layer(x))                             # (N, C, S, S) -> (N, 2048, S / 16, ..)
        embedding = self.output_layer(maps, noise)                             # -> (N, D)
        power = (embedding * embedding).sum(1, keepdims=True)
        return embedding * ops.rsqrt(ops.clamp(power, min=_SHORTEST ** 2))
