"""One training step as a Cell: forward, backward, averaged gradients, an optimizer.

    step = build_step(cfg, device)
    loss, counts, updated = step.run(images, labels, noise, lr)                # arrays

`counts`, (4,) float32: top-1 hits and what src/heads/watch.py names, summed over the rows of all ranks.
"""
from collections.abc import Callable
from typing import Any, Optional

import mindspore as ms
import numpy as np
from easydict import EasyDict as edict
from mindspore import ParameterTuple, Tensor, nn, ops

from src.backbone import Backbone
from src.cpu.host_mean import host_mean
from src.cpu.ordered_prelu import sum_in_order
from src.data.face_format import face_format
from src.device import Device
from src.heads.head import Head
from src.training.network import TrainingNetwork, training_network
from src.training.optimizers import build_optimizer, zeros
from src.training.precision import mixed_precision, needs_loss_scale, precision_of
from src.training.sync_bn import share_batch_statistics

PART = 32                        # images that go through the network at once on the CPU
STATISTICS = ('moving_mean', 'moving_variance')
BUCKET = 2 ** 21                 # gradients that cards sum in one call, 8 MB: large enough for full bandwidth


def num_parts(batch_size: int) -> int:
    """Return the number of equal parts, of PART images or not much fewer, that a batch has; 1 if there are none."""
    fitting = (n for n in range(1, batch_size + 1) if batch_size % n == 0 and PART < 2 * batch_size // n <= 2 * PART)
    return next(fitting, 1)


def bucket_reducer(weights: ParameterTuple, rank_size: int) -> nn.Cell:
    """Return MindSpore's mean of gradients over ranks, in buckets of BUCKET numbers in the order of the backward pass.

    It comes to the last weights first: the sum of their bucket runs on the links while the others are computed.
    """
    bucket, held = 1, 0
    for weight in reversed(weights):
        if held and held + weight.size > BUCKET:
            bucket, held = bucket + 1, 0
        weight.comm_fusion, held = bucket, held + weight.size
    return nn.DistributedGradReducer(weights, mean=True, degree=rank_size)


class TrainStep(nn.Cell):
    """Forward, backward and the optimizer's update: (images, labels, noise, lr) -> (loss, counts, updated or not).

    Gradients are averaged over `rank_size` processes: `on_cards` in buckets, else in shared memory where the launcher
    gave some. With a loss scaler, a step whose gradients are not finite on every rank changes no weight and lowers the
    scale, on all ranks alike. parts: the network before mixed precision wrapped it.
    """

    def __init__(self, network: nn.Cell, cfg: edict, rank: int = 0, rank_size: int = 1, loss_scaler: Any = None,
                 parts: Optional[TrainingNetwork] = None, on_cards: bool = False):
        super().__init__(auto_prefix=False)
        self.network = network
        parts = parts or network
        self.parts = parts.backbone, parts.head
        self.weights = ParameterTuple(network.trainable_params())
        self.state = [p for p in network.get_parameters() if not p.requires_grad]       # running means, scales, ...
        groups = [parts.parameter_group(w.name, cfg) for w in self.weights]
        self.optimizer = build_optimizer(cfg, self.weights, [g[0] for g in groups], [g[1] for g in groups])
        self.rank_size = rank_size
        self.sum = ops.AllReduce() if rank_size > 1 else None
        on_cards = on_cards and rank_size > 1
        self.reducer = bucket_reducer(self.weights, rank_size) if on_cards else None
        self.host_mean = None if on_cards else host_mean(rank, rank_size, [w.shape for w in self.weights])
        self.scaler, self.sync_bn = loss_scaler, cfg.sync_bn
        self.clip_norm, self.one = cfg.clip_norm, Tensor(1.0, ms.float32)
        self.is_clipped = [cfg.clip_part == 'all' or w.name.startswith('backbone.') for w in self.weights]
        face = face_format(cfg.face_format)
        self.mean, self.scale = float(face.mean), float(face.scale)
        self.value_and_grad = ms.value_and_grad(self.forward, None, self.weights, has_aux=True)

    @property
    def backbone(self) -> Backbone:
        """The network that stays: mixed precision wraps the one that is trained."""
        return self.parts[0]

    @property
    def head(self) -> Head:
        """The head on top of it."""
        return self.parts[1]

    @property
    def moments(self) -> list:
        """What the optimizer remembers."""
        return self.optimizer.state

    @property
    def common_state(self) -> list:
        """What must be equal on all ranks: weights, momentum, loss scale, the head's state, shared statistics."""
        own = {p.name for p in self.own_statistics}
        scale = [self.scaler.scale_value, self.scaler.counter] if self.scaler is not None else []
        return [*self.weights, *self.moments, *scale, *(p for p in self.state if p.name not in own)]

    @property
    def own_statistics(self) -> list:
        """What each rank measures for itself: BatchNorm's running means and variances, unless they are shared."""
        return [p for p in self.state if p.name.rpartition('.')[2] in STATISTICS and not p.name.startswith('head.')
                and not self.sync_bn]

    def scaled(self, images: Tensor) -> Tensor:
        """Return images as the network takes them: uint8 pixels are scaled as `FaceFormat.to_input` does."""
        if images.dtype == ms.uint8:
            images = images.astype(ms.float32)
            if self.mean != 0:
                images = images - self.mean
            images = images / self.scale
        return images

    def forward(self, images: Tensor, labels: Tensor, noise: Tensor) -> tuple:
        loss, counts = self.network(self.scaled(images), labels, noise)
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        return loss, counts

    def construct(self, images, labels, noise, lr):
        (loss, counts), grads = self.value_and_grad(images, labels, noise)
        return self.finish(loss, counts, grads, lr)

    def run(self, images: np.ndarray, labels: np.ndarray, noise: np.ndarray, lr: np.float32) -> tuple:
        """Take one step with arrays; return (loss, counts, updated) as tensors."""
        return self(Tensor(images), Tensor(labels), Tensor(noise), Tensor(lr))

    def finish(self, loss: Tensor, counts: Tensor, grads: tuple, lr: Tensor) -> tuple:
        """Average over ranks, update the weights, return what a step returns."""
        if self.rank_size > 1:
            loss, counts, grads = self.averaged(loss, counts, grads)
        finite = Tensor(True)
        if self.scaler is not None:
            loss = self.scaler.unscale(loss)
            finite = self.finite_everywhere(grads)
            grads = self.scaler.unscale(grads)
            self.scaler.adjust(finite)
            if finite:
                loss = ops.depend(loss, self.apply(grads, lr))
        else:
            loss = ops.depend(loss, self.apply(grads, lr))
        return loss, counts, finite

    def finite_everywhere(self, grads: tuple) -> Tensor:
        """Return whether no rank has seen an overflow.

        On a first-generation 910, and wherever overflows saturate, a card knows of its own only: the averaged gradients
        are finite then, and ranks that decided for themselves would part.
        """
        finite = ms.amp.all_finite(grads)
        if self.rank_size > 1:
            finite = self.sum(1.0 - finite.astype(ms.float32)) < 0.5
        return finite

    def averaged(self, loss: Tensor, counts: Tensor, grads: tuple) -> tuple:
        """Return mean loss, counts and mean gradients of all ranks."""
        if self.host_mean is not None:
            loss = self.sum(ops.depend(loss, self.host_mean.write(*grads)))         # waits until all have written
            grads = self.host_mean.mean(loss)
            return loss / self.rank_size, self.sum(ops.depend(counts, grads)), grads    # until all have read
        mean = self.all_reduced(grads) if self.reducer is None else self.reducer(grads)
        return self.sum(loss) / self.rank_size, self.sum(counts), mean

    def all_reduced(self, grads: tuple) -> tuple:
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

    def clip_factors(self, grads: tuple) -> tuple:
        """Return what each gradient is multiplied with, so that those of cfg.clip_part are clip_norm long at most."""
        factor = 1.0
        if self.clip_norm != 0:
            power = 0.0
            for i in range(len(grads)):
                if self.is_clipped[i]:                                     # 3 times faster than one sum
                    power = power + (grads[i] * grads[i]).reshape(grads[i].shape[0], -1).sum(1).sum()
            factor = ops.minimum(self.clip_norm / ops.sqrt(power), self.one)
        factors = ()
        for is_clipped in self.is_clipped:
            factors = factors + (factor if is_clipped else 1.0,)
        return factors

    def apply(self, grads: tuple, lr: Tensor) -> Tensor:
        return self.optimizer(grads, self.clip_factors(grads), lr)


class AddGradients(nn.Cell):
    """A part of a batch: (images, labels, noise) -> (loss, counts); its gradients are added to `sums`."""

    def __init__(self, value_and_grad: Callable, sums: ParameterTuple):
        super().__init__(auto_prefix=False)
        self.value_and_grad, self.sums, self.add = value_and_grad, sums, ops.AssignAdd()

    def construct(self, images, labels, noise):
        (loss, counts), grads = self.value_and_grad(images, labels, noise)
        done = True
        for i in range(len(self.sums)):
            done = ops.depend(done, self.add(self.sums[i], grads[i]))
        return ops.depend(loss, done), counts


class SplitStep(TrainStep):
    """A `TrainStep` that takes its batch in `num_parts`, one after the other: a large batch needs a part's memory."""

    def __init__(self, network: nn.Cell, cfg: edict, rank: int = 0, rank_size: int = 1):
        super().__init__(network, cfg, rank, rank_size)
        self.num_parts = num_parts(cfg.batch_size)
        self.sums = zeros('sums', self.weights)
        self.add_gradients = AddGradients(self.value_and_grad, self.sums)

    def forward(self, images: Tensor, labels: Tensor, noise: Tensor) -> tuple:
        loss, counts = self.network(self.scaled(images), labels, noise)
        return loss / self.num_parts, counts

    def run(self, images: np.ndarray, labels: np.ndarray, noise: np.ndarray, lr: np.float32) -> tuple:
        total_loss, total_counts = 0.0, 0.0
        for part in zip(*(np.split(array, self.num_parts) for array in (images, labels, noise))):
            loss, counts = (x.asnumpy().astype(np.float64) for x in self.add_gradients(*map(Tensor, part)))
            total_loss, total_counts = total_loss + loss, total_counts + counts
        return self(Tensor(np.float32(total_loss)), Tensor(total_counts.astype(np.float32)), Tensor(lr))

    def construct(self, loss, counts, lr):
        outputs = self.finish(loss, counts, self.sums, lr)
        for total in self.sums:
            ops.assign_sub(total, total)             # zero again, without the memory of zeros
        return outputs


def build_step(cfg: edict, device: Device) -> TrainStep:
    """Return the step of a run: float32 on the CPU, large batches in parts; on cards mixed precision, dynamic scale."""
    precision = precision_of(cfg, device)
    ms.set_seed(cfg.seed)
    network = training_network(cfg, device.target)
    network.head.set_ranks(device.rank, device.rank_size)
    if cfg.sync_bn:
        share_batch_statistics(network.backbone, device)
    if device.target == 'CPU':
        sum_in_order(network)
        splits = num_parts(cfg.batch_size) > 1 and not network.needs_whole_batch
        kind = SplitStep if splits else TrainStep
        step = kind(network, cfg, device.rank, device.rank_size)
    else:
        scaler = (ms.amp.DynamicLossScaler(scale_value=2.0 ** 16, scale_factor=2, scale_window=2000)
                  if needs_loss_scale(precision, device) else None)
        step = TrainStep(mixed_precision(network, precision), cfg, device.rank, device.rank_size, scaler, network,
                         on_cards=True)
    step.set_train()
    return step
