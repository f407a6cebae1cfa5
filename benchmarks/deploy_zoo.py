"""Every network of the zoo in every runtime, one face at its own size: time as benchncnn prints it, bytes and parity.

    pip install "onnx<1.20" onnxruntime ncnn
    python benchmarks/deploy_zoo.py                                    # all of the zoo
    python benchmarks/deploy_zoo.py --networks mobilefacenet_y1 iresnet18 --loops 20 --threads 1 2

Claim: ONNX Runtime and ncnn give MindSpore's features to 1e-4 of the largest, and folding BatchNorm makes ncnn's
MobileFaceNet faster. Weights are initial ones: time does not depend on them. ms: milliseconds a face, min / max / avg /
p50 over the loops, runtimes by turns in one process; images/s: batches of 32 (ncnn takes faces one by one).
"""
import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from src import device  # noqa: E402

BATCH = 32


def networks_of(name, folder, threads):
    """Return {runtime: (function of faces, MiB)} of one backbone, and a face; files are written to `folder`."""
    import mindspore as ms
    import onnxruntime

    from src.backbones import build_backbone
    from src.data.face_format import face_format
    from src.data.synthetic import faces_as_input
    from src.deploy.fold import fold, simplify
    from src.deploy.inside import Deployed, Inside
    from src.deploy.ncnn_backend import NcnnNet, write_pair
    from src.deploy.onnx_writer import write_graph
    from src.deploy.trace import trace
    from src.initializers import Init
    backbone = build_backbone(name, init=Init('xavier', 1)).set_train(False)
    face = face_format(backbone.face_format)
    graph = trace(Deployed(backbone, face, Inside()))
    simplify(graph)
    files = {'ncnn, unfolded': f'{folder}/unfolded.param', 'ncnn': f'{folder}/folded.param'}
    write_pair(graph, files['ncnn, unfolded'], 'float32')
    fold(graph)
    write_pair(graph, files['ncnn'], 'float32')
    write_graph(graph, f'{folder}/network.onnx', batch_size=None)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(f'{folder}/network.onnx', options, providers=['CPUExecutionProvider'])
    found = {'MindSpore': (lambda x: backbone(ms.Tensor(x)).asnumpy(), 0.0),
             'ONNX Runtime': (lambda x: session.run(None, {'x': x})[0], _mib(f'{folder}/network.onnx'))}
    for runtime, file in files.items():
        found[runtime] = NcnnNet(file, threads=threads), _mib(file.replace('.param', '.bin'))
    return found, faces_as_input(backbone.image_size, 1, face)


def _mib(file):
    return os.path.getsize(file) / 2 ** 20


def measured(runtimes, face, loops):
    """Return {runtime: [milliseconds]} of `loops` calls by turns, after two that count for nothing."""
    times = {runtime: [] for runtime in runtimes}
    for loop in range(loops + 2):
        for runtime, (function, _) in runtimes.items():
            start = time.perf_counter()
            function(face)
            if loop > 1:
                times[runtime].append(1e3 * (time.perf_counter() - start))
    return times


def rate(function, face):
    """Return images/s of a batch."""
    faces = np.repeat(face, BATCH, 0)
    function(faces)
    start = time.perf_counter()
    function(faces)
    return BATCH / (time.perf_counter() - start)


def main():
    from src.backbones import BACKBONES
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument('--networks', nargs='+', default=list(BACKBONES))
    flags.add_argument('--loops', type=int, default=10)
    flags.add_argument('--threads', type=int, nargs='+', default=[1, 2])
    args = flags.parse_args()
    device.set_up('CPU')
    print(f'{os.cpu_count()} cores, {args.loops} loops; MindSpore takes the threads that it takes')
    print(f"{'network':21}{'runtime':15}{'threads':>8}{'min':>9}{'max':>9}{'avg':>9}{'p50':>9}{'img/s':>8}{'MiB':>7}"
          f"{'parity':>9}")
    for name in args.networks:
        for threads in args.threads:
            with tempfile.TemporaryDirectory() as folder:
                runtimes, face = networks_of(name, folder, threads)
                times = measured(runtimes, face, args.loops)
                wanted = runtimes['MindSpore'][0](face)
                for runtime, (function, size) in runtimes.items():
                    parity = np.abs(function(face) - wanted).max() / np.abs(wanted).max()
                    each = times[runtime]
                    print(f'{name:21}{runtime:15}{threads:8}{min(each):9.2f}{max(each):9.2f}'
                          f'{statistics.mean(each):9.2f}{statistics.median(each):9.2f}{rate(function, face):8.1f}'
                          f'{size:7.1f}{parity:9.1e}', flush=True)


if __name__ == '__main__':
    main()
