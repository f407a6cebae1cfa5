"""Staged training through the real trainer: what carries over, killed in every stage, and what is refused."""
import json
import shutil

import numpy as np
import pytest
from conftest import TINY, weights_of
from toy_backbone import NAME as TOY
from toy_backbone import register

from src.config import get_config, stage_configs
from src.device import Device
from src.recipes import RECIPES
from src.training import checkpoint
from src.training.log import read_log
from src.training.network import training_network
from src.training.stages import train_stages

CPU = Device('CPU', 0, 0, 1)
SETTINGS = [*TINY[5:], f'network_type={TOY}', 'backbone.embedding_size=8', 'lr=0.01', 'save_checkpoint_steps=2',
            'log_steps=1', 'num_steps=4', 'clip_norm=0', 'warmup_steps=0']


def staged(synthetic, *changes, monkeypatch):
    """Return the settings of a staged training on the synthetic faces: of 4 steps each, unless `changes` differ."""
    register()

    def recipe():
        cfg = get_config('quickstart', SETTINGS, str(synthetic))
        cfg.stages = list(changes)
        return cfg
    monkeypatch.setitem(RECIPES, 'staged', recipe)
    return get_config('staged')


THREE = ({'loss': 'softmax', 'head_options': {'bias': False}},
         {'loss': 'arcface', 'optimizer': 'adamw', 'lr': 0.001},
         {'loss': 'arcface', 'head_options': {'scale': 128.0}, 'lr_schedule': 'mhlr', 'mhlr_tau': 0.0})


@pytest.fixture
def three(synthetic, monkeypatch):
    """The settings of three stages."""
    return staged(synthetic, *THREE, monkeypatch=monkeypatch)


@pytest.fixture(scope='module')
def undisturbed(synthetic, tmp_path_factory):
    """The folder of three stages that nobody disturbed."""
    out = tmp_path_factory.mktemp('stages')
    with pytest.MonkeyPatch.context() as patch:
        assert train_stages(staged(synthetic, *THREE, monkeypatch=patch), CPU, 'staged', str(out)) == 12
    return out


def test_every_stage_has_its_folder(undisturbed):
    for number in (1, 2, 3):
        folder = undisturbed / f'stage{number}'
        metadata = json.loads((folder / 'lightcnn-1_4.json').read_text())
        assert metadata['stage'] == number and metadata['step'] == 4
        assert [row['step'] for row in read_log(str(folder / 'train_log.jsonl')) if 'loss' in row] == [1, 2, 3, 4]
    found = weights_of(checkpoint.newest(str(undisturbed)))
    assert 'schedule.mhlr' in found and 'adamw.updates' not in found
    assert checkpoint.load_backbone(checkpoint.newest(str(undisturbed))).name == TOY


@pytest.mark.parametrize('kept', [
    {1: ['1_2']}, {1: ['1_2', '1_4']}, {1: ['1_2', '1_4'], 2: ['1_2']}, {2: ['1_2', '1_4']}, {3: ['1_2']}])
def test_killed_in_any_stage_it_goes_on_there(undisturbed, three, tmp_path, kept):
    """What a kill leaves, or somebody who wants the disk of earlier stages: the same weights and log, bit for bit."""
    for number, names in kept.items():
        folder = tmp_path / f'stage{number}'
        folder.mkdir()
        shutil.copy(undisturbed / f'stage{number}' / 'train_log.jsonl', folder)
        for name in names:
            for suffix in ('ckpt', 'json'):
                shutil.copy(undisturbed / f'stage{number}' / f'lightcnn-{name}.{suffix}', folder)
    train_stages(three, CPU, 'staged', str(tmp_path), resume='auto')
    for number in range(max(kept), 4):
        expected, found = (weights_of(d / f'stage{number}' / 'lightcnn-1_4.ckpt') for d in (undisturbed, tmp_path))
        assert expected.keys() == found.keys() and all(np.array_equal(expected[n], found[n]) for n in expected)
    losses = [[r['loss'] for r in read_log(str(d / 'stage3' / 'train_log.jsonl')) if 'loss' in r]
              for d in (undisturbed, tmp_path)]
    assert losses[0] == losses[1]


def test_a_checkpoint_of_a_stage_goes_on_in_that_stage(undisturbed, three, tmp_path, capsys):
    train_stages(three, CPU, 'staged', str(tmp_path), resume=str(undisturbed / 'stage2' / 'lightcnn-1_2.ckpt'))
    assert 'steps 2 to 4, lr 0.001; stage 2 of 3, arcface' in capsys.readouterr().out
    assert not (tmp_path / 'stage1').exists()
    assert json.loads((tmp_path / 'stage3' / 'lightcnn-1_4.json').read_text())['sha256'] == json.loads(
        (undisturbed / 'stage3' / 'lightcnn-1_4.json').read_text())['sha256']


