"""Triplet loss (Schroff et al., arXiv:1503.03832) with the choices of FaceX-Zoo, gluon-face and insightface.

Loss: the mean of [d(a, p) - d(a, n) + margin], >= 0, over triplets of anchor, positive and negative.
"""
from mindspore import Parameter, Tensor, ops
from mindspore import dtype as mstype

from src.heads.margin import angle
from src.heads.pairs import NORMALISE, BatchHead, as_float, same_and_later, squared_distances
from src.heads.ranks import gathered, gathered_labels
from src.initializers import Init
from src.options import Option


class Triplet(BatchHead):
    """Anchors and positives are all pairs of one label, the anchor earlier in the batch; `mining` finds the negatives.

    hardest: the nearest negative, if the triplet has a loss; random: any negative with a loss; semihard: any with a
    loss below the margin; all: every one; given: the batch is anchors, positives, negatives, a third each, and
    labels do not matter. `choice` among the random and semi-hard: first, or spread, a sequence that takes all equally
    often and depends only on place and step. No triplet: the loss is 0. random, semihard and all hold (N, N, N).
    """

    OPTIONS = {
        'margin': Option(0.3, 0.0, 100.0, 'how much nearer the positive should be'),
        'mining': Option('hardest', ('hardest', 'random', 'semihard', 'all', 'given'), None, 'which negatives count'),
        'choice': Option('spread', ('spread', 'first'), None, 'which of several negatives'),
        'distance': Option('squared', ('squared', 'angle'), None, 'squared Euclidean distance, or radians'),
        'normalise': NORMALISE,
    }

    def __init__(self, num_classes: int, embedding_size: int, init: Init, options: dict):
        super().__init__(num_classes, embedding_size, init, options)
        self.margin = options['margin']
        self.step = Parameter(Tensor(0, mstype.int32), name='step', requires_grad=False)

    def check_faces(self, faces_per_person: int) -> None:
        """Raise ValueError for triplets that no batch of the training is made of."""
        if self.options['mining'] == 'given':
            raise ValueError("head triplet: mining=given takes batches of chosen triplets, which training does not "
                             "make; take mining=hardest, semihard, random or all")

    def loss_of_batch(self, embedding: Tensor, labels: Tensor) -> tuple:
        """Return (loss, hits)."""
        x = self.prepared(embedding)
        if self.options['mining'] == 'given':
            loss = self.of_thirds(x)
        else:
            loss = self.of_batch(gathered(self.ranks, x), gathered_labels(self.ranks, labels))
        return loss, self.hits(embedding, labels)

    def of_thirds(self, x: Tensor) -> Tensor:
        """Return the loss of given triplets."""
        third = x.shape[0] // 3
        if third == 0:
            return 0.0 * x.sum()
        anchor, positive, negative = x[:third], x[third:2 * third], x[2 * third:3 * third]
        far = self.row_distance(anchor, positive) - self.row_distance(anchor, negative)
        return ops.relu(far + self.margin).mean()

    def row_distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of each row of a and b, (M, D) -> (M,)."""
        if self.options['distance'] == 'angle':
            return angle((a * b).sum(1))
        return ((a - b) * (a - b)).sum(1)

    def of_batch(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the triplets that mining finds."""
        is_angle = self.options['distance'] == 'angle'
        distance = angle(ops.matmul(x, x.T)) if is_angle else squared_distances(x, x)       # (N, N)
        if self.options['mining'] == 'all':
            same, later = same_and_later(labels)
            excess, taken = self.cube(distance, same, later)
            taken = as_float(taken)
            return (ops.relu(excess) * taken).sum() / ops.maximum(taken.sum(), 1.0)
        taken, negative = self.chosen(ops.stop_gradient(distance), labels)
        excess = distance - ops.gather_elements(distance, 1, negative) + self.margin
        return (ops.relu(excess) * taken).sum() / ops.maximum(taken.sum(), 1.0)

    def cube(self, distance: Tensor, same: Tensor, later: Tensor) -> tuple:
        """Return d(a, p) - d(a, n) + margin and the mask of all triplets, both (N, N, N)."""
        excess = distance.expand_dims(2) - distance.expand_dims(1) + self.margin
        pair = ops.logical_and(same, later).expand_dims(2)
        return excess, ops.logical_and(pair, ops.logical_not(same).expand_dims(1))

    def chosen(self, distance: Tensor, labels: Tensor) -> tuple:
        """Return for every (anchor, positive) whether it has a triplet, and the index of its negative; both (N, N)."""
        same, later = same_and_later(labels)
        if self.options['mining'] == 'hardest':
            other = ops.select(same, ops.fill(mstype.float32, distance.shape, 1e30), distance)
            negative = other.argmin(1).astype(mstype.int32)                 # the same for every positive
            negative = ops.broadcast_to(negative.reshape(-1, 1), distance.shape)
            has_loss = distance - ops.gather_elements(other, 1, negative) + self.margin > 0.0
            return as_float(ops.logical_and(ops.logical_and(same, later), has_loss)), negative
        excess, triplets = self.cube(distance, same, later)
        candidates = as_float(ops.logical_and(triplets, excess > 0.0))
        if self.options['mining'] == 'semihard':
            candidates = candidates * as_float(excess < self.margin)
        count = candidates.sum(2)
        wanted = 1.0 + (ops.floor(self.draws(distance.shape[0]) * count) if self.options['choice'] == 'spread' else 0.0)
        place = candidates.cumsum(2)                                        # 1 at the first candidate, 2 at the second
        negative = (as_float(place == (wanted + ops.zeros_like(count)).expand_dims(2)) * candidates).argmax(2)
        return as_float(count > 0.0), negative.astype(mstype.int32)

    def draws(self, size: int) -> Tensor:
        """Return numbers (N, N) within 0..1, evenly spread over places and steps; in training, count the step."""
        place = ops.arange(size * size).astype(mstype.int32) % 65536
        step = self.step + 0
        if self.training:
            step = ops.depend(step, ops.assign(self.step, step + 1))
        mixed = (place * 25173 % 65536 + (step % 65536) * 13849 % 65536) % 65536
        return (mixed.astype(mstype.float32) / 65536.0).reshape(size, size)
