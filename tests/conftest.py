"""What the tests share: the project on the path, the real faces, a small synthetic data set, scripts as processes."""
import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
FACES = Path(os.environ.get('LIGHTCNN_FACES', PROJECT.parent / 'shared' / 'faces'))
SCRATCH = tempfile.mkdtemp(prefix='lightcnn-tests-')
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
os.environ.setdefault('GLOG_v', '3')


# files that take longest, in this order; started first, they do not keep one core busy at the end
SLOW_FILES = ('test_docs.py', 'test_launch.py', 'test_hosts.py', 'test_zoo_files.py', 'test_every_head.py',
              'test_head_ranks.py', 'test_resume.py', 'test_card_check.py', 'test_training.py', 'test_goldens_2.py',
              'test_goldens_1.py', 'test_api.py', 'test_evaluation.py', 'test_deploy.py', 'test_fused_mfm.py')


def pytest_collection_modifyitems(items):
    """Run the slow files first."""
    place = {name: i for i, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(scope='session')
def real_faces(tmp_path_factory):
    """The real faces, laid out as the data set of docs/data.md."""
    if not (FACES / 'unpack.sh').exists():
        pytest.skip(f"the real faces are not at {FACES}: set LIGHTCNN_FACES to run the tests on real data")
    out = tmp_path_factory.mktemp('faces')
    subprocess.run(['bash', FACES / 'unpack.sh', out], check=True, capture_output=True)
    return out


@pytest.fixture(scope='session')
def protocol_files():
    """(blufr_lfw_config.mat, lfw_pairs.mat) of the real protocols."""
    files = FACES / 'blufr_lfw_config.mat', FACES / 'lfw_pairs.mat'
    if not all(file.exists() for file in files):
        pytest.skip(f"the real protocol files are not at {FACES}: set LIGHTCNN_FACES to run the tests on real data")
    return tuple(map(str, files))


@pytest.fixture(scope='session')
def synthetic(tmp_path_factory):
    """A tiny synthetic data set: 6 people x 8 to train on, 14 x 24 to test on."""
    from src.data.synthetic import write_dataset
    out = tmp_path_factory.mktemp('synthetic')
    write_dataset(str(out), people=6, images=8, test_people=14, test_images=24, seed=3)
    return out


@pytest.fixture
def cfg(synthetic):
    """Settings of a tiny training on the synthetic data set."""
    from src.config import get_config
    return get_config('quickstart', TINY[5:], str(synthetic))


def run_in_process(cfg, out, **kwargs):
    """Train with `cfg` on one CPU process, this one."""
    from src.device import Device
    from src.training import trainer
    return trainer.train(cfg, Device('CPU', 0, 0, 1), 'quickstart', str(out), **kwargs)


def weights_of(file):
    """Return {name: array} of a checkpoint."""
    from src.training import checkpoint
    return {n: p.asnumpy() for n, p in checkpoint.load_parameters(str(file)).items()}


def parted(a, b):
    """Return how far apart two tiny trainings have come, in parts of the way that the second has come.

    a, b: weights and momentum of their checkpoints. Sums in another order turn a maximum over now and then, so this is
    not zero for other numbers of ranks; with the small learning rate of these trainings it stays below a hundredth.
    """
    from src.config import get_config
    from src.training.network import training_network
    start = {p.name: p.asnumpy() for p in training_network(get_config('quickstart', TINY[5:])).get_parameters()}
    assert a.keys() == b.keys() >= start.keys()
    apart = sum(float(((a[name] - b[name]) ** 2).sum()) for name in b)
    way = sum(float(((b[name] - start.get(name, 0)) ** 2).sum()) for name in b)
    return (apart / way) ** 0.5


TINY = ['--recipe', 'quickstart', '--device_target', 'CPU', '--set', 'num_classes=6', 'image_size=16', 'resize_size=18',
        'batch_size=8', 'epochs=2', 'log_steps=2', 'save_checkpoint_steps=4', 'lr=0.001']


@pytest.fixture(scope='session')
def trained(synthetic, tmp_path_factory):
    """A folder of checkpoints of a tiny training on the synthetic data set, through train.py."""
    out = tmp_path_factory.mktemp('ckpt')
    done = script('train.py', *TINY, '--dataset_path', synthetic, '--ckpt_path', out, '--eval_every', '1')
    assert done.returncode == 0, done.stdout + done.stderr
    (out / 'stdout.txt').write_text(done.stdout)
    return out


def script(name, *arguments, **kwargs):
    """Run one of the project's Python scripts from another folder; the finished process."""
    return subprocess.run([sys.executable, PROJECT / name, *map(str, arguments)], capture_output=True, text=True,
                          cwd=kwargs.pop('cwd', SCRATCH), timeout=600, **kwargs)


def on_two_ranks(program, out, *arguments):
    """Run a Python file as two CPU ranks under the launcher, with the folder `out` and further arguments."""
    code = ("import sys; from src.training import launch; "
            f"sys.exit(launch.run(launch.cluster(2, [(0, 0), (1, 1)], '127.0.0.1'), sys.argv[1:], {str(out)!r}))")
    done = subprocess.run([sys.executable, '-c', code, sys.executable, '-u', *map(str, (program, out, *arguments))],
                          capture_output=True, text=True, timeout=900, cwd=out,
                          env={**os.environ, 'PYTHONPATH': str(PROJECT)})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture
def eager():
    """Networks run operator by operator: compiling the graph of one that runs once would take longer."""
    import mindspore as ms
    before = ms.get_context('mode')
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=before)


