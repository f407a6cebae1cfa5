"""Initial weights from NumPy's generator and the run's seed: the same in every process and for every MindSpore.

    init = Init('xavier', seed=1, target='CPU')
    weight = init(96, 1, 5, 5)                          # a Tensor; weights are drawn one after another
"""
from collections.abc import Callable
from typing import Optional

import numpy as np
from mindspore import Tensor

from src.cpu import onednn


def _xavier(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    """Uniform weights of variance 1 / fan_in."""
    limit = np.sqrt(3 / np.prod(shape[1:]))
    return rng.uniform(-limit, limit, shape).astype(np.float32)


def _centred(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    """Normal weights of zero mean over each filter, scaled so that faces keep unit power through every layer.

    Zero-mean filters ignore the constant that Max-Feature-Map adds to all maps, which otherwise grows from layer to
    layer and hides the face. What is left of the signal is smaller: 1 / 1.3 a layer, 1 / 9 on pixels. These
    gains were measured by layer-sequential unit-variance initialisation (arXiv:1511.06422) on aligned faces.
    """
    weight = rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))
    weight -= weight.mean(tuple(range(1, len(shape))), keepdims=True)
    return weight * np.float32(9.0 if shape[1] in (1, 3) else 1.3)


INITS = {'xavier': _xavier, 'centred': _centred}


class Init:
    """How layers start: weights drawn one after another from one seed; all zero (to be loaded over) without a name.

    A layer with a rule of its own draws from `rng`. `fused`: for the target 'CPU' convolutions are those of
    `src.cpu.fused_mfm` where it can; for None they are MindSpore's, which can be exported.
    """

    def __init__(self, name: Optional[str] = None, seed: int = 0, target: Optional[str] = None):
        self.name = name
        self.draw = INITS[name] if name else lambda rng, shape: np.zeros(shape, np.float32)
        self.rng = np.random.default_rng([seed, 0])
        self.fused = target == 'CPU' and onednn.is_available()

    def __call__(self, *shape: int) -> Tensor:
        return Tensor(self.draw(self.rng, shape))

    def by_rule(self, rule: Callable, *shape: int) -> Tensor:
        """Return a weight that rule(rng, shape) draws, whatever the recipe's own rule; zeros without a name."""
        return Tensor(np.asarray(rule(self.rng, shape), np.float32) if self.name else np.zeros(shape, np.float32))


def normal(std: float) -> Callable:
    """Return the rule N(0, std)."""
    return lambda rng, shape: std * rng.standard_normal(shape)


def torch_default(fan_in: int) -> Callable:
    """Return PyTorch's rule for convolutions, linear layers and their biases: uniform in +-1 / sqrt(fan_in)."""
    limit = 1 / np.sqrt(fan_in)
    return lambda rng, shape: rng.uniform(-limit, limit, shape)


def kaiming_fan_out(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    """Return N(0, sqrt(2 / fan_out)), fan_out = out * k * k (He et al., arXiv:1502.01852)."""
    return np.sqrt(2 / (shape[0] * np.prod(shape[2:]))) * rng.standard_normal(shape)


def truncated_normal(std: float) -> Callable:
    """Return the rule N(0, std) with values beyond 2 (not 2 std) drawn anew, as timm's trunc_normal_ does."""
    def rule(rng, shape):
        return np.clip(std * rng.standard_normal(shape), -2, 2)
    return rule