@pytest.mark.parametrize('carry', [True, False])
def test_what_a_stage_takes_over(synthetic, monkeypatch, tmp_path, carry, capsys):
    """A second stage that stands still: the backbone and, if it is carried, the class weight of the first one's end."""
    cfg = staged(synthetic, {'num_steps': 2}, {'loss': 'arcface', 'lr': 0.0, 'num_steps': 1, 'carry_head': carry},
                 monkeypatch=monkeypatch)
    train_stages(cfg, CPU, 'staged', str(tmp_path))
    first, second = (weights_of(tmp_path / name) for name in ('stage1/lightcnn-1_2.ckpt', 'stage2/lightcnn-1_1.ckpt'))
    fresh = {p.name: p.asnumpy() for p in training_network(stage_configs(cfg)[1]).get_parameters()}
    trained = [name for name in second if name.startswith('backbone.') and 'moving' not in name]
    assert len(trained) == 5 and all(np.array_equal(first[name], second[name]) for name in trained)
    assert not np.array_equal(first['head.weight'], fresh['head.weight'])
    assert np.array_equal(second['head.weight'], (first if carry else fresh)['head.weight'])
    said = capsys.readouterr().out
    assert 'stage 1 of 2, softmax\n' in said
    assert f"stage 2 of 2, arcface, from the embedding{' and the class weight' * carry} in {tmp_path}" in said


def test_the_best_checkpoint_starts_the_next_stage(synthetic, monkeypatch, tmp_path, capsys):
    """The network was best after the first epoch of two."""
    scores = iter([90.0, 80.0, 70.0])
    cfg = staged(synthetic, {'num_steps': 12}, {'num_steps': 1, 'start_from': 'best'}, monkeypatch=monkeypatch)
    train_stages(cfg, CPU, 'staged', str(tmp_path), evaluate=lambda _: {'eer100': next(scores)}, eval_every=1)
    assert f"class weight in {tmp_path / 'stage1' / 'best.ckpt'}" in capsys.readouterr().out
    assert checkpoint.read_metadata(str(tmp_path / 'stage1' / 'best.ckpt'))['step'] == 6


def test_what_is_refused(undisturbed, three, synthetic, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match='stage1: holds checkpoints of an earlier training; go on with --resume auto'):
        train_stages(three, CPU, 'staged', str(undisturbed))
    (tmp_path / 'stage2').mkdir()
    (tmp_path / 'stage2' / 'lightcnn-1_2.ckpt').write_bytes(b'cut off')
    with pytest.raises(FileNotFoundError, match='stage2: holds no valid checkpoint to go on from'):
        train_stages(three, CPU, 'staged', str(tmp_path), resume='auto')
    two = staged(synthetic, {'num_steps': 1}, {'head_options': {'bias': False}, 'start_from': 'best'},
                 monkeypatch=monkeypatch)
    with pytest.raises(ValueError, match='start_from=best.*give --eval_every'):
        train_stages(two, CPU, 'staged', str(tmp_path / 'two'))
    with pytest.raises(ValueError, match='this recipe has 2 stages'):
        train_stages(two, CPU, 'staged', str(undisturbed), resume='auto', eval_every=1)
    other = staged(synthetic, {'num_steps': 1}, {'loss': 'subcenter_arcface', 'num_steps': 1}, monkeypatch=monkeypatch)
    with pytest.raises(ValueError, match=r'its class weight is \(6, 8\), that of this stage .*carry_head=false'):
        train_stages(other, CPU, 'staged', str(tmp_path / 'other'))


def test_settings_of_stages():
    """A setting counts for all stages, stageN.NAME for one; epochs take the place of the recipe's steps."""
    cfg = get_config('mobilefacenet_y1', ['lr=0.5', 'stage3.lr=0.01', 'stage3.head.scale=100', 'stage2.num_steps=7'])
    found = [(stage.lr, stage.num_steps, stage.loss, stage.head_options) for stage in stage_configs(cfg)]
    assert found == [(0.5, 120_000, 'softmax', {'bias': False}), (0.5, 7, 'arcface', {}),
                     (0.01, 40_000, 'arcface', {'scale': 100.0})]
    cfg = get_config('mobilefacenet_y1', ['epochs=2', 'stage2.epochs=3'])
    assert [(stage.epochs, stage.num_steps) for stage in stage_configs(cfg)] == [(2, 0), (3, 0), (2, 0)]
    assert stage_configs(get_config()) == [get_config()]


@pytest.mark.parametrize('recipe, setting, message', [
    ('mobilefacenet_y1', 'stage4.lr=1', "'stage4.lr=1': the recipe has 3 stages"),
    ('quickstart', 'stage1.lr=1', 'the recipe has no stages'), ('quickstart', 'stages=3', "unknown setting 'stages'"),
    ('mobilefacenet_y1', 'stage2.lr=-1', 'stage 2: lr=-1.0 is out of range'),
    ('mobilefacenet_y1', 'head.scale=30', "stage 1: head softmax has no option 'scale'"),
    ('mobilefacenet_y1', 'stage1.learning_rate=1', "unknown setting 'learning_rate'")])
def test_a_wrong_setting_of_a_stage_is_refused(recipe, setting, message):
    with pytest.raises(ValueError, match=message):
        get_config(recipe, [setting])
