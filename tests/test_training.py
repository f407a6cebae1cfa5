"""The training step, the loop, checkpoints and resuming, on a few synthetic faces."""
import json
import os
import shutil
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest

from conftest import PROJECT, TINY, script
from src import checkpoint
from src.config import get_config
from src.device import Device
from src.lightcnn import training_network
from src.train_log import read_log
from src.trainer import TrainStep, parameter_group, step_outputs


@pytest.fixture
def cfg(synthetic):
    return get_config('quickstart', TINY[5:], str(synthetic))


def batch(cfg, seed=0):
    rng = np.random.default_rng(seed)
    return [ms.Tensor(a) for a in (rng.random((4, 1, 16, 16), np.float32), np.arange(4, dtype=np.int32),
                                   np.ones((4, 256), np.float32))]


def test_the_four_groups():
    cfg = get_config()
    names = ['embedding.fc.layer.weight', 'embedding.fc.layer.bias', 'classifier.fc2_weight', 'classifier.fc2_bias']
    assert [parameter_group(name, cfg) for name in names] == [(1.0, 1e-4), (2.0, 0.0), (10.0, 1e-4), (20.0, 0.0)]
    held = [p.name for p in training_network(get_config(settings=['num_classes=9'])).trainable_params()]
    assert set(names) <= set(held)


def numpy_step(weights, moments, grads, cfg, lr):
    for name in weights:
        mult, decay = parameter_group(name, cfg)
        moments[name] = cfg.momentum * moments[name] + grads[name] + decay * weights[name]
        weights[name] = weights[name] - lr * mult * moments[name]


@pytest.mark.parametrize('mode', [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
@pytest.mark.parametrize('recipe', ['lightcnn9_ms1m', 'lightcnn9_celebrities'])
def test_steps_are_sgd_with_momentum(recipe, mode):
    """Two steps against NumPy's SGD, gradients from MindSpore; the published settings and the clipped ones."""
    cfg = get_config(recipe, ['num_classes=6', 'image_size=16', 'resize_size=16', 'weight_decay=0.01'])
    ms.set_context(mode=mode)
    try:
        network = training_network(cfg)
        step = TrainStep(network, cfg)

        def loss_of(images, labels, mask):
            return network(images, labels, mask)[0]

        gradient = ms.grad(loss_of, None, step.weights)
        weights = {p.name: p.asnumpy().copy() for p in step.weights}
        moments = {name: np.zeros_like(w) for name, w in weights.items()}
        for seed, lr in enumerate((0.02, 0.01)):
            grads = {p.name: g.asnumpy() for p, g in zip(step.weights, gradient(*batch(cfg, seed)))}
            length = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads.values()))
            factor = min(1, cfg.clip_norm / length) if cfg.clip_norm else 1
            numpy_step(weights, moments, {k: factor * g for k, g in grads.items()}, cfg, lr)
            step(*batch(cfg, seed), ms.Tensor(np.float32(lr)))
            for p in step.weights:
                assert np.allclose(p.asnumpy(), weights[p.name], rtol=1e-4, atol=2e-6), p.name
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


def test_loss_scaling_changes_nothing_but_skips_bad_steps(cfg):
    """The mixed-precision step with its scaler, run in fp32: same weights; an overflow updates none of them."""
    plain = TrainStep(training_network(cfg), cfg)
    scaler = ms.amp.DynamicLossScaler(scale_value=2.0 ** 10, scale_factor=2, scale_window=1000)
    scaled = TrainStep(training_network(cfg), cfg, 1, scaler)
    lr = ms.Tensor(np.float32(0.01))
    loss, _, _ = plain(*batch(cfg), lr)
    scaled_loss, _, updated = scaled(*batch(cfg), lr)
    assert bool(updated.asnumpy()) and float(loss.asnumpy()) == pytest.approx(float(scaled_loss.asnumpy()), rel=1e-5)
    for a, b in zip(plain.weights, scaled.weights):
        assert np.allclose(a.asnumpy(), b.asnumpy(), atol=1e-6)
    before = [w.asnumpy().copy() for w in scaled.weights]
    bad = batch(cfg)
    bad[0] = ms.Tensor(np.full((4, 1, 16, 16), np.inf, np.float32))
    _, _, updated = scaled(*bad, lr)
    assert not bool(updated.asnumpy()) and float(scaler.scale_value.asnumpy()) == 2.0 ** 9
    assert all(np.array_equal(w.asnumpy(), b) for w, b in zip(scaled.weights, before))


