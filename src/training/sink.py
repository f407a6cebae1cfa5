"""Several steps a call on the device: `sink_size` of them, with the sums of what they gave.

    sink = sunk(step, get, range(first, last), size=10, num_workers=2)
    losses, counts, updated, skipped = sink()          # of ten steps
"""
import math
from collections.abc import Callable

import mindspore as ms
from easydict import EasyDict as edict
from mindspore import Parameter, Tensor, nn, ops

from src.training.log import WATCHED
from src.training.step import TrainStep


class SummedStep(nn.Cell):
    """A step whose outputs are sums over the steps of its sink so far: of a sink only the last outputs come back.

    (images, labels, noise, lr) -> (sum of the losses of steps that changed a weight, sum of counts (4,), number of
    steps that changed a weight, number of steps in a row, up to this one, that changed none), all float32.
    """

    def __init__(self, step: TrainStep, size: int):
        super().__init__(auto_prefix=False)
        self.step, self.size = step, size
        self.place, self.losses, self.updated, self.skipped = (
            Parameter(Tensor(0.0, ms.float32), name=f'sink.{name}', requires_grad=False)
            for name in ('place', 'losses', 'updated', 'skipped'))
        counts = ops.zeros(1 + len(WATCHED), ms.float32)
        self.counts = Parameter(counts, name='sink.counts', requires_grad=False)

    def construct(self, images, labels, noise, lr):
        loss, counts, finite = self.step(images, labels, noise, lr)
        updated = finite.astype(ms.float32)
        inner = (self.place > 0).astype(ms.float32)                   # 0 at the first step of a sink
        counted = ops.select(finite, loss, ops.zeros_like(loss))      # the loss of a skipped step may be infinite
        losses = ops.select(self.place > 0, self.losses, ops.zeros_like(loss)) + counted
        counts = ops.select(ops.isfinite(counts), counts, ops.zeros_like(counts))
        totals = (losses, inner * self.counts + counts, inner * self.updated + updated,
                  (1 - updated) * (self.skipped + 1))
        place = ops.select(self.place + 1 < self.size, self.place + 1, ops.zeros_like(loss))
        done = (ops.assign(self.losses, totals[0]), ops.assign(self.counts, totals[1]),
                ops.assign(self.updated, totals[2]), ops.assign(self.skipped, totals[3]), ops.assign(self.place, place))
        return ops.depend(totals, done)


def sink_length(cfg: edict, steps_per_epoch: int, first: int) -> int:
    """Return how many steps a call may do: no sink runs over the end of an epoch or of the training, nor over a step
    that is saved."""
    size = math.gcd(math.gcd(cfg.sink_size, cfg.num_steps),
                    math.gcd(cfg.save_checkpoint_steps, math.gcd(steps_per_epoch, first)))
    if size != cfg.sink_size:
        print(f"sink_size {cfg.sink_size} does not divide {steps_per_epoch} steps an epoch, "
              f"save_checkpoint_steps, num_steps and the first step; {size} is used", flush=True)
    return size


def sunk(step: TrainStep, get: Callable, steps: range, size: int, num_workers: int) -> Callable:
    """Return a function that does the next `size` of `steps` and returns what `SummedStep` does.

    get: step number -> (images, labels, noise, lr). MindSpore runs the steps kernel by kernel (O0): sunk as a whole
    graph, as the first 910 does by default, a step could not leave out its update.
    """
    class Source:
        def __len__(self):
            return len(steps)

        def __getitem__(self, i):
            return get(steps[i])

    dataset = ms.dataset.GeneratorDataset(Source(), ['images', 'labels', 'noise', 'lr'], shuffle=False,
                                          num_parallel_workers=num_workers, python_multiprocessing=False)
    return ms.data_sink(SummedStep(step, size), dataset, sink_size=size, jit_config=ms.JitConfig(jit_level='O0'))
