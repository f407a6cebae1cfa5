"""Unified cross-entropy (UniFace, Zhou et al., ICCV 2023): a binary cross-entropy for every class, one trained bias."""
import math

from mindspore import Parameter, Tensor, ops
from mindspore import dtype as mstype

from src.heads.cosine import DERIVATIVE, FILTER, CosineHead, is_target, scale_option
from src.heads.head import count_hits
from src.heads.margin import widened
from src.initializers import Init
from src.options import Option


class UnifiedCosFace(CosineHead):
    """z = scale * cosine with margin - bias; loss = log(1 + e^-z) of the target + sum of log(1 + e^z) of the others."""

    OPTIONS = {
        'scale': scale_option(64.0),
        'margin': Option(0.4, 0.0, 1.0, 'what the target cosine loses'),
        'filter': FILTER,
    }

    def __init__(self, num_classes: int, embedding_size: int, init: Init, options: dict):
        super().__init__(num_classes, embedding_size, init, options)
        self.bias = Parameter(Tensor([math.log(10 * num_classes)], mstype.float32), name='bias')

    def target(self, t: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return t - margin."""
        return t - self.margin

    def loss_of_batch(self, embedding: Tensor, labels: Tensor) -> tuple:
        """Return (loss, hits); beyond +-scale there is no gradient."""
        logits = ops.clamp(self.logits(embedding, labels) - self.bias, -self.scale, self.scale)
        signed = ops.select(is_target(logits, labels), -logits, logits)
        losses = ops.relu(signed) + ops.log1p(ops.exp(-ops.abs(signed)))   # log(1 + e^signed) without overflow
        return losses.sum(1).mean(), count_hits(logits, labels)


class UnifiedExpFace(UnifiedCosFace):
    """The same with ExpFace's curve."""

    OPTIONS = {
        'scale': scale_option(64.0),
        'margin': Option(0.69, 0.01, 1.0, "ExpFace's exponent"),
        'derivative': DERIVATIVE,
        'filter': FILTER,
    }

    def target(self, t: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return ExpFace's curve."""
        return widened(t, self.margin)