def test_other_devices_train_in_mixed_precision(cfg, monkeypatch):
    """Up to the call: on Ascend and GPU the network goes through O2 and gets a loss scaler."""
    from src import trainer
    levels = []
    monkeypatch.setattr(trainer.ms.amp, 'auto_mixed_precision', lambda network, level: levels.append(level) or network)
    assert trainer.build_step(cfg, Device('Ascend', 0, 0, 1)).scaler is not None and levels == ['O2']
    assert trainer.build_step(cfg, Device('CPU', 0, 0, 1)).scaler is None and levels == ['O2']


def test_the_loop_with_a_loss_scale_resumes_too(cfg, monkeypatch, tmp_path):
    """The loop as on Ascend, its network kept in fp32 so that it runs here: the scale is saved and comes back."""
    from src import trainer
    monkeypatch.setattr(trainer.ms.amp, 'auto_mixed_precision', lambda network, level: network)
    ascend = Device('Ascend', 0, 0, 1)
    cfg.epochs = 1
    assert trainer.train(cfg, ascend, 'quickstart', str(tmp_path)) == 6
    last = weights_of(tmp_path / 'lightcnn-1_6.ckpt')
    assert float(last['loss_scale']) == 2.0 ** 16 and int(last['loss_scale_steps']) == 6
    for name in ('lightcnn-1_6.ckpt', 'lightcnn-1_6.json'):
        os.remove(tmp_path / name)
    assert trainer.train(cfg, ascend, 'quickstart', str(tmp_path), 'auto') == 6
    again = weights_of(tmp_path / 'lightcnn-1_6.ckpt')
    assert all(np.array_equal(last[name], again[name]) for name in last)


class FakeBatches(dict):
    steps_per_epoch = 6


@pytest.mark.parametrize('first, save_steps, expected', [(0, 4, 2), (4, 4, 2), (2, 4, 2), (7, 4, 1), (3, 3, 1)])
def test_sinks_end_at_checkpoints_and_epochs(cfg, monkeypatch, capsys, first, save_steps, expected):
    """Up to the call of data_sink: a sink never runs over the end of an epoch or a step that is to be saved."""
    cfg.sink_size, cfg.save_checkpoint_steps = 2, save_steps
    sizes = []

    def data_sink(step, dataset, sink_size, jit_config):
        sizes.append(sink_size)
        assert dataset.get_dataset_size() == 12 - first
        return lambda: [ms.Tensor(np.float32(x)) for x in (1.5, 3, 1)]
    monkeypatch.setattr(ms, 'data_sink', data_sink)
    batches = FakeBatches({k: [np.zeros(1, np.float32)] * 3 for k in range(12)})
    outputs = list(step_outputs(None, batches, lambda k: 0.1, range(first, 12), cfg))
    assert sizes == [expected]
    stops = {k for k in range(first + 1, 13) if k % save_steps == 0 or k % 6 == 0}
    assert ('sink_size 2 does not divide' in capsys.readouterr().out) == (expected == 1)
    assert stops <= {done for done, *_ in outputs} and outputs[-1] == (12, 1.5, 3.0, 1.0)


