"""train.py and its loop on a few synthetic faces: what a run leaves, how it fails, two processes like one."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import PROJECT, TINY, parted, run_in_process, script, weights_of

from src.device import Device
from src.training import checkpoint, trainer
from src.training.log import read_log
from src.training.outputs import Output


def test_a_run_leaves_checkpoints_metadata_log_and_plot(trained):
    out = (trained / 'stdout.txt').read_text()
    assert 'epoch: 1 step: 2, loss is ' in out and 'images/s' in out and ' left' in out
    assert 'epoch time: ' in out and 'per step time: ' in out
    names = sorted(p.name for p in trained.iterdir())
    assert {'best.ckpt', 'best.json', 'lightcnn-1_4.ckpt', 'lightcnn-2_2.ckpt', 'lightcnn-2_6.ckpt', 'training.png',
            'train_log.jsonl', 'bad_images.txt'} <= set(names)
    metadata = json.loads((trained / 'lightcnn-2_6.json').read_text())
    assert metadata['step'] == 12 and metadata['recipe'] == 'quickstart'
    assert metadata['input']['shape'] == ['N', 1, 16, 16]
    assert metadata['sha256'] == checkpoint.file_sha256(str(trained / 'lightcnn-2_6.ckpt'))
    rows = read_log(str(trained / 'train_log.jsonl'))
    assert [r['step'] for r in rows if 'loss' in r] == [2, 4, 6, 8, 10, 12]
    assert [r['step'] for r in rows if 'eer100' in r] == [6, 12]
    assert (trained / 'training.png').read_bytes()[:4] == b'\x89PNG'


def test_old_checkpoints_go(synthetic, tmp_path):
    done = script('train.py', *TINY, 'keep_checkpoint_max=1', 'epochs=1', 'save_checkpoint_steps=2', '--dataset_path',
                  synthetic, '--ckpt_path', tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.glob('lightcnn-*')) == ['lightcnn-1_6.ckpt', 'lightcnn-1_6.json']


@pytest.mark.parametrize('arguments, code, message', [
    (['--set', 'lr=1e30', 'clip_norm=0'], 1, 'the loss is'),
    (['--set', 'num_classes=5'], 2, 'label 5 is not in 0..4'),
    (['--set', 'train_list=absent.txt'], 2, 'absent.txt'),
    (['--set', 'data_path=absent'], 2, 'no such folder'),
    (['--set', 'learning_rate=1'], 2, 'unknown setting'),
    (['--device_target', 'GPU'], 2, 'available: CPU'),
    (['--recipe', 'resnet'], 2, 'unknown recipe'),
    (['--resume', 'absent.ckpt'], 2, 'no such checkpoint'),
    (['--eval_every', '1', '--set', 'root_path=absent'], 2, 'no such image folder')])
def test_bad_input_is_one_line(synthetic, tmp_path, arguments, code, message):
    done = script('train.py', *TINY, '--dataset_path', synthetic, '--ckpt_path', tmp_path / 'out', *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    error = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert len(error) == 1 and message in error[0] and 'Traceback' not in done.stderr


def test_two_processes_follow_one(synthetic, tmp_path):
    """2 x batch 4 gives the weights of 1 x batch 8, within float error: by msrun's sockets and by shared memory."""
    small = [*TINY, 'epochs=1', '--dataset_path', str(synthetic), '--eval_every', '1']
    one = script('train.py', *small, '--ckpt_path', tmp_path / 'one')
    assert one.returncode == 0, one.stderr
    bins = f'{sys.prefix}/bin'
    launchers = {'sockets': [f'{bins}/msrun', '--worker_num=2', '--local_worker_num=2', '--master_port=8177',
                             '--join=True', f'--log_dir={tmp_path}/logs', f'{PROJECT}/train.py', '--run_distribute'],
                 'shared': [sys.executable, '-m', 'src.training.launch', '--device_num', '2', '--device_target', 'CPU',
                            '--']}
    for name, launcher in launchers.items():
        two = subprocess.run([*launcher, *small, '--set', 'batch_size=4', '--ckpt_path', str(tmp_path / name)],
                             capture_output=True, text=True, timeout=300, cwd=tmp_path,
                             env={**os.environ, 'PATH': f"{bins}:{os.environ['PATH']}", 'PYTHONPATH': str(PROJECT)})
        assert two.returncode == 0, two.stdout + two.stderr
    a, b, c = (weights_of(tmp_path / d / 'lightcnn-1_6.ckpt') for d in ('one', *launchers))
    assert parted(a, b) < 0.02 and all(np.array_equal(b[n], c[n]) for n in b)
    scores = [read_log(str(tmp_path / d / 'train_log.jsonl'))[-1]['eer100'] for d in ('one', *launchers)]
    assert scores[0] == pytest.approx(scores[1], abs=0.2) and scores[1] == scores[2]


def test_endless_overflows_end_the_run(cfg, monkeypatch, tmp_path):
    """A loss scale that never finds a finite gradient is a failed training, not a silent one."""
    outputs = [Output(k, float('inf'), 0.0, 0, k, True) for k in range(1, 60)]
    monkeypatch.setattr(trainer, 'step_outputs', lambda *_: iter(outputs))
    cfg.epochs, cfg.save_checkpoint_steps = 100, 1000
    with pytest.raises(FloatingPointError, match='at step 51'):
        trainer.train(cfg, Device('CPU', 0, 0, 1), 'quickstart', str(tmp_path))


def test_an_image_that_fails_in_the_middle_leaves_a_checkpoint(cfg, monkeypatch, tmp_path):
    whole = trainer.TrainingBatches.__getitem__

    def get(batches, step):
        if step == 5:
            raise ValueError('a/b.jpg: the picture is cut off')
        return whole(batches, step)
    monkeypatch.setattr(trainer.TrainingBatches, '__getitem__', get)
    with pytest.raises(ValueError, match='a/b.jpg'):
        run_in_process(cfg, tmp_path)
    assert checkpoint.read_metadata(checkpoint.newest(str(tmp_path)))['step'] == 5
