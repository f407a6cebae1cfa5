"""Swin transformers for faces, Swin-T and -S (Liu et al., arXiv:2103.14030).

    network = build_backbone('Swin-T', image_size=224)                 # (N, 3, 224, 224) -> (N, 512)

Attention within windows of 7x7 tokens, every other block shifted by 3. Source: FaceX-Zoo, which feeds 224x224.
"""
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.backbone import COMMON_OPTIONS, Backbone
from src.backbones.blocks import batch_norm_1d
from src.backbones.transformer import Attention, Mlp, PatchEmbed, drop_path, drop_path_rates, layer_norm, projection
from src.initializers import Init, truncated_normal
from src.options import Option

PATCH = 4
WINDOW = 7
SHIFT = WINDOW // 2
DIMS = (96, 192, 384, 768)
HEADS = (3, 6, 12, 24)
_SIDE = PATCH * 8 * WINDOW               # three mergings by two, then whole windows
_FAR = -100.0                            # added to the score of tokens that are no neighbours


def windows(x: Tensor) -> Tensor:
    """Return maps (N, H, W, C) cut into windows: (N * H / 7 * W / 7, 49, C)."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW * WINDOW, c)


def from_windows(x: Tensor, side: int) -> Tensor:
    """Return windows (M, 49, C) as maps again: (N, side, side, C)."""
    across = side // WINDOW
    x = x.reshape(-1, across, across, WINDOW, WINDOW, x.shape[-1])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side, side, x.shape[-1])


def rolled(x: Tensor, by: int) -> Tensor:
    """Return maps (N, H, W, C) rolled towards the upper left by `by` tokens; what leaves comes in on the other side."""
    x = ops.concat((x[:, by:], x[:, :by]), 1)
    return ops.concat((x[:, :, by:], x[:, :, :by]), 2)


def relative_positions() -> np.ndarray:
    """Return (49 * 49,) rows of the bias table: one for each of the 13 * 13 ways from one token to another."""
    row, column = np.divmod(np.arange(WINDOW * WINDOW), WINDOW)
    down, right = (axis[:, None] - axis[None] + WINDOW - 1 for axis in (row, column))
    return (down * (2 * WINDOW - 1) + right).reshape(-1).astype(np.int32)


def shift_mask(side: int) -> np.ndarray:
    """Return (windows, 1, 49, 49): -100 between tokens that only the shift has brought into one window, else 0."""
    place = np.arange(side)
    part = (place >= side - WINDOW).astype(np.int32) + (place >= side - SHIFT)
    across = side // WINDOW
    region = (3 * part[:, None] + part[None]).reshape(across, WINDOW, across, WINDOW)
    region = region.transpose(0, 2, 1, 3).reshape(-1, 1, WINDOW * WINDOW)
    return np.where(region[..., :, None] == region[..., None, :], 0, _FAR).astype(np.float32)


class WindowAttention(Attention):
    """Attention within a window, with a learnt bias for every relative position: (M, 49, C) -> (M, 49, C)."""

    def __init__(self, init: Init, dim: int, heads: int, mask: np.ndarray):
        super().__init__(init, dim, heads, qkv_bias=True)
        table = init.by_rule(truncated_normal(0.02), (2 * WINDOW - 1) ** 2, heads)
        self.relative_position_bias_table = Parameter(table, name='relative_position_bias_table')
        self.positions, self.mask = Tensor(relative_positions()), Tensor(mask)

    def construct(self, x, bias=None):
        bias = ops.gather(self.relative_position_bias_table, self.positions, 0)            # -> (49 * 49, heads)
        bias = bias.reshape(x.shape[1], x.shape[1], self.heads).transpose(2, 0, 1)
        return super().construct(x, bias[None] + self.mask)                                # (windows, heads, 49, 49)


class Block(nn.Cell):
    """Attention within windows and perceptron, each around a shortcut: (N, side * side, C) -> the same.

    noise: (N, 2) for drop path, None for none.
    """

    def __init__(self, init: Init, dim: int, heads: int, side: int, shifted: bool, rate: float):
        super().__init__()
        self.side, self.rate = side, rate
        self.shift = SHIFT if shifted and side > WINDOW else 0
        mask = shift_mask(side) if self.shift else np.zeros((1, 1, 1, 1), np.float32)
        self.norm1, self.norm2 = layer_norm(dim), layer_norm(dim)
        self.attn = WindowAttention(init, dim, heads, mask)
        self.mlp = Mlp(init, dim, ops.gelu)

    def construct(self, x, noise=None):
        x = x + drop_path(self.attended(self.norm1(x)), None if noise is None else noise[:, 0], self.rate)
        return x + drop_path(self.mlp(self.norm2(x)), None if noise is None else noise[:, 1], self.rate)

    def attended(self, x: Tensor) -> Tensor:
        """Return tokens (N, side * side, C) after attention within windows."""
        maps = x.reshape(x.shape[0], self.side, self.side, -1)         # -> (N, side, side, C)
        if self.shift:
            maps = rolled(maps, self.shift)
        maps = from_windows(self.attn(windows(maps)), self.side)
        if self.shift:
            maps = rolled(maps, -self.shift)
        return maps.reshape(x.shape)


class PatchMerging(nn.Cell):
    """Four neighbours become one token, twice as wide: (N, side * side, C) -> (N, side * side / 4, 2C)."""

    def __init__(self, init: Init, dim: int, side: int):
        super().__init__()
        self.side = side
        self.reduction = projection(init, 4 * dim, 2 * dim, bias=False)
        self.norm = layer_norm(4 * dim)

    def construct(self, x):
        n, half = x.shape[0], self.side // 2
        x = x.reshape(n, half, 2, half, 2, -1).transpose(0, 1, 3, 4, 2, 5)         # columns before rows within a token
        return self.reduction(self.norm(x.reshape(n, half * half, -1)))            # -> (N, T / 4, 4C) -> (N, T / 4, 2C)


class Stage(nn.Cell):
    """Blocks of one width, then a merging except in the last stage. noise: (N, 2 * blocks) or None."""

    def __init__(self, init: Init, index: int, side: int, rates: list):
        super().__init__()
        dim = DIMS[index]
        self.blocks = nn.CellList([Block(init, dim, HEADS[index], side, i % 2 == 1, rate)
                                   for i, rate in enumerate(rates)])
        self.merges = index < len(DIMS) - 1
        if self.merges:
            self.downsample = PatchMerging(init, dim, side)

    def construct(self, x, noise=None):
        for i, block in enumerate(self.blocks):
            x = block(x, None if noise is None else noise[:, 2 * i:2 * i + 2])
        return self.downsample(x) if self.merges else x


class Swin(Backbone):
    """(N, C, S, S) -> (N, D). S is a multiple of 224, so that every stage has whole windows."""

    OPTIONS = {
        **COMMON_OPTIONS,
        'image_size': Option(_SIDE, 16, 1344, f'side of the faces, a multiple of {_SIDE}'),
        'drop_path': Option(0.3, 0.0, 0.9, 'drop path rate of the last block; it grows in equal steps from 0'),
    }
    batch_statistics = True
    face_format = 'facexzoo'
    ignored = ('num_batches_tracked', 'attn_mask', 'relative_position_index')
    depths = (0, 0, 0, 0)

    def __init__(self, init: Init, options: dict):
        super().__init__(options)
        if self.image_size % _SIDE:
            raise ValueError(f"image_size {self.image_size} is not a multiple of {_SIDE}")
        rates = drop_path_rates(options['drop_path'], sum(self.depths))
        self.ends = np.cumsum((0,) + self.depths).tolist()
        self.noise_size = 2 * len(rates) if options['drop_path'] else 0
        side = self.image_size // PATCH
        self.patch_embed = PatchEmbed(init, self.channels, DIMS[0], PATCH, normed=True)
        self.layers = nn.CellList([Stage(init, i, side >> i, rates[self.ends[i]:self.ends[i + 1]])
                                   for i in range(len(DIMS))])
        tokens = (side >> (len(DIMS) - 1)) ** 2
        self.output_layer = nn.SequentialCell([
            layer_norm(DIMS[-1]), nn.Flatten(), projection(init, tokens * DIMS[-1], self.embedding_size),
            batch_norm_1d(self.embedding_size)])

    def construct(self, x, noise=None):
        x = self.patch_embed(x)                              # (N, C, S, S) -> (N, (S / 4)**2, 96)
        for i, stage in enumerate(self.layers):
            x = stage(x, None if noise is None else noise[:, 2 * self.ends[i]:2 * self.ends[i + 1]])
        return self.output_layer(x)                               # (N, (S / 32)**2, 768) -> (N, D)


class SwinTiny(Swin):
    """Swin-T: 46.8 million parameters, 4.4 GMAC at 224x224 without the products of attention."""

    depths = (2, 2, 6, 2)


class SwinSmall(Swin):
    """Swin-S: 68.1 million parameters, 8.5 GMAC at 224x224 without the products of attention."""

    depths = (2, 2, 18, 2)
