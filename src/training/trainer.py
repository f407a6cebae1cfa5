"""Training from the first step, or the last checkpoint, to the end: batches, steps, checkpoints, log.

    train(cfg, device, recipe='lightcnn9_celebrities', ckpt_dir='ckpt')

leaves lightcnn-<epoch>_<step>.ckpt with metadata, card.json, train_log.jsonl, training.png and bad_images.txt in
ckpt_dir.
"""
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import NamedTuple, Optional

from easydict import EasyDict as edict

from src.config import RECIPES
from src.data.digests import Listed
from src.dataset import TrainingBatches, open_faces
from src.device import Device
from src.lr_generator import Rates, scale_lr
from src.training import checkpoint
from src.training.fingerprints import Maker
from src.training.genuine import batch_notes
from src.training.guards import StopSignals, Watchdog, check_same_weights, take_statistics_of_rank_0, wait_for_all
from src.training.log import TrainLog, read_log
from src.training.outputs import Output, step_outputs
from src.training.plot import plot_training
from src.training.reproduction import Card, reaches_mark
from src.training.saver import Saver, load_for_finetuning, load_head
from src.training.step import build_step

MAX_SKIPPED = 50                 # overflows in a row that a loss scale may cause; more is a training that has failed


class Stage(NamedTuple):
    """Which stage of a staged training a run is, and the checkpoint of the one before that it starts from."""

    number: int
    num_stages: int
    previous: Optional[str]


def train(cfg: edict, device: Device, recipe: str, ckpt_dir: str, *, resume: Optional[str] = None,
          evaluate: Optional[Callable] = None, eval_every: int = 0, finetune: Optional[str] = None,
          stage: Optional[Stage] = None) -> int:
    """Train to the end of cfg.epochs, or for cfg.num_steps, and return the number of steps done.

    resume: a checkpoint, a folder of them, or 'auto' (ckpt_dir, from the start if it holds none).
    evaluate: called with the embedding network every `eval_every` epochs; returns a dict with 'eer100'.
    finetune: a checkpoint whose embedding network is the start, unless there is something to resume. stage: the same
    with the stage before, and with its class weight if cfg.carry_head says so; `train_stages` trains all of them.
    Raises FloatingPointError if the loss is not finite, RuntimeError if ranks drift apart, ValueError or
    FileNotFoundError for bad input or if another training writes to ckpt_dir. SIGTERM and SIGINT save and leave with
    code 143.
    """
    os.makedirs(ckpt_dir, exist_ok=True)
    with contextlib.ExitStack() as entered:
        if device.rank == 0:
            entered.enter_context(checkpoint.sole_writer(ckpt_dir))
            checkpoint.remove_left_over(ckpt_dir)
        training = Training(cfg, device, recipe, ckpt_dir, stage)
        started_from = training.begin(resume, finetune)
        if device.rank == 0:
            maker = entered.enter_context(Maker(training.batches.faces, ckpt_dir))
            maker.begin(started_from, resumed=training.first > 0)
            training.saver.fingerprint = maker.link()
        entered.enter_context(training.card).begin(training.first, training.batches.faces, started_from)
        stop = entered.enter_context(StopSignals(device.rank == 0))
        watchdog = entered.enter_context(Watchdog(cfg.hang_seconds, ckpt_dir))
        try:
            return training.run(stop, watchdog, evaluate, eval_every)
        except (OSError, ValueError):            # the input or the disk failed in the middle: keep what was learnt
            with contextlib.suppress(OSError):
                if training.settled:
                    training.save()
            raise


