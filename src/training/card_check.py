"""What a machine with cards is asked first: ten minutes, a line a check, and a text file that can be sent.

    bash scripts/card_check.sh                         # Ascend; DEVICE_TARGET=GPU|CPU for others
    python -m src.training.card_check --device_target Ascend --out card_check

Procedurally generated faces; no data is needed. Every check is a process of its own, so that one that fails or hangs
stops no other.
"""
import argparse
import glob
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from src import cli
from src.config import PROJECT_DIR

SECONDS = 600                    # that one run may take, a cold compile included
SETTINGS = ('num_classes=6', 'image_size=32', 'resize_size=36', 'batch_size=8', 'epochs=2', 'log_steps=1', 'lr=0.001',
            'save_checkpoint_steps=6', 'check_every=2')
WITH_NORMS = 'MobileFaceNet (BatchNorm), ArcFace'
STEPS = {                        # what differs between the kinds of steps
    'LightCNN-9, softmax': (),
    'LightCNN-29 v2, CosFace': ('network_type=LightCNN_29Layers_v2', 'loss=cosface'),
    'LightCNN-9, AdaFace, AdamW': ('loss=adaface', 'optimizer=adamw', 'clip_norm=5', 'clip_part=backbone'),
    WITH_NORMS: ('network_type=mobilefacenet', 'loss=arcface'),
}


