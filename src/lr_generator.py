"""Learning-rate schedules: step numbers in, float32 rates out. No array as long as the training is ever made."""
import numpy as np


def step_decay(steps, cfg, steps_per_epoch, num_steps):
    """lr * lr_decay ** (epoch // lr_decay_epochs), as LightCNN's authors trained."""
    return cfg.lr * cfg.lr_decay ** (steps // (steps_per_epoch * cfg.lr_decay_epochs))


def cosine_decay(steps, cfg, steps_per_epoch, num_steps):
    """Half a cosine from lr to 0 at the last step (arXiv:1608.03983)."""
    return cfg.lr * 0.5 * (1 + np.cos(np.pi * np.minimum(steps, num_steps) / num_steps))


WARMUP_EPOCHS = 5


def scale_lr(cfg, reference_batch, global_batch, steps_per_epoch):
    """Scale cfg.lr with the batch in place, and warm up over 5 epochs if the recipe does not (arXiv:1706.02677)."""
    cfg.lr *= global_batch / reference_batch
    if global_batch > reference_batch and not cfg.warmup_steps:
        cfg.warmup_steps = min(WARMUP_EPOCHS, max(1, cfg.epochs // 2)) * steps_per_epoch


SCHEDULES = {'step': step_decay, 'cosine': cosine_decay}


def learning_rate(steps, cfg, steps_per_epoch, num_steps):
    """Return the float32 learning rate of each of `steps` (counted from 0) under cfg.lr_schedule.

    The first cfg.warmup_steps rise linearly to the schedule.
    """
    steps = np.asarray(steps)
    warmup = np.minimum(1.0, (steps + 1) / cfg.warmup_steps) if cfg.warmup_steps else 1.0
    return np.float32(warmup * SCHEDULES[cfg.lr_schedule](steps, cfg, steps_per_epoch, num_steps))
