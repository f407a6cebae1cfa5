"""One training step as a Cell: forward, backward, averaged gradients, SGD; and the loop over steps and batches.

    step = build_step(cfg, device)
    loss, hits, updated = step.run(images, labels, noise, lr)                  # arrays
    for done, loss, hits, updated in step_outputs(step, batches, rate, range(first, last), cfg): ...
"""
import math
from collections.abc import Callable, Iterator
from typing import Any, Optional

import mindspore as ms
import numpy as np
from easydict import EasyDict as edict
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.common.initializer import initializer

from src.backbone import Backbone
from src.cpu.host_mean import host_mean
from src.dataset import TrainingBatches, prefetch
from src.device import Device
from src.heads.head import Head
from src.training.network import TrainingNetwork, training_network

PART = 32                        # images that go through the network at once on the CPU


def num_parts(batch_size: int) -> int:
    """Return the number of equal parts, of PART images or not much fewer, that a batch has; 1 if there are none."""
    fitting = (n for n in range(1, batch_size + 1) if batch_size % n == 0 and PART < 2 * batch_size // n <= 2 * PART)
    return next(fitting, 1)


class TrainStep(nn.Cell):
    """Forward, backward and SGD with momentum: (images, labels, noise, lr) -> (loss, top-1 hits, updated or not).

    Gradients are averaged over `rank_size` processes, in shared memory where the launcher gave some. With a loss
    scaler, a step whose gradients are not finite changes no weight and lowers the scale.
    """

    def __init__(self, network: nn.Cell, cfg: edict, rank: int = 0, rank_size: int = 1, loss_scaler: Any = None,
                 parts: Optional[TrainingNetwork] = None):
        super().__init__(auto_prefix=False)
        self.network = network
        parts = parts or network
        self.parts = parts.backbone, parts.head
        self.weights = ParameterTuple(network.trainable_params())
        self.moments = self.zeros('moments')
        self.state = [p for p in network.get_parameters() if not p.requires_grad]       # running means, scales, ...
        groups = [parts.parameter_group(w.name, cfg) for w in self.weights]
        self.lr_mults, self.decays = [g[0] for g in groups], [g[1] for g in groups]
        self.momentum = Tensor(cfg.momentum, ms.float32)
        self.update = ops.ApplyMomentum()
        self.rank_size = rank_size
        self.sum = ops.AllReduce() if rank_size > 1 else None
        self.host_mean = host_mean(rank, rank_size, [w.shape for w in self.weights])
        self.scaler = loss_scaler
        self.clip_norm, self.one = cfg.clip_norm, Tensor(1.0, ms.float32)
        self.value_and_grad = ms.value_and_grad(self.forward, None, self.weights, has_aux=True)

    @property
    def backbone(self) -> Backbone:
        """The network that stays: mixed precision wraps the one that is trained."""
        return self.parts[0]

    @property
    def head(self) -> Head:
        """The head on top of it."""
        return self.parts[1]

    def zeros(self, prefix: str) -> ParameterTuple:
        """Return a parameter of zeros for every weight; its memory is not touched before it is used."""
        return ParameterTuple([Parameter(initializer('zeros', w.shape), name=f'{prefix}.{w.name}')
                               for w in self.weights])

    def forward(self, images, labels, noise):
        loss, hits = self.network(images, labels, noise)
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        return loss, hits

    def construct(self, images, labels, noise, lr):
        (loss, hits), grads = self.value_and_grad(images, labels, noise)
        return self.finish(loss, hits, grads, lr)

    def run(self, images: np.ndarray, labels: np.ndarray, noise: np.ndarray, lr: np.float32) -> tuple:
        """Take one step with arrays; return (loss, hits, updated) as tensors."""
        return self(Tensor(images), Tensor(labels), Tensor(noise), Tensor(lr))

    def finish(self, loss, hits, grads, lr):
        """Average over ranks, update the weights, return what a step returns."""
        if self.rank_size > 1:
            loss, hits, grads = self.averaged(loss, hits, grads)
        finite = Tensor(True)
        if self.scaler is not None:
            loss = self.scaler.unscale(loss)
            finite = ms.amp.all_finite(grads)
            grads = self.scaler.unscale(grads)
            self.scaler.adjust(finite)
            if finite:
                loss = ops.depend(loss, self.apply(grads, lr))
        else:
            loss = ops.depend(loss, self.apply(grads, lr))
        return loss, hits, finite

    def averaged(self, loss, hits, grads):
        """Return mean loss, all hits and mean gradients of all ranks."""
        if self.host_mean is not None:
            loss = self.sum(ops.depend(loss, self.host_mean.write(*grads)))         # waits until all have written
            grads = self.host_mean.mean(loss)
            return loss / self.rank_size, self.sum(ops.depend(hits, grads)), grads  # until all have read
        return self.sum(loss) / self.rank_size, self.sum(hits), self.all_reduced(grads)

    def all_reduced(self, grads):
        """Return the mean over ranks: all gradients in one call, since each call costs its own round trip."""
        flat = ()
        for grad in grads:
            flat = flat + (grad.reshape(-1),)
        total = self.sum(ops.concat(flat)) / self.rank_size
        mean, start = (), 0
        for grad in grads:
            mean = mean + (total[start:start + grad.size].reshape(grad.shape),)
            start = start + grad.size
        return mean

    def clip_factor(self, grads):
        if self.clip_norm == 0:
            return 1.0
        power = 0.0
        for grad in grads:
            power = power + (grad * grad).reshape(grad.shape[0], -1).sum(1).sum()      # 3 times faster than one sum
        return ops.minimum(self.clip_norm / ops.sqrt(power), self.one)

    def apply(self, grads, lr):
        factor = self.clip_factor(grads)
        done = True
        for i in range(len(self.weights)):
            grad = factor * grads[i] + self.decays[i] * self.weights[i]
            done = ops.depend(done, self.update(self.weights[i], self.moments[i], lr * self.lr_mults[i], grad,
                                                self.momentum))
        return done


class AddGradients(nn.Cell):
    """A part of a batch: (images, labels, noise) -> (loss, top-1 hits); its gradients are added to `sums`."""

    def __init__(self, value_and_grad, sums):
        super().__init__(auto_prefix=False)
        self.value_and_grad, self.sums, self.add = value_and_grad, sums, ops.AssignAdd()

    def construct(self, images, labels, noise):
        (loss, hits), grads = self.value_and_grad(images, labels, noise)
        done = True
        for i in range(len(self.sums)):
            done = ops.depend(done, self.add(self.sums[i], grads[i]))
        return ops.depend(loss, done), hits


class SplitStep(TrainStep):
    """A `TrainStep` that takes its batch in `num_parts`, one after the other: a large batch needs a part's memory."""

    def __init__(self, network: nn.Cell, cfg: edict, rank: int = 0, rank_size: int = 1):
        super().__init__(network, cfg, rank, rank_size)
        self.num_parts = num_parts(cfg.batch_size)
        self.sums = self.zeros('sums')
        self.add_gradients = AddGradients(self.value_and_grad, self.sums)

    def forward(self, images, labels, noise):
        loss, hits = self.network(images, labels, noise)
        return loss / self.num_parts, hits

    def run(self, images: np.ndarray, labels: np.ndarray, noise: np.ndarray, lr: np.float32) -> tuple:
        total_loss = total_hits = 0.0
        for part in zip(*(np.split(array, self.num_parts) for array in (images, labels, noise))):
            loss, hits = (float(x.asnumpy()) for x in self.add_gradients(*map(Tensor, part)))
            total_loss, total_hits = total_loss + loss, total_hits + hits
        return self(Tensor(np.float32(total_loss)), Tensor(np.float32(total_hits)), Tensor(lr))

    def construct(self, loss, hits, lr):
        outputs = self.finish(loss, hits, self.sums, lr)
        for total in self.sums:
            ops.assign_sub(total, total)             # zero again, without the memory of zeros
        return outputs


def build_step(cfg: edict, device: Device) -> TrainStep:
    """Return the step of a run: fp32 on the CPU, large batches in parts; elsewhere mixed precision, dynamic scale."""
    ms.set_seed(cfg.seed)
    network = training_network(cfg, device.target)
    if device.target == 'CPU':
        splits = num_parts(cfg.batch_size) > 1 and not network.needs_whole_batch
        kind = SplitStep if splits else TrainStep
        step = kind(network, cfg, device.rank, device.rank_size)
    else:
        scaler = ms.amp.DynamicLossScaler(scale_value=2.0 ** 16, scale_factor=2, scale_window=2000)
        mixed = ms.amp.auto_mixed_precision(network, 'O2')
        step = TrainStep(mixed, cfg, device.rank, device.rank_size, scaler, network)
    step.set_train()
    return step


def step_outputs(step: TrainStep, batches: TrainingBatches, rate: Callable, steps: range, cfg: edict) -> Iterator:
    """Yield (number of steps done, loss, top-1 hits, updated) as floats, in order.

    With cfg.sink_size > 1 (Ascend, GPU) that many steps run per call on the device, cut so that checkpoints keep
    their steps; otherwise threads prepare the next batches while one step runs.
    """
    def get(k):
        return *batches[k], np.float32(rate(k))

    if cfg.sink_size > 1:
        yield from _sunk_outputs(step, get, steps, batches, cfg)
        return
    for k, batch in zip(steps, prefetch(get, steps, cfg.num_workers)):
        yield k + 1, *(float(x.asnumpy()) for x in step.run(*batch))


def _sunk_outputs(step, get, steps, batches, cfg):
    # a sink must not run over the end of an epoch or of the training, nor over a step that is saved
    size = math.gcd(cfg.sink_size, math.gcd(cfg.save_checkpoint_steps, math.gcd(batches.steps_per_epoch, steps.start)))
    if size != cfg.sink_size:
        print(f"sink_size {cfg.sink_size} does not divide {batches.steps_per_epoch} steps an epoch, "
              f"save_checkpoint_steps and the first step; {size} is used", flush=True)

    class Source:
        def __len__(self):
            return len(steps)

        def __getitem__(self, i):
            return get(steps[i])

    dataset = ms.dataset.GeneratorDataset(Source(), ['images', 'labels', 'noise', 'lr'], shuffle=False,
                                          num_parallel_workers=cfg.num_workers, python_multiprocessing=False)
    sink = ms.data_sink(step, dataset, sink_size=size, jit_config=ms.JitConfig())
    for done in range(size, len(steps) + 1, size):
        yield steps[done - 1] + 1, *(float(x.asnumpy()) for x in sink())
