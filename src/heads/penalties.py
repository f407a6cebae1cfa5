"""What can be added to the loss of any classification head: center loss, Git loss, Ring loss, MagFace's regulariser.

    head = build_head('arcface', 10575, 512, center=0.01, ring=0.01, ring_radius=20.0)

Center loss: Wen et al., ECCV 2016. Git loss: Calefati et al., arXiv:1807.08512. Ring loss: Zheng et al.,
arXiv:1803.00130. MagFace: Meng et al., arXiv:2103.06627.
"""
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore import dtype as mstype

from src.heads.ranks import Ranks, gathered, gathered_labels
from src.initializers import Init
from src.options import Option

PENALTY_OPTIONS = {
    'center': Option(0.0, 0.0, 1e6, 'weight of center loss'),
    'center_update': Option('trained', ('trained', 'paper'), None, 'trained: centres are weights, and a sample counts '
                            'by 1 / (samples of its class in the batch); paper: moved to their samples, no division'),
    'center_rate': Option(0.5, 0.0, 1.0, "the paper's step of the centres"),
    'git': Option(0.0, 0.0, 1e6, "weight of Git loss's push from the centres of the batch; `center` is its pull"),
    'git_own': Option(True, meaning="whether a sample's own place in the batch adds the constant 1, as in gluon-face"),
    'ring': Option(0.0, 0.0, 1e6, 'weight of Ring loss'),
    'ring_radius': Option(1.0, 0.0, 1e4, 'first radius, which is trained'),
    'magnitude': Option(0.0, 0.0, 1e6, "weight of MagFace's regulariser"),
    'low_norm': Option(10.0, 0.001, 1e4, 'norms below count as this, for MagFace'),
    'high_norm': Option(110.0, 0.001, 1e4, 'norms above count as this, for MagFace'),
}


def squared_norms(x: Tensor) -> Tensor:
    """Return the squared lengths (N,) of the rows of x (N, D), float32."""
    x = x.astype(mstype.float32)
    return (x * x).sum(1)


def bounded_norms(x: Tensor, low: float, high: float) -> Tensor:
    """Return the lengths (N,) of the rows of x within low..high; outside there is no gradient."""
    return ops.clamp(ops.sqrt(ops.maximum(squared_norms(x), 1e-12)), low, high)


def _first_centers(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    """Xavier's uniform weights of magnitude 2.24."""
    limit = np.sqrt(2 * 2.24 / sum(shape))
    return rng.uniform(-limit, limit, shape)


class Penalties(nn.Cell):
    """(embedding (N, D), labels (N,)) -> the sum of the penalties that `options` ask for."""

    def __init__(self, num_classes: int, embedding_size: int, init: Init, options: dict, ranks: Ranks):
        super().__init__()
        self.options, self.ranks = dict(options), ranks
        self.center, self.git, self.ring = (options.get(name, 0.0) for name in ('center', 'git', 'ring'))
        self.magnitude = options.get('magnitude', 0.0)
        self.batch_statistics = bool(self.center or self.git)
        self.moves_centers = options['center_update'] == 'paper'
        if self.center or self.git:
            centers = init.by_rule(_first_centers, num_classes, embedding_size)
            self.centers = Parameter(centers, name='centers', requires_grad=not self.moves_centers)
        if self.ring:
            self.radius = Parameter(Tensor([options['ring_radius']], mstype.float32), name='radius')

    def construct(self, embedding, labels):
        x = embedding.astype(mstype.float32)
        loss = 0.0
        if self.center or self.git:
            loss = loss + self.center_and_git(x, labels)
        if self.ring:
            length = ops.sqrt(ops.maximum(squared_norms(x), 1e-12))
            loss = loss + self.ring * 0.5 * ((length - self.radius) * (length - self.radius)).mean()
        if self.magnitude:
            low, high = self.options['low_norm'], self.options['high_norm']
            length = bounded_norms(x, low, high)
            loss = loss + self.magnitude * (length / (high * high) + 1.0 / length).mean()
        return loss

    def center_and_git(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return both losses and, by the paper's rule, move the centres."""
        every = gathered_labels(self.ranks, labels)                         # (N,) -> (B,) of all ranks
        same = (labels.reshape(-1, 1) == every.reshape(1, -1)).astype(mstype.float32)
        centers = self.centers.astype(mstype.float32)
        pull = squared_norms(x - centers[labels])
        loss = 0.5 * self.center * (pull if self.moves_centers else pull / same.sum(1)).mean()
        if self.git:
            loss = loss + self.git * self.push(x, centers[every]).mean()
        if self.moves_centers and self.training:
            loss = ops.depend(loss, self.move(ops.stop_gradient(x), every, centers[every]))
        return loss

    def push(self, x: Tensor, centers: Tensor) -> Tensor:
        """Return the mean over the batch's centres (B, D) of 1 / (1 + squared distance), (N,)."""
        apart = squared_norms(x).reshape(-1, 1) + squared_norms(centers) - 2.0 * ops.matmul(x, centers.T)
        near = 1.0 / (1.0 + ops.maximum(apart, 0.0))                        # (N, B)
        rows = x.shape[0]
        first = self.ranks.rank * rows
        place = first + ops.arange(rows).astype(mstype.int32)
        itself = place.reshape(-1, 1) == ops.arange(centers.shape[0]).astype(mstype.int32).reshape(1, -1)
        constant = ops.ones_like(near) if self.options['git_own'] else ops.zeros_like(near)
        return ops.select(itself, constant, near).mean(1)

    def move(self, x: Tensor, every: Tensor, centers: Tensor) -> Tensor:
        """Move the centres (of the labels of all ranks) to their samples: c -= rate * sum(c - x) / (1 + count)."""
        counts = (every.reshape(-1, 1) == every.reshape(1, -1)).astype(mstype.float32).sum(1, keepdims=True)
        step = self.options['center_rate'] * (centers - gathered(self.ranks, x)) / (1.0 + counts)
        change = ops.tensor_scatter_add(ops.zeros_like(self.centers), every.reshape(-1, 1), step)
        return ops.assign_sub(self.centers, ops.stop_gradient(change))
