"""MobileFaceNet of arcface_torch: wider maps, the bottlenecks' inner width unchanged (arXiv:1804.07573).

    network = build_backbone('mbf')                          # (N, 3, 112, 112) RGB -> (N, 512), 2.1 million weights
    network = build_backbone('mbf_large')                    # 6.3 million weights, 1.8 GMAC
"""
from collections.abc import Callable
from typing import Optional, Union

from mindspore import nn

from src.backbone import COMMON_OPTIONS, Backbone
from src.backbones.blocks import batch_norm, batch_norm_1d, conv, halved, linear, prelu
from src.initializers import Init, kaiming_fan_out


class Layers(nn.Cell):
    """Layers in a row, of which the output may be added to the input: (N, in, H, W) -> (N, out, H', W')."""

    def __init__(self, *layers: Callable, residual: bool = False):
        super().__init__()
        self.layers = nn.SequentialCell(*layers)
        self.residual = residual

    def construct(self, x):
        return x + self.layers(x) if self.residual else self.layers(x)


def unit(init: Init, in_channels: int, out_channels: int, kernel: Union[int, tuple] = 1, stride: int = 1,
         padding: Optional[int] = None, *, groups: int = 1, act: bool = True) -> Layers:
    """Return a convolution, BatchNorm, and PReLU unless `act` is False: (N, in, H, W) -> (N, out, H', W')."""
    layers = [conv(init, in_channels, out_channels, kernel, stride, padding, groups=groups, rule=kaiming_fan_out),
              batch_norm(out_channels)]
    return Layers(*layers, *([prelu(out_channels)] if act else []))


def bottleneck(init: Init, in_channels: int, out_channels: int, expanded: int, stride: int = 1, *,
               residual: bool = False) -> Layers:
    """Return 1x1, 3x3 a map, 1x1 without PReLU: (N, in, H, W) -> (N, out, H / stride, W / stride)."""
    return Layers(unit(init, in_channels, expanded), unit(init, expanded, expanded, 3, stride, groups=expanded),
                  unit(init, expanded, out_channels, act=False), residual=residual)


def residuals(init: Init, channels: int, expanded: int, count: int) -> Layers:
    """Return `count` residual bottlenecks: (N, C, H, W) -> (N, C, H, W)."""
    return Layers(*[bottleneck(init, channels, channels, expanded, residual=True) for _ in range(count)])


class MBF(Backbone):
    """arcface_torch's mbf, 2.1 million weights, 0.44 GMAC: (N, C, S, S) -> (N, D).

    The second stage is one convolution of 64 groups, two maps each, where the width was doubled and the groups not.
    """

    OPTIONS = COMMON_OPTIONS
    batch_statistics = True
    width, num_blocks = 128, (1, 4, 6, 2)     # units of the second stage; residual bottlenecks of the other stages

    def __init__(self, init: Init, options: dict):
        super().__init__(options)
        width, (second, *counts), side = self.width, self.num_blocks, halved(self.image_size, 4)
        self.layers = nn.SequentialCell(
            unit(init, self.channels, width, 3, 2),                        # (N, C, S, S) -> (N, W, S / 2, S / 2)
            unit(init, width, width, 3, groups=64) if second == 1 else residuals(init, width, 128, second),
            bottleneck(init, width, width, 128, 2),                        # -> (N, W, S / 4, S / 4)
            residuals(init, width, 128, counts[0]),
            bottleneck(init, width, 2 * width, 256, 2),                    # -> (N, 2 W, S / 8, S / 8)
            residuals(init, 2 * width, 256, counts[1]),
            bottleneck(init, 2 * width, 2 * width, 512, 2),                # -> (N, 2 W, S / 16, S / 16)
            residuals(init, 2 * width, 256, counts[2]))
        self.conv_sep = unit(init, 2 * width, 512)
        self.features = Layers(
            unit(init, 512, 512, (side, side), padding=0, groups=512, act=False), nn.Flatten(),
            linear(init, 512, self.embedding_size, bias=False, rule=kaiming_fan_out),
            batch_norm_1d(self.embedding_size))                            # (N, 512, S / 16, S / 16) -> (N, D)

    def construct(self, images, noise=None):
        return self.features(self.conv_sep(self.layers(images)))


class MBFLarge(MBF):
    """arcface_torch's mbf_large: twice as wide and deep again, 6.3 million weights, 1.8 GMAC."""

    width, num_blocks = 256, (2, 8, 12, 4)
