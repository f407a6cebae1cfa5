"""The log of a training: lines for people on the terminal, the same as JSON in train_log.jsonl."""
import json
import math
import os
import time
from collections.abc import Sequence

import numpy as np
from easydict import EasyDict as edict

from src.data.lists import write_text

WATCHED = ('target_cosine', 'hard_negatives', 'embedding_norm')     # in the order of src/heads/watch.py


class TrainLog:
    """Lines for people on the terminal and the same as JSON in train_log.jsonl; only rank 0 writes."""

    def __init__(self, file: str, cfg: edict, global_batch: int, steps_per_epoch: int, num_steps: int, first_step: int,
                 is_writer: bool):
        self.file, self.cfg, self.is_writer = file, cfg, is_writer
        self.global_batch, self.steps_per_epoch, self.num_steps = global_batch, steps_per_epoch, num_steps
        self.first_step = self.last_step = self.epoch_step = first_step
        self.start = self.last_time = self.epoch_time = time.time()
        self.losses, self.watched, self.hits, self.num_seen = [], [], 0.0, 0
        if is_writer:
            self._keep_up_to(first_step)

    def _keep_up_to(self, step):
        """Drop the rows of steps that a resumed run does again."""
        rows = read_log(self.file)
        write_text(self.file, ''.join(json.dumps(r) + '\n' for r in rows if r['step'] <= step))

    def step(self, step: int, loss: float, hits: float, lr: float, watched: Sequence = ()) -> None:
        """Take in one step; print and write a line every log_steps and at the end of an epoch.

        hits and watched are sums over the global batch; the line has the means since the last one.
        """
        if math.isfinite(loss):                        # an overflow that the loss scale skips is not
            self.losses.append(loss)
        if watched and all(map(math.isfinite, watched)):
            self.watched.append(watched)
        self.hits += hits
        self.num_seen += 1                             # fewer than steps where several run in one sink
        ends_epoch = step % self.steps_per_epoch == 0
        if step // self.cfg.log_steps > self.last_step // self.cfg.log_steps or ends_epoch or step == self.num_steps:
            self._line(step, lr)
        if ends_epoch:
            self._epoch_line(step)

    def halving(self, done: int, before: float, after: float) -> None:
        """Say that the schedule lowers the learning rate after `done` steps because the loss no longer falls."""
        self.say(f"lr {before:.4g} -> {after:.4g} from step {done + 1} on: the loss no longer falls (mhlr)")
        self.write({'step': done, 'epoch': done / self.steps_per_epoch, 'lr_from': float(before),
                    'lr_to': float(after)})

    def epoch_of(self, step: int) -> int:
        """Return the epoch, from 1, of a step."""
        return 1 + (step - 1) // self.steps_per_epoch

    def _line(self, step, lr):
        now, num = time.time(), step - self.last_step
        row = {'step': step, 'epoch': self.epoch_of(step), 'loss': float(np.mean(self.losses or [math.inf])),
               'lr': float(lr), 'top1': self.hits / (self.num_seen * self.global_batch),
               'images_per_s': num * self.global_batch / (now - self.last_time), **self._watched()}
        remaining = (now - self.start) / (step - self.first_step) * (self.num_steps - step)
        self.say(f"epoch: {row['epoch']} step: {1 + (step - 1) % self.steps_per_epoch}, loss is {row['loss']:.5g}, "
                 f"lr {row['lr']:.4g}, top-1 {100 * row['top1']:.1f} %, {row['images_per_s']:.1f} images/s, "
                 f"{duration(remaining)} left{watched_text(row)}")
        self.write(row)
        if self.is_writer and self.cfg.progress_file:
            write_text(os.path.join(os.path.dirname(self.file), self.cfg.progress_file), prometheus(
                {**row, 'num_steps': self.num_steps, 'seconds_left': remaining, 'time': now}))
        self.losses, self.watched, self.hits, self.num_seen = [], [], 0.0, 0
        self.last_step, self.last_time = step, now

    def _watched(self):
        """Return {name: mean over the images since the last line} of what src/heads/watch.py names."""
        means = np.mean(self.watched, 0) / self.global_batch if self.watched else ()
        return {name: float(mean) for name, mean in zip(WATCHED, means)}

    def _epoch_line(self, step):
        milliseconds = 1000 * (time.time() - self.epoch_time)
        num = step - self.epoch_step
        self.say(f"epoch time: {milliseconds:.3f} ms, per step time: {milliseconds / num:.3f} ms")
        self.epoch_time, self.epoch_step = time.time(), step

    def say(self, text: str) -> None:
        """Print a line for people."""
        if self.is_writer:
            print(text, flush=True)

    def write(self, row: dict) -> None:
        """Append a row to the file."""
        if self.is_writer:
            with open(self.file, 'a', encoding='utf-8') as log:
                log.write(json.dumps(row) + '\n')


def prometheus(row: dict) -> str:
    """Return the numbers of a row in Prometheus' text format, for the textfile collector of its node exporter."""
    found = []
    for name, value in row.items():
        text = repr(float(value)) if math.isfinite(value) else 'NaN' if value != value else f"{'+-'[value < 0]}Inf"
        found.append(f'# TYPE lightcnn_training_{name} gauge\nlightcnn_training_{name} {text}\n')
    return ''.join(found)


def watched_text(row: dict) -> str:
    """Return what is watched, for the end of a line for people."""
    if WATCHED[0] not in row:
        return ''
    cosine, hard, norm = (row[name] for name in WATCHED)
    return f", target cosine {cosine:.3f}, hard negatives {100 * hard:.2f} %, embedding norm {norm:.3g}"


def read_log(file: str) -> list:
    """Return the rows of a train_log.jsonl; a last line cut off by a kill is left out."""
    rows = []
    if os.path.exists(file):
        with open(file, encoding='utf-8') as lines:
            for line in lines:
                try:
                    rows.append(json.loads(line))
                except ValueError:
                    break
    return rows


def duration(seconds: float) -> str:
    """Return seconds as h:mm:ss."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
