"""Staged training: one command trains stage after stage, each from the one before; killed anywhere it goes on there.

    train_stages(get_config('mobilefacenet_y1', dataset_path='faces'), device, 'mobilefacenet_y1', 'ckpt')

Stage N writes what a training writes into ckpt/stageN. It starts from the last or the best checkpoint of the stage
before (`start_from`), with its class weight (`carry_head`) or a new one; optimizer and schedule start anew.
"""
import contextlib
import os
from collections.abc import Callable
from typing import Optional

from easydict import EasyDict as edict

from src.config import stage_configs
from src.device import Device
from src.training import checkpoint
from src.training.guards import wait_for_all
from src.training.trainer import Stage, train


def train_stages(cfg: edict, device: Device, recipe: str, ckpt_dir: str, *, resume: Optional[str] = None,
                 evaluate: Optional[Callable] = None, eval_every: int = 0, finetune: Optional[str] = None) -> int:
    """Train all stages of `cfg` and return the number of steps done in all that it trained.

    resume: 'auto' (the last stage in ckpt_dir that has checkpoints, from the start if none has), or a checkpoint or its
    folder, whose stage goes on. finetune: what the first stage starts from. Raises what `train` raises, and ValueError
    where checkpoints of another training would be mixed with those of this one.
    """
    configs = stage_configs(cfg)
    if any(stage.start_from == 'best' for stage in configs[1:]) and not eval_every:
        raise ValueError("start_from=best: only a training that is scored knows its best checkpoint; give --eval_every")
    os.makedirs(ckpt_dir, exist_ok=True)
    with contextlib.ExitStack() as entered:
        if device.rank == 0:
            entered.enter_context(checkpoint.sole_writer(ckpt_dir))
        first, resume = first_stage(ckpt_dir, resume, len(configs))
        total = 0
        for number, stage_cfg in enumerate(configs[first - 1:], first):
            previous = None
            if number > first:
                wait_for_all(device)                     # until rank 0 has saved the stage before
            if number > 1:
                previous = checkpoint_before(ckpt_dir, number, stage_cfg.start_from, must=number > first or not resume)
            total += train(stage_cfg, device, recipe, folder_of(ckpt_dir, number), resume=resume, evaluate=evaluate,
                           eval_every=eval_every, finetune=finetune if number == 1 else None,
                           stage=Stage(number, len(configs), previous))
            resume = None
    return total


def folder_of(ckpt_dir: str, number: int) -> str:
    """Return the folder of a stage, counted from 1."""
    return os.path.join(ckpt_dir, f'stage{number}')


def first_stage(ckpt_dir: str, resume: Optional[str], num_stages: int) -> tuple:
    """Return (the stage to begin with, what it resumes or None)."""
    begun = checkpoint.stage_folders(ckpt_dir)
    if resume == 'auto':
        number = max(begun, default=1)
        if number > num_stages:
            raise ValueError(f"{begun[number]}: this recipe has {num_stages} stages; give another --ckpt_path")
        return number, 'auto'
    number = 1
    if resume:
        if os.path.isdir(resume):
            folders = checkpoint.stage_folders(resume)
            resume = folders[max(folders)] if folders else resume
        resume = checkpoint.newest(resume, with_metadata=True)
        number = (checkpoint.read_metadata(resume) or {}).get('stage', 1)
        if not isinstance(number, int) or not 1 <= number <= num_stages:
            raise ValueError(f"{resume}: is of stage {number}, this recipe has {num_stages} stages")
    mixed = [folder for other, folder in sorted(begun.items()) if other > number or not resume]
    if mixed:
        raise ValueError(f"{mixed[0]}: holds checkpoints of an earlier training; go on with --resume auto, or give "
                         "another --ckpt_path")
    return number, resume


def checkpoint_before(ckpt_dir: str, number: int, which: str, *, must: bool) -> Optional[str]:
    """Return the checkpoint that stage `number` starts from; None if there is none and there need not be one."""
    folder = folder_of(ckpt_dir, number - 1)
    best = os.path.join(folder, 'best.ckpt')
    try:
        return best if which == 'best' and os.path.exists(best) else checkpoint.newest(folder, with_metadata=True)
    except FileNotFoundError:
        if must:
            raise
        return None
