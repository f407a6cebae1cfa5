"""mixed_precision: which cards have bfloat16, what computes in it, checkpoints between the precisions."""
import mindspore as ms
import numpy as np
import pytest
from conftest import TINY, weights_of
from mindspore import nn
from toy_backbone import NAME as TOY
from toy_backbone import Toy

from src.backbones import BACKBONES, build_backbone
from src.config import get_config
from src.device import Device
from src.heads import build_head
from src.initializers import Init
from src.training import trainer
from src.training.network import TrainingNetwork
from src.training.precision import last_layers, mixed_precision, precision_of, refuse_without_bfloat16
from src.training.step import build_step

CARD, CPU, GPU = Device('Ascend', 0, 0, 1), Device('CPU', 0, 0, 1), Device('GPU', 0, 0, 1)


@pytest.fixture
def cfg_of(synthetic, monkeypatch):
    """A function from a precision to the settings of a tiny training of a network with BatchNorm."""
    monkeypatch.setitem(BACKBONES, TOY, Toy)
    return lambda name: get_config('quickstart', [*TINY[5:], f'network_type={TOY}', 'backbone.embedding_size=32',
                                                  f'mixed_precision={name}'], str(synthetic))


def flags(cell):
    return [kind for kind in ('fp16', 'bf16', 'fp32') if cell.get_flags().get(kind)]


@pytest.mark.parametrize('name', ['Ascend910', 'Ascend910A', 'Ascend910B', 'Ascend910ProA', 'Ascend910ProB',
                                  'Ascend910PremiumA', 'Ascend310P3', 'Ascend310'])
def test_a_card_without_bfloat16_is_refused(name):
    said = f'mixed_precision=bfloat16: an {name} computes in float16 and float32 only'
    with pytest.raises(ValueError, match=said) as error:
        refuse_without_bfloat16('Ascend', name)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['Ascend910B1', 'Ascend910B2', 'Ascend910B2C', 'Ascend910B4', 'Ascend910_9391', None])
def test_a_card_with_bfloat16_is_taken(name):
    refuse_without_bfloat16('Ascend', name)


def test_what_the_setting_means_where(cfg_of, capsys):
    expected = {('auto', CARD): 'float16', ('auto', GPU): 'float16', ('auto', CPU): 'float32',
                ('float32', CARD): 'float32', ('bfloat16', CARD): 'bfloat16', ('float16', GPU): 'float16'}
    assert {key: precision_of(cfg_of(key[0]), key[1]) for key in expected} == expected
    assert capsys.readouterr().err == ''
    assert precision_of(cfg_of('bfloat16'), CPU) == 'float32'
    assert 'warning: mixed_precision=bfloat16 is for cards' in capsys.readouterr().err
    with pytest.raises(ValueError, match='MindSpore has its operators for Ascend, not for GPU'):
        precision_of(cfg_of('bfloat16'), GPU)
    with pytest.raises(ValueError, match="mixed_precision='half' is not one of auto, float16, bfloat16, float32"):
        cfg_of('half')


def test_bfloat16_is_what_mindspore_gets(cfg_of):
    """With its own wrapper: convolutions in bfloat16, BatchNorm, the last layer and the head in float32, no scale."""
    step = build_step(cfg_of('bfloat16'), CARD)
    network = step.backbone
    assert step.scaler is None and type(step.network).__name__ == '_OutputTo32'
    assert flags(network.conv) == ['bf16'] and flags(network.fc) == flags(step.head) == ['fp32']
    assert network.bn.dtype == ms.bfloat16 and flags(network.bn._backbone) == ['fp32']
    assert {weight.dtype for weight in step.weights} == {ms.float32}


def test_float32_on_a_card_is_the_cpus(cfg_of):
    """No wrapper and no scale: the loss of a step has the bits of the CPU's."""
    rng = np.random.default_rng(0)
    arrays = [rng.random((8, 1, 16, 16), np.float32), np.arange(8, dtype=np.int32) % 6, np.zeros((8, 1), np.float32),
              np.float32(0.01)]
    steps = [build_step(cfg_of('float32'), device) for device in (CARD, CPU)]
    assert steps[0].scaler is None
    assert np.array_equal(*(step.run(*arrays)[0].asnumpy() for step in steps))


def test_checkpoints_go_on_in_another_precision(cfg_of, tmp_path):
    """float16 to float32 and back, and its weights and momentum into a step of bfloat16, which the CPU cannot run."""
    for i, name in enumerate(('float16', 'float32', 'float16')):
        cfg = cfg_of(name)
        cfg.epochs = i + 1
        assert trainer.train(cfg, CARD, 'quickstart', str(tmp_path), resume='auto') == 6 * (i + 1)
        saved = weights_of(tmp_path / f'lightcnn-{i + 1}_6.ckpt')
        assert ('loss_scale' in saved) == (name == 'float16')
    training = trainer.Training(cfg_of('bfloat16'), CARD, 'quickstart', str(tmp_path))
    training.begin('auto', None)
    assert training.done == 18
    for parameter in [*training.step.weights, *training.step.moments, *training.step.state]:
        assert np.array_equal(parameter.asnumpy(), saved[parameter.name]), parameter.name


def test_sync_batch_norm_is_spared(monkeypatch):
    """MindSpore's own list has nn.SyncBatchNorm not: it would be cast to float16."""
    class Cell(nn.SyncBatchNorm):
        def __init__(self):
            super().__init__(4, process_groups=0)          # 0: no group, so that it can be made here

    network = nn.SequentialCell(nn.Conv2d(1, 4, 3), Cell(), nn.ReLU(), nn.Dense(4, 4))
    assert not isinstance(network[1], tuple(ms.amp.get_black_list()))
    whole = TrainingNetwork.__new__(TrainingNetwork)
    nn.Cell.__init__(whole)
    whole.backbone, whole.head = network, build_head('softmax', 6, 4, init=Init('xavier', 1))
    mixed_precision(whole, 'float16')
    assert flags(network[0]) == ['fp16'] and flags(network[1]._backbone) == ['fp32']


SIDES = {'swin_t': 224, 'swin_s': 224, 'mobilefacenet_h4': 112}


@pytest.mark.parametrize('name', sorted(set(BACKBONES) - {'vit_l', 'vit_h', 'vit_b', 'iresnet200', 'iresnet100',
                                                          'resnet152_ir', 'resnet152_irse', 'swin_s'}))
def test_the_last_layer_makes_the_embedding(name):
    """What stays in float32 is the linear layer whose output is the embedding, and what comes behind."""
    backbone = build_backbone(name, image_size=SIDES.get(name, 48), embedding_size=24)
    last = last_layers(backbone)
    assert isinstance(last[0], nn.Dense) and last[0].weight.shape[0] in (24, 48)       # 48: halves of a max feature map
    assert {type(cell) for cell in last[1:]} <= {nn.BatchNorm1d, nn.Flatten, nn.Identity, nn.ReLU}
    assert all(p.shape[0] == 24 for cell in last[1:] for p in cell.get_parameters())
