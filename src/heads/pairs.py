"""Heads without class vectors, which compare the samples of a batch: contrastive, MPS. Triplets: src/heads/triplet.py.

Contrastive: Hadsell et al., CVPR 2006; MPS: Shi and Jain, arXiv:1805.02283. Hits are the rows whose nearest other row
of the global batch has the same label. Batches hold several images a person, or two views where it says so.
"""
from mindspore import Tensor, ops
from mindspore import dtype as mstype

from src.heads.head import Head, unit
from src.heads.ranks import gathered, gathered_labels, own
from src.heads.watch import watched_pairs
from src.options import Option

FAR = 1e30
NORMALISE = Option(True, meaning='whether embeddings are taken at length 1')


class BatchHead(Head):
    """A head that compares samples; `num_classes` does not matter to it."""

    has_weight = False
    batch_statistics = True

    def check_faces(self, faces_per_person: int) -> None:
        """Raise ValueError if batches of the training with so many faces a person (0: any) hold no pairs for it."""

    def prepared(self, embedding: Tensor) -> Tensor:
        """Return the embeddings (N, D) in float32, at length 1 if so asked."""
        return unit(embedding) if self.options.get('normalise', True) else embedding.astype(mstype.float32)

    def watched(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the sums (3,) of src/heads/watch.py, from the pairs of all ranks' batches."""
        every = gathered(self.ranks, ops.stop_gradient(embedding.astype(mstype.float32)))
        return watched_pairs(embedding, every, labels, gathered_labels(self.ranks, labels))

    def hits(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return how many rows of this rank have a nearest other row with the same label."""
        x = gathered(self.ranks, ops.stop_gradient(self.prepared(embedding)))
        every = gathered_labels(self.ranks, labels)
        distance = squared_distances(x, x) + FAR * ops.eye(x.shape[0], x.shape[0], mstype.float32)
        nearest = every[distance.argmin(1).astype(mstype.int32)]
        return own(self.ranks, (nearest == every).astype(mstype.float32)).sum()


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared distances (N, M) of rows a (N, D) and b (M, D)."""
    squares = (a * a).sum(1).reshape(-1, 1) + (b * b).sum(1).reshape(1, -1)
    return ops.maximum(squares - 2.0 * ops.matmul(a, b.T), 0.0)


def same_and_later(labels: Tensor) -> tuple:
    """Return masks (N, N): whether the labels are the same, and whether the column is later in the batch."""
    place = ops.arange(labels.shape[0])
    return labels.reshape(-1, 1) == labels.reshape(1, -1), place.reshape(1, -1) > place.reshape(-1, 1)


def as_float(mask: Tensor) -> Tensor:
    """Return 1.0 and 0.0 for a mask."""
    return mask.astype(mstype.float32)


class Contrastive(BatchHead):
    """y d^2 / 2 + (1 - y) [margin - d]^2 / 2, d the distance of a pair, y whether it is of one person.

    pairs online (FaceX-Zoo): all genuine pairs of the batch and as many of the nearest impostor pairs, half the sum of
    the two means; all: the mean over all pairs; halves: row i of the first half with row i of the second; gluon: as
    halves, as gluon-face computes it (the square's norm for d, and no 1/2).
    """

    OPTIONS = {
        'margin': Option(1.0, 0.0, 100.0, 'distance at which impostor pairs are far enough'),
        'pairs': Option('online', ('online', 'all', 'halves', 'gluon'), None, 'which pairs count'),
        'normalise': NORMALISE,
    }

    def check_faces(self, faces_per_person: int) -> None:
        """Raise ValueError for pairs that no batch of the training is made of."""
        if self.options['pairs'] in ('halves', 'gluon'):
            raise ValueError(f"head contrastive: pairs={self.options['pairs']} takes batches of chosen pairs, which "
                             "training does not make; take pairs=online or pairs=all")

    def loss_of_batch(self, embedding: Tensor, labels: Tensor) -> tuple:
        """Return (loss, hits)."""
        x = self.prepared(embedding)
        loss = self.of_batch(x, labels) if self.options['pairs'] in ('online', 'all') else self.of_halves(x, labels)
        return loss, self.hits(embedding, labels)

    def push(self, square: Tensor) -> Tensor:
        """Return [margin - d]^2 of squared distances."""
        short = ops.relu(self.options['margin'] - ops.sqrt(ops.maximum(square, 1e-12)))
        return short * short

    def of_halves(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of pairs (i, i + N / 2)."""
        half = x.shape[0] // 2
        if half == 0:
            return 0.0 * x.sum()
        apart = x[:half] - x[half:2 * half]
        square = (apart * apart).sum(1)
        genuine = as_float(labels[:half] == labels[half:2 * half])
        if self.options['pairs'] == 'gluon':
            square = (apart * apart * apart * apart).sum(1)
        loss = (genuine * square + (1.0 - genuine) * self.push(square)).mean()
        return loss if self.options['pairs'] == 'gluon' else 0.5 * loss

    def of_batch(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the pairs of the batches of all ranks."""
        x, labels = gathered(self.ranks, x), gathered_labels(self.ranks, labels)
        square = squared_distances(x, x)
        same, later = same_and_later(labels)
        genuine = as_float(ops.logical_and(same, later))
        impostor = ops.logical_and(ops.logical_not(same), later)
        if self.options['pairs'] == 'all':
            every = x.shape[0] * (x.shape[0] - 1) // 2
            return 0.5 * ((genuine * square).sum() + (as_float(impostor) * self.push(square)).sum()) / max(every, 1)
        count = genuine.sum()
        return 0.5 * ((genuine * square).sum() / ops.maximum(count, 1.0) + self.nearest(square, impostor, count))

    def nearest(self, square: Tensor, impostor: Tensor, count: Tensor) -> Tensor:
        """Return the mean push of the `count` nearest impostor pairs."""
        square, far = square.reshape(-1), ops.select(impostor, square, ops.fill(mstype.float32, square.shape, FAR))
        order = ops.stop_gradient(far).reshape(-1).argsort().astype(mstype.int32)
        chosen = ops.arange(order.shape[0]).astype(mstype.float32) < ops.minimum(count, as_float(impostor).sum())
        chosen = as_float(chosen)
        return (self.push(square[order]) * chosen).sum() / ops.maximum(chosen.sum(), 1.0)


class MPS(BatchHead):
    """Max-margin pairwise score: [(margin + hardest impostor - genuine) / 2] of cosines, >= 0.

    Row i of the first half of a batch and row i of the second are two images of one person, and no other row is of that
    person. The hardest impostor of i is the largest cosine beside i in row and column, at least 0. rule='gluon' takes
    every hardest impostor with every genuine score, a slip of gluon-face.
    """

    OPTIONS = {
        'margin': Option(1.0, 0.0, 10.0, 'how far genuine cosines should lie above impostors'),
        'rule': Option('paper', ('paper', 'gluon'), None, 'a sample at a time, or all with all'),
    }
    pairs_halves = True

    def check_faces(self, faces_per_person: int) -> None:
        """Raise ValueError unless batches hold two faces of every person."""
        if faces_per_person != 2:
            raise ValueError(f"head mps compares two faces of every person of a batch: set faces_per_person=2, not "
                             f"{faces_per_person}")

    def loss_of_batch(self, embedding: Tensor, labels: Tensor) -> tuple:
        """Return (loss, hits)."""
        x = unit(embedding)
        half = x.shape[0] // 2
        if half == 0:
            return 0.0 * x.sum(), self.hits(embedding, labels)
        score = ops.matmul(gathered(self.ranks, x[:half]), gathered(self.ranks, x[half:2 * half]).T)    # (H, H)
        diagonal = ops.eye(score.shape[0], score.shape[0], mstype.float32)
        genuine = (score * diagonal).sum(1)
        others = score * (1.0 - diagonal)
        hardest = ops.maximum(ops.amax(others, 1), ops.amax(others, 0))
        if self.options['rule'] == 'gluon':
            hardest = hardest.reshape(-1, 1)                                                # (H, 1) and (H,): all
        return ops.relu(0.5 * (self.options['margin'] + hardest - genuine)).mean(), self.hits(embedding, labels)
