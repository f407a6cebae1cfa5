"""What a plan says: counted parameters and maps, memory by part, disk, checkpoints, hours."""
import os

import pytest
from conftest import script

from src import device, plan
from src.backbones import build_backbone
from src.data.pack import write_shard
from src.plan import GIB, Wanted, count
from src.training.checkpoint import newest


@pytest.fixture(scope='module')
def lightcnn():
    """(what is wanted, what was counted) of LightCNN-9 with MS-Celeb-1M's people."""
    device.set_up('CPU')
    wanted = Wanted(79_077, 5_049_824, 'LightCNN_9Layers', 'softmax')
    return wanted, count(wanted)


def test_parameters_are_those_of_the_real_network(lightcnn):
    wanted, net = lightcnn
    assert net.weights == 5_480_864 and plan.class_numbers(wanted, net) == 79_077 * 257
    arcface = count(wanted._replace(head='subcenter_arcface', options={'image_size': 16}))
    assert (arcface.per_class, arcface.is_cosine) == (3 * 256, True)


def test_activations_are_the_outputs_of_all_cells(lightcnn):
    """Of the paper's table: a convolution of 2M maps, M after Max-Feature-Map, and pooling to half the side."""
    _, net = lightcnn
    table = [(128, (96,), True), (64, (96, 192), True), (32, (192, 384), True), (16, (384, 256, 256, 256), True)]
    maps = 0
    for side, channels, pooled in table:
        maps += sum(number + number // 2 for number in channels) * side ** 2
        maps += pooled * channels[-1] // 2 * (side // 2) ** 2
    rest = net.maps - maps - 512 - 256                           # the linear layer and its Max-Feature-Map
    assert 0 <= rest <= 8192 + 2 * 256 and net.largest == 96 * 128 ** 2          # flattened maps, dropout


def test_maps_of_the_cpu_are_fewer(lightcnn):
    wanted, net = lightcnn
    assert count(wanted._replace(target='CPU')).maps < net.maps / 4
    mobile = Wanted(100, 1000, 'mobilefacenet', 'arcface')
    # BatchNorm and PReLU are two of three outputs, and not written
    assert 0.3 < count(mobile._replace(target='CPU')).maps / count(mobile).maps < 0.45


def test_memory_by_part(lightcnn):
    wanted, net = lightcnn
    numbers = plan.class_numbers(wanted, net)
    parts = plan.memory_parts(wanted, net, 128, half=True)
    assert parts['classes: weights, momentum, gradients'] == 12 * numbers
    assert parts['network: weights in 16 bits'] == 2 * 5_480_864
    assert parts['activations'] == 2 * 128 * (net.maps + 2 * net.largest)
    assert parts['logits and their gradients'] == 8 * 128 * 79_077
    whole = plan.memory_parts(wanted, net, 128, half=False)
    assert whole['activations'] == 2 * parts['activations'] and 'network: weights in 16 bits' not in whole
    shared = plan.memory_parts(wanted._replace(cards=8), net, 128, half=False, shared=True)
    assert abs(shared['classes: weights, momentum, gradients'] - 12 * numbers / 8) <= 12
    assert shared['activations'] == whole['activations']
    cpu = wanted._replace(target='CPU')
    parts = plan.memory_parts(cpu, net._replace(in_parts=True), 128, half=False)
    assert parts['activations'] == 4 * 32 * (net.maps + 2 * net.largest) and parts['program'] > GIB / 2


def test_the_largest_batch_fits_and_the_next_does_not(lightcnn):
    wanted, net = lightcnn
    for half in (True, False):
        batch = plan.largest_batch(wanted, net, half=half)
        sizes = [sum(plan.memory_parts(wanted, net, b, half=half).values()) for b in (batch, batch + 8)]
        assert batch >= 64 and sizes[0] <= 0.9 * 32 * GIB < sizes[1]
    assert plan.largest_batch(wanted._replace(memory=0.2), net, half=True) == 0


@pytest.mark.parametrize('number, size', [(1000, 20736), (4000, 20736), (4000, 9000)])
def test_disk_is_what_a_pack_takes(tmp_path, number, size):
    records = ((f'm.{i:06x}/{i}-FaceId-0.jpg', i, bytes(size)) for i in range(number))
    written = write_shard(str(tmp_path / 'a'), 0, records)
    real = written['bytes'] + written['bytes_db']
    assert abs(plan.pack_bytes(number, size) - real) < 0.01 * real
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == real


def test_a_checkpoint_has_the_size_that_is_planned(trained):
    wanted = Wanted(6, 48, 'LightCNN_9Layers', 'softmax', options={'image_size': 16})
    planned = plan.checkpoint_bytes(wanted, count(wanted))
    assert abs(os.path.getsize(newest(str(trained))) - planned) < 0.01 * planned


def test_hours(lightcnn):
    wanted, _ = lightcnn
    wanted = wanted._replace(epochs=1, images=1219 * 3600)
    rows = plan.anchored(wanted)
    assert rows[0] == ('LightCNN_9Layers on Ascend 910: 1219 images/s', 1219, 1)
    eight = plan.anchored(wanted._replace(cards=8))
    assert eight[0][1] == 8 * 1219 and eight[1][1] == 4876 and len(eight) == len(plan.ANCHORS)


def test_a_measured_step():
    device.set_up('CPU')
    wanted = Wanted(40, 1000, 'LightCNN_9Layers', 'softmax', batch=4, target='CPU', options={'image_size': 16})
    seconds, rate = plan.measure(wanted, count(wanted), steps=2, classes=(20, 40))
    assert 0 < seconds < 60 and rate == pytest.approx(4 / seconds)
    assert build_backbone(wanted.network, **wanted.options).image_size == 16


def test_the_command():
    arguments = ['--people', 1000, '--images', 50_000, '--network', 'mobilefacenet', '--cards', 2]
    done = script('plan.py', *arguments, '--head', 'arcface')
    assert done.returncode == 0, done.stderr
    for word in ('1.201 million weights', 'float16, shared', 'largest batch in 32 GiB', 'as jpeg', 'a checkpoint',
                 'iresnet100 on RTX 4090'):
        assert word in done.stdout, word
    for wrong in (['--head', 'nonsense'], ['--images', 5], ['--people', 'x'], ['--memory', 'nan']):
        done = script('plan.py', *arguments, *wrong)
        assert done.returncode == 2 and 'error: ' in done.stderr, wrong
