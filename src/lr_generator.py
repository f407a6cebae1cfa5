"""Learning-rate schedules: step numbers in, float32 rates out. No array as long as the training is ever made.

    cfg.lr_schedule = 'cosine'
    rate = learning_rate(k, cfg, steps_per_epoch, num_steps)          # of step k, counted from 0

A schedule in SCHEDULES is a function (steps, cfg, steps_per_epoch, num_steps) -> rates without warm-up; WARMUPS says
how the first cfg.warmup_steps lead to it. `Mhlr` is the one that looks at the losses; `Rates` are those of a training.
"""
from typing import Optional, Union

import numpy as np
from easydict import EasyDict as edict

Steps = Union[int, np.ndarray]
WARMUP_EPOCHS = 5


def step_decay(steps: Steps, cfg: edict, steps_per_epoch: int, num_steps: int) -> Steps:
    """lr * lr_decay ** (epoch // lr_decay_epochs), as LightCNN's authors trained."""
    return cfg.lr * cfg.lr_decay ** (steps // (steps_per_epoch * cfg.lr_decay_epochs))


def multistep(steps: Steps, cfg: edict, steps_per_epoch: int, num_steps: int) -> Steps:
    """lr * lr_decay at each of lr_steps ('120000,140000') and of lr_epochs ('10,13,16'): FaceX-Zoo, insightface."""
    milestones = [*numbers(cfg.lr_steps), *(steps_per_epoch * epoch for epoch in numbers(cfg.lr_epochs))]
    return cfg.lr * cfg.lr_decay ** np.searchsorted(np.sort(milestones), steps, 'right')


def cosine_decay(steps: Steps, cfg: edict, steps_per_epoch: int, num_steps: int) -> Steps:
    """Half a cosine from lr to lr_final at the last step, warm-up included (arXiv:1608.03983)."""
    return _cosine(np.minimum(steps, num_steps) / num_steps, cfg)


def cosine_after_warmup(steps: Steps, cfg: edict, steps_per_epoch: int, num_steps: int) -> Steps:
    """The same over the steps after the warm-up, as gluon-face."""
    return _cosine(_progress(steps, cfg, num_steps), cfg)


def poly(steps: Steps, cfg: edict, steps_per_epoch: int, num_steps: int) -> Steps:
    """From lr to lr_final as (1 - progress after the warm-up) ** lr_power: arcface_torch (1), gluon-face (0.9, 2)."""
    return cfg.lr_final + (cfg.lr - cfg.lr_final) * (1 - _progress(steps, cfg, num_steps)) ** cfg.lr_power


def constant(steps: Steps, cfg: edict, steps_per_epoch: int, num_steps: int) -> Steps:
    """lr."""
    return cfg.lr * np.ones_like(steps, np.float64)


def mhlr(steps: Steps, cfg: edict, steps_per_epoch: int, num_steps: int) -> Steps:
    """lr, which `Mhlr` halves where the loss stops falling."""
    return constant(steps, cfg, steps_per_epoch, num_steps)


def _cosine(progress: Steps, cfg: edict) -> Steps:
    return cfg.lr_final + (cfg.lr - cfg.lr_final) * 0.5 * (1 + np.cos(np.pi * progress))


def _progress(steps: Steps, cfg: edict, num_steps: int) -> Steps:
    """Return the share of the steps after the warm-up that is done, 0..1."""
    return np.clip((steps - cfg.warmup_steps) / max(1, num_steps - cfg.warmup_steps), 0, 1)


def warmup_scaled(steps: Steps, cfg: edict) -> Steps:
    """The schedule's own rate times (k + 1) / warmup_steps."""
    return (steps + 1) / cfg.warmup_steps


def warmup_linear(steps: Steps, cfg: edict) -> Steps:
    """From warmup_lr in step 0 to lr: gluon-face, Swin."""
    return cfg.warmup_lr + (cfg.lr - cfg.warmup_lr) * steps / cfg.warmup_steps


def warmup_constant(steps: Steps, cfg: edict) -> Steps:
    """warmup_lr: gluon-face."""
    return cfg.warmup_lr * np.ones_like(steps, np.float64)


def warmup_arcface_torch(steps: Steps, cfg: edict) -> Steps:
    """lr * k / warmup_steps, but the full lr in step 0: what arcface_torch's PolynomialLRWarmup really does."""
    return np.where(np.equal(steps, 0), cfg.lr, cfg.lr * steps / cfg.warmup_steps)


SCHEDULES = {'step': step_decay, 'multistep': multistep, 'cosine': cosine_decay,
             'cosine_after_warmup': cosine_after_warmup, 'poly': poly, 'constant': constant, 'mhlr': mhlr}
WARMUPS = {'scaled': warmup_scaled, 'linear': warmup_linear, 'constant': warmup_constant,
           'arcface_torch': warmup_arcface_torch}


def numbers(text: str) -> list:
    """Return the whole numbers of '10,13,16', [] of ''; ValueError for anything else."""
    try:
        return [int(part) for part in text.split(',')] if text else []
    except ValueError:
        raise ValueError(f"'{text}': expected whole numbers with commas between them, such as 10,13,16") from None


def learning_rate(steps: Steps, cfg: edict, steps_per_epoch: int, num_steps: int) -> np.ndarray:
    """Return the float32 learning rate of each of `steps` (counted from 0) under cfg.lr_schedule and cfg.warmup."""
    steps = np.asarray(steps)
    rates = SCHEDULES[cfg.lr_schedule](steps, cfg, steps_per_epoch, num_steps)
    if not cfg.warmup_steps:
        return np.float32(rates)
    first = WARMUPS[cfg.warmup](steps, cfg)
    if cfg.warmup == 'scaled':
        return np.float32(np.minimum(1.0, first) * rates)
    return np.float32(np.where(steps < cfg.warmup_steps, first, rates))


def scale_lr(cfg: edict, reference_batch: int, global_batch: int, steps_per_epoch: int) -> None:
    """Scale cfg.lr with the batch in place, and warm up over 5 epochs if the recipe does not (arXiv:1706.02677)."""
    cfg.lr *= global_batch / reference_batch
    if global_batch > reference_batch and not cfg.warmup_steps:
        cfg.warmup_steps = min(WARMUP_EPOCHS, max(1, cfg.epochs // 2)) * steps_per_epoch


class Mhlr:
    """Halves the rate where the loss stops falling (Gong et al., arXiv:2404.11118), at most `most` times.

    `update(loss)` after each step; `multiplier` is what the next step's rate is multiplied with. The fall of the loss
    is smoothed twice; the rate is halved once it has been below `threshold` for more than tau * num_steps steps. The
    decision of one update takes effect in the next one, so a rate needs the losses up to two steps before it.
    `state` is all there is to save. fastface: start as the FastFace repository does, whose first difference is not
    smoothed the second time and decides for thousands of steps.
    """

    def __init__(self, num_steps: int, *, alpha: float = 1e-3, beta: float = 1e-3, threshold: float = 5e-5,
                 tau: float = 0.05, factor: float = 2.0, most: int = 8, fastface: bool = False):
        self.alpha, self.beta, self.threshold, self.factor, self.most = alpha, beta, threshold, factor, most
        self.patience, self.fastface = int(tau * num_steps), fastface
        # multiplier, factor to apply, losses, last loss, smoothed fall, fall smoothed twice, steps below, halvings
        self.state = np.array([1, 1, 0, 0, 0, 0, 0, 0], np.float64)

    @property
    def multiplier(self) -> float:
        """What the next step's rate is multiplied with."""
        return float(self.state[0])

    @property
    def multiplier_after(self) -> float:
        """What the rate of the step after the next is multiplied with, whatever the next one's loss is."""
        return float(self.state[0] * self.state[1])

    def update(self, loss: Optional[float]) -> bool:
        """Take in the loss of a step, None of one that changed no weight; return whether the rate falls with the next.

        A loss that does not count decides nothing, but what was decided takes effect all the same.
        """
        multiplier, pending, num, last, fall, trend, below, halvings = self.state
        multiplier, halve = multiplier * pending, False
        if loss is not None:
            fall, trend = self._smoothed(num, last - loss, fall, trend)
            stalls, waits = num > 0 and trend < self.threshold, below < self.patience
            ends = stalls and not waits
            below = below + 1 if stalls and waits else 0
            halvings += ends
            halve = ends and halvings <= self.most
            num, last = num + 1, loss
        self.state = np.array([multiplier, 1 / self.factor if halve else 1, num, last, fall, trend, below, halvings],
                              np.float64)
        return bool(pending != 1)

    def _smoothed(self, num: float, difference: float, fall: float, trend: float) -> tuple:
        """Return the smoothed fall and its own smoothed value after another difference of two losses."""
        a, b = self.alpha, self.beta
        if num == 0:
            return 0.0, 0.0
        if num == 1:
            return a * difference / (b if self.fastface else 1.0), a * difference
        fall = (1 - a) * fall + a * difference
        return fall, b * fall + (1 - b) * trend


class Rates:
    """The learning rate of every step of a training, decided when the step begins: `rates(k)`.

    `update` takes in what each step gave. Under MHLR the rate of step k follows from the losses of steps 0 to k - 2,
    counted from 0, of those that changed a weight: the trainer fetches a loss while the next step runs, so these are
    always there, and a resumed run has the same ones. Losses are those of the global batch, so all ranks agree.
    """

    def __init__(self, cfg: edict, steps_per_epoch: int, num_steps: int):
        self.cfg, self.steps_per_epoch, self.num_steps = cfg, steps_per_epoch, num_steps
        self.mhlr = None
        if cfg.lr_schedule == 'mhlr':
            self.mhlr = Mhlr(num_steps, alpha=cfg.mhlr_alpha, beta=cfg.mhlr_beta, threshold=cfg.mhlr_threshold,
                             tau=cfg.mhlr_tau, factor=cfg.mhlr_factor, most=cfg.mhlr_most, fastface=cfg.mhlr_fastface)
            self.start(0, self.mhlr.state)

    def start(self, done: int, state: np.ndarray) -> None:
        """Go on after `done` steps with a saved state of MHLR."""
        self.mhlr.state = np.array(state, np.float64)
        self.multipliers = {done: self.mhlr.multiplier, done + 1: self.mhlr.multiplier_after}

    def __call__(self, k: int) -> np.float32:
        """Return the rate of step k: of any step, but under MHLR of the last one done and the next two."""
        rate = learning_rate(k, self.cfg, self.steps_per_epoch, self.num_steps)
        return rate if self.mhlr is None else np.float32(rate * self.multipliers[k])

    def update(self, done: int, loss: Optional[float]) -> bool:
        """Take in the loss of the step that makes it `done` steps, None if it changed no weight.

        Returns whether MHLR lowers the rate from the next step on.
        """
        if self.mhlr is None:
            return False
        falls = self.mhlr.update(loss)
        self.multipliers = {done - 1: self.multipliers[done - 1], done: self.mhlr.multiplier,
                            done + 1: self.mhlr.multiplier_after}
        return falls
