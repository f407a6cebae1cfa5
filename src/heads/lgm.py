"""Large-margin Gaussian mixture loss (Wan et al., arXiv:1803.02988): a mean and a diagonal variance a class."""
import numpy as np
from mindspore import Parameter, Tensor, ops
from mindspore import dtype as mstype

from src.heads.head import Head, count_hits, picked, replaced
from src.initializers import Init
from src.options import Option

SMALLEST_VARIANCE = 1e-4


class LGM(Head):
    """logits = -d (1 + margin for the true class) - ln|V| / 2, d = (x - mean)' V^-1 (x - mean) / 2; + likelihood * d.

    `weight` (C, D) holds the means, `variance` (C, D) the variances, which count as SMALLEST_VARIANCE at least. All in
    logarithms: far embeddings do not underflow.
    """

    OPTIONS = {
        'margin': Option(0.2, 0.0, 100.0, 'what the distance to the own mean is enlarged by, in parts of it'),
        'likelihood': Option(0.1, 0.0, 100.0, 'weight of the likelihood term'),
        'determinant': Option(False, meaning='whether that term has the ln|V| / 2 of the paper; gluon-face has not'),
    }

    def __init__(self, num_classes: int, embedding_size: int, init: Init, options: dict):
        super().__init__(num_classes, embedding_size, init, options)
        self.variance = Parameter(Tensor(np.ones((num_classes, embedding_size), np.float32)), name='variance')
        self.matmul = ops.MatMul(transpose_b=True)

    def distances(self, x: Tensor, precision: Tensor) -> Tensor:
        """Return d (N, C); the square is multiplied out, so that no (N, C, D) is needed."""
        scaled = self.weight * precision
        square = self.matmul(x * x, precision) - 2.0 * self.matmul(x, scaled) + (self.weight * scaled).sum(1)
        return 0.5 * ops.maximum(square, 0.0)

    def loss_of_batch(self, embedding: Tensor, labels: Tensor) -> tuple:
        """Return (loss, hits)."""
        variance = ops.maximum(self.variance.astype(mstype.float32), SMALLEST_VARIANCE)
        half_log = 0.5 * ops.log(variance).sum(1)                                           # (C,)
        distance = self.distances(embedding.astype(mstype.float32), 1.0 / (variance + 1e-8))
        own = picked(distance, labels)
        logits = -replaced(distance, labels, (1.0 + self.options['margin']) * own) - half_log
        spread = own.mean() + (half_log[labels].mean() if self.options['determinant'] else 0.0)
        loss = ops.cross_entropy(logits, labels) + self.options['likelihood'] * spread
        return loss, count_hits(logits, labels)
