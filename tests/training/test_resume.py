"""Checkpoints: exact resuming, signals, full disks, left-overs, finetuning, and files that are not what they say."""
import os
import shutil
import subprocess
import sys
import threading

import mindspore as ms
import numpy as np
import pytest
from conftest import PROJECT, TINY, run_in_process, script, weights_of

from src.config import get_config
from src.device import Device
from src.training import checkpoint
from src.training.log import read_log
from src.training.network import training_network


def test_resuming_equals_an_undisturbed_run(synthetic, trained, tmp_path):
    """Cut back to the checkpoint after 4 steps, then resumed: the same weights and log, bit for bit."""
    for name in ('lightcnn-1_4.ckpt', 'lightcnn-1_4.json', 'train_log.jsonl'):
        shutil.copy(trained / name, tmp_path)
    (tmp_path / 'lightcnn-2_6.ckpt').write_bytes(b'cut off before its metadata came')
    (tmp_path / 'lightcnn-2_2.ckpt').write_bytes(b'damaged')
    shutil.copy(trained / 'lightcnn-2_2.json', tmp_path)
    done = script('train.py', *TINY, '--dataset_path', synthetic, '--ckpt_path', tmp_path, '--resume', 'auto')
    assert done.returncode == 0, done.stderr
    assert 'resuming from' in done.stdout and 'passed over' in done.stdout
    expected, found = weights_of(trained / 'lightcnn-2_6.ckpt'), weights_of(tmp_path / 'lightcnn-2_6.ckpt')
    assert expected.keys() == found.keys() and all(np.array_equal(expected[n], found[n]) for n in expected)
    losses = [[r['loss'] for r in read_log(str(d / 'train_log.jsonl')) if 'loss' in r] for d in (trained, tmp_path)]
    assert losses[0] == losses[1]


def test_resume_refuses_another_run(synthetic, trained, tmp_path):
    done = script('train.py', *TINY, 'num_classes=9', '--dataset_path', synthetic, '--ckpt_path', tmp_path, '--resume',
                  trained)
    assert done.returncode == 2 and 'num_classes 6, this run has 9' in done.stderr


SIGNALLED = """
import os, sys
sys.path[:0] = {path!r}
from conftest import TINY
from src.training import trainer
from src.config import get_config
from src.device import set_up
outputs = trainer.step_outputs
def with_signal(*arguments):
    for row in outputs(*arguments):
        if row.done == 6:
            os.kill(os.getpid(), {number})
        yield row
trainer.step_outputs = with_signal
trainer.train(get_config('quickstart', TINY[5:], {data!r}), set_up('CPU'), 'quickstart', {out!r})
"""


@pytest.mark.parametrize('number', [15, 2])
def test_a_signal_saves_and_leaves_with_its_code(cfg, synthetic, tmp_path, number):
    """The signal comes after step 6: the step under way is ended and saved, and the run goes on from it."""
    code = SIGNALLED.format(path=[str(PROJECT), str(PROJECT / 'tests')], number=number, data=str(synthetic),
                            out=str(tmp_path))
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 128 + 15 and 'saved after 7 steps' in done.stdout, done.stderr
    assert checkpoint.read_metadata(checkpoint.newest(str(tmp_path)))['step'] == 7
    assert run_in_process(cfg, tmp_path, resume='auto') == 12


