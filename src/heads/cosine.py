"""The heads on cosines: logits = scale * cosine, the target's column replaced by a margin's value.

A head gives `target` (the target cosine's new value) and, if it touches the other columns, `negatives`.
"""
from mindspore import Tensor, ops
from mindspore import dtype as mstype

from src.heads.head import Head, accurate_loss_and_hits, unit
from src.heads.margin import straight_through
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
        self.matmul = ops.MatMul(transpose_b=True)

    def cosines(self, embedding: Tensor) -> Tensor:
        """Return the cosine of every row with every class vector.

        The product is divided by the lengths of the class vectors, not these themselves: N is smaller than D.
        """
        weight = self.weight.astype(mstype.float32)
        inverse = 1.0 / ops.sqrt(ops.square(weight).sum(1).reshape(1, -1) + 1e-12)          # (1, C)
        cosine = self.matmul(unit(embedding), weight)                       # (N, D) x (C, D)' -> (N, C)
        cosine = cosine * ops.tile(inverse, (embedding.shape[0], 1))        # faster than to multiply by a row
        return ops.clamp(cosine, -1.0, 1.0) if self.clip else cosine

    def target(self, t: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the new value (N, 1) of the target cosines t (N, 1)."""
        return t

    def negatives(self, cosine: Tensor, t: Tensor, new: Tensor) -> Tensor:
        """Return the new cosines (N, C); what stands in the target's column does not matter."""
        return cosine

    def scaled(self, cosine: Tensor, embedding: Tensor) -> Tensor:
        """Return the logits of the new cosines (N, C)."""
        return self.scale * cosine

    def loss_of_batch(self, embedding: Tensor, labels: Tensor) -> tuple:
        """Return (loss, hits) without penalties."""
        return accurate_loss_and_hits(self.logits(embedding, labels), labels)

    def logits(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return (N, C) with the margin."""
        cosine = self.cosines(embedding)
        t = picked(cosine, labels)
        new = self.target(t, embedding, labels)
        if not self.is_exact:
            new = straight_through(new, t)
        if self.filter:
            cosine = ops.select(cosine > self.filter, ops.zeros_like(cosine), cosine)
        return self.scaled(replaced(self.negatives(cosine, t, new), labels, new), embedding)


def picked(cosine: Tensor, labels: Tensor) -> Tensor:
    """Return the labels' column: (N, C), (N,) -> (N, 1)."""
    return ops.gather_elements(cosine, 1, labels.reshape(-1, 1))


def replaced(cosine: Tensor, labels: Tensor, new: Tensor) -> Tensor:
    """Return cosine (N, C) with `new` (N, 1) in the labels' column."""
    return ops.tensor_scatter_elements(cosine, labels.reshape(-1, 1), new, 1)


def is_target(cosine: Tensor, labels: Tensor) -> Tensor:
    """Return the mask (N, C) of the labels' column."""
    columns = ops.arange(cosine.shape[1]).astype(mstype.int32)
    return labels.reshape(-1, 1) == columns.reshape(1, -1)
