"""PReLU whose gradient has the same bits every time: for trainings on the CPU, which are to resume bit for bit.

    sum_in_order(network)                               # in place, what its nn.PReLU cells compute stays

MindSpore's own gradient of the slopes is summed by threads in the order in which they come: two runs of one network
part in the last bit after a few steps.
"""
from mindspore import Tensor, nn, ops


def channel_sums(x: Tensor) -> Tensor:
    """Return the sum of each channel: (N, C, ...) -> (C,). In two stages, which is faster and rounds less."""
    return x.reshape(x.shape[0], x.shape[1], -1).sum(2).sum(0)


class OrderedPReLU(nn.Cell):
    """(x (N, C, ...), slopes (C,)) -> x where it is positive, else its slope times x."""

    def __init__(self):
        super().__init__()
        self.prelu = ops.PReLU()

    def construct(self, x, slopes):
        return self.prelu(x, slopes)

    def bprop(self, x, slopes, out, dout):
        weights = slopes.reshape((1, -1) + (1,) * (x.ndim - 2))
        return ops.select(x > 0, dout, dout * weights), channel_sums(dout * ops.minimum(x, 0.0))


def sum_in_order(network: nn.Cell) -> None:
    """Have all nn.PReLU of a network take their gradients in a fixed order."""
    for _, cell in list(network.cells_and_names()):
        if isinstance(cell, nn.PReLU):
            del cell.prelu
            cell.prelu = OrderedPReLU()
