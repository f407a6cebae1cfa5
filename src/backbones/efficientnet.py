"""EfficientNet-B0 of FaceX-Zoo (Tan, Le, arXiv:1905.11946).

    network = build_backbone('efficientnet_b0')              # (N, 3, 112, 112) BGR -> (N, 512), 36.1 million weights

Kept from the original: paddings are those of a stem of stride 2, though its stride is 1; published weights need them.
"""
from mindspore import nn, ops

from src.backbone import COMMON_OPTIONS, Backbone, keep_mask
from src.backbones.blocks import BDFBTail, batch_norm, conv
from src.initializers import Init
from src.options import Option

# kernel, stride of the first block, expansion, in maps, out maps, number of blocks
_STAGES = ((3, 1, 1, 32, 16, 1), (3, 2, 6, 16, 24, 2), (5, 2, 6, 24, 40, 2), (3, 2, 6, 40, 80, 3),
           (5, 1, 6, 80, 112, 3), (5, 2, 6, 112, 192, 4), (3, 1, 6, 192, 320, 1))
_BLOCKS = [(kernel, 1 if i else stride, expansion, out_maps if i else in_maps, out_maps)
           for kernel, stride, expansion, in_maps, out_maps, count in _STAGES for i in range(count)]


def _norm(channels: int) -> nn.BatchNorm2d:
    return batch_norm(channels, eps=1e-3, momentum=0.99)


def same_padding(size: int, kernel: int, stride: int) -> tuple:
    """Return (before, after): the padding with which `size` pixels become size / stride, rounded up."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class MBConv(nn.Cell):
    """1x1 to the inner maps, a convolution a map, squeeze and excitation, 1x1 without activation; a shortcut."""

    def __init__(self, init: Init, kernel: int, stride: int, expansion: int, in_channels: int, out_channels: int,
                 padding: tuple):
        super().__init__()
        inner, reduced = in_channels * expansion, max(1, in_channels // 4)
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv, self._bn0 = conv(init, in_channels, inner), _norm(inner)
        self._depthwise_conv = conv(init, inner, inner, kernel, stride, 2 * padding, groups=inner)
        self._bn1 = _norm(inner)
        self._se_reduce = conv(init, inner, reduced, bias=True)
        self._se_expand = conv(init, reduced, inner, bias=True)
        self._project_conv, self._bn2 = conv(init, inner, out_channels), _norm(out_channels)
        self.skips = stride == 1 and in_channels == out_channels

    def construct(self, x, keep=None):
        maps = ops.silu(self._bn0(self._expand_conv(x))) if self.expands else x
        maps = ops.silu(self._bn1(self._depthwise_conv(maps)))         # (N, inner, H, W) -> (N, inner, H / s, W / s)
        mean = ops.mean(maps, (2, 3), True)                            # -> (N, inner, 1, 1)
        maps = maps * ops.sigmoid(self._se_expand(ops.silu(self._se_reduce(mean))))
        maps = self._bn2(self._project_conv(maps))                     # -> (N, out, H / s, W / s)
        if keep is not None:
            maps = maps * keep
        return maps + x if self.skips else maps


class EfficientNetB0(Backbone):
    """EfficientNet-B0, 36.1 million weights, 0.42 GMAC; LFW 99.55 in FaceX-Zoo: (N, C, S, S) -> (N, D).

    Its files also hold a classifier of 1000 classes, which it never reads.
    """

    OPTIONS = {
        **COMMON_OPTIONS,
        'dropout': Option(0.2, 0.0, 0.99, 'share of the last maps that training drops'),
        'drop_connect': Option(0.2, 0.0, 0.99, 'share of faces that skip the last block; it grows block by block'),
    }
    batch_statistics = True
    face_format = 'facexzoo'
    ignored = ('_fc.weight', '_fc.bias')

    def __init__(self, init: Init, options: dict):
        super().__init__(options)
        self._conv_stem, self._bn0 = conv(init, self.channels, 32, 3), _norm(32)
        blocks, assumed, side = [], -(-self.image_size // 2), self.image_size
        for kernel, stride, *sizes in _BLOCKS:
            padding = same_padding(assumed, kernel, stride)
            blocks.append(MBConv(init, kernel, stride, *sizes, padding))
            assumed, side = -(-assumed // stride), (side + sum(padding) - kernel) // stride + 1
        self._blocks = nn.CellList(blocks)
        self._conv_head, self._bn1 = conv(init, 320, 1280), _norm(1280)
        self.output_layer = BDFBTail(init, 1280, side, side, self.embedding_size, rate=options['dropout'])
        self.drop_rates = [options['drop_connect'] * i / len(blocks) if block.skips else 0.0
                           for i, block in enumerate(blocks)]
        self.num_drops = len(blocks) if options['drop_connect'] else 0
        self.noise_size = self.num_drops + self.output_layer.noise_size

    def construct(self, images, noise=None):
        x = ops.silu(self._bn0(self._conv_stem(images)))               # (N, C, S, S) -> (N, 32, S, S)
        for i, block in enumerate(self._blocks):
            if noise is not None and self.drop_rates[i] > 0:
                x = block(x, keep_mask(noise[:, i], self.drop_rates[i]).reshape(-1, 1, 1, 1))
            else:
                x = block(x)
        x = ops.silu(self._bn1(self._conv_head(x)))                    # -> (N, 1280, S / 16, S / 16)
        return self.output_layer(x, None if noise is None else noise[:, self.num_drops:])
