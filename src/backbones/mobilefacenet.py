"""MobileFaceNet of FaceX-Zoo and of insightface's MXNet code (Chen, Liu, Gao, Han, arXiv:1804.07573).

    network = build_backbone('mobilefacenet')                # FaceX-Zoo's: (N, 3, 112, 112) BGR -> (N, 512)
    network = build_backbone('mobilefacenet_h4')             # the same for the upper half of a face, rows 0 to 59
    network = build_backbone('mobilefacenet_y1')             # insightface's fmobilefacenet: RGB -> (N, 128)
"""
from collections.abc import Callable
from typing import Optional, Union

from mindspore import nn

from src.backbone import COMMON_OPTIONS, Backbone
from src.backbones.blocks import batch_norm, batch_norm_1d, conv, halved, linear, prelu, zeros
from src.initializers import Init, kaiming_fan_out
from src.options import Option


class Layers:
    """How convolutions and BatchNorms of one network are made: the initial values and the eps they share."""

    def __init__(self, init: Init, rule: Optional[Callable], eps: float):
        self.init, self.rule, self.eps = init, rule, eps


class Unit(nn.Cell):
    """Convolution, BatchNorm, and PReLU unless `act` is False: (N, in, H, W) -> (N, out, H', W')."""

    def __init__(self, layers: Layers, in_channels: int, out_channels: int, kernel: Union[int, tuple] = 1,
                 stride: int = 1, padding: Optional[int] = None, *, groups: int = 1, act: bool = True):
        super().__init__()
        self.conv = conv(layers.init, in_channels, out_channels, kernel, stride, padding, groups=groups,
                         rule=layers.rule)
        self.bn = batch_norm(out_channels, eps=layers.eps)
        self.prelu = prelu(out_channels) if act else nn.Identity()

    def construct(self, x):
        return self.prelu(self.bn(self.conv(x)))


class Bottleneck(nn.Cell):
    """1x1 to `expanded` maps, 3x3 a map, 1x1 without PReLU; plus its input with `residual`."""

    def __init__(self, layers: Layers, in_channels: int, out_channels: int, expanded: int, stride: int,
                 residual: bool = False):
        super().__init__()
        self.conv = Unit(layers, in_channels, expanded)
        self.conv_dw = Unit(layers, expanded, expanded, 3, stride, groups=expanded)
        self.project = Unit(layers, expanded, out_channels, act=False)
        self.residual = residual

    def construct(self, x):
        out = self.project(self.conv_dw(self.conv(x)))     # (N, in, H, W) -> (N, out, H / stride, W / stride)
        return x + out if self.residual else out


class Residuals(nn.Cell):
    """`count` residual bottlenecks: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, layers: Layers, channels: int, expanded: int, count: int):
        super().__init__()
        self.model = nn.SequentialCell([Bottleneck(layers, channels, channels, expanded, 1, True)
                                        for _ in range(count)])

    def construct(self, x):
        return self.model(x)


class MobileFaceNet(Backbone):
    """FaceX-Zoo's MobileFaceNet, 1.2 million weights, 0.22 GMAC; LFW 99.57: (N, C, S, S) -> (N, D).

    With `image_height` it looks at the top rows of the faces only (for people with masks); what it gets may be cut to
    them already.
    """

    OPTIONS = {
        **COMMON_OPTIONS,
        'image_height': Option(0, 0, 1024, 'rows of the face, from the top, that it looks at; 0: all'),
    }
    batch_statistics = True
    face_format = 'facexzoo'
    num_blocks = (1, 4, 6, 2)              # units of the second stage; residual bottlenecks of the other stages
    rule, eps = None, 1e-5

    def __init__(self, init: Init, options: dict):
        super().__init__(options)
        self.height = options['image_height'] or self.image_size
        if not 16 <= self.height <= self.image_size:
            raise ValueError(f"image_height {self.height} is not between 16 and image_size {self.image_size}")
        layers = Layers(init, self.rule, self.eps)
        second, *counts = self.num_blocks
        self.conv1 = Unit(layers, self.channels, 64, 3, 2)
        self.conv2_dw = Unit(layers, 64, 64, 3, groups=64) if second == 1 else Residuals(layers, 64, 64, second)
        self.conv_23 = Bottleneck(layers, 64, 64, 128, 2)
        self.conv_3 = Residuals(layers, 64, 128, counts[0])
        self.conv_34 = Bottleneck(layers, 64, 128, 256, 2)
        self.conv_4 = Residuals(layers, 128, 256, counts[1])
        self.conv_45 = Bottleneck(layers, 128, 128, 512, 2)
        self.conv_5 = Residuals(layers, 128, 256, counts[2])
        self.conv_6_sep = Unit(layers, 128, 512)
        self.conv_6_dw = Unit(layers, 512, 512, (halved(self.height, 4), halved(self.image_size, 4)), padding=0,
                              groups=512, act=False)
        self.flatten = nn.Flatten()
        self._build_embedding(init)

    def _build_embedding(self, init: Init):
        self.linear = linear(init, 512, self.embedding_size, bias=False)
        self.bn = batch_norm_1d(self.embedding_size)

    def construct(self, images, noise=None):
        x = images if self.height == self.image_size else images[:, :, :self.height]
        x = self.conv_23(self.conv2_dw(self.conv1(x)))     # (N, C, S, S) -> (N, 64, S / 4, S / 4)
        x = self.conv_34(self.conv_3(x))                   # -> (N, 128, S / 8, S / 8)
        x = self.conv_45(self.conv_4(x))                   # -> (N, 128, S / 16, S / 16)
        x = self.conv_6_dw(self.conv_6_sep(self.conv_5(x)))
        return self.bn(self.linear(self.flatten(x)))       # (N, 512, 1, 1) -> (N, D)


class MobileFaceNetH4(MobileFaceNet):
    """FaceX-Zoo's MobileFaceNet for faces with masks: the upper 60 of 112 rows, 0.12 GMAC."""

    OPTIONS = {**MobileFaceNet.OPTIONS,
               'image_height': MobileFaceNet.OPTIONS['image_height']._replace(default=60)}


class MobileFaceNetY1(MobileFaceNet):
    """insightface's fmobilefacenet y1: 1.0 million weights, a bias before the last BatchNorm, whose scale stays 1."""

    OPTIONS = {**MobileFaceNet.OPTIONS, 'embedding_size': Option(128, 2, 8192, 'length of the embedding')}
    face_format = 'mobilefacenet_y1'
    rule, eps = staticmethod(kaiming_fan_out), 1e-3        # MXNet's default eps; its Xavier('gaussian', 'out', 2)

    def _build_embedding(self, init: Init):
        self.linear = linear(init, 512, self.embedding_size, rule=self.rule, bias_rule=zeros)
        self.bn = batch_norm_1d(self.embedding_size, eps=2e-5)
        self.bn.gamma.requires_grad = False


class MobileFaceNetY2(MobileFaceNetY1):
    """insightface's fmobilefacenet y2: twice as deep, 2.0 million weights, (N, 3, 112, 112) -> (N, 256)."""

    OPTIONS = {**MobileFaceNet.OPTIONS, 'embedding_size': Option(256, 2, 8192, 'length of the embedding')}
    num_blocks = (2, 8, 16, 4)
