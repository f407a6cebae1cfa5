"""ncnn's NAME.param (text) and NAME.bin (numbers in the order of its layers), read without ncnn.

    weights = read_ncnn('mobilefacenet.param')     # or the .bin; the other is found beside it

Names are those of MXNet: ncnn has one name a layer. Converters from MXNet put eps into the variance and leave eps 0;
`weights.eps` holds what the file says, so that a network with another eps can take it off. float32 and float16
weights are read, quantised ones are refused.
"""
import os
import re

import numpy as np

from src.weights.state import (Budget, Cursor, InputFile, Operation, Weights, as_float32, checked_name, count_of,
                               shown)

MAGIC = b'7767517'
_MAX_TEXT, _MAX_SIZE = 4 * 2**20, 2**31
_FLOAT16, _INT8 = 0x01306B47, 0x000D4B38
# layers that hold no numbers
_EMPTY = {'Input', 'BinaryOp', 'UnaryOp', 'Split', 'Concat', 'Slice', 'Pooling', 'Interp', 'Reshape', 'Flatten',
          'Permute', 'Softmax', 'Reduction', 'ReLU', 'Clip', 'Swish', 'Sigmoid', 'HardSigmoid', 'HardSwish', 'Eltwise',
          'Dropout', 'Noop', 'Padding', 'Crop', 'Squeeze', 'ExpandDims', 'Normalize', 'TanH', 'GELU'}


class _Layer:
    """A line of the .param file: type, name and numbered settings."""

    def __init__(self, file: str, line: str):
        words = line.split()
        self.file = file
        try:
            self.kind, self.name = words[:2]
            inputs, outputs = map(int, words[2:4])
            settings = [re.fullmatch(r'(-?\d{1,5})=(\S+)', word) for word in words[4 + inputs + outputs:]]
            if inputs < 0 or outputs < 0 or not all(settings):
                raise ValueError
        except ValueError:
            raise ValueError(f"{file}: not a layer: '{shown(line)}'") from None
        self.settings = {int(match[1]): match[2] for match in settings}

    def size(self, key: int, default: int = 0) -> int:
        """Return setting `key`, a count."""
        text = self.settings.get(key, str(default))
        if not re.fullmatch(r'\d{1,10}', text) or int(text) >= _MAX_SIZE:
            raise ValueError(f"{self.file}: layer {shown(self.name)} has {key}={shown(text, 20)}, expected a count")
        return int(text)

    def number(self, key: int, default: float = 0.0) -> float:
        """Return setting `key`, a number."""
        try:
            return float(self.settings.get(key, default))
        except ValueError:
            raise ValueError(f"{self.file}: layer {shown(self.name)} has {key}={shown(self.settings[key], 20)}, "
                             "expected a number") from None


def pair(file: str) -> tuple:
    """Return (.param, .bin) of either file."""
    stem = os.path.splitext(file)[0]
    return stem + '.param', stem + '.bin'


def read_ncnn(file: str) -> Weights:
    """Return the weights of a .param and .bin pair, given one of them. Raises FileNotFoundError or ValueError."""
    text_file, bin_file = pair(str(file))
    layers = _layers(text_file)
    weights = Weights({}, 'ncnn', operations=[])
    with InputFile(bin_file) as data:
        reader = _Reader(Cursor(data), Budget(data))
        for layer in layers:
            read = _READERS.get(layer.kind)
            if read is None and layer.kind not in _EMPTY:
                raise ValueError(f"{text_file}: layer {shown(layer.name)} is of type {shown(layer.kind)}, which is not "
                                 "known; its numbers cannot be told from the next layer's")
            if read:
                read(reader, layer, weights)
        if reader.cursor.position != data.size:
            raise ValueError(f"{bin_file}: {data.size - reader.cursor.position} bytes are left over: it belongs to "
                             f"another network than {text_file}")
    weights.input_scaling = _input_scaling(layers)
    return weights


def _layers(file: str) -> list:
    with InputFile(file) as data:
        if data.size > _MAX_TEXT:
            raise ValueError(f"{file}: {data.size} bytes, expected text of at most {_MAX_TEXT}")
        lines = data.read(0, data.size, 'the text').decode('latin-1').split('\n')
    if lines[0].strip() != MAGIC.decode():
        raise ValueError(f"{file}: starts with '{shown(lines[0], 20)}', ncnn's text starts with {MAGIC.decode()}")
    layers = [_Layer(file, line) for line in lines[2:] if line.strip()]
    counts = (lines[1] if len(lines) > 1 else '').split()
    if len(counts) != 2 or counts[0] != str(len(layers)):
        raise ValueError(f"{file}: claims '{shown(' '.join(counts), 30)}' layers and blobs, has {len(layers)} layers")
    return layers


