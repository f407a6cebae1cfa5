"""GhostNet 1.0 of FaceX-Zoo: half of the maps are made from the other half (Han et al., arXiv:1911.11907).

    network = build_backbone('ghostnet')                     # (N, 3, 112, 112) BGR -> (N, 512), 26.8 million weights
"""
from mindspore import nn, ops

from src.backbone import COMMON_OPTIONS, Backbone
from src.backbones.blocks import BDFBTail, SqueezeExcite, batch_norm, conv, halved
from src.initializers import Init
from src.options import Option

# kernel, inner maps, out maps, with squeeze and excitation, stride; a list a group
_GROUPS = (
    ((3, 16, 16, False, 1),),
    ((3, 48, 24, False, 2),),
    ((3, 72, 24, False, 1),),
    ((5, 72, 40, True, 2),),
    ((5, 120, 40, True, 1),),
    ((3, 240, 80, False, 2),),
    ((3, 200, 80, False, 1), (3, 184, 80, False, 1), (3, 184, 80, False, 1), (3, 480, 112, True, 1),
     (3, 672, 112, True, 1)),
    ((5, 672, 160, True, 2),),
    ((5, 960, 160, False, 1), (5, 960, 160, True, 1), (5, 960, 160, False, 1), (5, 960, 160, True, 1)),
)
_LAST = 960


def _quarter(channels: int) -> int:
    """Return the nearest multiple of 4 to channels / 4, not below 90 % of it."""
    rounded = max(4, int(channels / 4 + 2) // 4 * 4)
    return rounded + 4 if rounded < 0.9 * (channels / 4) else rounded


class Ghost(nn.Cell):
    """Half of the maps from a 1x1 convolution, the rest from those, map by map: (N, in, H, W) -> (N, out, H, W)."""

    def __init__(self, init: Init, in_channels: int, out_channels: int, act: bool):
        super().__init__()
        half, last = out_channels // 2, [nn.ReLU()] if act else []
        self.primary_conv = nn.SequentialCell(conv(init, in_channels, half), batch_norm(half), *last)
        self.cheap_operation = nn.SequentialCell(conv(init, half, half, 3, groups=half), batch_norm(half), *last)

    def construct(self, x):
        first = self.primary_conv(x)                       # (N, in, H, W) -> (N, out / 2, H, W)
        return ops.concat((first, self.cheap_operation(first)), 1)


class Bottleneck(nn.Cell):
    """Ghost to the inner maps, a convolution of stride 2 or none, SE or none, Ghost to the out maps; a shortcut."""

    def __init__(self, init: Init, in_channels: int, kernel: int, inner: int, out_channels: int, excite: bool,
                 stride: int):
        super().__init__()
        self.ghost1 = Ghost(init, in_channels, inner, True)
        self.stride = stride
        if stride > 1:
            self.conv_dw = conv(init, inner, inner, kernel, stride, groups=inner)
            self.bn_dw = batch_norm(inner)
        self.se = SqueezeExcite(init, inner, _quarter(inner), nn.ReLU(), nn.HSigmoid()) if excite else nn.Identity()
        self.ghost2 = Ghost(init, inner, out_channels, False)
        self.shortcut = nn.Identity() if (in_channels, stride) == (out_channels, 1) else nn.SequentialCell(
            conv(init, in_channels, in_channels, kernel, stride, groups=in_channels), batch_norm(in_channels),
            conv(init, in_channels, out_channels), batch_norm(out_channels))

    def construct(self, x):
        maps = self.ghost1(x)                              # (N, in, H, W) -> (N, inner, H, W)
        if self.stride > 1:
            maps = self.bn_dw(self.conv_dw(maps))          # -> (N, inner, H / 2, W / 2)
        return self.ghost2(self.se(maps)) + self.shortcut(x)


class ConvBnAct(nn.Cell):
    """1x1 convolution, BatchNorm, ReLU: (N, in, H, W) -> (N, out, H, W)."""

    def __init__(self, init: Init, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = conv(init, in_channels, out_channels)
        self.bn1 = batch_norm(out_channels)

    def construct(self, x):
        return ops.relu(self.bn1(self.conv(x)))


def _blocks(init: Init) -> nn.SequentialCell:
    groups, channels = [], 16
    for rows in _GROUPS:
        group = []
        for row in rows:
            group.append(Bottleneck(init, channels, *row))
            channels = row[2]
        groups.append(nn.SequentialCell(group))
    return nn.SequentialCell(groups + [nn.SequentialCell(ConvBnAct(init, channels, _LAST))])


class GhostNet(Backbone):
    """GhostNet, 26.8 million weights, 0.16 GMAC; LFW 99.65 in FaceX-Zoo: (N, C, S, S) -> (N, D)."""

    OPTIONS = {**COMMON_OPTIONS, 'dropout': Option(0.2, 0.0, 0.99, 'share of the last maps that training drops')}
    batch_statistics = True
    face_format = 'facexzoo'

    def __init__(self, init: Init, options: dict):
        super().__init__(options)
        side = halved(self.image_size, 4)
        self.conv_stem = conv(init, self.channels, 16, 3)
        self.bn1 = batch_norm(16)
        self.blocks = _blocks(init)
        self.output_layer = BDFBTail(init, _LAST, side, side, self.embedding_size, rate=options['dropout'])
        self.noise_size = self.output_layer.noise_size

    def construct(self, images, noise=None):
        x = ops.relu(self.bn1(self.conv_stem(images)))     # (N, C, S, S) -> (N, 16, S, S)
        return self.output_layer(self.blocks(x), noise)    # -> (N, 960, S / 16, S / 16) -> (N, D)
