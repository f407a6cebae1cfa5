"""The heads on cosines: logits = scale * cosine, the target's column replaced by a margin's value.

A head gives `target` (the target cosine's new value) and, if it touches the other columns, `negatives`.
"""
from mindspore import Tensor, ops
from mindspore import dtype as mstype

from src.heads.head import Head, accurate_loss_and_hits, replaced, unit
from src.heads.margin import straight_through
from src.heads.product import Cosines, TargetCrossEntropy
from src.initializers import Init
from src.options import Option

FILTER = Option(0.0, 0.0, 1.0, 'negative cosines above it count as 0, without gradient (inter-class filter); 0: off')
DERIVATIVE = Option('exact', ('exact', 'straight_through'), None,
                    "of the margin: exact, or 1 as arcface_torch and ExpFace's repository take it")


def scale_option(default: float) -> Option:
    """Return the option `scale`."""
    return Option(default, 0.001, 1e4, 'what cosines are multiplied with')


def margin_option(default: float, meaning: str, high: float = 3.0) -> Option:
    """Return the option `margin`."""
    return Option(default, 0.0, high, meaning)


class CosineHead(Head):
    """logits = scale * cosine, the target's column replaced. `clip`: whether cosines are kept within -1..1."""

    clip = False

    def __init__(self, num_classes: int, embedding_size: int, init: Init, options: dict):
        super().__init__(num_classes, embedding_size, init, options)
        self.scale, self.margin = options.get('scale'), options.get('margin')
        self.filter = options.get('filter', 0.0)
        self.is_exact = options.get('derivative', 'exact') == 'exact'
        self.products = Cosines()
        self.entropy = TargetCrossEntropy()
        self.constant_scale = Tensor(self.scale or 1.0, mstype.float32)

    def cosines(self, embedding: Tensor, labels: Tensor) -> tuple:
        """Return the cosine of every row with every class vector (N, C), and with the labels' (N, 1)."""
        cosine, t, _ = self.products(unit(embedding), self.weight.astype(mstype.float32), labels)
        return clamped((cosine, t), 1.0) if self.clip else (cosine, t)

    def target(self, t: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the new value (N, 1) of the target cosines t (N, 1)."""
        return t

    def negatives(self, cosine: Tensor, t: Tensor, new: Tensor) -> Tensor:
        """Return the new cosines (N, C); what stands in the target's column does not matter."""
        return cosine

    def scaled(self, cosine: Tensor, embedding: Tensor) -> Tensor:
        """Return the logits of the new cosines (N, C)."""
        return self.scale * cosine

    def margined(self, embedding: Tensor, labels: Tensor) -> tuple:
        """Return the new cosines: negatives (N, C), whose labels' column does not matter, and targets (N, 1)."""
        cosine, t = self.cosines(embedding, labels)
        new = self.target(t, embedding, labels)
        if not self.is_exact:
            new = straight_through(new, t)
        return self.negatives(self.filtered(cosine), t, new), new

    def filtered(self, cosine: Tensor) -> Tensor:
        """Return cosine (N, C) with what is above the filter, if there is one, as 0."""
        return ops.select(cosine > self.filter, ops.zeros_like(cosine), cosine) if self.filter else cosine

    def loss_of_batch(self, embedding: Tensor, labels: Tensor) -> tuple:
        """Return (loss, hits) without penalties."""
        if not self.scale:
            return accurate_loss_and_hits(self.logits(embedding, labels), labels)
        negatives, new = self.margined(embedding, labels)
        loss, hits, _, _ = self.entropy(negatives, new, labels, self.constant_scale)
        return loss, hits

    def logits(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return (N, C) with the margin."""
        negatives, new = self.margined(embedding, labels)
        return self.scaled(replaced(negatives, labels, new), embedding)


def clamped(cosines: tuple, largest: float) -> tuple:
    """Return (N, C) and (N, 1) within +-largest."""
    return ops.clamp(cosines[0], -largest, largest), ops.clamp(cosines[1], -largest, largest)


def is_target(cosine: Tensor, labels: Tensor) -> Tensor:
    """Return the mask (N, C) of the labels' column."""
    columns = ops.arange(cosine.shape[1]).astype(mstype.int32)
    return labels.reshape(-1, 1) == columns.reshape(1, -1)
