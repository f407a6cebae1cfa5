"""The zoo's table: every backbone stands in it, and what it says is what the networks are."""
import math

import mindspore as ms
import numpy as np
import pytest
from conftest import script
from mindspore import nn

from src import zoo
from src.backbones import BACKBONES, build_backbone


def test_every_backbone_is_in_the_table():
    lines = zoo.table().splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(BACKBONES) and max(map(len, lines)) <= 80
    assert set(zoo.ZOO) <= set(BACKBONES)


@pytest.mark.parametrize('name', ['LightCNN_9Layers', 'mobilefacenet', 'mobilefacenet_y1', 'mbf', 'ghostnet', 'vit_t'])
def test_costs_are_those_of_the_network(name, monkeypatch):
    """Multiply-adds are counted while a face goes through; parameters without running statistics."""
    macs = []

    def count(cell, inputs, output):
        macs.append(math.prod(output.shape[1:]) * cell.weight.size // len(cell.weight))

    network = build_backbone(name).set_train(False)
    for _, cell in network.cells_and_names():
        if isinstance(cell, (nn.Conv2d, nn.Dense)):
            cell.register_forward_hook(count)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        network(ms.Tensor(np.zeros((1, network.channels, network.image_size, network.image_size), np.float32)))
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)
    parameters = sum(p.size for p in network.get_parameters() if '.moving_' not in p.name)
    assert parameters == pytest.approx(1e6 * zoo.ZOO[name].parameters, abs=1000)
    assert sum(macs) == pytest.approx(1e6 * zoo.ZOO[name].macs, rel=0.002)


def test_the_command(tmp_path):
    done = script('prepare.py', 'zoo')
    assert done.returncode == 0 and 'iresnet100' in done.stdout
    done = script('prepare.py', 'zoo', '--measure', 'LightCNN_9Layers')
    assert done.returncode == 0 and float(done.stdout.split()[-1]) > 0, done.stderr
    done = script('prepare.py', 'zoo', '--measure', 'vgg')
    assert done.returncode == 2 and "unknown backbone 'vgg'" in done.stderr and done.stderr.count('\n') == 1
