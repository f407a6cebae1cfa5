"""ArcFace, the combined margin, sub-center ArcFace and ExpFace: the target's angle is made larger.

Deng et al., arXiv:1801.07698; sub-centers: Deng et al., ECCV 2020; ExpFace: arXiv:2509.19753.
"""
from mindspore import Tensor, ops

from src.heads.cosine import DERIVATIVE, FILTER, CosineHead, margin_option, scale_option
from src.heads.head import picked
from src.heads.margin import HARD_REGIONS, angle, turned, turned_by_rule, widened
from src.initializers import Init
from src.options import Option


class ArcFace(CosineHead):
    """Target: cos(theta + margin), and t - margin sin(margin) where theta + margin passes 180 degrees.

    arcface_torch: hard_region='none', derivative='straight_through'. FaceX-Zoo: scale=32, margin=0.35,
    hard_region='facexzoo'. AdaFace's repository: hard_region='clip'.
    """

    OPTIONS = {
        'scale': scale_option(64.0),
        'margin': margin_option(0.5, 'what is added to the angle of the true class, in radians'),
        'hard_region': Option('linear', HARD_REGIONS, None, 'what holds where the angle would pass 180 degrees: see '
                              'src/heads/margin.py'),
        'margin_am': Option(0.0, 0.0, 1.0, "what the cosine loses there by the rule 'facexzoo'"),
        'derivative': DERIVATIVE,
        'filter': FILTER,
    }

    def target(self, t: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return cos(theta + margin)."""
        return turned_by_rule(t, self.margin, self.options['hard_region'], self.options['margin_am'])


class Combined(CosineHead):
    """Target: cos(m1 theta + m2) - m3, no rule for the hard region (insightface)."""

    OPTIONS = {
        'scale': scale_option(64.0),
        'm1': Option(1.0, 0.001, 10.0, 'factor of the angle'),
        'm2': Option(0.3, 0.0, 3.0, 'added to the angle, in radians'),
        'm3': Option(0.2, 0.0, 2.0, 'taken from the cosine'),
        'derivative': DERIVATIVE,
        'filter': FILTER,
    }

    def target(self, t: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return cos(m1 theta + m2) - m3."""
        return combined(t, self.options)


def combined(t: Tensor, options: dict) -> Tensor:
    """Return cos(m1 arccos(t) + m2) - m3."""
    if options['m1'] != 1:
        return ops.cos(options['m1'] * angle(t) + options['m2']) - options['m3']
    return (turned(ops.clamp(t, -1.0, 1.0), options['m2']) if options['m2'] else t) - options['m3']


class SubcenterArcFace(ArcFace):
    """ArcFace with K vectors a class, of which the nearest counts.

    `weight`: (C * K, D); class c has the rows c K .. c K + K - 1.
    """

    OPTIONS = {**ArcFace.OPTIONS, 'sub_centers': Option(3, 1, 100, 'vectors a class')}

    def initial_weight(self, init: Init) -> Tensor:
        """Return the first class vectors (C * K, D)."""
        return init(self.num_classes * self.options['sub_centers'], self.embedding_size)

    def cosines(self, embedding: Tensor, labels: Tensor) -> tuple:
        """Return the largest cosine of every class: (N, C K) -> (N, C), and that of the labels (N, 1)."""
        shape = (embedding.shape[0], self.num_classes, self.options['sub_centers'])
        cosine = ops.amax(super().cosines(embedding, labels)[0].reshape(shape), 2)
        return cosine, picked(cosine, labels)


class ExpFace(CosineHead):
    """Target: cos(pi (theta / pi)^margin), margin < 1; the published training takes the derivative as 1."""

    OPTIONS = {
        'scale': scale_option(64.0),
        'margin': Option(0.7, 0.01, 1.0, 'exponent: 1 is no margin, smaller ones are more'),
        'derivative': DERIVATIVE,
        'filter': FILTER,
    }

    def target(self, t: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return ExpFace's curve."""
        return widened(t, self.margin)