def test_a_run_leaves_checkpoints_facts_log_and_plot(trained):
    out = (trained / 'stdout.txt').read_text()
    assert 'epoch: 1 step: 2, loss is ' in out and 'images/s' in out and ' left' in out
    assert 'epoch time: ' in out and 'per step time: ' in out
    names = sorted(p.name for p in trained.iterdir())
    assert {'best.ckpt', 'best.json', 'lightcnn-1_4.ckpt', 'lightcnn-2_2.ckpt', 'lightcnn-2_6.ckpt', 'training.png',
            'train_log.jsonl', 'bad_images.txt'} <= set(names)
    facts = json.loads((trained / 'lightcnn-2_6.json').read_text())
    assert facts['step'] == 12 and facts['recipe'] == 'quickstart' and facts['input']['shape'] == ['N', 1, 16, 16]
    assert facts['sha256'] == checkpoint.file_sha256(str(trained / 'lightcnn-2_6.ckpt'))
    rows = read_log(str(trained / 'train_log.jsonl'))
    assert [r['step'] for r in rows if 'loss' in r] == [2, 4, 6, 8, 10, 12]
    assert [r['step'] for r in rows if 'eer100' in r] == [6, 12]
    assert (trained / 'training.png').read_bytes()[:4] == b'\x89PNG'


def weights_of(file):
    return {n: p.asnumpy() for n, p in checkpoint.load_parameters(str(file)).items()}


def test_resuming_equals_an_undisturbed_run(synthetic, trained, tmp_path):
    """Cut back to the checkpoint after 4 steps, then resumed: the same weights and log, bit for bit."""
    for name in ('lightcnn-1_4.ckpt', 'lightcnn-1_4.json', 'train_log.jsonl'):
        shutil.copy(trained / name, tmp_path)
    (tmp_path / 'lightcnn-2_6.ckpt').write_bytes(b'cut off before its facts came')
    (tmp_path / 'lightcnn-2_2.ckpt').write_bytes(b'damaged')
    shutil.copy(trained / 'lightcnn-2_2.json', tmp_path)
    done = script('train.py', *TINY, '--dataset_path', synthetic, '--ckpt_path', tmp_path, '--resume', 'auto')
    assert done.returncode == 0, done.stderr
    assert 'resuming from' in done.stdout and 'passed over' in done.stdout
    expected, found = weights_of(trained / 'lightcnn-2_6.ckpt'), weights_of(tmp_path / 'lightcnn-2_6.ckpt')
    assert expected.keys() == found.keys() and all(np.array_equal(expected[n], found[n]) for n in expected)
    losses = [[r['loss'] for r in read_log(str(d / 'train_log.jsonl')) if 'loss' in r] for d in (trained, tmp_path)]
    assert losses[0] == losses[1]


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


def test_resume_refuses_another_run(synthetic, trained, tmp_path):
    done = script('train.py', *TINY, 'num_classes=9', '--dataset_path', synthetic, '--ckpt_path', tmp_path, '--resume',
                  trained)
    assert done.returncode == 2 and 'num_classes 6, this run has 9' in done.stderr


def test_a_damaged_checkpoint_is_refused(trained, tmp_path):
    whole = (trained / 'lightcnn-2_6.ckpt').read_bytes()
    shutil.copy(trained / 'lightcnn-2_6.json', tmp_path / 'x.json')
    (tmp_path / 'x.ckpt').write_bytes(whole[:-1] + b'?')
    with pytest.raises(ValueError, match='sha256'):
        checkpoint.load_embedding(str(tmp_path / 'x.ckpt'))
    (tmp_path / 'y.ckpt').write_bytes(b'not a checkpoint')
    with pytest.raises(ValueError, match='not a readable MindSpore checkpoint'):
        checkpoint.load_embedding(str(tmp_path / 'y.ckpt'))


def test_the_embedding_is_found_in_any_training_checkpoint(tmp_path):
    for name in ('LightCNN_9Layers', 'LightCNN_29Layers', 'LightCNN_29Layers_v2'):
        cfg = get_config(settings=[f'network_type={name}', 'num_classes=7', 'image_size=32'])
        network = training_network(cfg)
        file = str(tmp_path / f'{name}.ckpt')
        checkpoint.save(file, {p.name: p for p in network.get_parameters()}, {})
        embedding, found, size = checkpoint.load_embedding(file)
        assert (found, size) == (name, 32)
        assert all(np.array_equal(p.asnumpy(), q.asnumpy()) for p, q in
                   zip(embedding.get_parameters(), network.embedding.get_parameters()))
    with pytest.raises(ValueError, match='holds a LightCNN_29Layers_v2, not the LightCNN_9Layers'):
        checkpoint.load_embedding(file, 'LightCNN_9Layers')


