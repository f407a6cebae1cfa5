"""What owners of cards are asked to run, run here: the dry run without CANN, the card check on the CPU."""
import os
import subprocess
import sys

import pytest
from conftest import PROJECT

from src.config import RECIPES
from src.training import card_check

ENV = {**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': str(PROJECT)}


def dry_run(*arguments, **environ):
    environment = {name: value for name, value in ENV.items() if not name.startswith('ASCEND_')}
    return subprocess.run(['bash', PROJECT / 'scripts' / 'dry_run.sh', *arguments], capture_output=True, text=True,
                          timeout=600, env={**environment, **environ})


def test_the_dry_run_says_that_cann_is_missing(tmp_path):
    done = dry_run(ASCEND_HOME_PATH=str(tmp_path / 'absent'))
    assert done.returncode == 1 and done.stderr.count('\n') == 1 and not done.stdout
    assert 'error: the CANN toolkit is missing: no ' in done.stderr


def test_the_dry_run_has_a_line_for_each_recipe(tmp_path):
    """A folder in place of CANN: MindSpore finds no Ascend in it, which is a line and code 1."""
    done = dry_run('quickstart', 'lightcnn9_ms1m', ASCEND_HOME_PATH=str(tmp_path))
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and [line.split(': ')[:2] for line in lines] == [
        ['quickstart', 'FAILED'], ['lightcnn9_ms1m', 'FAILED']], done.stdout + done.stderr
    assert 'MindSpore cannot simulate an Ascend' in lines[0]


@pytest.mark.parametrize('settings, code, message', [
    ([], 0, 'LightCNN_9Layers with softmax, 1 x batch 32'), (['--set', 'loss=absent'], 2, 'absent')])
def test_a_recipe_compiles_in_o2(settings, code, message):
    done = subprocess.run([sys.executable, '-m', 'src.training.dry_run', 'quickstart', '--device_target', 'CPU',
                           *settings], capture_output=True, text=True, timeout=300, env=ENV)
    assert done.returncode == code and message in done.stdout + done.stderr


def test_the_dry_run_knows_all_recipes():
    done = subprocess.run([sys.executable, '-m', 'src.training.dry_run'], capture_output=True, text=True, env=ENV)
    assert done.stdout.split() == list(RECIPES)


def test_the_card_check_on_the_cpu(monkeypatch, tmp_path):
    """All checks; of the kinds of steps one, and one that fails, which stops no other."""
    kinds = {'LightCNN-9, softmax': (), 'far too fast': ('lr=1e30', 'clip_norm=0')}
    monkeypatch.setattr(card_check, 'STEPS', kinds)
    monkeypatch.setattr(card_check, 'WITH_NORMS', 'LightCNN-9, softmax')
    report = tmp_path / 'card_check.txt'
    assert not card_check.run_all(card_check.Check('CPU', str(tmp_path), ('image_size=16', 'resize_size=18')),
                                  str(report))
    lines = report.read_text().splitlines()
    results = {line[8:].split(': ')[0]: (line[:8].strip(), line) for line in lines}
    assert list(results) == ['devices', 'faces', *kinds, 'loss scale', 'bfloat16', 'repeat', 'resume', 'two cards',
                             'sync_bn', 'export']
    assert [name for name, (result, _) in results.items() if result != 'ok'] == ['far too fast']
    assert 'the loss is' in results['far too fast'][1]
    assert results['repeat'][1].endswith('the same bits') and results['resume'][1].endswith('the same bits')
    assert 'largest difference' in results['export'][1] and '12 steps, loss' in results['LightCNN-9, softmax'][1]
