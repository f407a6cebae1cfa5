"""Optimizers by name: from averaged gradients to new weights, inside the training step.

    optimizer = build_optimizer(cfg, weights, lr_mults, decays)
    done = optimizer(gradients, factors, lr)                 # factors: what clipping multiplies each gradient with

The formulas are those of PyTorch's torch.optim.SGD and AdamW, in float32. What an optimizer remembers is in `state`.
"""
import math

import mindspore as ms
import numpy as np
from easydict import EasyDict as edict
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.common.initializer import initializer


def zeros(prefix: str, weights: ParameterTuple) -> ParameterTuple:
    """Return a parameter of zeros for every weight; its memory is not touched before it is used."""
    return ParameterTuple([Parameter(initializer('zeros', w.shape), name=f'{prefix}.{w.name}') for w in weights])


class Optimizer(nn.Cell):
    """(gradients, factors, lr) -> True, once all weights have changed.

    Weight i is trained at lr * lr_mults[i] and decays by decays[i].
    """

    def __init__(self, cfg: edict, weights: ParameterTuple, lr_mults: list, decays: list):
        super().__init__(auto_prefix=False)
        self.weights, self.lr_mults, self.decays = weights, lr_mults, decays
        self.moments = zeros('moments', weights)

    @property
    def state(self) -> list:
        """The parameters that a checkpoint keeps."""
        return list(self.moments)


class SGD(Optimizer):
    """g = grad + decay * w; buffer = momentum * buffer + g; w -= lr * buffer."""

    def __init__(self, cfg: edict, weights: ParameterTuple, lr_mults: list, decays: list):
        super().__init__(cfg, weights, lr_mults, decays)
        self.momentum = Tensor(cfg.momentum, ms.float32)
        self.update = ops.ApplyMomentum()

    def construct(self, grads, factors, lr):
        done = True
        for i in range(len(self.weights)):
            grad = factors[i] * grads[i] + self.decays[i] * self.weights[i]
            done = ops.depend(done, self.update(self.weights[i], self.moments[i], lr * self.lr_mults[i], grad,
                                                self.momentum))
        return done


class Nesterov(SGD):
    """The same, but w -= lr * (g + momentum * buffer): Nesterov's momentum as PyTorch writes it.

    MindSpore's ApplyMomentum has an option for it, which its CPU kernel ignores without a word.
    """

    def construct(self, grads, factors, lr):
        done = True
        for i in range(len(self.weights)):
            grad = factors[i] * grads[i] + self.decays[i] * self.weights[i]
            buffer = self.momentum * self.moments[i] + grad
            change = lr * self.lr_mults[i] * (grad + self.momentum * buffer)
            done = ops.depend(done, (ops.assign(self.moments[i], buffer), ops.assign_sub(self.weights[i], change)))
        return done


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101).

    w -= lr * decay * w; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
    w -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps), t the number of updates, from 1.

    MindSpore's operator adds eps to sqrt(v) itself, so it gets eps * sqrt(1 - beta2^t). 1 - beta^t is computed as
    -expm1(t log beta): the difference would lose four digits of the seven in the first steps.
    """

    def __init__(self, cfg: edict, weights: ParameterTuple, lr_mults: list, decays: list):
        super().__init__(cfg, weights, lr_mults, decays)
        self.second_moments = zeros('second_moments', weights)
        self.updates = Parameter(Tensor(0, ms.int32), name='adamw.updates', requires_grad=False)
        self.beta1, self.beta2 = Tensor(cfg.adam_beta1, ms.float32), Tensor(cfg.adam_beta2, ms.float32)
        # of the betas as float32, with which the operator averages; 0 ** t is 0
        self.logs = [math.log(max(float(np.float32(beta)), 1e-30)) for beta in (cfg.adam_beta1, cfg.adam_beta2)]
        self.eps, self.zero, self.adam = cfg.adam_eps, Tensor(0.0, ms.float32), ops.Adam()

    @property
    def state(self) -> list:
        """Both moments and the number of updates."""
        return [*self.moments, *self.second_moments, self.updates]

    def construct(self, grads, factors, lr):
        updates = self.updates + 1
        done = ops.depend(True, ops.assign(self.updates, updates))
        t = updates.astype(ms.float32)
        first, second = -ops.expm1(t * self.logs[0]), ops.sqrt(-ops.expm1(t * self.logs[1]))
        for i in range(len(self.weights)):
            rate = lr * self.lr_mults[i]
            if self.decays[i]:
                done = ops.depend(done, ops.assign_sub(self.weights[i], rate * self.decays[i] * self.weights[i]))
            changed = self.adam(self.weights[i], self.moments[i], self.second_moments[i], self.zero, self.zero,
                                rate * second / first, self.beta1, self.beta2, self.eps * second,
                                factors[i] * grads[i])
            done = ops.depend(done, changed)
        return done


OPTIMIZERS = {'sgd': SGD, 'nesterov': Nesterov, 'adamw': AdamW}


def build_optimizer(cfg: edict, weights: ParameterTuple, lr_mults: list, decays: list) -> Optimizer:
    """Return the optimizer that cfg.optimizer names."""
    return OPTIMIZERS[cfg.optimizer](cfg, weights, lr_mults, decays)
