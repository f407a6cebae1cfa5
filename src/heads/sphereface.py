"""SphereFace, also called A-Softmax, with annealing, and SphereFace-R v2.

Liu et al., arXiv:1704.08063 and arXiv:2109.05565.
"""
from mindspore import Parameter, Tensor, ops
from mindspore import dtype as mstype

from src.heads.cosine import DERIVATIVE, FILTER, CosineHead, scale_option
from src.heads.head import norms
from src.heads.margin import angle, monotonic_cosine, straight_through
from src.initializers import Init
from src.options import Option


class SphereFace(CosineHead):
    """Target: (lambda t + psi(theta)) / (1 + lambda), with a lambda that falls step by step.

    lambda = max(anneal_min, anneal_start / (1 + anneal_rate * step)), the first step being 1.
    scale=0 keeps the embedding's own length, as the paper does. anneal_start=0 and anneal_min=0: no annealing.
    """

    OPTIONS = {
        'scale': Option(0.0, 0.0, 1e4, "what cosines are multiplied with; 0: the embedding's length (paper)"),
        'margin': Option(4.0, 1.0, 10.0, 'factor of the angle; need not be whole'),
        'anneal_start': Option(1500.0, 0.0, 1e6, 'lambda before the first step'),
        'anneal_rate': Option(0.1, 0.0, 100.0, 'how fast lambda falls, a step'),
        'anneal_min': Option(5.0, 0.0, 1e6, 'where lambda stops'),
        'psi': Option('exact', ('exact', 'taylor'), None, "taylor: gluon-face's polynomial (phiflag=False)"),
        'derivative': DERIVATIVE,
        'filter': FILTER,
    }
    batch_statistics = True              # a step is a batch, not a part of one

    def __init__(self, num_classes: int, embedding_size: int, init: Init, options: dict):
        super().__init__(num_classes, embedding_size, init, options)
        self.step = Parameter(Tensor(0, mstype.int32), name='step', requires_grad=False)

    def annealing(self) -> Tensor:
        """Return lambda; in training, of the next step."""
        options = self.options
        step = self.step + 1 if self.training else ops.maximum(self.step, 1)
        if self.training:
            step = ops.depend(step, ops.assign(self.step, step))
        falling = options['anneal_start'] / (1.0 + options['anneal_rate'] * step.astype(mstype.float32))
        return ops.maximum(falling, options['anneal_min'])

    def target(self, t: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the annealed target."""
        psi = monotonic_cosine(t, self.margin, self.options['psi'] == 'taylor')
        weight = self.annealing()
        return (weight * t + psi) / (1.0 + weight)

    def scaled(self, cosine: Tensor, embedding: Tensor) -> Tensor:
        """Return the logits: the cosines times the scale or the length of the embedding."""
        return (self.scale or norms(embedding)) * cosine


class SphereFaceR(CosineHead):
    """SphereFace-R v2: the negatives' angles are divided by the margin, the target stays."""

    OPTIONS = {
        'scale': scale_option(60.0),
        'margin': Option(1.4, 1.0, 10.0, "what the other classes' angles are divided by"),
        'derivative': DERIVATIVE,
        'filter': FILTER,
    }

    def negatives(self, cosine: Tensor, t: Tensor, new: Tensor) -> Tensor:
        """Return cos(theta / margin)."""
        nearer = ops.cos(angle(cosine) / self.margin)
        return nearer if self.is_exact else straight_through(nearer, cosine)
