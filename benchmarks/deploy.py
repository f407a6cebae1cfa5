"""One checkpoint through every way to run it: the same LFW and BLUFR numbers, and how fast each is, in one run.

    pip install "onnx<1.20" onnxruntime ncnn
    python benchmarks/deploy.py --ckpt_file ckpt --dataset_path faces

Claim: MINDIR in MindSpore, MINDIR (IR 1) in the C++ program and ONNX give LFW and BLUFR numbers within 0.02 points of
the checkpoint's; the C++ program is at least as fast as MindSpore's Python evaluation on the same cores. int8 is
another network and may differ. images/s: all LFW faces, decoding included, in the C++ program reading instead. p50: the
median call for one face.
"""
import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
from src import api  # noqa: E402
from src.config import get_config  # noqa: E402
from src.data.images import find_images  # noqa: E402
from src.data.synthetic import faces_as_input  # noqa: E402
from src.deploy import exchange  # noqa: E402
from src.embedding import Network  # noqa: E402
from src.protocols import protocol  # noqa: E402
from src.protocols.protocol import in_order  # noqa: E402


def latency(network, calls=30):
    """Return the median milliseconds of a call for one face."""
    face, times = faces_as_input(network.image_size, 1, network.face_format), []
    for _ in range(calls + 3):
        start = time.perf_counter()
        network(face)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[3:])


def in_python(network, paths):
    """Return (features, images/s, p50 ms) of a network called from Python."""
    api.embed(network, paths[:64])                               # compile
    start = time.perf_counter()
    features = api.embed(network, paths)
    return features, len(paths) / (time.perf_counter() - start), latency(network)


def mindir_network(file, original):
    """Return a MINDIR file, written from the network `original`, as a `Network` in MindSpore."""
    import mindspore as ms
    cell = ms.nn.GraphCell(ms.load(file))
    return Network(lambda images: cell(ms.Tensor(images)).asnumpy(), name=original.name, runtime='MINDIR',
                   face_format=original.face_format, image_size=original.image_size)


def in_cpp(mindir, cfg, network, work):
    """Return (features in LFW's order, images/s, p50 ms) of the C++ program for a MINDIR file of `network`."""
    exchange.write_inputs(cfg, network.face_format, network.image_size, str(work / 'inputs'))
    program = subprocess.run(['bash', PROJECT / 'ascend310_infer' / 'build.sh'], stdout=subprocess.PIPE, text=True,
                             check=True).stdout.splitlines()[-1]
    command = [program, '--mindir_path', mindir, '--dataset_path', work / 'inputs', '--device_target', 'CPU',
               '--result_path', work / 'result', '--time_path', work / 'time']
    found = {}
    for name, further in (('p50', ['--batch_size', '1', '--threads', '1']), ('all', ['--batch_size', '8'])):
        subprocess.run([*command, *further], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        text = (work / 'time' / 'test_perform_static.txt').read_text()
        found[name] = float(re.search(r'p50: ([\d.]+)' if name == 'p50' else r'([\d.]+) images/s', text)[1])
    features = in_order(*exchange.read_results(str(work / 'result'), cfg))(protocol('lfw').images(cfg)[0])
    return features, found['all'], found['p50']


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument('--ckpt_file', required=True)
    flags.add_argument('--dataset_path', required=True)
    args = flags.parse_args()
    network = api.load_network(args.ckpt_file, device_target='CPU')
    cfg = get_config(dataset_path=args.dataset_path)
    names, _ = protocol('lfw').images(cfg)
    paths = find_images(cfg.root_path, names)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)

        def written(file, *arguments):
            name, suffix = os.path.splitext(file)
            command = [sys.executable, PROJECT / 'export.py', '--ckpt_file', network.file, '--file_name', work / name,
                       '--dataset_path', args.dataset_path, '--file_format',
                       suffix[1:].upper().replace('PARAM', 'NCNN'), *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            return str(work / file)

        any_batch = ['--batch_size', 'dynamic']
        files = {'MINDIR in MindSpore': written('new.mindir', *any_batch),
                 'MINDIR (IR 1) in C++': written('old.mindir', '--ir', '1'),
                 'ONNX Runtime': written('float.onnx', *any_batch),
                 'ONNX Runtime, int8': written('int8.onnx', *any_batch, '--int8'),
                 'ncnn': written('float.param'), 'ncnn, float16': written('half.param', '--storage', 'float16'),
                 'ncnn, int8': written('int8.param', '--int8')}
        rows = {'MindSpore, checkpoint': (*in_python(network, paths), 0)}
        for label, file in files.items():
            if label.endswith('C++'):
                found = in_cpp(file, cfg, network, work)
            else:
                exported = mindir_network(file, network) if file.endswith('.mindir') else api.load_network(file)
                found = in_python(exported, paths)
            rows[label] = (*found, os.path.getsize(file.replace('.param', '.bin')) / 2**20)
    size = network.image_size
    print(f"{network.name} for {size}x{size} faces, {len(paths)} LFW images, {os.cpu_count()} cores")
    print(f"{'':22}{'images/s':>9}{'p50 ms':>8}{'MiB':>6}{'feature':>9}{'LFW':>8}{'BLUFR':>8}{'BLUFR':>7}")
    print(f"{'':22}{'':>9}{'':>8}{'':>6}{'diff.':>9}{'EER':>8}{'VR':>8}{'DIR':>7}")
    reference = rows['MindSpore, checkpoint'][0]
    for label, (features, speed, p50, size_mib) in rows.items():
        lfw = api.score('lfw', features, names, cfg).numbers['eer100']
        blufr = api.score('blufr', features, names, cfg).numbers
        difference = np.abs(features - reference).max()
        print(f"{label:22}{speed:9.1f}{p50:8.2f}{size_mib or float('nan'):6.1f}{difference:9.1e}{lfw:8.3f}"
              f"{blufr['vr']['mean_minus_std']:8.3f}{blufr['dir']['mean_minus_std']:7.3f}", flush=True)


if __name__ == '__main__':
    main()
