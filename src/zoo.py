"""The zoo in one table: what each backbone costs and what its authors published.

    python prepare.py zoo
    python prepare.py zoo --measure mobilefacenet iresnet18          # images/s and p50 of one face on this machine

Parameters and multiply-adds (of convolutions and linear layers, one face of the network's own size) are without a
head. Published numbers are the authors' own, in percent: LFW and AgeDB-30 accuracy, MegaFace rank-1, 100%-EER for
LightCNN. They trained on MS-Celeb-1M lists of several million faces.
"""
import argparse
import time
from typing import NamedTuple, Optional

import numpy as np

EXAMPLES = '\n'.join(__doc__.split('\n\n')[1].splitlines())


class Entry(NamedTuple):
    """Million parameters, million multiply-adds, and what was published."""

    parameters: float
    macs: float
    lfw: Optional[float] = None
    agedb: Optional[float] = None
    megaface: Optional[float] = None
    source: str = ''


ZOO = {
    'LightCNN_9Layers': Entry(5.481, 976.8, 98.70, source='1511.02683'),
    'LightCNN_29Layers': Entry(12.573, 3619.2, 99.40, source='1511.02683'),
    'LightCNN_29Layers_v2': Entry(10.476, 3617.1, 99.43, source='1511.02683'),
    'lightcnn_v4': Entry(10.346, 3555.2, 99.67, source='1511.02683'),
    'lightcnn29_facexzoo': Entry(11.596, 2831.2, 99.57, 95.78, 89.32, 'FaceX-Zoo'),
    'mobilefacenet': Entry(1.201, 221.1, 99.57, 95.97, 90.39, 'FaceX-Zoo'),
    'mobilefacenet_h4': Entry(1.190, 122.7, source='FaceX-Zoo'),
    'mobilefacenet_y1': Entry(1.003, 220.9, 99.50, 95.91, source='insightface'),
    'mobilefacenet_y2': Entry(1.996, 0.0, source='insightface'),
    'mbf': Entry(2.060, 437.6, source='insightface'),
    'mbf_large': Entry(6.315, 1816.5, source='insightface'),
    'iresnet18': Entry(24.026, 2609.9, source='insightface'),
    'iresnet34': Entry(34.139, 4459.6, source='insightface'),
    'iresnet50': Entry(43.591, 6309.3, source='insightface'),
    'iresnet100': Entry(65.156, 12089.6, source='insightface'),
    'iresnet200': Entry(118.834, 23419.0, source='insightface'),
    'resnet50_ir': Entry(43.575, 6296.5, 99.78, 97.77, 96.67, 'FaceX-Zoo'),
    'resnet50_irse': Entry(43.798, 6296.8, source='FaceX-Zoo'),
    'resnet100_ir': Entry(65.130, 12076.8, source='FaceX-Zoo'),
    'resnet152_irse': Entry(71.149, 12308.4, 99.85, 98.13, 97.48, 'FaceX-Zoo'),
    'ghostnet': Entry(26.759, 162.7, 99.65, 95.70, 89.42, 'FaceX-Zoo'),
    'efficientnet_b0': Entry(36.124, 416.6, 99.55, 96.63, 91.38, 'FaceX-Zoo'),
    'tf_nas_a': Entry(39.591, 487.5, 99.75, 97.23, 94.42, 'FaceX-Zoo'),
    'attentionnet56': Entry(81.139, 6231.7, 99.88, 98.12, 97.75, 'FaceX-Zoo'),
    'attentionnet92': Entry(101.794, 10494.6, 99.82, 98.08, 98.09, 'FaceX-Zoo'),
    'resnest50': Entry(76.793, 5469.9, 99.80, 97.98, 97.08, 'FaceX-Zoo'),
    'hrnet_w18': Entry(70.631, 4316.6, 99.80, 97.82, 97.32, 'FaceX-Zoo'),
    'rexnet_1.0': Entry(15.197, 401.9, 99.65, 96.70, 93.17, 'FaceX-Zoo'),
    'rexnet_1.0_se': Entry(16.220, 402.9, source='FaceX-Zoo'),
    'repvgg_a0': Entry(39.945, 1543.4, 99.77, 96.97, 94.40, 'FaceX-Zoo'),
    'repvgg_b0': Entry(46.654, 3428.0, 99.72, 97.57, 95.75, 'FaceX-Zoo'),
    'repvgg_b1': Entry(106.752, 13177.4, 99.82, 97.78, 96.74, 'FaceX-Zoo'),
    'swin_t': Entry(46.788, 4369.0, 99.87, 97.90, 97.83, 'FaceX-Zoo'),
    'swin_s': Entry(68.106, 8530.8, 99.85, 98.05, 98.17, 'FaceX-Zoo'),
    'vit_t': Entry(19.138, 1377.5, source='insightface'),
    'vit_s': Entry(76.023, 5491.7, source='insightface'),
    'vit_b': Entry(113.833, 10927.5, source='insightface'),
}


def table() -> str:
    """Return the zoo as lines of at most 80 columns."""
    from src.backbones import BACKBONES
    lines = [f"{'backbone':<21}{'Mparam':>7}{'MMAC':>7}{'input':>6}{'D':>5}{'LFW':>7}{'AgeDB':>7}{'MegaF':>7}  source"]
    for name, kind in BACKBONES.items():
        entry = ZOO.get(name, Entry(0, 0))
        sizes = kind.OPTIONS['image_size'].default, kind.OPTIONS['embedding_size'].default
        lines.append(f'{name:<21}{_shown(entry.parameters, 2):>7}{_shown(entry.macs, 0):>7}{sizes[0]:>6}{sizes[1]:>5}'
                     + ''.join(f'{_shown(value, 2):>7}' for value in (entry.lfw, entry.agedb, entry.megaface))
                     + f'  {entry.source}'.rstrip())
    return '\n'.join(lines)


def _shown(value: Optional[float], digits: int) -> str:
    return f'{value:.{digits}f}' if value else '-'


def measure(name: str, *, batch_size: int = 32, rounds: int = 5) -> tuple:
    """Return (images/s at a batch of `batch_size`, milliseconds of one face at the median) in MindSpore here."""
    from src import device
    machine = device.set_up()
    from src.backbones import build_backbone
    from src.embedding import network_of
    from src.initializers import Init
    network = network_of(build_backbone(name, init=Init('xavier', 1, machine.target)), runtime=machine.target)
    seconds = {}
    for num in (batch_size, 1):
        images = np.random.default_rng(0).random((num, network.face_format.num_channels, network.image_size,
                                                  network.image_size), np.float32)
        network(images)
        times = []
        for _ in range(rounds if num > 1 else 4 * rounds):
            start = time.perf_counter()
            network(images)
            times.append(time.perf_counter() - start)
        seconds[num] = float(np.median(times))
    return batch_size / seconds[batch_size], 1000 * seconds[1]


def add_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags of `prepare.py zoo`."""
    flags.add_argument('--measure', nargs='*', metavar='NAME', help='time these backbones (none named: all) here')


def run(args: argparse.Namespace) -> None:
    """Do what the flags of `prepare.py zoo` ask for."""
    if args.measure is None:
        print(table())
        return
    from src.backbones import BACKBONES, backbone_class
    names = args.measure or list(BACKBONES)
    for name in names:
        backbone_class(name)                                     # an unknown name is said before any is timed
    print(f"{'backbone':<22}{'images/s, batch 32':>20}{'one face, p50, ms':>20}")
    for name in names:
        rate, milliseconds = measure(name)
        print(f'{name:<22}{rate:>20.1f}{milliseconds:>20.1f}', flush=True)
