"""The loop over steps and batches: what each step gave, fetched while the next one runs.

    for out in step_outputs(step, batches, rates, range(first, last), cfg, pause):
        out.done, out.loss, out.hits, out.settled, out.watched

What comes out of a step must be taken in before the next `next`: rates may depend on it.
"""
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from easydict import EasyDict as edict

from src.dataset import TrainingBatches, prefetch
from src.training.sink import sink_length, sunk
from src.training.step import TrainStep


class Output(NamedTuple):
    """What a step gave, or the steps of one sink: means of those that changed a weight.

    done: steps done so far. loss: infinite if none of them changed a weight. hits: top-1 hits a step, of all ranks.
    updated: how many of them changed weights. skipped: steps in a row, up to this one, that changed none. settled:
    whether the weights are those after this step; else the next one is already under way. watched: sums a step of what
    src/heads/watch.py names, over the rows of all ranks.
    """

    done: int
    loss: float
    hits: float
    updated: int
    skipped: int
    settled: bool
    watched: tuple = ()


def step_outputs(step: TrainStep, batches: TrainingBatches, rate: Callable, steps: range, cfg: edict,
                 pause: Callable = lambda done: False) -> Iterator:
    """Yield the `Output` of every step in order, one step late: a card has its next step before it is asked.

    rate: step number -> learning rate, asked for when the step begins; outputs up to two steps before it have come
    then. pause: number of steps done -> whether somebody will look at the weights then; the next step waits for it.
    With cfg.sink_size > 1 (Ascend, GPU) that many steps run per call, cut so that checkpoints keep their steps, and
    rates are asked for ahead. If the input fails, the step before is yielded, settled, before the error is raised.
    """
    if cfg.sink_size > 1:
        def get(k: int) -> tuple:
            return *batches[k], np.float32(rate(k))
        yield from _sunk_outputs(step, get, steps, sink_length(cfg, batches.steps_per_epoch, steps.start),
                                 cfg.num_workers)
        return
    fetch, waiting = _fetcher(), None
    inputs = prefetch(batches.__getitem__, steps, cfg.num_workers)
    for k in steps:
        try:
            batch = next(inputs)
        except Exception:
            if waiting:
                yield fetch(*waiting, settled=True)
            raise
        started = k + 1, step.run(*batch, np.float32(rate(k)))
        if waiting:
            yield fetch(*waiting, settled=False)
        waiting = started
        if pause(k + 1):
            yield fetch(*waiting, settled=True)
            waiting = None
    if waiting:
        yield fetch(*waiting, settled=True)


def _fetcher() -> Callable:
    """Return a function (steps done, step's tensors, settled) -> Output that counts the steps skipped in a row."""
    skipped = 0

    def fetch(done: int, tensors: tuple, settled: bool) -> Output:
        nonlocal skipped
        loss, counts, updated = (x.asnumpy() for x in tensors)
        skipped = 0 if updated else skipped + 1
        hits, *watched = counts.reshape(-1).tolist()
        return Output(done, float(loss), hits, int(updated), skipped, settled, tuple(watched))
    return fetch


def _sunk_outputs(step: TrainStep, get: Callable, steps: range, size: int, num_workers: int) -> Iterator:
    sink = sunk(step, get, steps, size, num_workers)
    for done in range(size, len(steps) + 1, size):
        losses, counts, updated, skipped = (x.asnumpy() for x in sink())
        loss = float(losses / updated) if updated else float('inf')
        hits, *watched = (counts.reshape(-1) / size).tolist()
        yield Output(steps[done - 1] + 1, loss, hits, int(updated), int(skipped), True, tuple(watched))
