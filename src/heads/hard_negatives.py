"""Heads that weigh hard negatives: MV-Softmax, SV-X-Softmax, ArcNegFace, CurricularFace, NPCFace, and Circle loss.

MV: Wang X. et al., arXiv:1912.00833; SV-X: arXiv:1812.11317; ArcNegFace: Liu Y. et al., arXiv:1909.00632;
CurricularFace: Huang Y. et al., arXiv:2004.00288; NPCFace: Zeng D. et al., arXiv:2007.10172; Circle loss: Sun Y. et
al., arXiv:2002.10857 (its form with class vectors).
"""
from mindspore import Parameter, Tensor, ops
from mindspore import dtype as mstype

from src.heads.arcface import combined
from src.heads.cosine import FILTER, CosineHead, clamped, is_target, margin_option, scale_option
from src.heads.head import picked, spread, unit
from src.heads.margin import turned, turned_by_rule
from src.heads.ranks import gathered
from src.initializers import Init
from src.options import Option


class MVSoftmax(CosineHead):
    """Negatives above f become w c + w - 1. form am: f = t - margin; arc: f = cos(theta + margin); target: f.

    `easy` is where the target keeps its cosine: facexzoo: t <= margin (am) or t <= 0 (arc); zero: t <= 0, as the
    authors' code; never: as the paper.
    """

    OPTIONS = {
        'scale': scale_option(32.0),
        'margin': margin_option(0.35, 'of the cosine (am) or, in radians, of the angle (arc)'),
        'form': Option('am', ('am', 'arc'), None, 'which margin'),
        'mv_weight': Option(1.12, 1.0, 100.0, 'weight w of hard negatives; 1: none'),
        'easy': Option('facexzoo', ('facexzoo', 'zero', 'never'), None, 'where the target has no margin'),
        'filter': FILTER,
    }

    def threshold(self, t: Tensor) -> Tensor:
        """Return f of the target cosines."""
        if self.options['form'] == 'am':
            return t - self.margin
        return turned(ops.clamp(t, -1.0, 1.0), self.margin)

    def target(self, t: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return f, or t where the head is easy."""
        if self.options['easy'] == 'never':
            return self.threshold(t)
        is_facexzoo_am = self.options['easy'] == 'facexzoo' and self.options['form'] == 'am'
        return ops.select(t > (self.margin if is_facexzoo_am else 0.0), self.threshold(t), t)

    def negatives(self, cosine: Tensor, t: Tensor, new: Tensor) -> Tensor:
        """Return w c + w - 1 for the hard ones."""
        return weighted(cosine, self.threshold(t), self.options['mv_weight'])


def weighted(cosine: Tensor, threshold: Tensor, weight: float) -> Tensor:
    """Return weight * cosine + weight - 1 where cosine (N, C) is above the threshold (N, 1), else cosine."""
    return ops.select(cosine > spread(threshold, cosine.shape[1]), weight * cosine + (weight - 1.0), cosine)


class MVArcSoftmax(MVSoftmax):
    """MV-Softmax on the angle."""

    OPTIONS = {**MVSoftmax.OPTIONS, 'form': Option('arc', ('am', 'arc'), None, 'which margin')}


class SVXSoftmax(CosineHead):
    """Target: T = cos(m1 theta + m2) - m3; negatives above T become w c + w - 1."""

    OPTIONS = {
        'scale': scale_option(64.0),
        'm1': Option(1.0, 0.001, 10.0, 'factor of the angle'),
        'm2': Option(0.0, 0.0, 3.0, 'added to the angle, in radians (m3 in gluon-face)'),
        'm3': Option(0.35, 0.0, 2.0, 'taken from the cosine (m2 in gluon-face)'),
        'sv_weight': Option(1.2, 1.0, 100.0, 'weight w of hard negatives'),
        'filter': FILTER,
    }

    def target(self, t: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return T."""
        return combined(t, self.options)

    def negatives(self, cosine: Tensor, t: Tensor, new: Tensor) -> Tensor:
        """Return w c + w - 1 for the hard ones."""
        return weighted(cosine, new, self.options['sv_weight'])


class ArcNegFace(CosineHead):
    """ArcFace whose negatives become r c + r - 1, r = alpha exp(-(c - T)^2 / sigma), taken as a constant."""

    OPTIONS = {
        'scale': scale_option(64.0),
        'margin': margin_option(0.5, 'what is added to the angle of the true class, in radians'),
        'alpha': Option(1.2, 0.0, 100.0, 'largest weight of a negative'),
        'sigma': Option(2.0, 0.001, 100.0, 'width of the weight: 2 is a standard deviation of 1'),
        'filter': FILTER,
    }

    def target(self, t: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return ArcFace's target."""
        return turned_by_rule(t, self.margin)

    def negatives(self, cosine: Tensor, t: Tensor, new: Tensor) -> Tensor:
        """Return the weighted negatives."""
        away = ops.stop_gradient(cosine - spread(new, self.num_classes))
        weight = self.options['alpha'] * (1.0 + ops.expm1(away * away / -self.options['sigma']))     # exp is less exact
        return weight * cosine + (weight - 1.0)


class CurricularFace(CosineHead):
    """ArcFace whose hard negatives become c (t + c), t being a running mean of the target cosines.

    t is updated before it is used. kernel='expface': class vectors are divided by norms over the classes instead of
    over the embedding, a slip in ExpFace's repository that its published numbers have.
    """

    OPTIONS = {
        'scale': scale_option(64.0),
        'margin': margin_option(0.5, 'what is added to the angle of the true class, in radians'),
        'momentum': Option(0.01, 0.0, 1.0, "weight of a batch's mean in the running mean"),
        'kernel': Option('unit', ('unit', 'expface'), None, 'what class vectors are divided by'),
        'filter': FILTER,
    }
    batch_statistics = True
    clip = True

    def __init__(self, num_classes: int, embedding_size: int, init: Init, options: dict):
        super().__init__(num_classes, embedding_size, init, options)
        self.t = Parameter(Tensor([0.0], mstype.float32), name='t', requires_grad=False)

    def cosines(self, embedding: Tensor, labels: Tensor) -> tuple:
        """Return the cosines, with the divisor that `kernel` names."""
        if self.options['kernel'] == 'unit':
            return super().cosines(embedding, labels)
        cosine = ops.matmul(unit(embedding), unit(self.weight.T))           # (N, D) x (D, C)
        return clamped((cosine, picked(cosine, labels)), 1.0)

    def target(self, t: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return ArcFace's target."""
        return turned_by_rule(t, self.margin)

    def running_mean(self, t: Tensor) -> Tensor:
        """Return the running mean of target cosines, in training with those of all ranks' batches."""
        if not self.training:
            return self.t
        rate = self.options['momentum']
        mean = rate * gathered(self.ranks, ops.stop_gradient(t)).mean() + (1.0 - rate) * self.t
        return ops.depend(mean, ops.assign(self.t, mean))

    def negatives(self, cosine: Tensor, t: Tensor, new: Tensor) -> Tensor:
        """Return c (t + c) for the hard ones."""
        hard = cosine > spread(turned(t, self.margin), self.num_classes)
        return ops.select(hard, cosine * (self.running_mean(t) + cosine), cosine)


class NPCFace(CosineHead):
    """Hard negatives become w c + a, and the target's margin grows with their mean cosine: m0 + m1 * mean."""

    OPTIONS = {
        'scale': scale_option(32.0),
        'margin': margin_option(0.35, 'radians; a negative is hard above cos(theta + margin)'),
        'm0': Option(0.4, 0.0, 3.0, 'least margin, in radians'),
        'm1': Option(0.2, 0.0, 3.0, 'what the mean cosine of hard negatives adds'),
        'npc_weight': Option(1.1, 0.0, 100.0, 'factor w of hard negatives'),
        'npc_shift': Option(0.2, 0.0, 10.0, 'shift a of hard negatives'),
        'filter': FILTER,
    }
    clip = True

    def margined(self, embedding: Tensor, labels: Tensor) -> tuple:
        """Return the new cosines of negatives (N, C) and target (N, 1)."""
        cosine, t = self.cosines(embedding, labels)
        above = cosine > spread(turned(t, self.margin), self.num_classes)
        hard = ops.logical_and(above, ops.logical_not(is_target(cosine, labels)))
        count = hard.astype(mstype.float32).sum(1, keepdims=True)
        total = ops.select(hard, cosine, ops.zeros_like(cosine)).sum(1, keepdims=True)
        margin = self.options['m0'] + self.options['m1'] * ops.stop_gradient(total / ops.maximum(count, 1.0))
        new = ops.select(t > 0.0, turned(t, margin), t)
        cosine = self.filtered(cosine)
        negatives = ops.select(hard, self.options['npc_weight'] * cosine + self.options['npc_shift'], cosine)
        return negatives, new


class CircleLoss(CosineHead):
    """Target: [1 + m - t] (t - 1 + m), negatives: [c + m] (c - m), times gamma; the brackets, >= 0, are constants."""

    OPTIONS = {
        'scale': scale_option(256.0),
        'margin': margin_option(0.25, 'm: targets should pass 1 - m, negatives stay below m', 1.0),
        'filter': FILTER,
    }
    clip = True

    def target(self, t: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted target."""
        return ops.relu(1.0 + self.margin - ops.stop_gradient(t)) * (t - (1.0 - self.margin))

    def negatives(self, cosine: Tensor, t: Tensor, new: Tensor) -> Tensor:
        """Return the weighted negatives."""
        return ops.relu(ops.stop_gradient(cosine) + self.margin) * (cosine - self.margin)
