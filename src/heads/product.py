"""Cosines with all class vectors and the cross-entropy on them, with gradients in few passes over (C, D) and (N, C).

    cosine, t, _ = Cosines()(unit_rows, weight, labels)             # (N, D), (C, D), (N,) -> (N, C), (N, 1)
    loss, hits, _, _ = TargetCrossEntropy()(cosine, t - margin, labels, scale)

The weight is never copied at length 1: N is smaller than D, so what belongs to a class is multiplied into (N, C). The
gradients call primitives only: MindSpore 2.8 loses the graphs of Python functions that a bprop calls.
"""
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from src.heads.head import picked, replaced

TINY = 1e-12


def inverse_lengths(weight: Tensor) -> Tensor:
    """Return 1 / length of the class vectors (C, D), as (1, C)."""
    return 1.0 / ops.sqrt((weight * weight).sum(1).reshape(1, -1) + TINY)


class Cosines(nn.Cell):
    """(rows of length 1 (N, D), class vectors (C, D), labels (N,)) -> (cosines (N, C), those of the labels (N, 1)).

    All float32. The third output, 1 / length of the class vectors (1, C), is kept for the gradient: with G that of the
    cosines times it, the weight's is G' x - (sum over rows of G cos) / length * weight.
    """

    def __init__(self):
        super().__init__()
        self.times_transposed = ops.MatMul(transpose_b=True)
        self.transposed_times, self.times = ops.MatMul(transpose_a=True), ops.MatMul()
        self.add_scattered, self.zeros, self.tile, self.sum = (ops.TensorScatterElements(1, 'add'), ops.ZerosLike(),
                                                               ops.Tile(), ops.ReduceSum())

    def construct(self, x, weight, labels):
        inverse = inverse_lengths(weight)
        cosine = self.times_transposed(x, weight) * self.tile(inverse, (x.shape[0], 1))      # faster than by a row
        return cosine, picked(cosine, labels), inverse

    def bprop(self, x, weight, labels, out, dout):
        cosine, _, inverse = out
        grad = self.add_scattered(dout[0], labels.reshape(-1, 1), dout[1]) * self.tile(inverse, (x.shape[0], 1))
        along = self.sum(grad * cosine, 0).reshape(-1, 1) * inverse.reshape(-1, 1)           # (C, 1)
        return self.times(grad, weight), self.transposed_times(grad, x) - weight * along, self.zeros(labels)


class TargetCrossEntropy(nn.Cell):
    """(cosines (N, C), the labels' new ones (N, 1), labels (N,), scale ()) -> (mean cross-entropy, hits, ...).

    Of logits scale * cosine, with the new ones in the labels' column. The third and fourth output are kept for the
    gradient: the probabilities (N, C) with 0 for the label, and their sum (N, 1), 1 - p without its rounding. A loss
    far below 1 keeps its digits. The scale has no gradient.
    """

    def __init__(self):
        super().__init__()
        self.zeros = ops.ZerosLike()

    def construct(self, cosine, new, labels, scale):
        logits = scale * replaced(cosine, labels, new)
        probability, largest = ops.softmax(logits, 1), logits.argmax(1).astype(labels.dtype)
        own, peak = picked(probability, labels), picked(probability, largest)
        others = replaced(probability, labels, self.zeros(own))
        rest = others.sum(1, keepdims=True)
        near = ops.log1p(rest / ops.maximum(own, 0.01))                     # own = 1 - rest
        far = picked(logits, largest) - scale * new - ops.log(peak)
        loss = ops.select(own > 0.01, near, far).mean()
        return loss, (largest == labels).astype(mstype.float32).sum(), others, rest

    def bprop(self, cosine, new, labels, scale, out, dout):
        factor = dout[0] * scale / cosine.shape[0]
        return factor * out[2], -factor * out[3], self.zeros(labels), self.zeros(scale)
