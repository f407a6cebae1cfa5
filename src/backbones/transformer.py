"""What ViT and Swin share: patches, attention over tokens, the two-layer perceptron, drop path.

Linear layers start as N(0, 0.02) with biases of zero, as in both sources.
"""
from collections.abc import Callable
from typing import Optional

import numpy as np
from mindspore import Tensor, nn, ops

from src.backbone import keep_mask
from src.backbones.blocks import conv
from src.initializers import Init, truncated_normal

LAYER_NORM_EPS = 1e-5


def projection(init: Init, in_size: int, out_size: int, *, bias: bool = True) -> nn.Dense:
    """Return a linear layer (..., in) -> (..., out)."""
    weight = init.by_rule(truncated_normal(0.02), out_size, in_size)
    return nn.Dense(in_size, out_size, weight_init=weight, bias_init='zeros', has_bias=bias)


def layer_norm(size: int) -> nn.LayerNorm:
    """Return LayerNorm over the last axis of (..., size)."""
    return nn.LayerNorm((size,), epsilon=LAYER_NORM_EPS)


def drop_path_rates(highest: float, depth: int) -> list:
    """Return the drop path rate of each of `depth` blocks: from 0 in equal steps to `highest`."""
    return np.linspace(0, highest, depth).tolist()


def drop_path(branch: Tensor, noise: Optional[Tensor], rate: float) -> Tensor:
    """Return a residual branch (N, T, D), zero for a share `rate` of the images and scaled up for the others.

    noise: (N,) uniform in [0, 1), None for evaluation.
    """
    if noise is None or rate == 0:
        return branch
    return branch * keep_mask(noise, rate).reshape(-1, 1, 1).astype(branch.dtype)


class PatchEmbed(nn.Cell):
    """Square patches as tokens: (N, C, S, S) -> (N, (S // patch)**2, D)."""

    def __init__(self, init: Init, channels: int, dim: int, patch: int, *, normed: bool):
        super().__init__()
        self.proj = conv(init, channels, dim, patch, patch, 0, bias=True)
        self.normed = normed
        if normed:
            self.norm = layer_norm(dim)

    def construct(self, images):
        maps = self.proj(images)                                       # -> (N, D, S // patch, S // patch)
        tokens = maps.reshape(maps.shape[0], maps.shape[1], -1).swapaxes(1, 2)     # -> (N, T, D)
        return self.norm(tokens) if self.normed else tokens


class Attention(nn.Cell):
    """Multi-head attention over the tokens of a group: (B, T, D), bias (G, heads, T, T) or None -> (B, T, D).

    The bias is added to the scores; B is a multiple of G, groups of one image lie side by side.
    """

    def __init__(self, init: Init, dim: int, heads: int, *, qkv_bias: bool):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = projection(init, dim, 3 * dim, bias=qkv_bias)
        self.proj = projection(init, dim, dim)

    def construct(self, x, bias=None):
        b, t, d = x.shape
        qkv = self.qkv(x).reshape(b, t, 3, self.heads, d // self.heads).transpose(2, 0, 3, 1, 4)
        queries, keys, values = qkv[0] * self.scale, qkv[1], qkv[2]    # (B, heads, T, D / heads) each
        scores = ops.matmul(queries, keys.swapaxes(2, 3))              # -> (B, heads, T, T)
        if bias is not None:
            scores = (scores.reshape(-1, bias.shape[0], self.heads, t, t) + bias).reshape(scores.shape)
        x = ops.matmul(ops.softmax(scores, -1), values)                # -> (B, heads, T, D / heads)
        return self.proj(x.transpose(0, 2, 1, 3).reshape(b, t, d))


class Mlp(nn.Cell):
    """Two linear layers, four times as wide between them: (..., D) -> (..., D)."""

    def __init__(self, init: Init, dim: int, activation: Callable):
        super().__init__()
        self.fc1 = projection(init, dim, 4 * dim)
        self.fc2 = projection(init, 4 * dim, dim)
        self.activation = activation

    def construct(self, x):
        return self.fc2(self.activation(self.fc1(x)))