LIGHTCNNS = ('LightCNN_9Layers', 'LightCNN_29Layers', 'LightCNN_29Layers_v2')


def lightcnn(name, image_size=128, init=None):
    """Return a LightCNN for grey faces; zeros without an `Init`."""
    from src.backbones import build_backbone
    return build_backbone(name, init=init, image_size=image_size)


def rounding(*num_terms):
    """Return how far float32 sums of so many terms, layer upon layer, may be off in parts of the largest result.

    A sum of n terms rounds n times by up to half a unit in the last place, at random: sqrt(n) half units. Layers add
    up. Four times that is allowed, on any processor and in any order of the terms.
    """
    return 4 * 2.0 ** -24 * sum(n ** 0.5 for n in num_terms)


def terms_of(network):
    """Return the number of terms that each layer of a network sums for one output."""
    return [int(p.size // len(p)) for p in network.get_parameters() if p.ndim > 1]


def lightcnn_in_numpy(network, name, x):
    """Return the features of x (N, C, S, S) in NumPy, layer by layer from the paper's table, as exact as x is."""
    weights = {p.name: p.asnumpy() for p in network.get_parameters()}
    layers = iter(range(100))

    def conv(prefix, x):
        w, b = weights[f'{prefix}.layer.weight'], weights[f'{prefix}.layer.bias']
        pad = w.shape[2] // 2
        x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
        windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))
        y = np.einsum('nchwij,ocij->nohw', windows, w, optimize=True) + b[:, None, None]
        return np.maximum(*np.split(y, 2, 1))

    def pool(x):
        blocks = x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2)
        next(layers)
        return blocks.max((3, 5)) + (blocks.mean((3, 5)) if name.endswith('v2') else 0)

    x = pool(conv(f'features.{next(layers)}', x))
    for blocks, pooled in zip((1, 2, 3, 4) if '29' in name else (0,) * 4, (True, True, False, True)):
        for _ in range(blocks):
            i = next(layers)
            x = x + conv(f'features.{i}.conv2', conv(f'features.{i}.conv1', x))
        i = next(layers)
        x = conv(f'features.{i}.conv', conv(f'features.{i}.conv_a', x))
        x = pool(x) if pooled else x
    x = x.reshape(len(x), -1)
    if name.endswith('v2'):
        return x @ weights['fc.weight'].T + weights['fc.bias']
    return np.maximum(*np.split(x @ weights['fc.layer.weight'].T + weights['fc.layer.bias'], 2, 1))
