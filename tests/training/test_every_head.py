"""A head of every kind through the real trainer: killed and resumed, and two ranks against one."""
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import on_two_ranks, run_in_process, weights_of
from every_head import KINDS, settings, staged_settings

from src.config import stage_configs
from src.device import Device
from src.training.log import read_log
from src.training.network import training_network
from src.training.stages import train_stages


@pytest.fixture(scope='module')
def two_ranks(synthetic, tmp_path_factory):
    """The folder of the trainings of two ranks with batch 4, one process after the other for all heads."""
    out = tmp_path_factory.mktemp('two')
    on_two_ranks(Path(__file__).with_name('every_head.py'), out, synthetic)
    return out


@pytest.fixture(scope='module')
def one_rank(synthetic, tmp_path_factory):
    """A function: kind of head -> the folder of its undisturbed training with batch 8."""
    out = tmp_path_factory.mktemp('one')

    def folder(kind):
        if not (out / kind).exists():
            run_in_process(settings(kind, str(synthetic), 8), out / kind)
        return out / kind
    return folder


def losses(folder):
    return [row['loss'] for row in read_log(str(folder / 'train_log.jsonl')) if 'loss' in row]


@pytest.mark.parametrize('kind', KINDS)
def test_killed_and_resumed(kind, one_rank, synthetic, tmp_path):
    """Cut back to the checkpoint after 3 of 6 steps: weights, optimizer, head, schedule and log, bit for bit."""
    for name in ('lightcnn-1_3.ckpt', 'lightcnn-1_3.json', 'train_log.jsonl'):
        shutil.copy(one_rank(kind) / name, tmp_path)
    run_in_process(settings(kind, str(synthetic), 8), tmp_path, resume='auto')
    expected, found = (weights_of(folder / 'lightcnn-1_6.ckpt') for folder in (one_rank(kind), tmp_path))
    before = weights_of(tmp_path / 'lightcnn-1_3.ckpt')
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    changed = [name for name in expected if not np.array_equal(expected[name], before[name])]
    assert len(changed) > len(expected) // 2 and losses(tmp_path) == losses(one_rank(kind))


def check_alike(cfg, one, two):
    """Assert that two checkpoints of the same training differ by sums in another order at most."""
    start = {p.name: p.asnumpy() for p in training_network(cfg).get_parameters()}
    one, two = weights_of(one), weights_of(two)
    assert one.keys() == two.keys() >= start.keys()
    for name in one:
        apart = np.abs(one[name] - two[name]).max()
        way = np.abs(one[name] - start.get(name, 0)).max()
        assert apart <= 1e-4 * way + 1e-6 * np.abs(one[name]).max(), name


def test_two_ranks_train_stages_as_one(two_ranks, synthetic, tmp_path):
    """Both ranks start the second stage from what rank 0 saved of the first."""
    cfg = staged_settings(str(synthetic), 8)
    train_stages(cfg, Device('CPU', 0, 0, 1), 'quickstart', str(tmp_path))
    for stage, stage_cfg in zip(('stage1', 'stage2'), stage_configs(cfg)):
        check_alike(stage_cfg, *(folder / stage / 'lightcnn-1_3.ckpt' for folder in (tmp_path, two_ranks / 'staged')))


@pytest.mark.parametrize('kind', KINDS)
def test_two_ranks_follow_one(kind, one_rank, two_ranks, synthetic):
    """2 x 4 images give what 1 x 8 give: sums in another order. Statistics of half a batch would be far off."""
    check_alike(settings(kind, str(synthetic), 8),
                *(folder / 'lightcnn-1_6.ckpt' for folder in (one_rank(kind), two_ranks / kind)))
    np.testing.assert_allclose(losses(one_rank(kind)), losses(two_ranks / kind), rtol=1e-4)
    rates = [[row['lr'] for row in read_log(str(folder / 'train_log.jsonl')) if 'loss' in row]
             for folder in (one_rank(kind), two_ranks / kind)]
    assert rates[0] == rates[1]
