"""The soak run behind soak.sh: soak.py MINUTES [RANKS]. Needs nothing but the project; synthetic faces, on the CPU."""
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from src.data.synthetic import write_dataset  # noqa: E402
from src.training import checkpoint  # noqa: E402

LAST = 'lightcnn-30_6.ckpt'
SETTINGS = ['--recipe', 'quickstart', '--set', 'num_classes=6', 'image_size=16', 'resize_size=18', 'epochs=30',
            'log_steps=6', 'save_checkpoint_steps=7', 'keep_checkpoint_max=4']


def start(work, ckpt_dir, num_ranks):
    """Start a training, or its resumption, of 180 steps."""
    common = [*SETTINGS, f'batch_size={8 // num_ranks}', '--dataset_path', str(work / 'data'), '--ckpt_path',
              str(ckpt_dir), '--resume', 'auto']
    command = [sys.executable, str(PROJECT / 'train.py'), '--device_target', 'CPU', *common]
    if num_ranks > 1:
        command = ['bash', str(PROJECT / 'scripts' / 'train_distribute.sh'), str(num_ranks), *common]
    with open(work / 'train.log', 'ab') as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=work, start_new_session=True,
                                env={**os.environ, 'DEVICE_TARGET': 'CPU', 'PYTHON': sys.executable})


def corrupt(ckpt_dir, rng):
    """Damage the newest checkpoint in one of the ways a crash or a disk does; return which, None if there is none."""
    files = checkpoint.by_step(str(ckpt_dir))
    if len(files) < 2:
        return None
    newest = Path(files[-1])
    data = newest.read_bytes()
    how = rng.choice(['cut off', 'one byte changed', 'metadata cut off', 'metadata gone', 'old temporary file'])
    if how == 'cut off':
        newest.write_bytes(data[:rng.randrange(len(data))])
    elif how == 'one byte changed':
        place = rng.randrange(len(data))
        newest.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1:])
    elif how == 'metadata cut off':
        metadata = Path(checkpoint.metadata_file(str(newest)))
        metadata.write_bytes(metadata.read_bytes()[:rng.randrange(100)])
    elif how == 'metadata gone':
        os.remove(checkpoint.metadata_file(str(newest)))
    else:
        (ckpt_dir / f'.1-{newest.name}').write_bytes(data[:1000])
    return how


def disturbed(work, ckpt_dir, num_ranks, rng, done, seconds):
    """Train to the end through disturbances, counted in `done`; undisturbed it takes `seconds`."""
    while True:
        process = start(work, ckpt_dir, num_ranks)
        try:
            code = process.wait(rng.uniform(0.1, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            kill = rng.choice(['SIGKILL to all', 'SIGKILL to one', 'SIGTERM', 'SIGINT'])
            if kill == 'SIGKILL to all':
                subprocess.run(['pkill', '-KILL', '-f', str(ckpt_dir)], check=False)
            elif kill == 'SIGKILL to one':       # the launcher or a rank; the next training starts at once
                ours = subprocess.run(['pgrep', '-f', str(ckpt_dir)], capture_output=True, text=True, check=False)
                subprocess.run(['kill', '-KILL', rng.choice(ours.stdout.split())], check=False)
            else:
                process.send_signal(signal.Signals[kill])
            process.wait()
            done[kill] += 1
            if rng.random() < 0.5 and (how := corrupt(ckpt_dir, rng)):
                done[f'checkpoint: {how}'] += 1
            continue
        if code == 0:
            return
        raise SystemExit(f'error: a training ended with code {code}, see {work / "train.log"}')


def weights_of(ckpt_dir):
    return {name: p.asnumpy() for name, p in checkpoint.load_parameters(str(ckpt_dir / LAST)).items()}


def main():
    minutes, num_ranks = float(sys.argv[1]), int((sys.argv + ['1'])[2])
    rng, done, num_trainings = random.Random(time.time_ns()), Counter(), 0
    work = Path(tempfile.mkdtemp(prefix='soak-'))
    write_dataset(str(work / 'data'), people=6, images=8, test_people=14, test_images=24, seed=3)
    begin = time.time()
    if start(work, work / 'undisturbed', num_ranks).wait():
        raise SystemExit(f'error: the undisturbed training failed, see {work / "train.log"}')
    expected, seconds = weights_of(work / 'undisturbed'), time.time() - begin
    print(f'undisturbed: 180 steps on {num_ranks} rank(s) in {seconds:.0f} s', flush=True)
    while time.time() - begin < 60 * minutes:
        ckpt_dir = work / f'disturbed{num_trainings}'
        disturbed(work, ckpt_dir, num_ranks, rng, done, seconds)
        found = weights_of(ckpt_dir)
        different = [name for name in expected if not np.array_equal(expected[name], found[name])]
        if different or found.keys() != expected.keys():
            raise SystemExit(f'error: {len(different)} of {len(expected)} parameters differ, see {ckpt_dir}')
        num_trainings += 1
        print(f'training {num_trainings}: equal in all {len(expected)} parameters, bit for bit; so far '
              f'{sum(done.values())} disturbances', flush=True)
        shutil.rmtree(ckpt_dir)
    for disturbance, number in sorted(done.items()):
        print(f'{number:5}  {disturbance}')
    print(f'{num_trainings} disturbed trainings in {(time.time() - begin) / 60:.1f} minutes, all equal to the '
          'undisturbed one, bit for bit')
    shutil.rmtree(work)


if __name__ == '__main__':
    main()
