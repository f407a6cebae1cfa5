"""A backbone of one convolution, with BatchNorm or without, for tests that need a short compile."""
from mindspore import nn, ops

from src.backbone import Backbone
from src.backbones import BACKBONES

NAME, PLAIN = 'toy', 'toy_plain'


class Toy(Backbone):
    """(N, C, S, S) -> (N, D): a convolution, BatchNorm, a linear layer."""

    batch_statistics = True

    def __init__(self, init, options):
        super().__init__(options)
        self.conv = nn.Conv2d(self.channels, 8, 3, stride=4, pad_mode='pad', padding=1, weight_init=init(
            8, self.channels, 3, 3))
        self.bn = nn.BatchNorm2d(8)
        side = self.image_size // 4
        self.fc = nn.Dense(8 * side * side, self.embedding_size, bias_init='zeros',
                           weight_init=init(self.embedding_size, 8 * side * side))

    def construct(self, x, noise=None):
        x = ops.relu(self.bn(self.conv(x)))                                # (N, 8, S / 4, S / 4)
        return self.fc(x.reshape(x.shape[0], -1))


class PlainToy(Toy):
    """The same without BatchNorm: ranks see what one process sees."""

    batch_statistics = False

    def __init__(self, init, options):
        super().__init__(init, options)
        self.bn = nn.Identity()


def register() -> None:
    """Let settings name them."""
    BACKBONES[NAME], BACKBONES[PLAIN] = Toy, PlainToy
