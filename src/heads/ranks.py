"""The batch of all ranks, for heads whose loss depends on other samples than a row's own.

Ranks see N rows each. A statistic over R * N rows is computed by every rank from the gathered rows; then the mean of
the ranks' gradients, which the training step takes, is the gradient of one rank with R * N rows.
"""
import numpy as np
from mindspore import Tensor, ops
from mindspore import dtype as mstype


class Ranks:
    """Which rank of how many; with one, everything here is the identity."""

    def __init__(self):
        self.set(0, 1)

    def set(self, rank: int, size: int) -> None:
        """Say which rank this is. MindSpore's communication must have been set up if there are several."""
        if not 0 <= rank < size:
            raise ValueError(f"rank {rank} is not in 0..{size - 1}")
        self.rank, self.size = rank, size
        self.sum = ops.AllReduce() if size > 1 else None
        self.place = Tensor(np.eye(size, dtype=np.float32)[rank].reshape(size, 1))


def gathered(ranks: Ranks, x: Tensor) -> Tensor:
    """Return the rows of all ranks, in the order of ranks: (N, ...) float32 -> (R * N, ...).

    By a sum, since not every device has the backward of AllGather: it hands each rank the sum over ranks of the
    gradients of its rows.
    """
    if ranks.size == 1:
        return x
    placed = ranks.place * x.reshape(1, -1)                                 # (R, N * ...): zero in the others' rows
    return ranks.sum(placed).reshape((ranks.size * x.shape[0],) + x.shape[1:])


def gathered_labels(ranks: Ranks, labels: Tensor) -> Tensor:
    """Return the labels of all ranks, (R * N,) int32; exact up to 16,777,216 classes."""
    if ranks.size == 1:
        return labels
    return gathered(ranks, labels.astype(mstype.float32)).astype(mstype.int32)


def own(ranks: Ranks, x: Tensor) -> Tensor:
    """Return this rank's rows of what was gathered: (R * N, ...) -> (N, ...)."""
    rows = x.shape[0] // ranks.size
    return x[ranks.rank * rows:(ranks.rank + 1) * rows]
