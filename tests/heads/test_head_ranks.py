"""Two ranks with half a batch each have the loss, hits, gradients and states of one with the whole batch."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT
from two_ranks import STEPS, VARIANTS

SCRIPT = str(Path(__file__).with_name('two_ranks.py'))
LIMIT = 1e-4                 # sums in another order; a head that saw half a batch is off by 1e-2 and more


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    """(arrays of one rank, [arrays of the first of two, of the second])."""
    out = tmp_path_factory.mktemp('ranks')
    bins = f'{sys.prefix}/bin'
    environ = {**os.environ, 'PATH': f"{bins}:{os.environ['PATH']}", 'GLOG_v': '3', 'MS_RECEIVE_MSG_TIMEOUT': '300',
               'PYTHONPATH': os.pathsep.join([str(PROJECT), str(PROJECT / 'tests')])}
    launcher = [f'{bins}/msrun', '--worker_num=2', '--local_worker_num=2', '--master_port=8395', '--join=True',
                f'--log_dir={out}/logs', SCRIPT, str(out), '--ranks']
    for command in ([sys.executable, SCRIPT, str(out)], launcher):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=out, env=environ)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return np.load(out / '1_0.npz'), [np.load(out / f'2_{rank}.npz') for rank in (0, 1)]


def merged(name, key, ranks):
    """Return what two ranks give together: the training step sums hits and takes the mean of the rest."""
    a, b = (rank[f'{name}/{key}'] for rank in ranks)
    if key.endswith('hits'):
        return a + b
    if not key.endswith('grad_features'):
        return (a + b) / 2
    rows = np.concatenate([rank[f'{name}/rows'] for rank in ranks])
    return np.concatenate([a, b])[np.argsort(rows)] / 2


@pytest.mark.parametrize('name', VARIANTS)
def test_two_ranks_are_one(found, name):
    one, ranks = found
    keys = [key.partition('/')[2] for key in one.files if key.startswith(f'{name}/') and not key.endswith('rows')]
    assert len(keys) >= 3 * STEPS
    for key in keys:
        ours, theirs = merged(name, key, ranks), one[f'{name}/{key}']
        if 'state' in key:
            assert np.array_equal(*(rank[f'{name}/{key}'] for rank in ranks)), key          # the same bits on both
        assert np.abs(ours - theirs).max() <= LIMIT * max(np.abs(theirs).max(), 1e-3), (key, ours, theirs)
