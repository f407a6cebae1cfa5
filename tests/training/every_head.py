"""Trains with a head of every kind on this rank: python every_head.py FOLDER DATA, under a launcher.

KINDS also tells test_every_head.py what to train on one rank.
"""
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1]),
                str(Path(__file__).resolve().parent)]

from conftest import TINY  # noqa: E402
from toy_backbone import PLAIN, register  # noqa: E402

from src.config import get_config  # noqa: E402

ADAMW = ['optimizer=adamw', 'adam_eps=0.01', 'weight_decay=0.05', 'clip_part=backbone', 'clip_norm=0.5']
KINDS = {
    'no state': ['head=arcface', *ADAMW, 'lr_schedule=mhlr', 'mhlr_threshold=1', 'mhlr_tau=0.2'],
    'scale': ['head=adacos', 'optimizer=nesterov'],
    'running mean': ['head=curricularface', 'head_lr_mult=2'],
    'mean and deviation': ['head=adaface', 'head.momentum=0.5', *ADAMW],
    'annealing': ['head=sphereface'],
    'margins': ['head=adam_softmax'],
    'trained centres': ['head=softmax', 'head.center=0.1', 'head.git=0.1', 'head.ring=0.1'],
    'moved centres': ['head=cosface', 'head.center=0.1', 'head.center_update=paper'],
    'gaussians': ['head=lgm'],
    'triplets': ['head=triplet', 'head.mining=hardest', 'faces_per_person=2'],
    'two views': ['head=mps', 'faces_per_person=2'],
    'pairs': ['head=contrastive'],
}


def settings(kind, data, batch_size):
    """Return the settings of six steps with a head."""
    register()
    return get_config('quickstart', [
        *TINY[5:], f'network_type={PLAIN}', 'backbone.embedding_size=8', f'batch_size={batch_size}', 'num_steps=6',
        'save_checkpoint_steps=3', 'log_steps=1', 'check_every=1', 'lr=0.005', 'warmup_steps=2', 'init=xavier',
        *KINDS[kind]], data)


def staged_settings(data, batch_size):
    """Return the settings of two stages of three steps."""
    cfg = settings('running mean', data, batch_size)
    cfg.num_steps, cfg.stages = 3, [{'loss': 'arcface'}, {'optimizer': 'adamw', 'adam_eps': 0.01}]
    return cfg


if __name__ == '__main__':
    from src.device import set_up
    machine = set_up('CPU', run_distribute=True)
    from src.training import trainer
    from src.training.stages import train_stages
    train_stages(staged_settings(sys.argv[2], 4), machine, 'quickstart', str(Path(sys.argv[1]) / 'staged'))
    for kind in KINDS:
        trainer.train(settings(kind, sys.argv[2], 4), machine, 'quickstart', str(Path(sys.argv[1]) / kind))
