"""HRNet-W18: branches of four sizes side by side, mixed after every module (Wang et al., arXiv:1908.07919).

    network = build_backbone('hrnet_w18')                              # (N, 3, 112, 112) BGR -> (N, 512)

Source: FaceX-Zoo, whose second convolution has stride 1; its embedding size is fixed to 512, here it is free.
"""
from mindspore import Tensor, nn, ops

from src.backbone import COMMON_OPTIONS, Backbone
from src.backbones.blocks import batch_norm, batch_norm_1d, conv, halved, linear
from src.initializers import Init
from src.options import Option

WIDTHS = (18, 36, 72, 144)               # of the branches, each half the size of the one before
MODULES = {2: 1, 3: 4, 4: 3}             # stage (it has as many branches): modules
_BLOCKS = 4
_EXPANSION = 4
_HEAD_WIDTHS = (32, 64, 128, 256)        # times 4 in the head
_FEATURES = 2048
_SMALLEST = 2 ** (len(WIDTHS) - 1)       # the first branch's side is a multiple of it


def conv_norm(init: Init, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, *,
              active: bool = True, bias: bool = False, grow: int = 1) -> nn.SequentialCell:
    """Return convolution, BatchNorm, [ReLU], [nearest upsampling by `grow`]."""
    return nn.SequentialCell([conv(init, in_channels, out_channels, kernel, stride, bias=bias),
                              batch_norm(out_channels), *([nn.ReLU()] if active else []),
                              *([Grow(grow)] if grow > 1 else [])])


class Grow(nn.Cell):
    """Repeat rows and columns: (N, C, H, W) -> (N, C, factor * H, factor * W)."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def construct(self, x):
        n, c, h, w = x.shape
        x = ops.broadcast_to(x.reshape(n, c, h, 1, w, 1), (n, c, h, self.factor, w, self.factor))
        return x.reshape(n, c, h * self.factor, w * self.factor)


class BasicBlock(nn.Cell):
    """Two 3x3 convolutions around a shortcut: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, init: Init, channels: int):
        super().__init__()
        self.conv1, self.bn1 = conv(init, channels, channels, 3), batch_norm(channels)
        self.conv2, self.bn2 = conv(init, channels, channels, 3), batch_norm(channels)

    def construct(self, x):
        return ops.relu(self.bn2(self.conv2(ops.relu(self.bn1(self.conv1(x))))) + x)


class Bottleneck(nn.Cell):
    """1x1, 3x3, 1x1 to four times the channels, plus the shortcut: (N, in, H, W) -> (N, 4C, H, W)."""

    def __init__(self, init: Init, in_channels: int, channels: int):
        super().__init__()
        out_channels = _EXPANSION * channels
        self.conv1, self.bn1 = conv(init, in_channels, channels), batch_norm(channels)
        self.conv2, self.bn2 = conv(init, channels, channels, 3), batch_norm(channels)
        self.conv3, self.bn3 = conv(init, channels, out_channels), batch_norm(out_channels)
        self.downsample = (nn.Identity() if in_channels == out_channels
                           else conv_norm(init, in_channels, out_channels, 1, active=False))

    def construct(self, x):
        out = ops.relu(self.bn1(self.conv1(x)))
        out = ops.relu(self.bn2(self.conv2(out)))
        return ops.relu(self.bn3(self.conv3(out)) + self.downsample(x))


def _exchange(init: Init, source: int, target: int) -> nn.Cell:
    """Return what takes branch `source` to the width and size of branch `target`."""
    if source == target:
        return nn.Identity()
    if source > target:
        return conv_norm(init, WIDTHS[source], WIDTHS[target], 1, active=False, grow=2 ** (source - target))
    widths = [WIDTHS[source]] * (target - source) + [WIDTHS[target]]
    return nn.SequentialCell([conv_norm(init, before, after, 3, 2, active=i < target - source - 1)
                              for i, (before, after) in enumerate(zip(widths, widths[1:]))])