def _input_scaling(layers: list) -> tuple:
    """Return (mean, factor) of the first layers, None where they are no subtraction and multiplication."""
    found = {layer.size(0): layer.number(2) for layer in layers[:4]
             if layer.kind == 'BinaryOp' and layer.size(1) == 1 and layer.size(0) in (1, 2)}
    return (found.get(1, 0.0), found.get(2, 1.0)) if found else None


class _Reader:
    """Numbers from the .bin file, layer by layer."""

    def __init__(self, cursor: Cursor, budget: Budget):
        self.cursor, self.budget = cursor, budget

    def plain(self, layer: _Layer, what: str, count: int) -> np.ndarray:
        """Return (count,) float32."""
        self.budget.take(count)
        return self.cursor.array('<f4', count, f'{shown(layer.name)}, {what}').astype(np.float32)

    def tagged(self, layer: _Layer, shape: tuple) -> np.ndarray:
        """Return weights whose first four bytes say how they are stored."""
        tag = self.cursor.number(f'{shown(layer.name)}, tag', '<u4')
        if tag == 0:
            return self.plain(layer, 'weights', count_of(shape)).reshape(shape)
        if tag == _FLOAT16:
            count = count_of(shape) + count_of(shape) % 2                      # padded to four bytes
            self.budget.take(count)
            numbers = self.cursor.array('<f2', count, f'{shown(layer.name)}, weights')
            return as_float32(numbers[:count_of(shape)]).reshape(shape)
        kind = 'int8' if tag == _INT8 else f'quantised by a table (tag 0x{tag:08x})'
        raise ValueError(f"{self.cursor.data.name}: the weights of layer {shown(layer.name)} are {kind}; only float32 "
                         "and float16 are read")

    def keep(self, weights: Weights, layer: _Layer, kind: str, arrays: dict, eps: float = 0.0) -> None:
        """Add a layer's arrays, {MXNet's last word: (PyTorch's, array)}."""
        weights.operations.append(Operation(kind, dict(arrays.values()), eps))
        for last, (_, array) in arrays.items():
            name = checked_name(f'{layer.name}_{last}', layer.file, weights.tensors)
            weights.tensors[name] = array


def _convolution(reader: _Reader, layer: _Layer, weights: Weights) -> None:
    out, width, groups = layer.size(0), layer.size(1), max(layer.size(7, 1), 1)
    height, total = layer.size(11, width), layer.size(6)
    if not out or not width or not height or total % (out * width * height) or out % groups or layer.size(8):
        raise ValueError(f"{layer.file}: layer {shown(layer.name)} claims {total} weights for {out} maps of "
                         f"{height}x{width}, or is int8")
    shape = out, total // (out * width * height), height, width
    arrays = {'weight': ('weight', reader.tagged(layer, shape))}
    if layer.size(5):
        arrays['bias'] = 'bias', reader.plain(layer, 'bias', out)
    reader.keep(weights, layer, 'conv', arrays)


def _batch_norm(reader: _Reader, layer: _Layer, weights: Weights) -> None:
    names = (('gamma', 'weight'), ('moving_mean', 'running_mean'), ('moving_var', 'running_var'), ('beta', 'bias'))
    arrays = {name: (torch, reader.plain(layer, name, layer.size(0))) for name, torch in names}
    weights.eps[layer.name] = layer.number(1)
    reader.keep(weights, layer, 'norm', arrays, layer.number(1))


def _prelu(reader: _Reader, layer: _Layer, weights: Weights) -> None:
    reader.keep(weights, layer, 'prelu', {'gamma': ('weight', reader.plain(layer, 'slopes', layer.size(0)))})


def _inner_product(reader: _Reader, layer: _Layer, weights: Weights) -> None:
    out, total = layer.size(0), layer.size(2)
    if not out or total % out or layer.size(8):
        raise ValueError(f"{layer.file}: layer {shown(layer.name)} claims {total} weights for {out} numbers, or is "
                         "int8")
    arrays = {'weight': ('weight', reader.tagged(layer, (out, total // out)))}
    if layer.size(1):
        arrays['bias'] = 'bias', reader.plain(layer, 'bias', out)
    reader.keep(weights, layer, 'linear', arrays)


_READERS = {'Convolution': _convolution, 'ConvolutionDepthWise': _convolution, 'BatchNorm': _batch_norm,
            'PReLU': _prelu, 'InnerProduct': _inner_product}
