"""What one of two CPU ranks does in test_two_ranks.py: steps, reducers and a short run; rank 0 writes what it saw.

    python two_ranks.py FOLDER DATA           # under a launcher
"""
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1]),
                str(Path(__file__).resolve().parent)]
from src.device import Device, set_up  # noqa: E402

MACHINE = set_up('CPU', run_distribute=True)           # before anything else of MindSpore

import mindspore as ms  # noqa: E402
import numpy as np  # noqa: E402
from conftest import TINY  # noqa: E402
from toy_backbone import NAME as TOY  # noqa: E402
from toy_backbone import register  # noqa: E402

from src.config import get_config  # noqa: E402
from src.training import trainer  # noqa: E402
from src.training.guards import check_same_weights  # noqa: E402
from src.training.step import bucket_reducer, build_step  # noqa: E402

CARD = Device('Ascend', MACHINE.device_id, MACHINE.rank, MACHINE.rank_size)
SETTINGS = [*TINY[5:], f'network_type={TOY}', 'backbone.embedding_size=32', 'batch_size=4', 'check_every=2', 'epochs=1']


def batch(rank, scale=1.0):
    rng = np.random.default_rng(rank)
    return [rng.random((4, 1, 16, 16), np.float32) * np.float32(scale), np.arange(4, dtype=np.int32),
            np.zeros((4, 1), np.float32), np.float32(0.01)]


def steps(cfg, overflows):
    """Return (weights after, loss scale, updated) of two steps in O2, the second with `overflows` on rank 1."""
    step = build_step(cfg, CARD)
    step.scaler.scale_value.set_data(ms.Tensor(np.float32(256)))
    step.run(*batch(CARD.rank))
    held = [w.asnumpy().copy() for w in step.weights]
    images, further = overflows(step)
    updated = bool(step.run(images, *further)[2].asnumpy())
    check_same_weights(step, CARD, 2)
    kept = all(np.array_equal(w.asnumpy(), old) for w, old in zip(step.weights, held))
    return {'updated': updated, 'scale': float(step.scaler.scale_value.asnumpy()), 'kept': kept}


def infinite(step):
    """An image that is infinite, on rank 1."""
    images, *further = batch(CARD.rank, np.inf if CARD.rank else 1)
    return images, further


def flag(step):
    """A card that knows of its own overflow only, as the first 910: finite gradients, and a flag on rank 1."""
    whole = ms.amp.all_finite
    ms.amp.all_finite = lambda grads: ms.ops.logical_and(whole(grads), ms.Tensor(CARD.rank == 0))
    step.compile_cache.clear()
    images, *further = batch(CARD.rank)
    return images, further


def reducers(cfg):
    """Return how far MindSpore's reducer in buckets is from one sum of all gradients, and the number of buckets."""
    step = build_step(cfg, MACHINE)
    rng = np.random.default_rng(MACHINE.rank)
    grads = tuple(ms.Tensor(rng.standard_normal(w.shape).astype(np.float32)) for w in step.weights)
    import src.training.step as module
    module.BUCKET = 3000
    reducer = bucket_reducer(step.weights, MACHINE.rank_size)
    ours, theirs = step.all_reduced(grads), reducer(grads)
    apart = max(float(np.abs(a.asnumpy() - b.asnumpy()).max()) for a, b in zip(ours, theirs))
    return {'apart': apart, 'buckets': [w.comm_fusion for w in step.weights]}


def run(cfg, folder):
    """A run with BatchNorm and evaluation: all ranks must score with the same statistics."""
    seen = []

    def evaluate(backbone):
        own = backbone.bn.moving_mean if hasattr(backbone.bn, 'moving_mean') else backbone.bn._backbone.moving_mean
        mine = np.zeros((2, 8), np.float32)
        mine[CARD.rank] = own.asnumpy()
        seen.append(ms.ops.AllReduce()(ms.Tensor(mine)).asnumpy().tolist())
        return {'eer100': 50.0}
    trainer.train(cfg, CARD, 'quickstart', str(folder / 'ckpt'), evaluate=evaluate, eval_every=1)
    return seen


if __name__ == '__main__':
    import json
    out = Path(sys.argv[1])
    register()
    cfg = get_config('quickstart', SETTINGS, sys.argv[2])
    found = {'infinite': steps(cfg, infinite), 'run': run(cfg, out), 'reducers': reducers(cfg)}
    found['flag'] = steps(cfg, flag)
    (out / f'rank_{CARD.rank}.json').write_text(json.dumps(found))
