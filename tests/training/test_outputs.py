"""The loop over steps: outputs come one step late and lose nothing; sinks count every step in them."""
import mindspore as ms
import numpy as np
import pytest
from conftest import run_in_process, weights_of

from src.config import get_config
from src.training import outputs, trainer
from src.training.network import training_network
from src.training.outputs import step_outputs
from src.training.sink import SummedStep, sink_length
from src.training.step import TrainStep


class Batches(dict):
    steps_per_epoch = 6


class NotedStep:
    """A step that notes when it is started and when its outputs are fetched."""

    def __init__(self, results):
        self.results, self.events = results, []

    def run(self, number, *_):
        self.events.append(f'run {number}')
        step = self

        class Fetched:
            def __init__(self, value, noted):
                self.value, self.noted = value, noted

            def asnumpy(self):
                if self.noted:
                    step.events.append(f'fetch {number}')
                return np.float32(self.value)
        return [Fetched(value, i == 0) for i, value in enumerate(self.results[number])]


def loop(results, cfg, pause=lambda done: False, broken_from=99):
    class Input(Batches):
        def __missing__(self, k):
            if k >= broken_from:
                raise ValueError('a/b.jpg: the picture is cut off')
            return k, 0, 0
    step = NotedStep(results)
    return step, step_outputs(step, Input(), lambda k: 0.1, range(len(results)), cfg, pause)


def test_a_step_is_started_before_the_one_before_is_asked_for(cfg):
    """Fetched one late; before a pause at once, so that the weights are those of that step."""
    step, outs = loop([(float(k), 0, 1) for k in range(4)], cfg, pause=lambda done: done == 2)
    assert [(out.done, out.loss, out.settled) for out in outs] == [(1, 0, False), (2, 1, True), (3, 2, False),
                                                                  (4, 3, True)]
    assert step.events == ['run 0', 'run 1', 'fetch 0', 'fetch 1', 'run 2', 'run 3', 'fetch 2', 'fetch 3']


def test_steps_without_an_update_are_counted(cfg):
    _, outs = loop([(1, 0, 1), (np.inf, 0, 0), (np.inf, 0, 0), (1, 0, 1)], cfg)
    assert [(out.updated, out.skipped) for out in outs] == [(1, 0), (0, 1), (0, 2), (1, 0)]


def test_a_broken_input_loses_no_step(cfg):
    _, outs = loop([(1, 0, 1)] * 4, cfg, broken_from=2)
    assert [(next(outs).done, next(outs).settled)] == [(1, True)]
    with pytest.raises(ValueError, match='cut off'):
        next(outs)


@pytest.mark.parametrize('first, save_steps, expected', [(0, 4, 2), (4, 4, 2), (2, 4, 2), (7, 4, 1), (3, 3, 1)])
def test_sinks_end_at_checkpoints_and_epochs(cfg, monkeypatch, capsys, first, save_steps, expected):
    """Up to the call of data_sink, which the CPU does not have: no sink runs over a step that is to be saved."""
    cfg.sink_size, cfg.save_checkpoint_steps = 2, save_steps
    calls = []

    def data_sink(step, dataset, sink_size, jit_config):
        calls.append((sink_size, jit_config.jit_config_dict['jit_level']))
        assert isinstance(step, SummedStep) and dataset.get_dataset_size() == 12 - first
        counts = np.float32([3, 2, 1, 9]) * sink_size
        return lambda: [ms.Tensor(np.float32(x)) for x in (1.5 * sink_size, counts, sink_size, 0)]
    monkeypatch.setattr(ms, 'data_sink', data_sink)
    batches = Batches({k: [np.zeros(1, np.float32)] * 3 for k in range(12)})
    step = TrainStep(training_network(cfg), cfg)
    outs = list(step_outputs(step, batches, lambda k: 0.1, range(first, 12), cfg))
    assert calls == [(expected, 'O0')]               # whole graphs, the default on the first 910, cannot skip an update
    stops = {k for k in range(first + 1, 13) if k % save_steps == 0 or k % 6 == 0}
    assert ('sink_size 2 does not divide' in capsys.readouterr().out) == (expected == 1)
    assert stops <= {out.done for out in outs} and outs[-1] == (12, 1.5, 3.0, expected, 0, True, (2.0, 1.0, 9.0))


