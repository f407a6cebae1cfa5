"""How long a step of every head takes, forward and backward, and how much memory, beside plain softmax in the same run.

    python benchmarks/head_speed.py [--heads arcface,adaface] [--classes 79077] [--rounds 5]

Each head has a process of its own, whose peak memory is its own. Heads take turns, so that a machine that is slow for a
while is slow for all; the fastest step counts. Beside neighbours, trust the seconds of the cores. Goal: 1.15 times
softmax where only the target's column changes, 1.5 times elsewhere. Two cores under a load of 19, least of four rounds:
ArcFace took 0.92 times the core time of softmax with bias (501 and 546 ms), and 394 MB more at its peak (1913 and 1519
MB), two arrays of the size of the weight.
"""
import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
BASE, NO_BIAS = 'softmax', 'softmax bias=false'


def step_of(name, classes, rows, size):
    """Return a function that takes one step of a head."""
    import mindspore as ms
    from mindspore import Tensor, nn

    from src.heads import build_head
    from src.initializers import Init
    ms.set_context(mode=ms.GRAPH_MODE)
    kind, *options = name.split()
    init = Init('xavier', 1, 'CPU')
    head = build_head(kind, classes, size, init=init, **dict(option.split('=') for option in options)).set_train()
    weights = ms.ParameterTuple(head.trainable_params()) if head.has_weight else None

    class Step(nn.Cell):
        """(features, labels) -> loss, hits and gradients."""

        def __init__(self):
            super().__init__()
            self.head = head
            self.value_and_grad = ms.value_and_grad(head, 0, weights, has_aux=True)

        def construct(self, features, labels):
            return self.value_and_grad(features, labels)

    step, rng = Step(), np.random.default_rng(1)
    features = Tensor(rng.standard_normal((rows, size)).astype(np.float32))
    labels = Tensor(rng.permutation(np.arange(rows) // 4).astype(np.int32))

    def run():
        (loss, _), _ = step(features, labels)
        return float(loss)
    return run


def serve(arguments):
    """Take a step whenever a line comes in; say how long it took, in all and of the cores, and the memory needed."""
    run = step_of(arguments.serve, arguments.classes, arguments.rows, arguments.size)
    run()
    run()
    print(json.dumps('ready'), flush=True)
    for _ in sys.stdin:
        start, busy = time.perf_counter(), time.process_time()
        run()
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        print(json.dumps([seconds, busy, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]), flush=True)


def server(name, arguments):
    """Return a process that serves one head."""
    command = [sys.executable, __file__, '--serve', name, *(f'--{key}={getattr(arguments, key)}'
                                                             for key in ('classes', 'rows', 'size'))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    answer(process, name)
    return process


def answer(process, name):
    """Return the next line of JSON that a server prints."""
    for line in process.stdout:
        if line.startswith(('[', '"')):
            return json.loads(line)
    raise RuntimeError(f"the process of {name} ended with code {process.wait()}")


def measure(names, arguments):
    """Return {name: (least seconds, least seconds of the cores, peak MB)}, heads taking turns."""
    servers, found = {name: server(name, arguments) for name in names}, {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name, process in servers.items():
            print('step', file=process.stdin, flush=True)
            found[name].append(answer(process, name))
    for process in servers.values():
        process.stdin.close()
        process.wait()
    return {name: (*np.min(rows, 0)[:2], rows[-1][2]) for name, rows in found.items()}


def main():
    from src.heads import HEADS
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument('--heads', default=','.join(HEADS), help='names, with options behind a space; all by default')
    flags.add_argument('--classes', type=int, default=79077)
    flags.add_argument('--rows', type=int, default=128)
    flags.add_argument('--size', type=int, default=512, help='of the embedding')
    flags.add_argument('--rounds', type=int, default=5)
    flags.add_argument('--together', type=int, default=3, help='heads whose processes run side by side, beside softmax')
    flags.add_argument('--serve', help=argparse.SUPPRESS)
    arguments = flags.parse_args()
    if arguments.serve:
        return serve(arguments)
    names = [name for name in arguments.heads.split(',') if name not in (BASE, NO_BIAS)]
    print(f"{'head':24} {'ms':>7} {'x softmax':>9} {'x no bias':>9} {'core ms':>8} {'x softmax':>9} {'peak MB':>8} "
          f"{'more MB':>8}")
    for start in range(0, len(names), arguments.together):
        found = measure([BASE, NO_BIAS, *names[start:start + arguments.together]], arguments)
        base = found[BASE]
        for name, (seconds, busy, memory) in found.items():
            print(f"{name:24} {1e3 * seconds:7.0f} {seconds / base[0]:9.2f} {seconds / found[NO_BIAS][0]:9.2f} "
                  f"{1e3 * busy:8.0f} {busy / base[1]:9.2f} {memory:8.0f} {memory - base[2]:8.0f}", flush=True)
    return None


if __name__ == '__main__':
    main()
