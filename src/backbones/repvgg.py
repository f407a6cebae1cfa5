"""RepVGG A0, B0 and B1: three branches to train, one 3x3 convolution to deploy (Ding et al., arXiv:2101.03697).

    network = build_backbone('repvgg_a0')                              # (N, 3, 112, 112) BGR -> (N, 512)
    network = merged(network)                                          # the same embeddings, from fewer operations

Source: FaceX-Zoo, whose first block has stride 1.
"""
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.backbone import COMMON_OPTIONS, Backbone
from src.backbones.blocks import batch_norm, batch_norm_1d, conv, halved, linear
from src.initializers import Init
from src.options import Option


class ConvNorm(nn.Cell):
    """Convolution without bias, BatchNorm: (N, in, H, W) -> (N, out, H / stride, W / stride)."""

    def __init__(self, init: Init, in_channels: int, out_channels: int, kernel: int, stride: int):
        super().__init__()
        self.conv = conv(init, in_channels, out_channels, kernel, stride)
        self.bn = batch_norm(out_channels)

    def construct(self, x):
        return self.bn(self.conv(x))


class Block(nn.Cell):
    """ReLU of 3x3 + 1x1 + identity, each with its BatchNorm: (N, in, H, W) -> (N, out, H / stride, W / stride).

    The identity is there where sizes allow. `deploy`: one 3x3 convolution with bias in place of the branches.
    """

    def __init__(self, init: Init, in_channels: int, out_channels: int, stride: int, deploy: bool):
        super().__init__()
        self.deploy, self.has_identity = deploy, in_channels == out_channels and stride == 1
        if deploy:
            self.rbr_reparam = conv(init, in_channels, out_channels, 3, stride, bias=True)
            return
        self.rbr_dense = ConvNorm(init, in_channels, out_channels, 3, stride)
        self.rbr_1x1 = ConvNorm(init, in_channels, out_channels, 1, stride)
        if self.has_identity:
            self.rbr_identity = batch_norm(in_channels)

    def construct(self, x):
        if self.deploy:
            return ops.relu(self.rbr_reparam(x))
        out = self.rbr_dense(x) + self.rbr_1x1(x)
        return ops.relu(out + self.rbr_identity(x) if self.has_identity else out)


class RepVGG(Backbone):
    """One block of stride 1, four stages that halve: (N, C, S, S) -> (N, D)."""

    OPTIONS = {**COMMON_OPTIONS,
               'deploy': Option(False, None, None, 'one convolution a block, as `merged` makes it; not for training')}
    batch_statistics = True
    face_format = 'facexzoo'
    ignored = ('num_batches_tracked',)
    num_blocks, widths = (0, 0, 0, 0), (0, 0, 0, 0, 0)

    def __init__(self, init: Init, options: dict):
        super().__init__(options)
        self.deploy = options['deploy']
        self.stage0 = Block(init, self.channels, self.widths[0], 1, self.deploy)
        self.stage1, self.stage2, self.stage3, self.stage4 = (
            self._stage(init, *sizes) for sizes in zip(self.widths, self.widths[1:], self.num_blocks))
        side = halved(self.image_size, 4)
        self.output_layer = nn.SequentialCell([
            batch_norm(self.widths[-1]), nn.Flatten(),
            linear(init, self.widths[-1] * side * side, self.embedding_size), batch_norm_1d(self.embedding_size)])

    def _stage(self, init: Init, in_channels: int, channels: int, blocks: int) -> nn.SequentialCell:
        return nn.SequentialCell([Block(init, channels if i else in_channels, channels, 1 if i else 2, self.deploy)
                                  for i in range(blocks)])

    def construct(self, x, noise=None):
        maps = self.stage2(self.stage1(self.stage0(x)))      # (N, C, S, S) -> (N, .., S / 4, S / 4)
        return self.output_layer(self.stage4(self.stage3(maps)))  # -> (N, .., S / 16, S / 16) -> (N, D)


class RepVGGA0(RepVGG):
    """RepVGG-A0: 39.9 million parameters, 1.5 GMAC at 112x112."""

    num_blocks, widths = (2, 4, 14, 1), (48, 48, 96, 192, 1280)


class RepVGGB0(RepVGG):
    """RepVGG-B0: 46.7 million parameters, 3.4 GMAC at 112x112."""

    num_blocks, widths = (4, 6, 16, 1), (64, 64, 128, 256, 1280)


class RepVGGB1(RepVGG):
    """RepVGG-B1: 106.8 million parameters, 13.1 GMAC at 112x112."""

    num_blocks, widths = (4, 6, 16, 1), (64, 128, 256, 512, 2048)


def merged(network: RepVGG) -> RepVGG:
    """Return a network of one 3x3 convolution a block that gives the same embeddings; `network` stays as it is.

    Exact for the running statistics that `network` has now; the sums are made in float64.
    """
    deployed = type(network)(Init(), {**network.options, 'deploy': True})
    deployed.name = network.name
    blocks = {name: cell for name, cell in network.cells_and_names() if isinstance(cell, Block)}
    for name, cell in deployed.cells_and_names():
        if isinstance(cell, Block):
            kernel, bias = (blocks[name].rbr_reparam.weight, blocks[name].rbr_reparam.bias) if network.deploy \
                else _merged_block(blocks[name])
            cell.rbr_reparam.weight.set_data(kernel)
            cell.rbr_reparam.bias.set_data(bias)
    kept = {parameter.name: parameter for parameter in network.output_layer.get_parameters()}
    for parameter in deployed.output_layer.get_parameters():
        parameter.set_data(kept[parameter.name])
    return deployed.set_train(False)


def _merged_block(block: Block) -> tuple:
    """Return (kernel (out, in, 3, 3), bias (out,)) of a block's branches together."""
    parts = [_folded(_float64(block.rbr_dense.conv.weight), block.rbr_dense.bn)]
    centre = np.pad(_float64(block.rbr_1x1.conv.weight), ((0, 0), (0, 0), (1, 1), (1, 1)))       # (out, in, 3, 3)
    parts.append(_folded(centre, block.rbr_1x1.bn))
    if block.has_identity:
        same = np.zeros_like(centre)
        same[:, :, 1, 1] = np.eye(len(same))
        parts.append(_folded(same, block.rbr_identity))
    return tuple(Tensor(sum(part).astype(np.float32)) for part in zip(*parts))


def _folded(kernel: np.ndarray, norm: nn.BatchNorm2d) -> tuple:
    """Return (kernel, bias) of a convolution and the BatchNorm behind it."""
    scale = _float64(norm.gamma) / np.sqrt(_float64(norm.moving_variance) + norm.eps)
    return kernel * scale[:, None, None, None], _float64(norm.beta) - _float64(norm.moving_mean) * scale


def _float64(parameter: Parameter) -> np.ndarray:
    return parameter.asnumpy().astype(np.float64)