def test_sinks_end_with_a_number_of_steps(cfg):
    """A training of 9 steps is not left after 8, in sinks of four."""
    cfg.sink_size, cfg.save_checkpoint_steps, cfg.num_steps = 4, 8, 9
    assert sink_length(cfg, 100, 0) == 1
    cfg.num_steps = 0
    assert sink_length(cfg, 100, 0) == 4


def test_a_sink_sums_all_its_steps(cfg):
    """Sinks of three steps, one of which overflows: sums of the losses, hits and updates of each sink."""
    def scaled():
        scaler = ms.amp.DynamicLossScaler(scale_value=2.0 ** 10, scale_factor=2, scale_window=1000)
        return TrainStep(training_network(cfg), cfg, loss_scaler=scaler)
    plain, summed = scaled(), SummedStep(scaled(), 3)
    rng, rows, found = np.random.default_rng(0), [], []
    for k in range(9):
        images = rng.random((4, 1, 16, 16), np.float32) * np.float32(np.inf if k in (1, 5) else 1)
        batch = [ms.Tensor(x) for x in (images, np.arange(4, dtype=np.int32), np.ones((4, 256), np.float32),
                                        np.float32(0.01))]
        rows.append([x.asnumpy().astype(np.float64) for x in plain(*batch)])
        found.append(np.hstack([x.asnumpy() for x in summed(*batch)]))
    for end, skipped in ((2, 0), (5, 1), (8, 0)):
        sink = rows[end - 2:end + 1]
        counts = sum(np.where(np.isfinite(row[1]), row[1], 0) for row in sink)
        expected = [sum(loss for loss, _, updated in sink if updated), *counts, sum(row[2] for row in sink), skipped]
        assert found[end] == pytest.approx(expected, rel=1e-5), end


def test_checks_fire_between_the_ends_of_sinks(cfg, monkeypatch, tmp_path):
    """Sinks of four steps and a check every three: after 4, 8 and 12 steps."""
    checked = []
    monkeypatch.setattr(trainer, 'check_same_weights', lambda step, device, done: checked.append(done))
    monkeypatch.setattr(trainer, 'wait_for_all', lambda device: None)
    monkeypatch.setattr(outputs, 'sunk', lambda *_: lambda: [ms.Tensor(np.float32(x)) for x in (4, [0] * 4, 4, 0)])
    monkeypatch.setattr(outputs, 'sink_length', lambda *_: 4)
    cfg.check_every, cfg.sink_size, cfg.batch_size, cfg.save_checkpoint_steps = 3, 4, 4, 1000
    from src.device import Device
    training = trainer.Training(cfg, Device('CPU', 0, 0, 1), 'quickstart', str(tmp_path))
    training.begin(None, None)
    training.device = Device('CPU', 0, 0, 2)
    from src.training.guards import StopSignals, Watchdog
    training.num_steps = 12
    training.run(StopSignals(False), Watchdog(0, ''), None, 0)
    assert checked == [0, 4, 8, 12]


def test_a_checkpoint_holds_the_weights_of_its_step(synthetic, tmp_path):
    """Saved in the middle and at the end of a run: equal to a run that ends there."""
    small = ['num_classes=6', 'image_size=16', 'resize_size=18', 'batch_size=8', 'lr=0.001', 'lr_schedule=step']
    for folder, further in (('long', ['epochs=2', 'save_checkpoint_steps=6']), ('short', ['epochs=1'])):
        run_in_process(get_config('quickstart', [*small, *further], str(synthetic)), tmp_path / folder)
    long, short = (weights_of(tmp_path / folder / 'lightcnn-1_6.ckpt') for folder in ('long', 'short'))
    assert all(np.array_equal(long[name], short[name]) for name in short)
