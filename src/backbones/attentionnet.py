"""AttentionNet-56 and -92: trunk branches weighted by hourglass masks (Wang et al., arXiv:1704.06904).

    network = build_backbone('attentionnet56')                         # (N, 3, 112, 112) BGR -> (N, 512)

Source: FaceX-Zoo. There every block owns a shortcut convolution `conv4`, used or not: 17.8 of 99.0 million weights of
AttentionNet-56 and 32.8 of 134.6 of -92 are never read. Here they do not exist, and `ignored` names them. Its sizes
are fixed to 112x112; here masks grow to the size of the maps, so any side works.
"""
from mindspore import Tensor, nn, ops

from src.backbone import COMMON_OPTIONS, Backbone
from src.backbones.blocks import batch_norm, batch_norm_1d, conv, halved, linear
from src.initializers import Init

_WIDTHS = (256, 512, 1024, 2048)
_DEPTHS = (3, 2, 1)                      # poolings of the mask branch in the modules of each width
# blocks of an attention module that have no convolution in their shortcut
_PLAIN = ('first_residual_blocks', 'trunk_branches.0', 'trunk_branches.1', 'last_blocks',
          *(f'skip{i}_connection_residual_block' for i in (1, 2)), *(f'softmax{i}_blocks' for i in range(1, 6)),
          *(f'softmax{i}_blocks.{j}' for i in (1, 2, 3) for j in (0, 1)))


class Block(nn.Cell):
    """Pre-activation bottleneck plus the shortcut, no activation after: (N, in, H, W) -> (N, out, H / stride, ..)."""

    def __init__(self, init: Init, in_channels: int, channels: int, stride: int = 1):
        super().__init__()
        quarter = channels // 4
        self.bn1, self.conv1 = batch_norm(in_channels), conv(init, in_channels, quarter)
        self.bn2, self.conv2 = batch_norm(quarter), conv(init, quarter, quarter, 3, stride)
        self.bn3, self.conv3 = batch_norm(quarter), conv(init, quarter, channels)
        self.projects = in_channels != channels or stride != 1
        if self.projects:
            self.conv4 = conv(init, in_channels, channels, 1, stride)

    def construct(self, x):
        active = ops.relu(self.bn1(x))
        out = self.conv2(ops.relu(self.bn2(self.conv1(active))))
        out = self.conv3(ops.relu(self.bn3(out)))
        return out + (self.conv4(active) if self.projects else x)


def _block(init: Init, channels: int) -> Block:
    return Block(init, channels, channels)


def _pair(init: Init, channels: int) -> nn.SequentialCell:
    return nn.SequentialCell([_block(init, channels) for _ in range(2)])


def enlarged(x: Tensor, like: Tensor) -> Tensor:
    """Return maps x (N, C, h, w) at the size of `like` (N, C, H, W): bilinear, corners on corners."""
    return ops.interpolate(x, size=like.shape[2:], mode='bilinear', align_corners=True)


class AttentionModule(nn.Cell):
    """Trunk of two blocks times (1 + mask), a block before and one after: (N, C, H, W) -> (N, C, H, W).

    The mask branch pools `depth` times and grows back, with a shortcut at each size. Its cells are softmax1 to
    softmax`depth` on the way down, up to softmax`2 depth - 1` on the way up, and the mask itself.
    """

    def __init__(self, init: Init, channels: int, depth: int):
        super().__init__()
        self.first_residual_blocks, self.last_blocks = _block(init, channels), _block(init, channels)
        self.trunk_branches = _pair(init, channels)
        self.pool = nn.MaxPool2d(3, 2, pad_mode='pad', padding=1)
        for i in range(1, 2 * depth):
            setattr(self, f'softmax{i}_blocks', (_pair if i == depth else _block)(init, channels))
        for i in range(1, depth):
            setattr(self, f'skip{i}_connection_residual_block', _block(init, channels))
        mask = [cell for _ in range(2) for cell in (batch_norm(channels), nn.ReLU(), conv(init, channels, channels))]
        setattr(self, f'softmax{2 * depth}_blocks', nn.SequentialCell(mask + [nn.Sigmoid()]))
        blocks = [getattr(self, f'softmax{i}_blocks') for i in range(1, 2 * depth + 1)]
        self.down, self.up, self.mask = tuple(blocks[:depth]), tuple(blocks[depth:-1]), (blocks[-1],)
        self.skips = tuple(getattr(self, f'skip{i}_connection_residual_block') for i in range(depth - 1, 0, -1))

    def construct(self, x):
        x = self.first_residual_blocks(x)
        trunk = self.trunk_branches(x)
        maps = [x]
        for down in self.down:
            maps.append(down(self.pool(maps[-1])))                     # (N, C, h, w) -> (N, C, h / 2, w / 2)
        out = maps[-1]
        for i, up in enumerate(self.up):
            side = maps[-2 - i]
            out = up(enlarged(out, side) + side + self.skips[i](side))     # -> (N, C, 2h, 2w)
        mask = self.mask[0](enlarged(out, trunk) + trunk)                  # in 0 .. 1
        return self.last_blocks((1 + mask) * trunk)


class AttentionNet(Backbone):
    """(N, C, S, S) -> (N, D), D from maps of S / 16."""

    OPTIONS = COMMON_OPTIONS
    batch_statistics = True
    face_format = 'facexzoo'
    modules = (0, 0, 0)

    def __init__(self, init: Init, options: dict):
        super().__init__(options)
        self.conv1 = nn.SequentialCell([conv(init, self.channels, 64, 7, 2), batch_norm(64), nn.ReLU()])
        body, in_channels = [], 64
        for i, width in enumerate(_WIDTHS):
            body.append(Block(init, in_channels, width, 2 if i else 1))
            body += [AttentionModule(init, width, depth) for depth in _DEPTHS[i:i + 1] for _ in range(self.modules[i])]
            in_channels = width
        self.attention_body = nn.SequentialCell(body + [_block(init, in_channels) for _ in range(2)])
        features = in_channels * halved(self.image_size, 4) ** 2
        self.output_layer = nn.SequentialCell([nn.Flatten(), linear(init, features, self.embedding_size, bias=False),
                                               batch_norm_1d(self.embedding_size)])

    def construct(self, x, noise=None):
        maps = self.attention_body(self.conv1(x))                 # (N, C, S, S) -> (N, 2048, S / 16, S / 16)
        return self.output_layer(maps)                                 # -> (N, D)


def _ignored(last: int) -> tuple:
    """Return how the names end that the original writes and never reads. last: index of the last block of the body."""
    plain = *_PLAIN, f'attention_body.{last - 1}', f'attention_body.{last}'
    return 'num_batches_tracked', *(f'{block}.conv4.weight' for block in plain)


class AttentionNet56(AttentionNet):
    """AttentionNet-56: 81.1 million parameters, 6.2 GMAC at 112x112."""

    modules, ignored = (1, 1, 1), _ignored(8)


class AttentionNet92(AttentionNet):
    """AttentionNet-92: 101.8 million parameters, 10.5 GMAC at 112x112."""

    modules, ignored = (1, 2, 3), _ignored(11)
