"""Runs heads on this rank's rows of a batch and writes what they gave: python two_ranks.py OUT [--ranks, under msrun].

PYTHONPATH must hold the project and its tests.

OUT/<size>_<rank>.npz: {head/step/array}; gradients as the rank has them, before they are averaged.
"""
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from head_goldens import Runner, parameters
from mindspore.communication import get_group_size, get_rank, init

from src.heads import HEADS, build_head

ROWS, SIZE, CLASSES, STEPS = 16, 8, 12, 2
VARIANTS = {**{name: (name, {}) for name in HEADS},
            'center paper': ('arcface', {'center': 0.1, 'center_update': 'paper', 'ring': 0.1, 'magnitude': 1.0}),
            'contrastive all': ('contrastive', {'pairs': 'all'}),
            'contrastive halves': ('contrastive', {'pairs': 'halves'}),
            'mps narrow': ('mps', {'margin': 0.3}),
            'triplet semihard': ('triplet', {'mining': 'semihard'}),
            'triplet random': ('triplet', {'mining': 'random'}),
            'triplet all': ('triplet', {'mining': 'all'})}


def batch(step):
    """Return the global batch of a step: rows of several lengths, four people with four rows each."""
    rng = np.random.default_rng(step)
    x = rng.standard_normal((ROWS, SIZE)) * rng.uniform(1, 20, (ROWS, 1))
    return x.astype(np.float32), rng.permutation(np.repeat(np.arange(4), 4)).astype(np.int32)


def rows_of(rank, size, in_halves):
    """Return which rows of the global batch a rank has; of both halves where a head pairs them."""
    if not in_halves:
        return np.arange(ROWS).reshape(size, -1)[rank]
    return np.arange(ROWS).reshape(2, size, -1)[:, rank].reshape(-1)


def outputs(name, rank, size):
    """Return {step/array} of a head on this rank's rows."""
    kind, options = VARIANTS[name]
    head = build_head(kind, CLASSES, SIZE, **options).set_train()
    head.set_ranks(rank, size)
    runner, found = Runner(head), {}
    mine = rows_of(rank, size, kind == 'mps' or options.get('pairs') == 'halves')
    for step in range(STEPS):
        x, labels = batch(step)
        found.update({f'{step}/{key}': value for key, value in runner.run(x[mine], labels[mine]).items()})
        states = {n: p.asnumpy().copy() for n, p in parameters(head).items() if not p.requires_grad}
        found.update({f'{step}/state {key}': value for key, value in states.items()})
    return {**found, 'rows': mine}


def main(out):
    """Write the outputs of all heads."""
    ms.set_context(mode=ms.GRAPH_MODE)
    rank, size = 0, 1
    if '--ranks' in sys.argv:
        ms.set_device('CPU')
        init()
        rank, size = get_rank(), get_group_size()
    arrays = {f'{name}/{key}': value for name in VARIANTS for key, value in outputs(name, rank, size).items()}
    np.savez(Path(out) / f'{size}_{rank}.npz', **arrays)


if __name__ == '__main__':
    main(sys.argv[1])
