"""BatchNorm with the statistics of all ranks: N ranks of batch b compute what one computes with a batch of N * b.

    share_batch_statistics(network.backbone, Device('CPU', 0, 0, 2))        # in place; names of parameters stay
"""
from mindspore import Tensor, nn, ops

from src.cpu.fast_path import without_fast_path
from src.cpu.ordered_prelu import channel_sums
from src.device import Device
from src.heads.ranks import Ranks, gathered

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d)


def share_batch_statistics(network: nn.Cell, device: Device) -> None:
    """Replace every BatchNorm of a network by one over all ranks of `device`, with the same parameters.

    On Ascends by MindSpore's nn.SyncBatchNorm, which knows no other device; elsewhere by `SharedBatchNorm`.
    """
    if device.rank_size == 1:
        return
    without_fast_path(network)
    ranks = Ranks()
    ranks.set(device.rank, device.rank_size)
    _replace(network, ranks, device.target == 'Ascend')


def _replace(network: nn.Cell, ranks: Ranks, on_ascend: bool) -> None:
    """Replace what is below `network` the way MindSpore's own mixed precision does."""
    for name, cell in network.name_cells().items():
        if not isinstance(cell, _KINDS):
            _replace(cell, ranks, on_ascend)
            continue
        network._cells[name] = ascend_batch_norm(cell) if on_ascend else SharedBatchNorm(cell, ranks)
    if isinstance(network, nn.SequentialCell):
        network.cell_list = list(network.cells())


def ascend_batch_norm(norm: nn.Cell) -> nn.SyncBatchNorm:
    """Return nn.SyncBatchNorm over all ranks with the parameters of `norm`."""
    return with_parameters_of(norm, nn.SyncBatchNorm(norm.num_features, eps=norm.eps, momentum=1 - norm.momentum))


def with_parameters_of(norm: nn.Cell, new: nn.Cell) -> nn.Cell:
    """Return `new` after it has taken over the parameters of `norm`, name and all."""
    new.gamma, new.beta = norm.gamma, norm.beta
    new.moving_mean, new.moving_variance = norm.moving_mean, norm.moving_variance
    return new


class Normalise(nn.Cell):
    """(x (N, C, H, W), gamma, beta, mean, variance (C,)) -> x normalised; mean and variance are those of all ranks.

    The gradient is that of a loss over all ranks: what depends on x through mean and variance is in it, from the sums
    of all ranks (Ioffe, Szegedy, arXiv:1502.03167, section 3).
    """

    def __init__(self, eps: float, ranks: Ranks):
        super().__init__()
        self.eps, self.ranks = eps, ranks
        self.infer = ops.BatchNorm(is_training=False, epsilon=eps)

    def construct(self, x, gamma, beta, mean, variance):
        return self.infer(x, gamma, beta, mean, variance)[0]

    def bprop(self, x, gamma, beta, mean, variance, out, dout):
        shape = (1, -1, 1, 1)
        scale = 1 / ops.sqrt(variance + self.eps)
        unit = (x - mean.reshape(shape)) * scale.reshape(shape)                       # mean 0, variance 1
        own = ops.stack((channel_sums(dout), channel_sums(dout * unit)))              # (2, C)
        total = own if self.ranks.size == 1 else self.ranks.sum(own)
        means = total / (self.ranks.size * x.shape[0] * x.shape[2] * x.shape[3])
        dx = (gamma * scale).reshape(shape) * (dout - means[0].reshape(shape) - unit * means[1].reshape(shape))
        return dx, own[1], own[0], ops.zeros_like(mean), ops.zeros_like(variance)


class SharedBatchNorm(nn.BatchNorm2d):
    """BatchNorm of (N, C, H, W) or (N, C) over the batches of all ranks, with the parameters of another BatchNorm."""

    def __init__(self, norm: nn.Cell, ranks: Ranks):
        super().__init__(norm.num_features, eps=norm.eps, momentum=1 - norm.momentum)
        with_parameters_of(norm, self)
        self.share, self.ranks = norm.momentum, ranks           # MindSpore's cell holds what the new batch counts
        self.normalise = Normalise(norm.eps, ranks)

    def construct(self, x):
        maps = x if x.ndim == 4 else x.reshape(x.shape[0], x.shape[1], 1, 1)
        if self.training:
            mean, variance = self.statistics(ops.stop_gradient(maps))
            mean, variance = ops.stop_gradient(mean), ops.stop_gradient(variance)
            count = self.ranks.size * maps.shape[0] * maps.shape[2] * maps.shape[3]
            unbiased = variance * (count / max(count - 1, 1))   # what MindSpore and PyTorch keep
            y = self.normalise(maps, self.gamma, self.beta, mean, variance)
            y = ops.depend(y, (ops.assign(self.moving_mean, self.moved(self.moving_mean, mean)),
                               ops.assign(self.moving_variance, self.moved(self.moving_variance, unbiased))))
        else:
            y = self.bn_infer(maps, self.gamma, self.beta, self.moving_mean, self.moving_variance)[0]
        return y.reshape(x.shape)

    def moved(self, held: Tensor, new: Tensor) -> Tensor:
        """Return the running statistics after one more batch."""
        return held + self.share * (new - held)

    def statistics(self, x: Tensor) -> tuple:
        """Return (mean (C,), variance (C,)) of all ranks' batches of x.

        From each rank's mean and variance in one exchange: squares of large means do not cancel, as in E[x^2] - E[x]^2.
        """
        count = x.shape[0] * x.shape[2] * x.shape[3]
        mean = channel_sums(x) / count
        apart = x - mean.reshape(1, -1, 1, 1)
        variance = channel_sums(apart * apart) / count
        rows = gathered(self.ranks, ops.stack((mean, variance)))                      # (2, C) -> (2 * ranks, C)
        rows = rows.reshape(self.ranks.size, 2, -1)
        means = rows[:, 0]                                                            # (ranks, C)
        mean = means.mean(0)
        between = means - mean.reshape(1, -1)
        return mean, rows[:, 1].mean(0) + (between * between).mean(0)
