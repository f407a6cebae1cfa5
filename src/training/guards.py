"""What looks after a training: signals that ask it to stop, steps that never come, ranks that drift apart."""
import os
import signal
import sys
import threading
import time
import zlib

from types import FrameType
from typing import Any, Optional

import numpy as np
from mindspore import Tensor, ops

from src.device import Device
from src.training.step import TrainStep


class StopSignals:
    """While it is entered, SIGTERM and SIGINT wait in `number` for the end of the step; a second one acts at once.

    With every step MindSpore takes SIGINT for itself and sends SIGTERM in its place: Ctrl-C comes as SIGTERM too.
    Of several ranks only rank 0 minds them: the others go on until rank 0 has saved and its launcher stops them.
    """

    def __init__(self, is_writer: bool):
        self.is_writer, self.number, self.before = is_writer, None, {}

    def __enter__(self) -> 'StopSignals':
        handler = self._note if self.is_writer else signal.SIG_IGN
        self.before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number: int, _: Optional[FrameType]) -> None:
        if self.number:
            os._exit(128 + number)
        self.number = number

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


class Watchdog:
    """Ends the process with one line and code 1 if `alive` is not called for `seconds`; 0 means never."""

    def __init__(self, seconds: float, ckpt_dir: str):
        self.seconds, self.ckpt_dir = seconds, ckpt_dir
        self.ended = threading.Event()
        self.alive()

    def alive(self) -> None:
        """Say that a step has come."""
        self.last = time.monotonic()

    def __enter__(self) -> 'Watchdog':
        if self.seconds:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def _watch(self):
        while not self.ended.wait(min(1.0, self.seconds / 4)):
            if time.monotonic() - self.last > self.seconds:
                print(f"error: no step for {self.seconds:g} s (hang_seconds): another rank, a card or the storage "
                      f"hangs; go on with --resume {self.ckpt_dir}", file=sys.stderr, flush=True)
                os._exit(1)

    def __exit__(self, *_: Any) -> None:
        self.ended.set()


def wait_for_all(device: Device) -> None:
    """Return when all ranks have come here, so that none waits for another in the middle of its first step."""
    if device.rank_size > 1:
        ops.AllReduce()(Tensor(np.zeros(1, np.float32))).asnumpy()


def check_same_weights(step: TrainStep, device: Device, done: int) -> None:
    """Raise RuntimeError unless all ranks hold the same `common_state`, to the last bit.

    All ranks call it together. BatchNorm's running statistics are compared where sync_bn shares them; else they are
    each rank's own.
    """
    checksum = 0
    for parameter in step.common_state:
        checksum = zlib.crc32(np.ascontiguousarray(parameter.asnumpy()), checksum)
    sums = np.zeros((device.rank_size, 2), np.float32)
    sums[device.rank] = divmod(checksum, 1 << 16)                   # halves that float32 holds exactly
    sums = ops.AllReduce()(Tensor(sums)).asnumpy()
    different = np.flatnonzero((sums != sums[0]).any(1))
    if len(different):
        raise RuntimeError(f"after {done} steps the weights of rank {different[0]} differ from those of rank 0 "
                           f"({len(different)} of {device.rank_size} ranks): they have drifted apart")


def take_statistics_of_rank_0(step: TrainStep, device: Device) -> None:
    """Give all ranks the BatchNorm statistics of rank 0, those of its checkpoints: they are to score one network."""
    if device.rank_size == 1 or not step.own_statistics:
        return
    own = np.concatenate([p.asnumpy().ravel() for p in step.own_statistics])
    common = ops.AllReduce()(Tensor(own if device.rank == 0 else np.zeros_like(own))).asnumpy()
    ends = np.cumsum([p.size for p in step.own_statistics])
    for parameter, values in zip(step.own_statistics, np.split(common, ends[:-1])):
        parameter.set_data(Tensor(values.reshape(parameter.shape)))