def test_another_network_is_named(tmp_path):
    ms.save_checkpoint([{'name': 'conv1.weight', 'data': ms.Tensor(np.ones(3, np.float32))}], str(tmp_path / 'r.ckpt'))
    with pytest.raises(ValueError, match='holds 1 parameters such as conv1.weight'):
        checkpoint.load_embedding(str(tmp_path / 'r.ckpt'))


def test_two_processes_follow_one(synthetic, tmp_path):
    """Data parallel under msrun: 2 x batch 4 gives the weights of 1 x batch 8, within float error."""
    small = [*TINY, 'epochs=1', '--eval_every', '1']
    one = script('train.py', *small, '--dataset_path', synthetic, '--ckpt_path', tmp_path / 'one')
    assert one.returncode == 0, one.stderr
    msrun = f'{sys.prefix}/bin/msrun'
    two = subprocess.run([msrun, '--worker_num=2', '--local_worker_num=2', '--master_port=8177', '--join=True',
                          f'--log_dir={tmp_path}/logs', str(PROJECT / 'train.py'), '--run_distribute', *small,
                          '--set', 'batch_size=4', '--dataset_path', str(synthetic), '--ckpt_path',
                          str(tmp_path / 'two')],
                         capture_output=True, text=True, timeout=300,
                         env={**os.environ, 'PATH': f"{sys.prefix}/bin:{os.environ['PATH']}"})
    assert two.returncode == 0, two.stdout + two.stderr
    a, b = (weights_of(tmp_path / d / 'lightcnn-1_6.ckpt') for d in ('one', 'two'))
    assert all(np.allclose(a[n], b[n], atol=1e-5) for n in a)
    scores = [read_log(str(tmp_path / d / 'train_log.jsonl'))[-1]['eer100'] for d in ('one', 'two')]
    assert scores[0] == pytest.approx(scores[1], abs=0.2)


def test_endless_overflows_end_the_run(cfg, monkeypatch, tmp_path):
    """A loss scale that never finds a finite gradient is a failed training, not a silent one."""
    from src import trainer
    monkeypatch.setattr(trainer, 'step_outputs', lambda *_: ((k, float('inf'), 0.0, 0.0) for k in range(1, 60)))
    cfg.epochs, cfg.save_checkpoint_steps = 100, 1000
    with pytest.raises(FloatingPointError, match='at step 51'):
        trainer.train(cfg, Device('CPU', 0, 0, 1), 'quickstart', str(tmp_path))


@pytest.mark.parametrize('name', ['LightCNN_29Layers', 'LightCNN_29Layers_v2'])
def test_the_deeper_networks_learn(name):
    """The loss on one batch falls within a few steps."""
    cfg = get_config('quickstart', [f'network_type={name}', 'num_classes=6', 'image_size=16', 'clip_norm=1'])
    step = TrainStep(training_network(cfg), cfg)
    losses = [float(step(*batch(cfg), ms.Tensor(np.float32(0.01)))[0].asnumpy()) for _ in range(6)]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


def run_in_process(cfg, out, **kwargs):
    from src import trainer
    return trainer.train(cfg, Device('CPU', 0, 0, 1), 'quickstart', str(out), **kwargs)


