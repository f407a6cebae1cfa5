"""The path of cards, run on the CPU with MindSpore's own O2 wrapper and loss scaler: nothing here is replaced."""
import os

import mindspore as ms
import numpy as np
import pytest
from conftest import TINY, run_in_process, weights_of
from toy_backbone import NAME as TOY
from toy_backbone import Toy

from src.backbones import BACKBONES
from src.config import get_config
from src.data.face_format import face_format
from src.dataset import planes
from src.device import Device
from src.heads.head import unit
from src.protocols.lfw import lfw_scorer
from src.training import checkpoint, trainer
from src.training.log import read_log
from src.training.step import build_step

CARD, CPU = Device('Ascend', 0, 0, 1), Device('CPU', 0, 0, 1)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """Settings can name the toy backbone here, and only here."""
    monkeypatch.setitem(BACKBONES, TOY, Toy)


@pytest.fixture
def toy_cfg(synthetic):
    """Settings of a tiny training of a network with BatchNorm."""
    return get_config('quickstart', [*TINY[5:], f'network_type={TOY}', 'backbone.embedding_size=32'], str(synthetic))


def arrays(cfg, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.random((8, 1, 16, 16), np.float32) * np.float32(scale), np.arange(8, dtype=np.int32) % 6,
            rng.random((8, 256), np.float32), np.float32(0.01)]


def run_on_card(cfg, out, **kwargs):
    return trainer.train(cfg, CARD, 'quickstart', str(out), **kwargs)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_card_trains_scores_resumes_and_finetunes(cfg, tmp_path, capsys):
    """LightCNN-9 in O2: --eval_every, a checkpoint lost and its steps done again, --finetune with other classes."""
    evaluate = lfw_scorer(cfg, CARD)
    assert run_on_card(cfg, tmp_path, evaluate=evaluate, eval_every=1) == 12
    rows = read_log(str(tmp_path / 'train_log.jsonl'))
    assert [row['step'] for row in rows if 'eer100' in row] == [6, 12] and (tmp_path / 'best.ckpt').exists()
    last = weights_of(tmp_path / 'lightcnn-2_6.ckpt')
    assert {weight.dtype for weight in last.values()} == {np.dtype('float32'), np.dtype('int32')}
    assert float(last['loss_scale']) > 1 and int(last['loss_scale_steps']) > 0
    for name in ('best', 'lightcnn-2_6', 'lightcnn-2_2'):
        for suffix in ('.ckpt', '.json'):
            os.remove(tmp_path / (name + suffix))
    assert run_on_card(cfg, tmp_path, resume='auto', evaluate=evaluate, eval_every=1) == 12
    assert 'lightcnn-1_4.ckpt, 4 steps done' in capsys.readouterr().out
    assert same(last, weights_of(tmp_path / 'lightcnn-2_6.ckpt'))
    cfg.num_classes, cfg.epochs = 9, 1
    assert run_on_card(cfg, tmp_path / 'other', finetune=str(tmp_path)) == 6
    assert 'from the embedding in' in capsys.readouterr().out


def test_a_card_and_the_cpu_follow_each_other(toy_cfg, tmp_path):
    """A checkpoint of the CPU, without a loss scale, goes on on a card, and what the card saves on the CPU."""
    toy_cfg.epochs = 1
    assert run_in_process(toy_cfg, tmp_path) == 6
    toy_cfg.epochs = 2
    assert run_on_card(toy_cfg, tmp_path, resume='auto') == 12
    assert 'loss_scale' in weights_of(tmp_path / 'lightcnn-2_6.ckpt')
    toy_cfg.epochs = 3
    assert run_in_process(toy_cfg, tmp_path, resume='auto') == 18
    assert 'loss_scale' not in weights_of(tmp_path / 'lightcnn-3_6.ckpt')


@pytest.mark.parametrize('device', [CPU, CARD])
def test_running_statistics_and_head_state_resume(toy_cfg, tmp_path, device):
    """BatchNorm's running statistics and AdaFace's mean come back with a checkpoint, bit for bit."""
    toy_cfg.loss = 'adaface'
    trainer.train(toy_cfg, device, 'quickstart', str(tmp_path))
    last = weights_of(tmp_path / 'lightcnn-2_6.ckpt')
    first = weights_of(tmp_path / 'lightcnn-1_4.ckpt')
    for name in ('backbone.bn.moving_mean', 'backbone.bn.moving_variance', 'head.batch_mean'):
        assert not np.array_equal(first[name], last[name]), name
    for name in ('lightcnn-2_6', 'lightcnn-2_2'):
        os.remove(tmp_path / f'{name}.ckpt')
    assert trainer.train(toy_cfg, device, 'quickstart', str(tmp_path), resume='auto') == 12
    assert same(last, weights_of(tmp_path / 'lightcnn-2_6.ckpt'))
    assert checkpoint.read_metadata(str(tmp_path / 'lightcnn-2_6.ckpt'))['step'] == 12


