"""Cosines with all class vectors, and their gradient in as few passes over the (C, D) weight as can be.

    cosine, t = Cosines()(unit_rows, weight, labels)   # (N, D), (C, D), (N,) -> (N, C), (N, 1)

The weight is never copied at length 1: N is smaller than D, so what belongs to a class is multiplied into (N, C).
"""
from mindspore import Tensor, nn, ops

TINY = 1e-12


def inverse_lengths(weight: Tensor) -> Tensor:
    """Return 1 / length of the class vectors (C, D), as (1, C)."""
    return 1.0 / ops.sqrt(ops.square(weight).sum(1).reshape(1, -1) + TINY)


class Cosines(nn.Cell):
    """(rows of length 1 (N, D), class vectors (C, D), labels (N,)) -> (cosines (N, C), those of the labels (N, 1)).

    All float32. The third output, 1 / length of the class vectors (1, C), is kept for the gradient: with G that of the
    cosines times it, the weight's is G' x - (sum over rows of G cos) / length * weight.
    """

    def __init__(self):
        super().__init__()
        self.times_transposed = ops.MatMul(transpose_b=True)
        self.transposed_times = ops.MatMul(transpose_a=True)
        self.times = ops.MatMul()

    def construct(self, x, weight, labels):
        inverse = inverse_lengths(weight)
        cosine = self.times_transposed(x, weight) * ops.tile(inverse, (x.shape[0], 1))      # faster than by a row
        return cosine, ops.gather_elements(cosine, 1, labels.reshape(-1, 1)), inverse

    def bprop(self, x, weight, labels, out, dout):
        cosine, _, inverse = out
        rows = ops.arange(x.shape[0]).astype(labels.dtype)
        place = ops.stack((rows, labels), 1)                                # (N, 2)
        grad = ops.tensor_scatter_add(dout[0], place, dout[1].reshape(-1)) * ops.tile(inverse, (x.shape[0], 1))
        along = (grad * cosine).sum(0).reshape(-1, 1) * inverse.reshape(-1, 1)              # (C, 1)
        weight_grad = ops.addcmul(self.transposed_times(grad, x), weight, along, -1.0)
        return self.times(grad, weight), weight_grad, ops.zeros_like(labels)
