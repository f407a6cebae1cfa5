"""Layers that many backbones share. Cells are named as in the PyTorch originals, so that weights of others fit by name.

A parameter's last word is MindSpore's (gamma, moving_mean, w); `torch_name` gives PyTorch's. Initial values are
PyTorch's defaults unless a `rule` is given; all come from the network's `Init`.
"""
from collections.abc import Callable
from typing import Optional, Union

import numpy as np
from mindspore import Tensor, nn, ops

from src.backbone import keep_mask
from src.initializers import Init, torch_default

_TORCH = {'gamma': 'weight', 'beta': 'bias', 'moving_mean': 'running_mean', 'moving_variance': 'running_var',
          'w': 'weight'}


def torch_name(name: str) -> str:
    """Return the name that a parameter of a backbone has in the original's state dict."""
    path, dot, last = name.rpartition('.')
    return path + dot + _TORCH.get(last, last)


def zeros(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    """Return zeros: a rule for biases."""
    return np.zeros(shape)


def conv(init: Init, in_channels: int, out_channels: int, kernel: Union[int, tuple] = 1, stride: int = 1,
         padding: Union[int, tuple, None] = None, *, groups: int = 1, bias: bool = False,
         rule: Optional[Callable] = None, bias_rule: Optional[Callable] = None) -> nn.Conv2d:
    """Return a convolution (N, in, H, W) -> (N, out, H', W'), padded by kernel // 2 unless `padding` says else."""
    height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    default = torch_default(in_channels // groups * height * width)
    return nn.Conv2d(in_channels, out_channels, (height, width), stride, pad_mode='pad',
                     padding=height // 2 if padding is None else padding, group=groups, has_bias=bias,
                     weight_init=init.by_rule(rule or default, out_channels, in_channels // groups, height, width),
                     bias_init=init.by_rule(bias_rule or default, out_channels) if bias else None)


def linear(init: Init, in_size: int, out_size: int, *, bias: bool = True, rule: Optional[Callable] = None,
           bias_rule: Optional[Callable] = None) -> nn.Dense:
    """Return a linear layer (N, in) -> (N, out)."""
    return nn.Dense(in_size, out_size, weight_init=init.by_rule(rule or torch_default(in_size), out_size, in_size),
                    bias_init=init.by_rule(bias_rule or torch_default(in_size), out_size) if bias else None,
                    has_bias=bias)


def batch_norm(channels: int, *, eps: float = 1e-5, momentum: float = 0.9) -> nn.BatchNorm2d:
    """Return BatchNorm over (N, C, H, W). momentum: what running statistics keep, 1 - PyTorch's number."""
    return nn.BatchNorm2d(channels, eps=eps, momentum=momentum)


def batch_norm_1d(channels: int, *, eps: float = 1e-5, momentum: float = 0.9) -> nn.BatchNorm1d:
    """Return BatchNorm over (N, C)."""
    return nn.BatchNorm1d(channels, eps=eps, momentum=momentum)


def prelu(channels: int) -> nn.PReLU:
    """Return PReLU with a slope a channel, 0.25 at the start."""
    return nn.PReLU(channels)


def dropout(x: Tensor, noise: Tensor, rate: float) -> Tensor:
    """Return x (N, ...) with a share `rate` set to 0 and the rest scaled up. noise: (N, numbers of x an image)."""
    return x * keep_mask(noise, rate).reshape(x.shape).astype(x.dtype)


def halved(size: int, times: int) -> int:
    """Return the side of a map after `times` layers of stride 2 that round up (3x3, padding 1)."""
    return -(-size // 2 ** times)


class SqueezeExcite(nn.Cell):
    """Scale each map by a gate made of all maps' means (Hu et al., arXiv:1709.01507): (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, init: Init, channels: int, reduced: int, act: Callable, gate: Callable, *,
                 bias_rule: Optional[Callable] = None):
        super().__init__()
        self.conv_reduce = conv(init, channels, reduced, bias=True, bias_rule=bias_rule)
        self.conv_expand = conv(init, reduced, channels, bias=True, bias_rule=bias_rule)
        self.act, self.gate = act, gate

    def construct(self, x):
        mean = ops.mean(x, (2, 3), True)                                   # (N, C, H, W) -> (N, C, 1, 1)
        return x * self.gate(self.conv_expand(self.act(self.conv_reduce(mean))))


class BDFBTail(nn.SequentialCell):
    """BatchNorm, dropout, flatten, linear with bias, BatchNorm: (N, C, H, W) -> (N, D). Cells 0, 3 and 4 have weights.

    With `noise` (N, C * H * W) it drops a share `rate` of the numbers.
    """

    def __init__(self, init: Init, channels: int, height: int, width: int, embedding_size: int, *, rate: float):
        super().__init__(batch_norm(channels), nn.Identity(), nn.Flatten(),
                         linear(init, channels * height * width, embedding_size), batch_norm_1d(embedding_size))
        self.rate, self.noise_size = rate, channels * height * width if rate else 0

    def construct(self, x, noise=None):
        norm, _, flatten, fc, last = self.cell_list
        x = norm(x)
        if noise is not None and self.rate > 0:
            x = dropout(x, noise, self.rate)
        return last(fc(flatten(x)))                                        # (N, C, H, W) -> (N, C * H * W) -> (N, D)
