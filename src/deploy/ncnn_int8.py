"""int8 for ncnn: one scale an output of the weights, one a layer for what goes in, and ncnn's own table of them.

    scales = calibrate('model.param', faces)           # float32 files of export.py, faces (n, C, S, S)
    text = table(scales)                               # what ncnn's ncnn2int8 reads

What goes into a layer is cut where the squared error over the calibration faces is least.
"""
from collections.abc import Sequence

import numpy as np

from src.deploy.ncnn_backend import NcnnNet
from src.deploy.ncnn_writer import Layer, Scales

_BINS, _CANDIDATES = 2048, 64
_LAYERS = ('Convolution', 'ConvolutionDepthWise', 'InnerProduct')


def calibrate(file: str, layers: Sequence[Layer], faces: np.ndarray) -> Scales:
    """Return the scales of every convolution and linear layer. layers: of the float32 files."""
    net = NcnnNet(file)
    blobs = {layer.name: layer.inputs[0] for layer in layers if layer.kind in _LAYERS}
    wanted = list(dict.fromkeys(blobs.values()))
    largest = dict.fromkeys(wanted, 1e-12)
    for face in faces[::4]:                                       # the range, from a quarter of them
        for blob, array in zip(wanted, net.extract(face, *wanted)):
            largest[blob] = max(largest[blob], float(np.abs(array).max()))
    counts = {blob: np.zeros(_BINS) for blob in wanted}
    for face in faces:
        for blob, array in zip(wanted, net.extract(face, *wanted)):
            places = np.abs(array.reshape(-1)) * (_BINS / largest[blob])
            counts[blob] += np.bincount(np.minimum(places.astype(np.int64), _BINS - 1), minlength=_BINS)
    limits = {blob: least_error(counts[blob], largest[blob]) for blob in wanted}
    return Scales({}, {name: 127 / limits[blob] for name, blob in blobs.items()})


def least_error(counts: np.ndarray, largest: float) -> float:
    """Return the limit at which rounding to 127 steps has the least squared error. counts: of bins up to `largest`."""
    middles = (np.arange(len(counts)) + 0.5) * (largest / len(counts))
    limits = largest * np.linspace(1 / _CANDIDATES, 1, _CANDIDATES)
    steps = limits[:, None] / 127
    rounded = np.minimum(np.rint(middles / steps), 127) * steps   # (candidates, bins)
    return float(limits[(counts * (rounded - middles) ** 2).sum(1).argmin()])


def table(scales: Scales) -> str:
    """Return ncnn's calibration table: a line NAME_param_0 for weights, a line NAME for what goes in."""
    lines = [f'{name}_param_0 {" ".join(f"{scale:.6f}" for scale in found)}' for name, found in scales.weights.items()]
    lines += [f'{name} {scale:.6f}' for name, scale in scales.inputs.items()]
    return '\n'.join(lines) + '\n'
