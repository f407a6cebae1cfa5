"""TF-NAS-A of FaceX-Zoo: inverted residual blocks found by a search (Hu, Wu, He, arXiv:2008.05314).

    network = build_backbone('tf_nas_a')                     # (N, 3, 112, 112) BGR -> (N, 512), 39.6 million weights
"""
from typing import Optional

from mindspore import nn

from src.backbone import COMMON_OPTIONS, Backbone
from src.backbones.blocks import SqueezeExcite, batch_norm, batch_norm_1d, conv, dropout, halved, linear, zeros
from src.initializers import Init
from src.options import Option

# in maps, inner maps, maps inside SE (0: no SE), out maps, kernel, stride
_STEM = (32, 32, 8, 16, 3, 1)
_STAGES = (
    ((16, 83, 32, 24, 3, 2), (24, 128, 0, 24, 5, 1)),
    ((24, 138, 48, 40, 3, 2), (40, 297, 0, 40, 3, 1), (40, 170, 80, 40, 5, 1)),
    ((40, 248, 80, 80, 5, 2), (80, 500, 0, 80, 3, 1), (80, 424, 0, 80, 3, 1), (80, 477, 0, 80, 3, 1)),
    ((80, 504, 160, 112, 3, 1), (112, 796, 0, 112, 3, 1), (112, 723, 224, 112, 3, 1), (112, 555, 224, 112, 3, 1)),
    ((112, 813, 0, 192, 3, 2), (192, 1370, 0, 192, 3, 1), (192, 1138, 384, 192, 3, 1), (192, 1359, 384, 192, 3, 1)),
    ((192, 1203, 384, 320, 5, 1),),
)
_LAST = 1280


class ConvBnAct(nn.Cell):
    """Convolution, BatchNorm, activation if any: (N, in, H, W) -> (N, out, H / stride, W / stride)."""

    def __init__(self, init: Init, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, *,
                 groups: int = 1, act: Optional[nn.Cell] = None):
        super().__init__()
        self.conv = conv(init, in_channels, out_channels, kernel, stride, groups=groups)
        self.bn = batch_norm(out_channels)
        self.act = act or nn.Identity()

    def construct(self, x):
        return self.act(self.bn(self.conv(x)))


class MBBlock(nn.Cell):
    """1x1 to the inner maps, a convolution a map, SE or none, 1x1 without activation; plus its input if it fits."""

    def __init__(self, init: Init, act: nn.Cell, in_channels: int, inner: int, reduced: int, out_channels: int,
                 kernel: int, stride: int):
        super().__init__()
        self.inverted_bottleneck = (ConvBnAct(init, in_channels, inner, act=act) if inner > in_channels
                                    else nn.Identity())
        self.depth_conv = ConvBnAct(init, inner, inner, kernel, stride, groups=inner, act=act)
        self.squeeze_excite = (SqueezeExcite(init, inner, reduced, act, nn.Sigmoid(), bias_rule=zeros) if reduced
                               else nn.Identity())
        self.point_linear = ConvBnAct(init, inner, out_channels)
        self.residual = in_channels == out_channels and stride == 1

    def construct(self, x):
        maps = self.depth_conv(self.inverted_bottleneck(x))            # (N, in, H, W) -> (N, inner, H / s, W / s)
        maps = self.point_linear(self.squeeze_excite(maps))            # -> (N, out, H / s, W / s)
        return maps + x if self.residual else maps


class Tail(nn.SequentialCell):
    """Dropout, flatten, linear, BatchNorm: (N, C, H, W) -> (N, D). Cells 2 and 3 have weights."""

    def __init__(self, init: Init, flat_size: int, embedding_size: int, rate: float):
        super().__init__(nn.Identity(), nn.Flatten(), linear(init, flat_size, embedding_size, bias_rule=zeros),
                         batch_norm_1d(embedding_size))
        self.rate = rate

    def construct(self, x, noise=None):
        _, flatten, fc, last = self.cell_list
        x = flatten(x)                                                 # (N, C, H, W) -> (N, C * H * W)
        return last(fc(x if noise is None else dropout(x, noise, self.rate)))


class TFNASA(Backbone):
    """TF-NAS-A, 39.6 million weights, 0.49 GMAC; LFW 99.75 in FaceX-Zoo: (N, C, S, S) -> (N, D)."""

    OPTIONS = {**COMMON_OPTIONS, 'dropout': Option(0.2, 0.0, 0.99, 'share of the last maps that training drops')}
    batch_statistics = True
    face_format = 'facexzoo'

    def __init__(self, init: Init, options: dict):
        super().__init__(options)
        flat_size = _LAST * halved(self.image_size, 4) ** 2
        self.first_stem = ConvBnAct(init, self.channels, 32, 3, act=nn.ReLU())
        self.second_stem = MBBlock(init, nn.ReLU(), *_STEM)
        self.stage1, self.stage2, self.stage3, self.stage4, self.stage5, self.stage6 = (
            nn.SequentialCell([MBBlock(init, nn.SiLU() if i else nn.ReLU(), *row) for row in rows])
            for i, rows in enumerate(_STAGES))
        self.feature_mix_layer = ConvBnAct(init, _STAGES[-1][-1][3], _LAST)
        self.output_layer = Tail(init, flat_size, self.embedding_size, options['dropout'])
        self.noise_size = flat_size if options['dropout'] else 0

    def construct(self, images, noise=None):
        x = self.second_stem(self.first_stem(images))                  # (N, C, S, S) -> (N, 16, S, S)
        x = self.stage3(self.stage2(self.stage1(x)))                   # -> (N, 80, S / 8, S / 8)
        x = self.stage6(self.stage5(self.stage4(x)))                   # -> (N, 320, S / 16, S / 16)
        return self.output_layer(self.feature_mix_layer(x), noise)     # -> (N, 1280, S / 16, S / 16) -> (N, D)