def test_finetuning_starts_from_the_embedding_alone(cfg, trained, tmp_path, capsys):
    """Other classes are refused by --resume and welcome to --finetune: the embedding is taken, the classifier new."""
    from src.trainer import build_step, load_for_finetuning
    cfg.num_classes = 9
    step = build_step(cfg, Device('CPU', 0, 0, 1))
    fresh = {p.name: p.asnumpy().copy() for p in step.weights}
    load_for_finetuning(step, cfg, str(trained))
    old = weights_of(trained / 'lightcnn-2_6.ckpt')
    for p in step.weights:
        expected = old if p.name.startswith('embedding.') else fresh
        assert np.array_equal(p.asnumpy(), expected[p.name]), p.name
    cfg.epochs = 1
    assert run_in_process(cfg, tmp_path, finetune=str(trained)) == 6
    assert 'from the embedding in' in capsys.readouterr().out
    assert run_in_process(cfg, tmp_path, resume='auto', finetune='absent') == 6          # what is there goes on
    cfg.image_size = cfg.resize_size = 32
    with pytest.raises(ValueError, match='is for 16x16 faces, this run has image_size 32'):
        run_in_process(cfg, tmp_path / 'other', finetune=str(trained))


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


def test_an_image_that_fails_in_the_middle_leaves_a_checkpoint(cfg, monkeypatch, tmp_path):
    from src import trainer
    whole = trainer.TrainingBatches.__getitem__

    def get(batches, step):
        if step == 5:
            raise ValueError('a/b.jpg: the picture is cut off')
        return whole(batches, step)
    monkeypatch.setattr(trainer.TrainingBatches, '__getitem__', get)
    with pytest.raises(ValueError, match='a/b.jpg'):
        run_in_process(cfg, tmp_path)
    assert checkpoint.read_facts(checkpoint.newest(str(tmp_path)))['step'] == 5


def test_what_a_killed_save_left_goes(cfg, tmp_path):
    cfg.epochs = 1
    (tmp_path / '.4194999-lightcnn-1_4.ckpt').write_bytes(b'half')
    (tmp_path / f'.{os.getpid()}-other.ckpt').write_bytes(b'being written')
    run_in_process(cfg, tmp_path)
    assert [p.name for p in tmp_path.glob('.*')] == [f'.{os.getpid()}-other.ckpt']


def test_checkpoints_without_facts_are_not_resumed(cfg, tmp_path, capsys):
    (tmp_path / 'lightcnn-1_4.ckpt').write_bytes(b'its facts never came')
    cfg.epochs = 1
    assert run_in_process(cfg, tmp_path, resume='auto') == 6 and 'steps 0 to 6' in capsys.readouterr().out


@pytest.mark.parametrize('number', [15, 2])
def test_a_signal_saves_and_leaves_with_its_code(cfg, monkeypatch, tmp_path, number):
    """The signal comes in step 2: the checkpoint of that step is there, and the run goes on from it."""
    from src import trainer
    outputs = trainer.step_outputs

    def with_signal(*arguments):
        for row in outputs(*arguments):
            if row[0] == 2:
                os.kill(os.getpid(), number)
            yield row
    monkeypatch.setattr(trainer, 'step_outputs', with_signal)
    with pytest.raises(SystemExit) as left:
        run_in_process(cfg, tmp_path)
    assert left.value.code in {128 + number, 128 + 15}          # MindSpore may hand SIGINT on as SIGTERM
    assert checkpoint.read_facts(checkpoint.newest(str(tmp_path)))['step'] == 2
    monkeypatch.setattr(trainer, 'step_outputs', outputs)
    assert run_in_process(cfg, tmp_path, resume='auto') == 12


def test_ranks_that_drift_apart_are_an_error(cfg, monkeypatch):
    """AllReduce as if rank 1 held other weights: the sums of its half do not match."""
    from src import trainer
    step = trainer.build_step(cfg, Device('CPU', 0, 0, 1))
    for other in (0, 1):
        def reduce(mine, other=other):
            rows = mine.asnumpy()
            return ms.Tensor(np.stack([rows[0], rows[0] + np.float32(other)]))
        monkeypatch.setattr(trainer.ops, 'AllReduce', lambda reduce=reduce: reduce)
        if other:
            with pytest.raises(RuntimeError, match='weights of rank 1 differ from those of rank 0'):
                trainer.check_same_weights(step, Device('CPU', 0, 0, 2), 7)
        else:
            trainer.check_same_weights(step, Device('CPU', 0, 0, 2), 7)
