"""Compile the training step of recipes for eight Ascend cards, without a card: MindSpore's simulation, level 0.

    bash scripts/dry_run.sh                            # every recipe, a line each; needs the CANN toolkit
    python -m src.training.dry_run quickstart          # one; --device_target CPU: for this machine, in O2 all the same
"""
import argparse
import os
import time

import numpy as np
from easydict import EasyDict as edict

from src import cli, device
from src.config import RECIPES, get_config, stage_configs


def example_batch(cfg: edict, channels: int, noise_size: int) -> tuple:
    """Return (images (N, C, S, S), labels (N,), noise (N, M), learning rate) of zeros, as a card's step takes them."""
    images = np.zeros((cfg.batch_size, channels, cfg.image_size, cfg.image_size), np.uint8)
    return (images, np.zeros(cfg.batch_size, np.int32), np.zeros((cfg.batch_size, max(1, noise_size)), np.float32),
            np.float32(0.01))


def compile_step(cfg: edict, machine: device.Device) -> str:
    """Compile the step of a recipe and return a line that says what it is."""
    import mindspore as ms

    from src.training.step import build_step
    start = time.time()
    step = build_step(cfg, machine)
    batch = example_batch(cfg, step.backbone.channels, step.backbone.noise_size)
    step.compile(*(ms.Tensor(array) for array in batch))
    parameters = sum(weight.size for weight in step.weights)
    return (f"{cfg.network_type} with {cfg.loss}, {machine.rank_size} x batch {cfg.batch_size}, {parameters} weights: "
            f"compiled in {time.time() - start:.0f} s")


def main() -> None:
    """Do what the command line asks for."""
    flags = argparse.ArgumentParser(prog='dry_run', description=__doc__.splitlines()[0])
    flags.add_argument('recipe', nargs='?', choices=list(RECIPES), help='without one, list them')
    flags.add_argument('--device_target', default='Ascend', choices=('Ascend', 'CPU'))
    flags.add_argument('--set', nargs='+', action='extend', default=[], metavar='KEY=VALUE', dest='settings')
    args = flags.parse_args()
    if args.recipe is None:
        print('\n'.join(RECIPES))
        return
    cfg = get_config(args.recipe, args.settings)
    if args.device_target == 'CPU':
        device.set_up('CPU')
        machine = device.Device('Ascend', 0, 0, 1)
    else:
        machine = device.simulated(int(os.environ.get('RANK_SIZE', '8')))
    stages = stage_configs(cfg)
    for number, stage in enumerate(stages, 1):
        name = f'{args.recipe}, stage {number}' if len(stages) > 1 else args.recipe
        print(f"{name}: {compile_step(stage, machine)}", flush=True)


if __name__ == '__main__':
    cli.run(main)
