"""LightCNN-9 training on the CPU: one and two processes of one core each, beside PyTorch (channels_last), in one run.

    pip install torch==2.13.0          # for this benchmark only
    python benchmarks/scale.py

Claim: two one-core processes train 2.7 times as fast as PyTorch on the same two cores or faster, and 1.9 times as fast
as one where the machine's host takes little of their time (steal), 1.75 times where it takes a tenth. Same network,
batch, image size, SGD with momentum, fp32, random pictures. Every contender runs in processes of its own, in turn,
`--rounds` times; the table shows medians of images/s and of the ratios within a round. Two processes share the batch,
as train_standalone.sh has it, or have one each, as cards do. Those that are not joined train by themselves: the
speed of two cores of this machine without gradients to exchange.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
from src.training import launch  # noqa: E402

NUM_CLASSES = 1000
CONTENDERS = {'torch': 'PyTorch, 2 cores', 'torch1': 'PyTorch, 1 core', 'one': 'ours, 1 process, 1 core',
              'both': 'ours, 1 process, 2 cores', 'two': 'ours, 2 share the batch',
              'whole': 'ours, 2 with a batch each', 'apart': 'the same, not joined'}
JOINED = launch.cluster(2, [(0, 0), (1, 1)], '127.0.0.1')
PROCESSES = {'two': JOINED, 'whole': JOINED, 'apart': [{'RANK_ID': str(rank), 'RANK_SIZE': '2'} for rank in range(2)]}


def random_batch(batch_size, image_size):
    rng = np.random.default_rng(0)
    return (rng.random((batch_size, 1, image_size, image_size), np.float32),
            rng.integers(0, NUM_CLASSES, batch_size).astype(np.int32))


def timed(step, num_steps):
    """Return seconds a step, after two that are not counted."""
    step()
    step()
    start = time.perf_counter()
    for _ in range(num_steps):
        step()
    return (time.perf_counter() - start) / num_steps


def run_mindspore(args):
    """Return images a second of all processes."""
    from src import device
    machine = device.set_up('CPU', run_distribute=PROCESSES.get(args.contender) is JOINED)
    from src.config import get_config
    from src.training.step import build_step
    batch_size = args.batch_size // (2 if args.contender == 'two' else 1)
    cfg = get_config('lightcnn9_ms1m', [f'batch_size={batch_size}', f'num_classes={NUM_CLASSES}',
                                        f'image_size={args.image_size}'])
    step = build_step(cfg, machine)
    batch = *random_batch(batch_size, args.image_size), np.ones((batch_size, 256), np.float32), np.float32(1e-4)
    num_processes = 2 if args.contender in PROCESSES else 1
    return num_processes * batch_size / timed(lambda: step.run(*batch)[0].asnumpy(), args.steps)


def run_torch(args):
    """Return images a second."""
    import torch
    from torch import nn

    class MFM(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            a, b = self.layer(x).chunk(2, 1)
            return torch.maximum(a, b)

    def conv(i, o, k):
        return MFM(nn.Conv2d(i, 2 * o, k, padding=k // 2))

    layers = [conv(1, 48, 5), nn.MaxPool2d(2)]
    for n, (i, o) in enumerate([(48, 96), (96, 192), (192, 128), (128, 128)]):
        layers += [conv(i, i, 1), conv(i, o, 3)] + ([nn.MaxPool2d(2)] if n != 2 else [])
    width = 128 * (args.image_size // 16) ** 2
    network = nn.Sequential(*layers, nn.Flatten(), MFM(nn.Linear(width, 512)), nn.Linear(256, NUM_CLASSES))
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    images, labels = map(torch.from_numpy, random_batch(args.batch_size, args.image_size))
    images, labels = images.to(memory_format=torch.channels_last), labels.long()

    def step():
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return args.batch_size / timed(step, args.steps)


def worker(args):
    """Run one contender in this process and print its figures as JSON."""
    if args.contender in PROCESSES and 'RANK_SIZE' not in os.environ:
        ranks = PROCESSES[args.contender]
        sys.exit(launch.run(ranks, [sys.executable, *sys.argv], args.log_dir, launch.memory_for('CPU', 2, ranks)))
    cores = sorted(os.sched_getaffinity(0))[:2]
    if args.contender == 'apart':
        cores = [cores[int(os.environ['RANK_ID'])]]
    os.sched_setaffinity(0, cores[:1] if args.contender in ('torch1', 'one') else cores)
    speed = run_torch(args) if args.contender.startswith('torch') else run_mindspore(args)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20
    print(json.dumps({'images_per_s': speed, 'peak_gib': peak}), flush=True)


def measure(name, args):
    """Start a contender in fresh processes and return its figures."""
    own = [str(Path(__file__).resolve()), '--contender', name, '--batch_size', str(args.batch_size), '--image_size',
           str(args.image_size), '--steps', str(args.steps), '--log_dir', args.log_dir]
    done = subprocess.run([sys.executable, *own], capture_output=True, text=True, env={**os.environ, 'GLOG_v': '3'})
    text = done.stdout
    if name in PROCESSES:
        text = ''.join(log.read_text() for log in Path(args.log_dir).glob('rank_*.log'))
    found = [json.loads(line) for line in text.splitlines() if line.startswith('{"images')]
    if done.returncode or not found:
        sys.exit(f"error: {CONTENDERS[name]} did not run: {(done.stderr or done.stdout)[-400:]}")
    return {key: statistics.mean(figures[key] for figures in found) for key in found[0]}


def ticks():
    """Return (time that this machine's cores worked, time that its host gave to others instead) since boot."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path('/proc/stat').read_text().split()[1:9])
    return np.array([user + nice + system + irq + softirq, steal])


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument('--batch_size', type=int, default=64)
    flags.add_argument('--image_size', type=int, default=128)
    flags.add_argument('--steps', type=int, default=4, help='counted steps a round')
    flags.add_argument('--rounds', type=int, default=3)
    flags.add_argument('--log_dir', default='/tmp/lightcnn_scale')
    flags.add_argument('--contender', choices=CONTENDERS, help=argparse.SUPPRESS)
    args = flags.parse_args()
    if args.contender:
        worker(args)
        return
    before, figures = ticks(), {name: [] for name in CONTENDERS}
    for _ in range(args.rounds):
        for name, found in figures.items():
            found.append(measure(name, args))
    worked, stolen = ticks() - before
    print(f"LightCNN-9, {args.image_size}x{args.image_size}, batch {args.batch_size}, {NUM_CLASSES} classes, fp32, "
          f"{os.cpu_count()} cores")
    print(f"{'':32}{'images/s':>10}{'to PyTorch':>12}{'to 1 core':>11}{'GiB a process':>15}")
    speeds = {name: [f['images_per_s'] for f in found] for name, found in figures.items()}
    for name, found in figures.items():
        to_torch, to_one = (statistics.median(s / b for s, b in zip(speeds[name], speeds[base]))
                            for base in ('torch', 'one'))
        print(f"{CONTENDERS[name]:32}{statistics.median(speeds[name]):10.1f}{to_torch:12.2f}{to_one:11.2f}"
              f"{max(f['peak_gib'] for f in found):15.2f}")
    print(f"The machine's host gave {stolen / (worked + stolen):.1%} of the busy time to others (steal).")


if __name__ == '__main__':
    main()