class Check:
    """The checks of one target, and the folder that their runs and logs go to."""

    def __init__(self, target: str, out: str, settings: tuple = ()):
        self.target, self.out, self.settings = target, os.path.abspath(out), settings
        self.data = os.path.join(self.out, 'data')

    def run(self, name: str, command: list) -> str:
        """Run a command, keep its output in NAME.log, and return it; RuntimeError with its last line if it fails."""
        environment = {**os.environ, 'PYTHONPATH': str(PROJECT_DIR)}
        done = subprocess.run([sys.executable, '-u', *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, errors='replace', timeout=SECONDS, cwd=self.out, env=environment)
        with open(os.path.join(self.out, f'{name}.log'), 'w', encoding='utf-8') as log:
            log.write(done.stdout)
        if done.returncode:
            errors = [line for line in done.stdout.splitlines() if line.startswith('error: ')]
            last = (errors or done.stdout.splitlines() or ['no output'])[-1]
            raise RuntimeError(f"{last[:300]} (code {done.returncode}, {name}.log)")
        return done.stdout

    def train(self, name: str, settings: tuple = (), further: tuple = (), ranks: int = 1) -> str:
        """Train into the folder NAME and return what the run said."""
        arguments = ['--recipe', 'quickstart', '--dataset_path', self.data, '--ckpt_path', name, *further, '--set',
                     *SETTINGS, *self.settings, *settings]
        if ranks > 1:
            return self.run(name, ['-m', 'src.training.launch', '--device_num', str(ranks), '--device_target',
                                   self.target, '--', *arguments])
        return self.run(name, [str(PROJECT_DIR / 'train.py'), '--device_target', self.target, *arguments])

    def devices(self) -> str:
        """Return what is here: MindSpore, CANN, cards."""
        tool = {'Ascend': 'npu-smi', 'GPU': 'nvidia-smi'}.get(self.target)
        if tool and shutil.which(tool):
            with open(os.path.join(self.out, 'devices.log'), 'w', encoding='utf-8') as log:
                subprocess.run([tool, *(['info'] if tool == 'npu-smi' else [])], stdout=log, stderr=log, timeout=60)
        code = ("from src import device; import mindspore as ms; "
                f"print('MindSpore', ms.__version__, 'on', *device.set_up({self.target!r})[:2])")
        found = self.run('mindspore', ['-c', code]).splitlines()[-1]
        return (f"{found}, {num_cards(self.target)} here; Python {platform.python_version()}, {platform.machine()}; "
                f"CANN {cann_version()}")

    def step(self, name: str) -> Callable:
        """Return the check of one kind of step."""
        def check() -> str:
            start = time.time()
            folder = folder_of(name)
            self.train(folder, STEPS[name])
            with open(os.path.join(self.out, folder, 'train_log.jsonl'), encoding='utf-8') as log:
                rows = [json.loads(line) for line in log]
            speed = np.median([row['images_per_s'] for row in rows])
            return (f"{len(rows)} steps, loss {rows[0]['loss']:.4f} to {rows[-1]['loss']:.4f}, {speed:.0f} images/s, "
                    f"{time.time() - start:.0f} s with compiling")
        return check

    def loss_scale(self) -> str:
        """Return the loss scale after a run; the CPU has none."""
        state = parameters(os.path.join(self.out, 'LightCNN_9__softmax'))
        if self.target == 'CPU':
            return 'none, the CPU computes in float32'
        return f"{float(state['loss_scale']):g} after {int(state['loss_scale_steps'])} steps without an overflow"

    def bfloat16(self) -> str:
        """Return how far a run in bfloat16 is from the one in float16, or why there is none."""
        if self.target == 'CPU':
            return 'not run: the CPU computes in float32'
        try:
            self.train('bfloat16', ('mixed_precision=bfloat16',))
        except RuntimeError as error:
            if 'mixed_precision=bfloat16' not in str(error):
                raise
            return str(error)
        return f"against float16: {apart(*(os.path.join(self.out, n) for n in ('LightCNN_9__softmax', 'bfloat16')))}"

    def repeat(self) -> str:
        """Return how far two equal runs part, with --deterministic."""
        for name in ('same_1', 'same_2'):
            self.train(name, further=('--deterministic',))
        return f"two runs with --deterministic: {apart(*(os.path.join(self.out, n) for n in ('same_1', 'same_2')))}"

    def resume(self) -> str:
        """Return how far a resumed run parts from an undisturbed one."""
        os.makedirs(os.path.join(self.out, 'resumed'), exist_ok=True)
        for suffix in ('ckpt', 'json'):
            shutil.copy(os.path.join(self.out, 'same_1', f'lightcnn-1_6.{suffix}'), os.path.join(self.out, 'resumed'))
        output = self.train('resumed', further=('--resume', 'auto', '--deterministic'))
        if '6 steps done' not in output:
            raise RuntimeError('the run began anew, see resumed.log')
        return f"after 6 of 12 steps: {apart(*(os.path.join(self.out, n) for n in ('same_1', 'resumed')))}"

    def two_cards(self) -> str:
        """Return how far two ranks of half the batch part from one."""
        if num_cards(self.target) < 2:
            return 'not run: one card'
        self.train('two', ('batch_size=4',), ranks=2)
        return f"2 x 4 images against 8: {apart(*(os.path.join(self.out, n) for n in ('same_1', 'two')))}"

    def shared_statistics(self) -> str:
        """Return how far two ranks of half the batch part from one where BatchNorm takes the statistics of both."""
        if num_cards(self.target) < 2:
            return 'not run: one card'
        self.train('shared', (*STEPS[WITH_NORMS], 'batch_size=4', 'sync_bn=true'), ranks=2)
        one = os.path.join(self.out, folder_of(WITH_NORMS))
        return f"2 x 4 images against 8: {apart(one, os.path.join(self.out, 'shared'))}"

    def export(self) -> str:
        """Return what the exported file differs by."""
        return self.run('export', [str(PROJECT_DIR / 'export.py'), '--ckpt_file', 'same_1', '--file_name',
                                   'model']).splitlines()[-1]

    def draw(self) -> str:
        """Write the faces that the runs train on."""
        from src.data.synthetic import write_dataset
        write_dataset(self.data, people=6, images=8, test_people=14, test_images=24, seed=3)
        return '48 faces'

    def checks(self) -> dict:
        """Return {name: function that returns a line} of all checks, in their order."""
        return {'devices': self.devices, 'faces': self.draw, **{name: self.step(name) for name in STEPS},
                'loss scale': self.loss_scale, 'bfloat16': self.bfloat16, 'repeat': self.repeat, 'resume': self.resume,
                'two cards': self.two_cards, 'sync_bn': self.shared_statistics, 'export': self.export}


def folder_of(name: str) -> str:
    """Return the folder that the run of a kind of step writes to."""
    return ''.join(c if c.isalnum() else '_' for c in name)


def num_cards(target: str) -> int:
    """Return the number of cards of this host, or its cores."""
    devices = {'Ascend': '/dev/davinci[0-9]*', 'GPU': '/dev/nvidia[0-9]*'}
    return len(glob.glob(devices[target])) if target in devices else len(os.sched_getaffinity(0))


def cann_version() -> str:
    """Return the version of the CANN toolkit, 'none' without one."""
    home = os.environ.get('ASCEND_HOME_PATH') or '/usr/local/Ascend/ascend-toolkit/latest'
    for file in sorted(glob.glob(os.path.join(home, '*', 'ascend_toolkit_install.info')) +
                       glob.glob(os.path.join(home, 'version.cfg'))):
        with open(file, encoding='utf-8', errors='replace') as text:
            return ' '.join(text.read().split())[:120]
    return f'in {home}' if os.path.isdir(home) else 'none'


def parameters(folder: str) -> dict:
    """Return {name: array} of the newest checkpoint of a folder."""
    from src.training import checkpoint
    return {name: p.asnumpy() for name, p in checkpoint.load_parameters(checkpoint.newest(folder)).items()}


def apart(first: str, second: str) -> str:
    """Return how far the weights of two runs are from each other, as a share of their length."""
    a, b = parameters(first), parameters(second)
    names = [name for name in a if name.startswith(('backbone.', 'head.'))]
    if all(np.array_equal(a[name], b[name]) for name in names):
        return 'the same bits'
    difference = sum(float(((a[name] - b[name]).astype(np.float64) ** 2).sum()) for name in names)
    length = sum(float((a[name].astype(np.float64) ** 2).sum()) for name in names)
    return f"weights differ by {(difference / length) ** 0.5:.2g} of their length"


def run_all(check: Check, report: str) -> bool:
    """Run all checks, print and write a line for each, and return whether none failed."""
    passed = True
    with open(report, 'w', encoding='utf-8') as out:
        for name, function in check.checks().items():
            try:
                line = f"ok      {name}: {function()}"
            except (RuntimeError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
                passed, line = False, f"FAILED  {name}: {' '.join(str(error).split())}"
            print(line, flush=True)
            print(line, file=out, flush=True)
    return passed


def main() -> None:
    """Do what the command line asks for."""
    flags = argparse.ArgumentParser(prog='card_check', description=__doc__.splitlines()[0])
    flags.add_argument('--device_target', default='Ascend', choices=('Ascend', 'GPU', 'CPU'))
    flags.add_argument('--out', default='card_check', metavar='DIR', help='default %(default)s')
    flags.add_argument('--set', nargs='+', action='extend', default=[], metavar='KEY=VALUE', dest='settings')
    args = flags.parse_args()
    os.makedirs(args.out, exist_ok=True)
    report = os.path.join(args.out, 'card_check.txt')
    passed = run_all(Check(args.device_target, args.out, tuple(args.settings)), report)
    print(f"written: {report}; logs of every run beside it")
    sys.exit(0 if passed else 1)


if __name__ == '__main__':
    cli.run(main)
