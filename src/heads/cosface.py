"""CosFace, also called AM-Softmax, and its relatives that lower the target cosine by a constant.

Wang H. et al., arXiv:1801.09414; Wang F. et al., arXiv:1801.05599. AdaM-Softmax: Liu H. et al., AdaptiveFace, CVPR
2019. NormFace: Wang F. et al., arXiv:1704.06369; COCO loss (arXiv:1710.00870) is the same.
"""
from mindspore import Parameter, Tensor, ops

from src.heads.cosine import FILTER, CosineHead, scale_option
from src.initializers import Init
from src.options import Option


class CosFace(CosineHead):
    """logits = scale * (cos - margin for the true class)."""

    OPTIONS = {
        'scale': Option(64.0, 1.0, 1000.0, 'what cosines are multiplied with'),
        'margin': Option(0.35, 0.0, 1.0, 'what the cosine of the true class loses'),
        'filter': FILTER,
    }

    flat_settings = {'scale': 'cosface_scale', 'margin': 'cosface_margin'}

    def target(self, t: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return t - margin."""
        return t - self.margin


class NormFace(CosineHead):
    """logits = scale * cos: softmax with both norms taken out."""

    OPTIONS = {'scale': scale_option(64.0), 'filter': FILTER}


class AdaMSoftmax(CosineHead):
    """CosFace with a trained margin a class, which `pressure` keeps large: loss + pressure * (1 - mean margin).

    Margins are kept within 0..1: before every step the stored ones are cut to it, without an effect on gradients.
    """

    OPTIONS = {
        'scale': scale_option(30.0),
        'pressure': Option(70.0, 0.0, 1e4, 'lambda of the paper'),
        'filter': FILTER,
    }

    def __init__(self, num_classes: int, embedding_size: int, init: Init, options: dict):
        super().__init__(num_classes, embedding_size, init, options)
        self.margins = Parameter(init.by_rule(lambda rng, shape: rng.uniform(0.3, 0.4, shape), num_classes),
                                 name='margins')

    def within_bounds(self) -> Tensor:
        """Return the margins (C,) cut to 0..1, with the derivative 1 everywhere."""
        return self.margins + ops.stop_gradient(ops.clamp(self.margins, 0.0, 1.0) - self.margins)

    def target(self, t: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return t - the margin of its class."""
        return t - self.within_bounds()[labels].reshape(-1, 1)

    def loss_of_batch(self, embedding: Tensor, labels: Tensor) -> tuple:
        """Return (loss, hits); in training, store the margins cut to 0..1."""
        loss, hits = super().loss_of_batch(embedding, labels)
        margins = self.within_bounds()
        loss = loss + self.options['pressure'] * (1.0 - margins.mean())
        if self.training:
            loss = ops.depend(loss, ops.assign(self.margins, ops.stop_gradient(margins)))
        return loss, hits
