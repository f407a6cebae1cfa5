"""Log lines by hand: one epoch of 4 steps, global batch 10, a line every 2 steps."""
import math
import re

import pytest

from src.config import get_config
from src.training.log import WATCHED, TrainLog, duration, prometheus, read_log
from src.training.plot import panels_of, plot_training


@pytest.fixture
def log(tmp_path):
    def make(first=0, is_writer=True):
        cfg = get_config('quickstart', ['log_steps=2'])
        return TrainLog(str(tmp_path / 'log.jsonl'), cfg, 10, 4, 8, first, is_writer)
    return make


def test_lines_for_people_and_machines(log, capsys):
    one = log()
    for step, (loss, hits) in enumerate([(4.0, 1), (2.0, 3), (1.0, 5), (3.0, 5), (1.5, 9)], 1):
        one.step(step, loss, hits, 0.01)
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r'epoch: 1 step: 2, loss is 3, lr 0.01, top-1 20.0 %, [\d.]+ images/s, \d:\d\d:\d\d left', lines[0])
    assert lines[1].startswith('epoch: 1 step: 4, loss is 2, lr 0.01, top-1 50.0 %')
    assert re.match(r'epoch time: [\d.]+ ms, per step time: [\d.]+ ms$', lines[2]) and len(lines) == 3
    rows = [(r['step'], r['epoch'], r['loss'], r['top1']) for r in read_log(one.file)]
    assert rows == [(2, 1, 3.0, 0.2), (4, 1, 2.0, 0.5)]


def test_progress_for_prometheus(log, tmp_path):
    one = log()
    one.step(1, 4.0, 1, 0.01)
    one.step(2, 2.0, 3, 0.01)
    assert [path.name for path in tmp_path.iterdir()] == ['log.jsonl']           # by setting only
    one.cfg.progress_file = 'progress.prom'
    one.step(3, 1.0, 5, 0.01)
    one.step(4, 3.0, 5, 0.01)
    lines = (tmp_path / 'progress.prom').read_text().splitlines()
    values = dict(line.split() for line in lines if line[0] != '#')
    assert float(values['lightcnn_training_step']) == 4 and float(values['lightcnn_training_loss']) == 2
    assert float(values['lightcnn_training_num_steps']) == 8 and float(values['lightcnn_training_seconds_left']) >= 0
    assert all(re.match(r'# TYPE lightcnn_training_\w+ gauge$', line) for line in lines[::2])
    assert 'x +Inf' in prometheus({'x': math.inf}) and 'x -Inf' in prometheus({'x': -math.inf})
    assert 'x NaN' in prometheus({'x': math.nan})


def test_what_is_watched_ends_the_line(log, capsys):
    one = log()
    for step, watched in enumerate([(1.0, 0.2, 100.0), (3.0, 0.4, 300.0), (math.inf, 0.0, 0.0), (4.0, 0.0, 50.0)], 1):
        one.step(step, 1.0, 1, 0.01, watched)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith('left, target cosine 0.200, hard negatives 3.00 %, embedding norm 20')
    assert lines[1].endswith('left, target cosine 0.400, hard negatives 0.00 %, embedding norm 5')     # 3 overflowed
    rows = [[row[name] for name in WATCHED] for row in read_log(one.file)]
    assert rows == [pytest.approx([0.2, 0.03, 20]), pytest.approx([0.4, 0, 5])]


def test_curves_of_what_is_watched(tmp_path):
    """A log that gained the three values on the way: gaps before; one that never had them: no such curves."""
    old = {'step': 2, 'epoch': 1, 'loss': 4.0, 'lr': 0.1, 'top1': 0.2}
    new = {**old, 'step': 4, 'target_cosine': 0.3, 'hard_negatives': 0.04, 'embedding_norm': 20.0}
    curves = dict(panels_of([old, new]))
    assert math.isnan(curves['target cosine'][0]) and curves['hard negatives, %'][1] == pytest.approx(4)
    assert list(curves)[:3] == list(dict(panels_of([old]))) == ['loss', 'top-1, %', 'learning rate']
    for i, rows in enumerate(([], [old], [old, new], [old, new, {'step': 4, 'epoch': 1, 'eer100': 60.0}])):
        plot_training(rows, str(tmp_path / f'{i}.png'))
    assert sorted(file.name for file in tmp_path.glob('*.png')) == ['1.png', '2.png', '3.png']


def test_a_resumed_run_drops_what_it_does_again(log):
    one = log()
    for step in range(1, 7):
        one.step(step, float(step), 0, 0.01)
    with open(one.file, 'a', encoding='utf-8') as file:
        file.write('{"step": 7, "cut')
    log(first=4)
    assert [r['step'] for r in read_log(one.file)] == [2, 4]


def test_sinks_report_some_steps_only(log):
    one = log()
    one.step(2, 4.0, 5, 0.01)                           # two steps ran, the second is reported
    assert read_log(one.file)[0]['top1'] == 0.5


def test_skipped_overflows_do_not_spoil_the_mean(log):
    one = log()
    one.step(1, math.inf, 0, 0.01)
    one.step(2, 4.0, 0, 0.01)
    assert read_log(one.file)[0]['loss'] == 4.0


def test_other_ranks_are_silent(log, capsys, tmp_path):
    log(is_writer=False).step(2, 1.0, 1, 0.01)
    assert capsys.readouterr().out == '' and list(tmp_path.iterdir()) == []


def test_duration():
    assert [duration(s) for s in (0, 59.6, 3661)] == ['0:00:00', '0:01:00', '1:01:01']
