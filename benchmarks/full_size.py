"""MS-Celeb-1M's size on this machine: how long train.py takes to start, to step, and how much memory that needs.

    python benchmarks/full_size.py            # 5,049,824 lines, 79,077 people, batch 128

Claim: one rank is ready for its first step within 15 s and 1.5 GB of reading a list of 5,049,824 lines, and a step's
memory stays near the sum of its parts. The list is as long as the real one; only the faces that the first steps draw
exist, and the verdict that all images are readable is written beforehand, as any second start finds it. The parts of a
step: weights, momentum, gradients and their sum, of 25.8 million parameters each; and for as many images as go through
the network at once, logits, their gradient, and the maps that the backward pass needs.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
from src import dataset, device  # noqa: E402
from src.config import get_config  # noqa: E402
from src.data import synthetic  # noqa: E402
from src.data.lists import write_image_list  # noqa: E402
from src.training.step import PART  # noqa: E402

NUM_LINES, NUM_PEOPLE = 5_049_824, 79_077


def write_list(file):
    rng = np.random.default_rng(0)
    labels = np.sort(np.concatenate([np.arange(NUM_PEOPLE), rng.integers(0, NUM_PEOPLE, NUM_LINES - NUM_PEOPLE)]))
    places = np.arange(NUM_LINES) - np.searchsorted(labels, labels)
    write_image_list(file, [f'm.{label:06x}/{place}-FaceId-0.jpg' for label, place in zip(labels, places)], labels)


def prepare(folder, num_steps):
    """Write list, verdict, and the faces of the first steps; return train.py's arguments."""
    os.makedirs(folder / 'train')
    write_list(str(folder / 'train_list.txt'))
    cfg = get_config(dataset_path=str(folder))
    faces = dataset.open_faces(cfg)
    dataset._decode_all = lambda faces, num_workers: []                  # stands for a check that has been passed
    faces.check(cfg, str(folder), device.Device('CPU', 0, 0, 1))
    rows = dataset.TrainingBatches(faces, cfg).permutation(0)[:(num_steps + 8) * cfg.batch_size]
    face = synthetic.draw_face(1, 0, 0)
    for row in rows:
        path = folder / 'train' / faces.names[row]
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), face)
    return ['--dataset_path', str(folder), '--ckpt_path', str(folder), '--device_target', 'CPU', '--set', 'log_steps=1']


def memory(pid):
    """Return (resident now, highest so far) of a process in GiB."""
    status = Path(f'/proc/{pid}/status').read_text()
    return tuple(int(re.search(rf'{key}:\s+(\d+)', status)[1]) / 2**20 for key in ('VmRSS', 'VmHWM'))


def parts(cfg):
    """Return the GiB that a training step of LightCNN-9 must hold at one time, with a batch that goes in parts."""
    weights = 25_803_653
    images = min(cfg.batch_size, PART)
    logits = images * cfg.num_classes
    maps = 0
    for size, channels in ((128, (96,)), (64, (96, 192)), (32, (192, 384)), (16, (384, 256, 256, 256))):
        maps += sum(channel / 2 * 1.25 for channel in channels) * size ** 2         # half of them, and which half
    largest = 2 * 96 * 128 ** 2                                        # of the first layer, and its gradient
    return 4 * (4 * weights + 2 * logits + images * (maps + largest)) / 2**30


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument('--steps', type=int, default=3)
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments = prepare(Path(folder), args.steps)
        start = time.time()
        train = subprocess.Popen([sys.executable, '-u', str(PROJECT / 'train.py'), *arguments], text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        marks, lines = [], []
        for line in train.stdout:
            lines.append(line)
            if ' steps an epoch' in line or ', loss is ' in line:
                marks.append((time.time() - start, *memory(train.pid)))
            if len(marks) == args.steps + 1:
                train.terminate()
                break
        train.communicate()
        if len(marks) < args.steps + 1:
            sys.exit(f"error: train.py ended early: {''.join(lines)[-800:]}")
    per_step = np.median(np.diff([mark[0] for mark in marks])[1:]) if args.steps > 1 else float('nan')
    cfg = get_config()
    print(f"{NUM_LINES} lines, {NUM_PEOPLE} people, {cfg.network_type}, batch {cfg.batch_size}, one process")
    print(f"ready for the first step after {marks[0][0]:6.1f} s, {marks[0][1]:5.2f} GiB (highest {marks[0][2]:.2f})")
    print(f"first step, with compiling, in {marks[1][0] - marks[0][0]:6.1f} s")
    print(f"every further step in          {per_step:6.1f} s ({cfg.batch_size / per_step:.1f} images/s)")
    print(f"highest memory                 {marks[-1][2]:6.2f} GiB; of a step's parts {parts(cfg):.2f} GiB")


if __name__ == '__main__':
    main()
