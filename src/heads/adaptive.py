"""Heads whose scale or margin follows the batch or the embedding's length: AdaCos, AdaFace, MagFace.

AdaCos: Zhang X. et al., arXiv:1905.00292; AdaFace: Kim M. et al., arXiv:2204.00964; MagFace: Meng Q. et al.,
arXiv:2103.06627.
"""
import math

from mindspore import Parameter, Tensor, ops
from mindspore import dtype as mstype

from src.heads.cosine import DERIVATIVE, FILTER, CosineHead, clamped, margin_option, scale_option
from src.heads.head import log_sum_exp, replaced
from src.heads.margin import angle, turned_by_rule
from src.heads.penalties import bounded_norms
from src.heads.ranks import gathered
from src.initializers import Init
from src.options import Option

SMALLEST_SCALE = 0.1                 # AdaCos's formula gives 0 for two classes, and less for very few


class AdaCos(CosineHead):
    """logits = scale * cos; the scale follows from the batch's angles, before it is used, and is saved."""

    OPTIONS = {'filter': FILTER}
    batch_statistics = True

    def __init__(self, num_classes: int, embedding_size: int, init: Init, options: dict):
        super().__init__(num_classes, embedding_size, init, options)
        first = max(math.sqrt(2) * math.log(max(num_classes - 1, 1)), SMALLEST_SCALE)
        self.scale = Parameter(Tensor(first, mstype.float32), name='scale', requires_grad=False)

    def new_scale(self, cosine: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Return ln(B_avg) / cos(min(45 degrees, the median target angle)) of the batches of all ranks.

        B_avg is the batch's mean of the sum over negatives of exp(scale * cos), here in logarithms, which cannot
        overflow. The median of an even number of angles is the lower middle one.
        """
        theta = gathered(self.ranks, angle(t)).reshape(-1)
        middle = theta.sort()[0][(theta.shape[0] - 1) // 2]
        without = replaced(self.scale * cosine, labels, ops.fill(mstype.float32, (cosine.shape[0], 1), -1e30))
        sums = gathered(self.ranks, log_sum_exp(without))
        average = log_sum_exp(sums.reshape(1, -1)).reshape(()) - math.log(theta.shape[0])
        return ops.maximum(average / ops.cos(ops.minimum(middle, math.pi / 4)), SMALLEST_SCALE)

    def current_scale(self, cosine: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Return the scale, in training the new one, which is kept."""
        if not self.training:
            return self.scale + 0.0
        scale = ops.stop_gradient(self.new_scale(ops.stop_gradient(cosine), ops.stop_gradient(t), labels))
        return ops.depend(scale, ops.assign(self.scale, scale))

    def logits(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return (N, C)."""
        cosine, t = self.cosines(embedding, labels)
        return self.current_scale(cosine, t, labels) * replaced(self.filtered(cosine), labels, t)

    def loss_of_batch(self, embedding: Tensor, labels: Tensor) -> tuple:
        """Return (loss, hits)."""
        cosine, t = self.cosines(embedding, labels)
        scale = self.current_scale(cosine, t, labels)
        loss, hits, _, _ = self.entropy(self.filtered(cosine), t, labels, scale)
        return loss, hits


class AdaFace(CosineHead):
    """Target: cos(theta - m q) - m (1 + q), q in -1..1: how the embedding's length compares with the running mean.

    Running mean and (unbiased) deviation are those of all ranks' batches, updated before they are used. A batch of one
    has no deviation, so it leaves the running one as it is.
    """

    OPTIONS = {
        'scale': scale_option(64.0),
        'margin': margin_option(0.4, 'm'),
        'concentration': Option(0.333, 0.0, 100.0, 'h: how many deviations count as the full margin'),
        'momentum': Option(0.01, 0.0, 1.0, "weight of a batch (t_alpha; the paper's alpha is 1 - it)"),
        'filter': FILTER,
    }
    batch_statistics = True

    def __init__(self, num_classes: int, embedding_size: int, init: Init, options: dict):
        super().__init__(num_classes, embedding_size, init, options)
        self.batch_mean = Parameter(Tensor([20.0], mstype.float32), name='batch_mean', requires_grad=False)
        self.batch_std = Parameter(Tensor([100.0], mstype.float32), name='batch_std', requires_grad=False)

    def cosines(self, embedding: Tensor, labels: Tensor) -> tuple:
        """Return the cosines within +-0.999."""
        return clamped(super().cosines(embedding, labels), 1.0 - 1e-3)

    def running(self, lengths: Tensor) -> tuple:
        """Return running mean and deviation, in training with these lengths (N,)."""
        if not self.training:
            return self.batch_mean + 0.0, self.batch_std + 0.0
        every = gathered(self.ranks, lengths)
        mean = every.mean()
        rate = self.options['momentum']
        new_mean = rate * mean + (1.0 - rate) * self.batch_mean
        new_std = self.batch_std + 0.0
        if every.shape[0] > 1:
            std = ops.sqrt(((every - mean) * (every - mean)).sum() / (every.shape[0] - 1))
            new_std = rate * std + (1.0 - rate) * self.batch_std
        new_mean = ops.depend(new_mean, ops.assign(self.batch_mean, new_mean))
        return new_mean, ops.depend(new_std, ops.assign(self.batch_std, new_std))

    def target(self, t: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the target with the margin of its quality."""
        lengths = ops.stop_gradient(bounded_norms(embedding, 0.001, 100.0))
        mean, std = self.running(lengths)
        quality = self.options['concentration'] * (lengths - mean) / (std + 1e-3)
        quality = ops.stop_gradient(ops.clamp(quality, -1.0, 1.0)).reshape(-1, 1)           # (N,) -> (N, 1)
        theta = ops.clamp(angle(t) - self.margin * quality, 1e-3, math.pi - 1e-3)
        return ops.cos(theta) - (self.margin + self.margin * quality)


class MagFace(CosineHead):
    """ArcFace whose margin grows with the embedding's length, and a regulariser that rewards length.

    The authors: hard_region='easy', magnitude=35. FaceX-Zoo: hard_region='facexzoo', magnitude=20.
    """

    OPTIONS = {
        'scale': scale_option(64.0),
        'low_margin': Option(0.45, 0.0, 3.0, 'margin of the shortest, in radians'),
        'high_margin': Option(0.8, 0.0, 3.0, 'margin of the longest'),
        'magnitude': Option(35.0, 0.0, 1e6, 'weight of the regulariser'),
        'hard_region': Option('easy', ('easy', 'facexzoo', 'linear', 'none'), None, 'as for arcface'),
        'margin_am': Option(0.0, 0.0, 1.0, "what the cosine loses by the rule 'facexzoo'"),
        'derivative': DERIVATIVE,
        'filter': FILTER,
    }

    def target(self, t: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return cos(theta + the margin of the length)."""
        options = self.options
        low, high = options['low_norm'], options['high_norm']
        slope = (options['high_margin'] - options['low_margin']) / max(high - low, 1e-6)
        margin = options['low_margin'] + slope * (bounded_norms(embedding, low, high) - low)
        return turned_by_rule(t, margin.reshape(-1, 1), options['hard_region'], options['margin_am'])
