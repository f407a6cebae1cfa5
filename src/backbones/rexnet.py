"""ReXNet 1.0: channels grow from block to block, shortcuts carry the first of them (Han et al., arXiv:2007.00992).

    network = build_backbone('rexnet_1.0')                             # (N, 3, 112, 112) BGR -> (N, 512)

Source: FaceX-Zoo, whose stem has stride 1. Its published network of 15.2 million parameters is the one without
squeeze and excitation.
"""
from mindspore import nn, ops

from src.backbone import COMMON_OPTIONS, Backbone
from src.backbones.blocks import BDFBTail, batch_norm, conv, halved
from src.initializers import Init
from src.options import Option

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
WIDTHS = (32, *(round(16 + i * 180 / 16) for i in range(16)))          # in, then out of each block
_EXPANSION = 6
_REDUCTION = 12
_FIRST_WITH_SE = 3
_FEATURES = 512


class SqueezeExcite(nn.Cell):
    """Scale each map by a gate made of all maps' means, BatchNorm inside: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, init: Init, channels: int):
        super().__init__()
        reduced = channels // _REDUCTION
        self.fc = nn.SequentialCell([conv(init, channels, reduced, bias=True), batch_norm(reduced), nn.ReLU(),
                                     conv(init, reduced, channels, bias=True), nn.Sigmoid()])

    def construct(self, x):
        return x * self.fc(ops.mean(x, (2, 3), True))                  # (N, C, H, W) * (N, C, 1, 1)


class Block(nn.Cell):
    """Expand, 3x3 depthwise, [squeeze and excitation], project: (N, in, H, W) -> (N, out, H / stride, W / stride).

    At stride 1 the input is added to the first `in` channels; the others pass.
    """

    def __init__(self, init: Init, in_channels: int, channels: int, stride: int, expansion: int, squeezes: bool):
        super().__init__()
        wide = in_channels * expansion
        expand = [conv(init, in_channels, wide), batch_norm(wide), nn.SiLU()] if expansion > 1 else []
        squeeze = [SqueezeExcite(init, wide)] if squeezes else []
        self.out = nn.SequentialCell(expand + [conv(init, wide, wide, 3, stride, groups=wide), batch_norm(wide)]
                                     + squeeze + [nn.ReLU6(), conv(init, wide, channels), batch_norm(channels)])
        self.in_channels, self.adds = in_channels, stride == 1 and in_channels <= channels

    def construct(self, x):
        out = self.out(x)
        if not self.adds:
            return out
        return ops.concat((out[:, :self.in_channels] + x, out[:, self.in_channels:]), 1)


class ReXNet(Backbone):
    """(N, C, S, S) -> (N, D), D from maps of S / 16."""

    OPTIONS = {**COMMON_OPTIONS, 'dropout': Option(0.2, 0.0, 0.99, 'share of the last maps that training drops')}
    batch_statistics = True
    face_format = 'facexzoo'
    ignored = ('num_batches_tracked',)
    squeezes = False

    def __init__(self, init: Init, options: dict):
        super().__init__(options)
        sizes = enumerate(zip(WIDTHS, WIDTHS[1:], STRIDES))
        blocks = [Block(init, *size, _EXPANSION if i else 1, self.squeezes and i >= _FIRST_WITH_SE)
                  for i, size in sizes]
        self.features = nn.SequentialCell(
            [conv(init, self.channels, WIDTHS[0], 3), batch_norm(WIDTHS[0]), nn.SiLU()] + blocks
            + [conv(init, WIDTHS[-1], _FEATURES), batch_norm(_FEATURES), nn.SiLU()])
        side = halved(self.image_size, 4)
        self.output_layer = BDFBTail(init, _FEATURES, side, side, self.embedding_size, rate=options['dropout'])
        self.noise_size = self.output_layer.noise_size

    def construct(self, x, noise=None):
        return self.output_layer(self.features(x), noise)         # (N, C, S, S) -> (N, 512, S / 16, ..) -> (N, D)


class ReXNetSE(ReXNet):
    """ReXNet 1.0 with squeeze and excitation from the fourth block on: 16.2 million parameters."""

    squeezes = True
