"""Training step and embedding of backbones on the CPU, beside PyTorch and ONNX Runtime in the same run.

    python benchmarks/zoo_speed.py [--networks mobilefacenet_y1,iresnet18,iresnet50] [--rounds 3] [--batch 64]

Each contender has a process of its own with all cores; contenders take turns in rounds, medians of rounds count. A row:
images/s of a training step, its peak memory, images/s of embedding, p50 of one face in ms, each beside the ratio to
PyTorch (the faster of plain and channels_last) and ONNX Runtime. The last lines are the machine's ceiling (sgemm
GFLOP/s, memory GB/s) and the share of CPU time that others stole meanwhile. PyTorch is needed for this file only; it
has the three networks that stand in `TWINS`, and others run without it.

Seen on two cores of a shared AVX-512 machine, far from quiet (load 10 to 15): MobileFaceNet y1, batch 64, trained at
11.5 to 15.4 images/s beside 1.5 to 2.1 of PyTorch and 4 of MindSpore's own operators.
"""
import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
NETWORKS = 'mobilefacenet_y1,iresnet18,iresnet50'
CLASSES, SINGLE_FACES = 1000, 50


def torch_unit(nn, inputs, outputs, kernel=1, stride=1, padding=None, groups=1, act=True):
    """Return convolution, BatchNorm and PReLU."""
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 if padding is None else padding, groups=groups,
                        bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([nn.PReLU(outputs)] if act else []))


def residual(nn, branch, shortcut):
    """Return a module that adds a branch and a shortcut."""
    class Residual(nn.Module):
        """branch(x) + shortcut(x)."""

        def __init__(self):
            super().__init__()
            self.branch, self.shortcut = branch, shortcut

        def forward(self, x):
            return self.branch(x) + self.shortcut(x)
    return Residual()


def torch_mobilefacenet(nn):
    """Return MobileFaceNet y1 in PyTorch."""
    def bottleneck(inputs, outputs, inner, stride):
        return nn.Sequential(torch_unit(nn, inputs, inner), torch_unit(nn, inner, inner, 3, stride, groups=inner),
                             torch_unit(nn, inner, outputs, act=False))

    def repeated(channels, inner, count):
        return [residual(nn, bottleneck(channels, channels, inner, 1), nn.Identity()) for _ in range(count)]
    return nn.Sequential(
        torch_unit(nn, 3, 64, 3, 2), torch_unit(nn, 64, 64, 3, groups=64), bottleneck(64, 64, 128, 2),
        *repeated(64, 128, 4), bottleneck(64, 128, 256, 2), *repeated(128, 256, 6), bottleneck(128, 128, 512, 2),
        *repeated(128, 256, 2), torch_unit(nn, 128, 512), torch_unit(nn, 512, 512, 7, 1, 0, 512, False), nn.Flatten(),
        nn.Linear(512, 128), nn.BatchNorm1d(128))


def torch_iresnet(nn, counts):
    """Return an iresnet in PyTorch."""
    layers, channels = [torch_unit(nn, 3, 64, 3)], 64
    for width, count in zip((64, 128, 256, 512), counts):
        for i in range(count):
            stride = 1 if i else 2
            branch = nn.Sequential(nn.BatchNorm2d(channels), torch_unit(nn, channels, width, 3),
                                   torch_unit(nn, width, width, 3, stride, act=False))
            shortcut = nn.Identity() if i else torch_unit(nn, channels, width, 1, 2, act=False)
            layers.append(residual(nn, branch, shortcut))
            channels = width
    return nn.Sequential(*layers, nn.BatchNorm2d(512), nn.Flatten(), nn.Linear(512 * 49, 512), nn.BatchNorm1d(512))


TWINS = {'mobilefacenet_y1': torch_mobilefacenet, 'iresnet18': lambda nn: torch_iresnet(nn, (2, 2, 2, 2)),
         'iresnet50': lambda nn: torch_iresnet(nn, (3, 4, 14, 3))}


def torch_training(name, batch, channels_last):
    """Return a function that takes one training step in PyTorch."""
    import torch
    torch.manual_seed(1)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = TWINS[name](torch.nn).train().to(memory_format=layout)
    images = torch.rand(batch, 3, 112, 112).contiguous(memory_format=layout)
    labels, head = torch.arange(batch), torch.nn.Linear(network(images[:2]).shape[1], CLASSES)
    optimizer = torch.optim.SGD([*network.parameters(), *head.parameters()], 0.01, 0.9)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(network(images)), labels % CLASSES).backward()
        optimizer.step()
    return step


