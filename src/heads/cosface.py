"""CosFace, also called AM-Softmax: softmax over scaled cosines, the true class lowered by a margin.

Wang H. et al., arXiv:1801.09414; Wang F. et al., arXiv:1801.05599.
"""
from mindspore import Tensor, ops
from mindspore import dtype as mstype

from src.heads.head import Head, loss_and_hits, unit
from src.initializers import Init
from src.options import Option


class CosFace(Head):
    """logits = scale * (cos - margin for the true class)."""

    OPTIONS = {
        'scale': Option(64.0, 1.0, 1000.0, 'what cosines are multiplied with'),
        'margin': Option(0.35, 0.0, 1.0, 'what the cosine of the true class loses'),
    }

    flat_settings = {'scale': 'cosface_scale', 'margin': 'cosface_margin'}

    def __init__(self, num_classes: int, embedding_size: int, init: Init, options: dict):
        super().__init__(num_classes, embedding_size, init, options)
        self.scale, self.margin = options['scale'], options['margin']
        self.matmul = ops.MatMul(transpose_b=True)
        self.on, self.off = Tensor(1.0, mstype.float32), Tensor(0.0, mstype.float32)

    def construct(self, embedding, labels):
        cosine = self.matmul(unit(embedding), unit(self.weight))            # (N, D) x (C, D)' -> (N, C)
        target = ops.one_hot(labels, self.num_classes, self.on, self.off)
        return loss_and_hits(self.scale * (cosine - self.margin * target), labels)
