"""What one of two CPU ranks does in test_sync_bn.py, and the network that it does it with.

    python shared_statistics.py FOLDER DATA           # under a launcher
"""
import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]
    from src.device import set_up
    MACHINE = set_up('CPU', run_distribute=True)           # before anything else of MindSpore

import numpy as np
from conftest import TINY
from mindspore import nn

from src.backbone import Backbone
from src.backbones import BACKBONES
from src.backbones.blocks import BDFBTail, batch_norm, conv
from src.config import get_config
from src.training import trainer
from src.training.guards import check_same_weights
from src.training.step import build_step

SETTINGS = [*TINY[5:], 'network_type=norms', 'backbone.embedding_size=16', 'check_every=1']
LR = np.float32(0.1)


class Norms(Backbone):
    """(N, C, S, S) -> (N, D) with BatchNorm over maps and over rows, one of them in a SequentialCell."""

    batch_statistics = True

    def __init__(self, init, options):
        super().__init__(options)
        self.first = nn.SequentialCell(conv(init, self.channels, 8, 3, 2), batch_norm(8), nn.ReLU())
        self.bn = batch_norm(8, eps=1e-3, momentum=0.8)
        self.tail = BDFBTail(init, 8, self.image_size // 2, self.image_size // 2, self.embedding_size, rate=0)

    def construct(self, x, noise=None):
        return self.tail(self.bn(self.first(x)))


def batch(rows):
    """Return the rows of a batch of 8: faces of unlike brightness, so that halves have unlike statistics."""
    rng = np.random.default_rng(5)
    images = rng.random((8, 1, 16, 16), np.float32) * np.linspace(0.2, 1, 8, dtype=np.float32).reshape(8, 1, 1, 1)
    return images[rows], np.arange(8, dtype=np.int32)[rows] % 6, np.zeros((8, 1), np.float32)[rows], LR


def after_a_step(cfg, device):
    """Return {name: array} of weights, momentum (the gradient) and statistics after a step, with its loss."""
    step = build_step(cfg, device)
    rows = slice(device.rank * 8 // device.rank_size, (device.rank + 1) * 8 // device.rank_size)
    loss = step.run(*batch(rows))[0].asnumpy()
    check_same_weights(step, device, 1) if device.rank_size > 1 else None
    return {'loss': loss, **{p.name: p.asnumpy() for p in [*step.weights, *step.moments, *step.state]}}


def settings(data, *more):
    """Return the settings of a run on the data set `data`."""
    BACKBONES['norms'] = Norms
    return get_config('quickstart', [*SETTINGS, *more], str(data))


def drift(cfg):
    """Return what the check of ranks says when a running mean of rank 1 alone is another, with shared ones and own."""
    found = []
    for shared in (True, False):
        cfg.sync_bn = shared
        step = build_step(cfg, MACHINE)
        if MACHINE.rank:
            step.backbone.bn.moving_mean[0] = 3
        try:
            found.append(check_same_weights(step, MACHINE, 7))
        except RuntimeError as error:
            found.append(str(error))
    return found


if __name__ == '__main__':
    out, data = Path(sys.argv[1]), sys.argv[2]
    for name, more in {'shared': ('sync_bn=true',), 'own': ()}.items():
        np.savez(out / f'{name}_{MACHINE.rank}.npz', **after_a_step(settings(data, 'batch_size=4', *more), MACHINE))
    (out / f'drift_{MACHINE.rank}.txt').write_text('\n'.join(map(str, drift(settings(data, 'batch_size=4')))))
    trainer.train(settings(data, 'batch_size=4', 'sync_bn=true'), MACHINE, 'quickstart', str(out / 'ckpt'))