def own_training(name, batch):
    """Return a function that takes one training step of this project, softmax on top."""
    from src.backbones import backbone_class
    from src.config import get_config
    from src.device import set_up
    from src.training.step import build_step
    cfg = get_config(settings=[f'num_classes={CLASSES}', 'image_size=112', 'resize_size=112', f'network_type={name}',
                               'loss=softmax', f'face_format={backbone_class(name).face_format}',
                               f'batch_size={batch}'])
    step, rng = build_step(cfg, set_up('CPU')), np.random.default_rng(1)
    images = rng.integers(0, 256, (batch, step.backbone.channels, 112, 112)).astype(np.uint8)
    labels = rng.integers(0, CLASSES, batch).astype(np.int32)
    noise = rng.random((batch, max(1, step.backbone.noise_size)), np.float32)
    return lambda: float(step.run(images, labels, noise, np.float32(0.01))[0].asnumpy())


def embedding_of(name, backend):
    """Return images -> features by this project, or by ONNX Runtime from its exported file."""
    from src.api import on_backend
    from src.backbones import build_backbone
    from src.device import set_up
    from src.initializers import Init
    set_up('CPU')
    target = None if backend == 'onnx' else 'CPU'
    return on_backend(build_backbone(name, init=Init('xavier', 1, target)), backend, None, None, 'CPU')


def measured(contender, name, batch):
    """Return a function that measures once: {'images/s': ..., 'p50': ms of one face}."""
    if contender in ('own', 'onnx'):
        network = embedding_of(name, 'onnx' if contender == 'onnx' else 'mindspore')
        images = np.random.default_rng(1).uniform(-1, 1, (batch, 3, 112, 112)).astype(np.float32)

        def run():
            whole = seconds(lambda: network(images))
            return {'images/s': batch / whole, 'p50': 1000 * statistics.median(
                seconds(lambda: network(images[:1])) for _ in range(SINGLE_FACES))}
        return run
    step = own_training(name, batch) if contender == 'train' else torch_training(name, batch, contender == 'torch_last')
    return lambda: {'images/s': batch / seconds(step)}


def seconds(function):
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def serve(arguments):
    """Measure whenever a line comes in."""
    run = measured(arguments.serve, arguments.networks, arguments.batch)
    run()
    print(json.dumps('ready'), flush=True)
    for _ in sys.stdin:
        found = run()
        print(json.dumps({**found, 'MiB': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}), flush=True)


def answer(process):
    """Return the next line of JSON that a server prints; RuntimeError if it ended."""
    for line in process.stdout:
        try:
            return json.loads(line)
        except json.JSONDecodeError:
            continue
    raise RuntimeError(f'{process.args} ended')


def rounds_of(name, arguments):
    """Return {contender: {quantity: median over rounds}} of one network."""
    contenders = ['train', 'own', 'onnx', *(['torch', 'torch_last'] if name in TWINS else [])]
    found = {}
    for contender in contenders:                         # none compiles while another warms up
        command = [sys.executable, __file__, '--serve', contender, '--networks', name, '--batch', str(arguments.batch)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        answer(process)
        found[contender] = process
    results = {contender: [] for contender in contenders}
    for _ in range(arguments.rounds):
        for contender, process in found.items():
            process.stdin.write('\n')
            process.stdin.flush()
            results[contender].append(answer(process))
    for process in found.values():
        process.communicate()
    return {contender: {key: statistics.median(one[key] for one in each) for key in each[0]}
            for contender, each in results.items()}


def ceiling():
    """Return (sgemm GFLOP/s, GB/s of a copy that is larger than the caches)."""
    a = np.ones((2048, 2048), np.float32)
    source = np.ones(1 << 26, np.float32)
    target = np.zeros_like(source)
    multiply, copy = (min(seconds(f) for _ in range(5)) for f in (lambda: a @ a, lambda: np.copyto(target, source)))
    return 2 * 2048 ** 3 / multiply / 1e9, 2 * source.nbytes / copy / 1e9


def cpu_times():
    """Return (stolen, all) CPU time of the machine."""
    numbers = [int(word) for word in Path('/proc/stat').read_text().split('\n')[0].split()[1:]]
    return numbers[7], sum(numbers)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--networks', default=NETWORKS)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--serve', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments)
        return
    before = cpu_times()
    print('| network | train, images/s | of PyTorch | MiB | embed, images/s | of ONNX Runtime | one face, ms | of it |')
    print('| --- | --- | --- | --- | --- | --- | --- | --- |')
    for name in arguments.networks.split(','):
        r = rounds_of(name, arguments)
        torch = max((r[key]['images/s'] for key in ('torch', 'torch_last') if key in r), default=float('nan'))
        train, own, onnx = r['train'], r['own'], r['onnx']
        print(f"| {name} | {train['images/s']:.1f} | {train['images/s'] / torch:.2f} | {train['MiB']:.0f} "
              f"| {own['images/s']:.1f} | {own['images/s'] / onnx['images/s']:.2f} | {own['p50']:.2f} "
              f"| {own['p50'] / onnx['p50']:.2f} |", flush=True)
    stolen, total = (after - start for after, start in zip(cpu_times(), before))
    print('sgemm {:.0f} GFLOP/s, memory {:.0f} GB/s, stolen CPU time {:.1f} %'.format(*ceiling(), 100 * stolen / total))


if __name__ == '__main__':
    main()
