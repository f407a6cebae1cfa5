"""An embedding network in ncnn: a .param and .bin pair as a `Network`. Needs the package ncnn.

    network = ncnn_network('model.param')               # (N, C, S, S) float32 -> (N, D) float32

ncnn takes one face at a time; a batch is computed face by face on as many threads as there are cores.
"""
import os
import tempfile
import time
from typing import Any, Optional

import numpy as np

from src.data.face_format import face_format
from src.deploy.graph import Graph
from src.deploy.metadata import taken_format
from src.deploy.ncnn_writer import Scales, ncnn_files
from src.embedding import Network

MISSING = "ncnn needs one more package: pip install ncnn"


def load_ncnn() -> Any:
    """Return the package ncnn; ValueError where it is missing."""
    try:
        import ncnn
    except ImportError:
        raise ValueError(MISSING) from None
    return ncnn


class NcnnNet:
    """A .param and .bin pair, loaded: float32 arithmetic, whatever the weights are stored as."""

    def __init__(self, file: str, *, threads: int = 0):
        stem = os.path.splitext(file)[0]
        ncnn = load_ncnn()
        for suffix in ('.param', '.bin'):
            if not os.path.isfile(stem + suffix):
                raise FileNotFoundError(f"{stem}{suffix}: no such ncnn file; export.py --file_format NCNN writes both")
        self.ncnn, self.file, self.net = ncnn, stem + '.param', ncnn.Net()
        option = self.net.opt
        option.num_threads = threads or len(os.sched_getaffinity(0))
        option.use_vulkan_compute = False
        for name in ('packed', 'storage', 'arithmetic'):
            setattr(option, f'use_fp16_{name}', False)
        option.use_bf16_storage = False
        if self.net.load_param(self.file) or self.net.load_model(stem + '.bin'):
            raise ValueError(f"{self.file}: ncnn cannot load it with {stem}.bin")
        (self.input,), (self.output,) = self.net.input_names(), self.net.output_names()

    def extract(self, image: np.ndarray, *blobs: str) -> list:
        """Return blobs (default: the output) for one image (C, S, S) float32."""
        extractor = self.net.create_extractor()
        extractor.set_light_mode(len(blobs) < 2)
        given = self.ncnn.Mat(np.ascontiguousarray(image, np.float32)).clone()       # ncnn computes in place
        extractor.input(self.input, given)
        found = []
        for blob in blobs or (self.output,):
            status, mat = extractor.extract(blob)
            if status:
                raise ValueError(f"{self.file}: ncnn failed with {status} at {blob}; does it take "
                                 f"{'x'.join(map(str, image.shape))} faces?")
            found.append(np.array(mat))
        return found

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return (N, D) float32 of images (N, C, S, S)."""
        return np.stack([self.extract(image)[0].reshape(-1) for image in images])


def ncnn_network(file: str, face: Optional[str] = None) -> Network:
    """Return a .param and .bin pair of export.py as a `Network` in ncnn.

    face: the name of the face format that it takes; None: what the metadata beside the file say. Raises
    FileNotFoundError or ValueError.
    """
    net = NcnnNet(file)
    taken, (channels, side) = taken_format(net.file)
    held = face_format(face) if face else taken
    if held.num_channels != channels:
        raise ValueError(f"{net.file}: takes {channels} channels, the face format {held.name} has {held.num_channels}; "
                         "--face_format says what it takes")
    return Network(net, name='ncnn', face_format=held, image_size=side, file=net.file, runtime='ncnn')


def write_pair(graph: Graph, file: str, storage: str, scales: Optional[Scales] = None) -> int:
    """Write a graph as `file`, a .param, and the .bin beside it; return the number of layers."""
    text, data = ncnn_files(graph, storage=storage, scales=scales)
    with open(file, 'w', encoding='utf-8') as out:
        out.write(text)
    with open(os.path.splitext(file)[0] + '.bin', 'wb') as out:
        out.write(data)
    return int(text.split('\n')[1].split()[0])


def compare_times(unfolded: Graph, file: str, layers: int, *, seconds: float = 2.0, calls: int = 50) -> dict:
    """Return layers, bytes and the least milliseconds of a face on one core, with BatchNorm folded and without.

    Both run by turns in this process, for about `seconds` or at most `calls` times each.
    """
    with tempfile.TemporaryDirectory() as folder:
        other = os.path.join(folder, 'unfolded.param')
        others = write_pair(unfolded, other, 'float32')
        sizes = {name: os.path.getsize(os.path.splitext(path)[0] + '.bin') for name, path in (
            ('bytes', file), ('bytes_unfolded', other))}
        nets = [NcnnNet(path, threads=1) for path in (file, other)]
    image = np.zeros(unfolded.shape(unfolded.input)[1:], np.float32)
    times: list = [[], []]
    end = time.perf_counter() + seconds
    for call in range(calls + 1):
        for net, taken in zip(nets, times):
            start = time.perf_counter()
            net.extract(image)
            taken.append(1e3 * (time.perf_counter() - start))
        if call and time.perf_counter() > end:
            break
    folded, plain = (min(taken) for taken in times)
    return {'layers': layers, 'layers_unfolded': others, **sizes, 'milliseconds': round(folded, 3),
            'milliseconds_unfolded': round(plain, 3)}