class Module(nn.Cell):
    """Four basic blocks a branch, then every branch is the sum of all: a tuple of (N, C_i, H_i, W_i) -> the same."""

    def __init__(self, init: Init, branches: int):
        super().__init__()
        self.branches = nn.CellList([nn.SequentialCell([BasicBlock(init, width) for _ in range(_BLOCKS)])
                                     for width in WIDTHS[:branches]])
        self.fuse_layers = nn.CellList([nn.CellList([_exchange(init, j, i) for j in range(branches)])
                                        for i in range(branches)])

    def construct(self, maps):
        maps = [branch(x) for branch, x in zip(self.branches, maps)]
        mixed = []
        for row in self.fuse_layers:
            total = row[0](maps[0])
            for j in range(1, len(maps)):
                total = total + row[j](maps[j])                        # all of the row's width and size
            mixed.append(ops.relu(total))
        return tuple(mixed)


def _transition(init: Init, widths: tuple, branches: int) -> nn.CellList:
    """Return what takes branches of `widths` to one branch more, each of its width. The new one is half the last."""
    cells = [nn.Identity() if before == after else conv_norm(init, before, after)
             for before, after in zip(widths, WIDTHS)]
    new = nn.SequentialCell([conv_norm(init, widths[-1], WIDTHS[branches - 1], 3, 2)])
    return nn.CellList(cells + [new])


class HRNetW18(Backbone):
    """(N, C, S, S) -> (N, D). 70.6 million parameters, 4.3 GMAC at 112x112."""

    OPTIONS = {**COMMON_OPTIONS, 'image_size': Option(112, 16, 1024, 'side of the faces, a multiple of 16')}
    batch_statistics = True
    face_format = 'facexzoo'
    ignored = ('num_batches_tracked',)

    def __init__(self, init: Init, options: dict):
        super().__init__(options)
        if halved(self.image_size, 1) % _SMALLEST:
            raise ValueError(f"image_size {self.image_size} is not a multiple of {2 * _SMALLEST}")
        self.conv1, self.bn1 = conv(init, self.channels, 64, 3, 2), batch_norm(64)
        self.conv2, self.bn2 = conv(init, 64, 64, 3), batch_norm(64)
        self.layer1 = nn.SequentialCell([Bottleneck(init, 64 if i == 0 else 256, 64) for i in range(4)])
        self.transition1 = _transition(init, (256,), 2)
        self.transition2 = _transition(init, WIDTHS[:2], 3)
        self.transition3 = _transition(init, WIDTHS[:3], 4)
        self.stage2, self.stage3, self.stage4 = (
            nn.CellList([Module(init, branches) for _ in range(modules)]) for branches, modules in MODULES.items())
        self._make_head(init)

    def _make_head(self, init: Init):
        outs = [_EXPANSION * width for width in _HEAD_WIDTHS]
        self.incre_modules = nn.CellList([nn.SequentialCell([Bottleneck(init, *widths)])
                                          for widths in zip(WIDTHS, _HEAD_WIDTHS)])
        self.downsamp_modules = nn.CellList([conv_norm(init, *widths, 3, 2, bias=True)
                                             for widths in zip(outs, outs[1:])])
        self.final_layer = conv_norm(init, outs[-1], _FEATURES, 1, bias=True)
        features = _FEATURES * halved(self.image_size, 4) ** 2
        self.output_layer = nn.SequentialCell([nn.Flatten(), linear(init, features, self.embedding_size, bias=False),
                                               batch_norm_1d(self.embedding_size)])

    def construct(self, x, noise=None):
        x = ops.relu(self.bn1(self.conv1(x)))                     # (N, C, S, S) -> (N, 64, S / 2, S / 2)
        x = self.layer1(ops.relu(self.bn2(self.conv2(x))))             # -> (N, 256, S / 2, S / 2)
        maps = (self.transition1[0](x), self.transition1[1](x))
        for module in self.stage2:
            maps = module(maps)
        maps = (*maps, self.transition2[2](maps[-1]))
        for module in self.stage3:
            maps = module(maps)
        maps = (*maps, self.transition3[3](maps[-1]))
        for module in self.stage4:
            maps = module(maps)
        return self.output_layer(self.final_layer(self.gathered(maps)))        # -> (N, 2048, S / 16, S / 16) -> (N, D)

    def gathered(self, maps: tuple) -> Tensor:
        """Return the four branches in one: (N, 1024, S / 16, S / 16)."""
        out = self.incre_modules[0](maps[0])
        for i in range(1, len(maps)):
            out = self.incre_modules[i](maps[i]) + self.downsamp_modules[i - 1](out)
        return out