def test_batch_norm_stays_in_float32(toy_cfg):
    """Activations of several hundred: their variance is beyond float16's 65,504."""
    step = build_step(toy_cfg, CARD)
    images = arrays(toy_cfg, 3000)
    step.run(*images)
    state = {p.name: p.asnumpy() for p in step.state}
    variance = (state['backbone.bn.moving_variance'] - 0.9) / 0.1          # BatchNorm2d's momentum is 0.9
    plain = build_step(toy_cfg, CPU)
    x = plain.backbone.conv(ms.Tensor(images[0])).asnumpy().astype(np.float64)
    expected = x.var((0, 2, 3))
    assert expected.max() > 65_504
    np.testing.assert_allclose(variance, expected, rtol=1e-2)              # of inputs rounded to 11 bits


@pytest.mark.parametrize('head', ['softmax', 'cosface', 'arcface', 'adaface', 'curricularface', 'sphereface', 'triplet',
                                  'center'])
def test_heads_work_in_float32(toy_cfg, head):
    """The loss of a head on top of a float16 network is the one of float32 within the network's rounding."""
    toy_cfg.loss = head
    losses = [float(build_step(toy_cfg, device).run(*arrays(toy_cfg))[0].asnumpy()) for device in (CPU, CARD)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)                 # float16: 2 ** -11 a rounding


def test_rows_of_length_1_come_from_float32():
    """A row of norm 4,800, whose square is beyond float16, and one of norm 1e-4: as in float64."""
    rows = np.stack([np.full(256, 300), np.full(256, 0.004)]).astype(np.float16)
    found = unit(ms.Tensor(rows)).asnumpy()
    exact = rows.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_a_long_embedding_has_a_loss(cfg):
    """CosFace on embeddings of norm above 256 in O2: the loss is finite and the step is taken."""
    cfg.loss = 'cosface'
    step = build_step(cfg, CARD)
    step.scaler.scale_value.set_data(ms.Tensor(np.float32(1)))
    images = arrays(cfg, 1000)
    loss, _, updated = (x.asnumpy() for x in step.run(*images))
    assert np.linalg.norm(step.backbone(ms.Tensor(images[0]), ms.Tensor(images[2])).asnumpy().astype(float)[0]) > 256
    assert np.isfinite(loss) and updated


def test_only_cards_have_mixed_precision_and_a_loss_scale(toy_cfg):
    """The maps of a card are float16, those of the CPU float32; the last layers make float32 embeddings everywhere."""
    kinds = []
    for device in (CARD, CPU, Device('GPU', 0, 0, 1)):
        step = build_step(toy_cfg, device)
        faces = ms.Tensor(arrays(toy_cfg)[0])
        maps = step.backbone.bn(step.backbone.conv(faces))
        kinds.append((maps.dtype, step.backbone.set_train(False)(faces).dtype, step.scaler is not None))
    assert kinds == [(ms.float16, ms.float32, True), (ms.float32, ms.float32, False), (ms.float16, ms.float32, True)]


@pytest.mark.parametrize('name, channels', [('lightcnn', 1), ('arcface', 3)])
def test_pixels_are_scaled_in_the_step(toy_cfg, name, channels):
    """All 256 values as uint8, scaled by the step: the bits of NumPy's float32, and so the loss."""
    toy_cfg.face_format = name
    step = build_step(toy_cfg, CPU)
    _, labels, noise, lr = arrays(toy_cfg)
    faces = np.random.default_rng(0).permutation(np.arange(8 * 16 * 16 * channels) % 256).astype(np.uint8)
    faces = faces.reshape((8, 16, 16) if channels == 1 else (8, 16, 16, 3))
    expected = face_format(name).to_input(faces)
    assert np.array_equal(ms.jit(step.scaled)(ms.Tensor(planes(faces))).asnumpy(), expected)
    losses = [build_step(toy_cfg, CPU).run(x, labels, noise, lr)[0].asnumpy() for x in (planes(faces), expected)]
    assert losses[0] == losses[1]


def test_cards_are_fed_bytes(toy_cfg, tmp_path):
    """The batches of a card are uint8, those of the CPU float32; what they mean is the same."""
    kinds = [trainer.Training(toy_cfg, device, 'quickstart', str(tmp_path)).batches[0][0] for device in (CARD, CPU)]
    assert [kind.dtype for kind in kinds] == [np.uint8, np.float32]
    assert np.array_equal(kinds[0].astype(np.float32) / np.float32(255), kinds[1])