@pytest.mark.parametrize('limit', [10_000, 200_000])
def test_a_full_disk_ends_the_run_and_leaves_the_last_good_checkpoint(synthetic, trained, tmp_path, limit):
    """No file may grow over `limit` bytes, as on a full disk: one line, code 1, and nothing half-written."""
    for name in ('lightcnn-1_4.ckpt', 'lightcnn-1_4.json'):
        shutil.copy(trained / name, tmp_path)
    code = (f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
            f"sys.argv[0] = {str(PROJECT / 'train.py')!r}; sys.path.insert(0, {str(PROJECT)!r}); "
            "runpy.run_path(sys.argv[0], run_name='__main__')")
    done = subprocess.run([sys.executable, '-c', code, *TINY, 'keep_checkpoint_max=1', '--dataset_path', str(synthetic),
                           '--ckpt_path', str(tmp_path), '--resume', 'auto'], capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 1 and 'error: ' in done.stderr and 'Traceback' not in done.stderr, done.stderr
    assert 'could not be written, is the disk full?' in done.stderr
    assert sorted(p.name for p in tmp_path.glob('*.ckpt')) == ['lightcnn-1_4.ckpt']
    assert not list(tmp_path.glob('.*')) and checkpoint.newest(str(tmp_path)).endswith('lightcnn-1_4.ckpt')


def test_what_a_killed_save_left_goes(cfg, tmp_path):
    cfg.epochs = 1
    (tmp_path / '.4194999-lightcnn-1_4.ckpt').write_bytes(b'half')
    (tmp_path / f'.{os.getpid()}-other.ckpt').write_bytes(b'being written')
    run_in_process(cfg, tmp_path)
    assert [p.name for p in tmp_path.glob('.*')] == [f'.{os.getpid()}-other.ckpt']


def test_a_folder_has_one_training_at_a_time(cfg, tmp_path, monkeypatch):
    """A second training waits for the first to end, then says so; afterwards the folder is free again."""
    monkeypatch.setattr(checkpoint, 'PATIENCE', 0.5)
    cfg.epochs = 1
    with checkpoint.sole_writer(tmp_path), pytest.raises(ValueError, match='another training writes to this folder'):
        run_in_process(cfg, tmp_path)
    monkeypatch.setattr(checkpoint, 'PATIENCE', 20)
    writer = checkpoint.sole_writer(tmp_path)
    writer.__enter__()
    threading.Timer(1, writer.__exit__, (None, None, None)).start()
    assert run_in_process(cfg, tmp_path) == 6


def test_checkpoints_without_metadata_are_not_resumed(cfg, tmp_path, capsys):
    (tmp_path / 'lightcnn-1_4.ckpt').write_bytes(b'its metadata never came')
    cfg.epochs = 1
    assert run_in_process(cfg, tmp_path, resume='auto') == 6 and 'steps 0 to 6' in capsys.readouterr().out


def test_finetuning_starts_from_the_embedding_alone(cfg, trained, tmp_path, capsys):
    """Other classes are refused by --resume and welcome to --finetune: the embedding is taken, the classifier new."""
    from src.training.step import build_step
    from src.training.trainer import load_for_finetuning
    cfg.num_classes = 9
    step = build_step(cfg, Device('CPU', 0, 0, 1))
    fresh = {p.name: p.asnumpy().copy() for p in step.weights}
    load_for_finetuning(step, cfg, str(trained))
    old = weights_of(trained / 'lightcnn-2_6.ckpt')
    for p in step.weights:
        expected = old if p.name.startswith('backbone.') else fresh
        assert np.array_equal(p.asnumpy(), expected[p.name]), p.name
    cfg.epochs = 1
    assert run_in_process(cfg, tmp_path, finetune=str(trained)) == 6
    assert 'from the embedding in' in capsys.readouterr().out
    assert run_in_process(cfg, tmp_path, resume='auto', finetune='absent') == 6          # what is there goes on
    cfg.image_size = cfg.resize_size = 32
    with pytest.raises(ValueError, match='has image_size 16, this run has 32'):
        run_in_process(cfg, tmp_path / 'other', finetune=str(trained))


def test_a_damaged_checkpoint_is_refused(trained, tmp_path):
    whole = (trained / 'lightcnn-2_6.ckpt').read_bytes()
    shutil.copy(trained / 'lightcnn-2_6.json', tmp_path / 'x.json')
    (tmp_path / 'x.ckpt').write_bytes(whole[:-1] + b'?')
    with pytest.raises(ValueError, match='sha256'):
        checkpoint.load_backbone(str(tmp_path / 'x.ckpt'))
    (tmp_path / 'y.ckpt').write_bytes(b'not a checkpoint')
    with pytest.raises(ValueError, match='not a readable MindSpore checkpoint'):
        checkpoint.load_backbone(str(tmp_path / 'y.ckpt'))


def test_the_embedding_is_found_in_any_training_checkpoint(tmp_path):
    for name in ('LightCNN_9Layers', 'LightCNN_29Layers', 'LightCNN_29Layers_v2'):
        cfg = get_config(settings=[f'network_type={name}', 'num_classes=7', 'image_size=32'])
        network = training_network(cfg)
        file = str(tmp_path / f'{name}.ckpt')
        checkpoint.save(file, {p.name: p for p in network.get_parameters()}, {})
        backbone = checkpoint.load_backbone(file)
        assert (backbone.name, backbone.image_size, backbone.face_format) == (name, 32, 'lightcnn')
        assert all(np.array_equal(p.asnumpy(), q.asnumpy()) for p, q in
                   zip(backbone.get_parameters(), network.backbone.get_parameters()))
    with pytest.raises(ValueError, match='holds a LightCNN_29Layers_v2, not the LightCNN_9Layers'):
        checkpoint.load_backbone(file, 'LightCNN_9Layers')


def test_another_network_is_named(tmp_path):
    ms.save_checkpoint([{'name': 'conv1.weight', 'data': ms.Tensor(np.ones(3, np.float32))}], str(tmp_path / 'r.ckpt'))
    with pytest.raises(ValueError, match='holds 1 parameters such as conv1.weight'):
        checkpoint.load_backbone(str(tmp_path / 'r.ckpt'))
