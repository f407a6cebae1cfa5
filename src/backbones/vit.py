"""Vision transformers for faces, ViT-T to -H (Dosovitskiy et al., arXiv:2010.11929; An et al., arXiv:2203.15565).

    network = build_backbone('ViT-T', embedding_size=512)              # (N, 3, 112, 112) -> (N, 512)

Patches of 9x9; rows and columns beyond the last whole patch are never seen (the last 4 of 112). No class token: all
tokens together, flattened, are the feature. Source: insightface's arcface_torch.
"""
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore import dtype as mstype

from src.backbone import COMMON_OPTIONS, Backbone
from src.backbones.blocks import batch_norm_1d
from src.backbones.transformer import Attention, Mlp, PatchEmbed, drop_path, drop_path_rates, layer_norm, projection
from src.initializers import Init, normal, truncated_normal
from src.options import Option

PATCH = 9
HEADS = 8
_FEATURE_EPS = 2e-5


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Return tokens (N, T, D) of every image in the order of its row of index (N, K): (N, K, D)."""
    n, t, d = tokens.shape
    rows = index + Tensor(np.arange(n, dtype=np.int32)[:, None] * t)
    return ops.gather(tokens.reshape(n * t, d), rows.reshape(-1), 0).reshape(n, -1, d)


class Block(nn.Cell):
    """Attention and perceptron, each after its LayerNorm and around a shortcut: (N, T, D) -> (N, T, D).

    noise: (N, 2) for drop path, None for none.
    """

    def __init__(self, init: Init, dim: int, rate: float):
        super().__init__()
        self.norm1, self.norm2 = layer_norm(dim), layer_norm(dim)
        self.attn = Attention(init, dim, HEADS, qkv_bias=False)
        self.mlp = Mlp(init, dim, ops.relu6)
        self.rate = rate

    def construct(self, x, noise=None):
        x = x + drop_path(self.attn(self.norm1(x)), None if noise is None else noise[:, 0], self.rate)
        return x + drop_path(self.mlp(self.norm2(x)), None if noise is None else noise[:, 1], self.rate)


def _options(path: float, mask: float) -> dict:
    return {
        **COMMON_OPTIONS,
        'drop_path': Option(path, 0.0, 0.9, 'drop path rate of the last block; it grows in equal steps from 0'),
        'mask_ratio': Option(mask, 0.0, 0.9, 'share of the tokens that training hides'),
    }


class ViT(Backbone):
    """(N, C, S, S) -> (N, D). Training hides a share `mask_ratio` of the tokens, another one for every image.

    Hidden tokens skip all blocks; `mask_token` stands in their places after the last LayerNorm. The ratio is the one
    that is given: the original reads any positive ratio as 0.1, so its "mask_005" models were trained with 0.1.
    """

    batch_statistics = True
    face_format = 'arcface'
    ignored = ('num_batches_tracked',)
    dim, depth = 0, 0

    def __init__(self, init: Init, options: dict):
        super().__init__(options)
        self.num_tokens, self.mask_ratio = (self.image_size // PATCH) ** 2, options['mask_ratio']
        self.kept = int(self.num_tokens * (1 - self.mask_ratio))
        if self.kept < 1:
            raise ValueError(f"image_size {self.image_size} gives {self.num_tokens} tokens, of which mask_ratio "
                             f"{self.mask_ratio} leaves none")
        self.path_noise = 2 * self.depth if options['drop_path'] else 0
        self.noise_size = self.path_noise + (self.num_tokens if self.mask_ratio else 0)
        rule = truncated_normal(0.02)
        self.patch_embed = PatchEmbed(init, self.channels, self.dim, PATCH, normed=False)
        self.pos_embed = Parameter(init.by_rule(rule, 1, self.num_tokens, self.dim), name='pos_embed')
        self.mask_token = Parameter(init.by_rule(normal(0.02), 1, 1, self.dim), name='mask_token')
        self.blocks = nn.CellList([Block(init, self.dim, rate)
                                   for rate in drop_path_rates(options['drop_path'], self.depth)])
        self.norm = layer_norm(self.dim)
        self.feature = nn.SequentialCell([
            projection(init, self.num_tokens * self.dim, self.dim, bias=False),
            batch_norm_1d(self.dim, eps=_FEATURE_EPS),
            projection(init, self.dim, self.embedding_size, bias=False),
            batch_norm_1d(self.embedding_size, eps=_FEATURE_EPS)])

    def construct(self, x, noise=None):
        x = self.patch_embed(x) + self.pos_embed             # (N, C, S, S) -> (N, T, dim)
        if noise is None or self.mask_ratio == 0:
            x = self.norm(self.encoded(x, noise))
        else:
            order = ops.argsort(noise[:, self.path_noise:], axis=1)
            kept = gather_tokens(x, order[:, :self.kept])         # -> (N, kept, dim)
            x = self.filled(self.norm(self.encoded(kept, noise)), order)
        return self.feature(x.reshape(x.shape[0], -1))            # -> (N, T * dim) -> (N, D)

    def encoded(self, tokens: Tensor, noise: Tensor) -> Tensor:
        """Return tokens (N, K, dim) after all blocks."""
        for i, block in enumerate(self.blocks):
            tokens = block(tokens, None if noise is None or self.path_noise == 0 else noise[:, 2 * i:2 * i + 2])
        return tokens

    def filled(self, kept: Tensor, order: Tensor) -> Tensor:
        """Return (N, T, dim): the kept tokens (N, K, dim) where they came from, `mask_token` in the other places."""
        hidden = ops.broadcast_to(self.mask_token.astype(kept.dtype),
                                  (kept.shape[0], self.num_tokens - self.kept, self.dim))
        return gather_tokens(ops.concat((kept, hidden), 1), ops.argsort(order.astype(mstype.float32), axis=1))


class ViTTiny(ViT):
    """ViT-T: 19.1 million parameters, 1.4 GMAC at 112x112."""

    dim, depth, OPTIONS = 256, 12, _options(0.1, 0.1)


class ViTSmall(ViT):
    """ViT-S: 76.0 million parameters, 5.5 GMAC at 112x112."""

    dim, depth, OPTIONS = 512, 12, _options(0.1, 0.1)


class ViTBase(ViT):
    """ViT-B: 113.8 million parameters, 10.9 GMAC at 112x112."""

    dim, depth, OPTIONS = 512, 24, _options(0.1, 0.1)


class ViTLarge(ViT):
    """ViT-L: dimension 768, 24 blocks."""

    dim, depth, OPTIONS = 768, 24, _options(0.05, 0.05)


class ViTHuge(ViT):
    """ViT-H: dimension 1024, 48 blocks."""

    dim, depth, OPTIONS = 1024, 48, _options(0.1, 0.0)
