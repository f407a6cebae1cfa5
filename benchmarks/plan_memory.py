"""Is plan.py right about memory? The highest memory of three training steps on this CPU, beside what was planned.

    python benchmarks/plan_memory.py LightCNN_9Layers softmax 79077 128      # network, head, people, batch

Claim: within 10 % for LightCNN-9, MobileFaceNet, iresnet18 and iresnet34; a third too low for LightCNN-29 v2. Each
network in a run of its own, about a minute.
"""
import argparse
import multiprocessing
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
from src import device  # noqa: E402
from src.plan import GIB, Wanted, count, memory_parts, shown, step_seconds  # noqa: E402


def counted(wanted):
    device.set_up('CPU')
    return count(wanted)


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, kind in (('network', str), ('head', str), ('people', int), ('batch', int)):
        flags.add_argument(name, type=kind)
    args = flags.parse_args()
    wanted = Wanted(args.people, 0, args.network, args.head, batch=args.batch, target='CPU')
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:      # its memory is not this one's
        net = pool.submit(counted, wanted).result()
    device.set_up('CPU')
    seconds = step_seconds(wanted, net, args.people, 3)
    highest = int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1]) * 1024
    planned = sum(memory_parts(wanted, net, args.batch, half=False).values())
    print(f"{args.network}, {args.head}, {args.people} people, batch {args.batch}: highest {shown(highest)}, planned "
          f"{shown(planned)} ({100 * np.divide(planned, highest) - 100:+.0f} %), {seconds:.2f} s a step")
    assert highest > GIB / 4


if __name__ == '__main__':
    main()