class Training:
    """One run: its batches, its step, its checkpoints, its log, and the number of steps done."""

    def __init__(self, cfg: edict, device: Device, recipe: str, ckpt_dir: str, stage: Optional[Stage] = None):
        self.cfg, self.device, self.ckpt_dir, self.stage = cfg, device, ckpt_dir, stage
        faces = open_faces(cfg)
        self.card = Card(ckpt_dir, cfg, recipe, device, Listed(faces), stage)
        self.num_bad = faces.check(cfg, ckpt_dir, device)
        wait_for_all(device)
        self.step = build_step(cfg, device)
        self.batches = TrainingBatches(faces, cfg, device.rank, device.rank_size, self.step.backbone.noise_size,
                                       as_bytes=device.target != 'CPU',
                                       in_halves=self.step.head.pairs_halves)
        self.per_epoch, self.num_steps = self.batches.steps_per_epoch, cfg.num_steps or len(self.batches)
        if cfg.scale_lr:
            scale_lr(cfg, RECIPES[recipe]().batch_size, self.batches.global_batch, self.per_epoch)
        self.rates = Rates(cfg, self.per_epoch, self.num_steps)
        self.saver = Saver(ckpt_dir, cfg, recipe, self.step, self.batches, self.rates, device.rank == 0,
                           {'stage': stage.number} if stage else None)
        self.first, self.done, self.settled = 0, 0, True       # settled: the weights are those after `done` steps

    def begin(self, resume: Optional[str], finetune: Optional[str]) -> Optional[str]:
        """Restore or finetune as asked, open the log and say what is about to happen.

        Return the checkpoint that gave the weights, None if they are new.
        """
        cfg, device = self.cfg, self.device
        started_from, self.done = self._restore(resume)
        self.first, start = self.done, ''
        if not self.first:
            started_from, start = self._start(finetune)
        if self.stage:
            start = f"; stage {self.stage.number} of {self.stage.num_stages}, {cfg.loss}{start}"
        self.log = TrainLog(os.path.join(self.ckpt_dir, 'train_log.jsonl'), cfg, self.batches.global_batch,
                            self.per_epoch, self.num_steps, self.first, device.rank == 0)
        self.best = max([row['eer100'] for row in read_log(self.log.file) if 'eer100' in row], default=-1)
        self.log.say(f"{cfg.network_type} on {device.target}, {device.rank_size} x batch {cfg.batch_size}: "
                     f"{len(self.batches.faces)} images of {cfg.num_classes} people ({self.num_bad} unreadable left "
                     f"out), {self.per_epoch} steps an epoch, steps {self.first} to {self.num_steps}, lr {cfg.lr:g}"
                     f"{start}")
        for note in batch_notes(self.step.head, self.batches):
            self.log.say(note)
        return started_from

    def _start(self, finetune: Optional[str]) -> tuple:
        """Load the weights that a training begins with; return (their checkpoint or None, what to say of them)."""
        previous = self.stage.previous if self.stage else None
        if self.stage and self.stage.number > 1 and not previous:
            raise FileNotFoundError(f"{self.ckpt_dir}: holds no valid checkpoint to go on from, and the stage before "
                                    "none to start from")
        if not (previous or finetune):
            return None, ''
        started_from = load_for_finetuning(self.step, self.cfg, previous or finetune)
        if not (previous and self.cfg.carry_head):
            return started_from, f", from the embedding in {started_from}"
        load_head(self.step, previous)
        return started_from, f", from the embedding and the class weight in {started_from}"

    def _restore(self, resume: Optional[str]) -> tuple:
        """Return (the checkpoint that was restored or None, number of steps it has done)."""
        if not resume:
            return None, 0
        try:
            done, ckpt = self.saver.restore(self.ckpt_dir if resume == 'auto' else resume)
        except FileNotFoundError:
            if resume == 'auto':
                return None, 0
            raise
        if self.device.rank == 0:
            print(f"resuming from {ckpt}, {done} steps done", flush=True)
        return ckpt, done

    def run(self, stop: StopSignals, watchdog: Watchdog, evaluate: Optional[Callable], eval_every: int) -> int:
        """Do all steps that are left; return the number of steps done."""
        if self.device.rank_size > 1:
            check_same_weights(self.step, self.device, self.done)
        left = range(self.first, self.num_steps)

        def pause(done: int) -> bool:
            return bool(stop.number or self._saves(done) or self._evaluates(done, done - 1, eval_every) or
                        self._compares(done, done - 1) or reaches_mark(done, done - 1, self.num_steps))
        for output in step_outputs(self.step, self.batches, self.rates, left, self.cfg, pause):
            before, self.done, self.settled = self.done, output.done, output.settled
            watchdog.alive()
            self._check_finite(output)
            self._take_in(output)
            if output.settled and reaches_mark(self.done, before, self.num_steps):
                self.card.weights(self.done, self.step)
            if self._compares(self.done, before):
                check_same_weights(self.step, self.device, self.done)
            if stop.number and output.settled:
                self._leave(stop.number)
            if self._saves(self.done):
                self.save()
            if self._evaluates(self.done, before, eval_every):
                self._evaluate(evaluate)
                watchdog.alive()
        self.save()
        return self.done

    def _saves(self, done: int) -> bool:
        return done % self.cfg.save_checkpoint_steps == 0 and done < self.num_steps

    def _compares(self, done: int, before: int) -> bool:
        every = self.cfg.check_every
        return bool(self.device.rank_size > 1 and every and done // every > before // every)

    def _evaluates(self, done: int, before: int, eval_every: int) -> bool:
        every = eval_every * self.per_epoch
        return bool(every and (done // every > before // every or done == self.num_steps))

    def save(self) -> None:
        """Save what this run has learnt, and draw its curves."""
        if self.done > self.first:
            self._save_checkpoint()
            if self.log.is_writer:
                plot_training(read_log(self.log.file), os.path.join(self.ckpt_dir, 'training.png'))

    def _save_checkpoint(self) -> None:
        saved = self.saver.save(self.done)
        if saved:
            self.card.checkpoint(saved, self.done, self.step)

    def _check_finite(self, output: Output) -> None:
        if output.updated and not math.isfinite(output.loss) or output.skipped > MAX_SKIPPED:
            raise FloatingPointError(f"the loss is {output.loss} at step {self.done}, epoch "
                                     f"{self.log.epoch_of(self.done)}; lower lr or raise warmup_steps, then go on with "
                                     f"--resume {self.ckpt_dir}")

    def _take_in(self, output: Output) -> None:
        """Tell the log and the schedule what a step gave."""
        falls = self.rates.update(self.done, output.loss if output.updated else None)
        rate = self.rates(self.done - 1)
        self.log.step(self.done, output.loss, output.hits, rate, output.watched)
        if falls and self.done < self.num_steps:
            self.log.halving(self.done, rate, self.rates(self.done))

    def _leave(self, number: int) -> None:
        """Save and end the process with the code that a signal stands for."""
        self._save_checkpoint()
        self.log.say(f"{signal.Signals(number).name}: saved after {self.done} steps; go on with --resume auto")
        if self.device.rank_size > 1:
            os._exit(128 + number)               # the other ranks still wait in a collective: no orderly farewell
        sys.exit(128 + number)

    def _evaluate(self, evaluate: Callable) -> None:
        """Score the network, all ranks together; keep it as best.ckpt if it is the best so far."""
        start = time.time()
        take_statistics_of_rank_0(self.step, self.device)
        self.step.set_train(False)
        result = evaluate(self.step.backbone)
        self.step.set_train()
        self.log.say(f"LFW after {self.done} steps: 100%eer {result['eer100']:.4f} ({time.time() - start:.0f} s)")
        self.log.write({'step': self.done, 'epoch': self.done / self.per_epoch, **result})
        if result['eer100'] > self.best:
            self.best = result['eer100']
            self.saver.save(self.done, 'best.ckpt')
