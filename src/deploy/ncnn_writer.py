"""From a `Graph` to ncnn's two files, text and weights, without any tool of ncnn's.

    text, data = ncnn_files(graph, storage='float16')          # 'float32', 'float16' or 'int8' with `scales`

ncnn computes one face at a time: the batch axis is left away. Its arrays have at most four axes, so what a transformer
moves on five or six is moved on axes joined where they stay together. A reshape costs nothing until something needs it.
Source of the formats: ncnn's operators.md and param-and-model-file-structure.md.
"""
from collections import Counter
from typing import Any, NamedTuple, Optional

import numpy as np

from src.deploy.graph import BATCH, Graph, Node, batch_axis, elements

INPUT, OUTPUT = 'x', 'embedding'
STORAGES = ('float32', 'float16', 'int8')
_MAGIC, _FLOAT16, _INT8 = '7767517', 0x01306B47, 0x000D4B38
_TINY_SCALE = 1e-12


class Layer(NamedTuple):
    """A line of the text and the bytes of its weights."""

    kind: str
    name: str
    inputs: list
    outputs: list
    settings: dict
    data: bytes = b''


class Scales(NamedTuple):
    """What int8 multiplies with: {layer: (outputs,)} for weights, {layer: number} for what goes in."""

    weights: dict
    inputs: dict


def without_batch(shape: tuple) -> tuple:
    """Return a shape for one face: its batch axis is gone, or what is left of it if it held more."""
    axis = batch_axis(shape)
    if axis is None:
        return tuple(shape)
    left = (shape[axis] // BATCH,) if shape[axis] > BATCH else ()
    return (*shape[:axis], *left, *shape[axis + 1:]) or (1,)


def ncnn_axis(shape: tuple, axis: int) -> int:
    """Return the place of an axis once the batch axis is gone."""
    batch = batch_axis(shape)
    return axis - (batch is not None and shape[batch] == BATCH and batch < axis)


class Writer:
    """Collects layers. blobs: {value: (name of the blob, its axes)}, which may be other axes than the value's."""

    def __init__(self, graph: Graph, storage: str, scales: Optional[Scales]):
        self.graph, self.storage, self.scales = graph, storage, scales
        self.layers: list = []
        self.blobs: dict = {}
        self.names: Counter = Counter()
        self.reshaped: dict = {}
        self.done: set = set()
        self.users = graph.users()

    def name(self, stem: str) -> str:
        """Return a name that no layer has."""
        self.names[stem] += 1
        return stem if self.names[stem] == 1 else f'{stem}_{self.names[stem]}'

    def add(self, kind: str, inputs: list, settings: Optional[dict] = None, *, name: str = '', data: bytes = b'',
            outputs: int = 1) -> Any:
        """Add a layer; return the name of its output, or a list of several."""
        name = self.name(name or kind.lower())
        made = [name] if outputs == 1 else [f'{name}_{i}' for i in range(outputs)]
        self.layers.append(Layer(kind, name, inputs, made, settings or {}, data))
        return made[0] if outputs == 1 else made

    def keep(self, node: Node, blob: str, dims: Optional[tuple] = None) -> None:
        """Say which blob holds the result of a node. dims: its axes; None: the value's own."""
        self.blobs[node.output] = blob, dims or without_batch(self.graph.shapes[node.output])

    def held(self, value: str) -> tuple:
        """Return (blob, axes) of a value as it is there."""
        if value not in self.blobs:
            array = self.graph.constants[value]
            self.blobs[value] = self.memory(array), array.shape or (1,)
        return self.blobs[value]

    def memory(self, array: np.ndarray) -> str:
        """Return a blob that holds an array."""
        dims = array.shape or (1,)
        return self.add('MemoryData', [], sides(dims), name='constant', data=array.astype('<f4').tobytes())

    def blob(self, value: str, dims: Optional[tuple] = None) -> str:
        """Return a blob of a value with these axes; None: the value's own."""
        blob, found = self.held(value)
        dims = tuple(dims or without_batch(self.graph.shape(value)))
        if found == dims:
            return blob
        if elements(found) != elements(dims) or len(dims) > 4:
            raise ValueError(f"--file_format NCNN: {value} of axes {found} is needed as {dims}, which ncnn cannot hold")
        if (blob, dims) not in self.reshaped:
            self.reshaped[blob, dims] = self.add('Reshape', [blob], sides(dims))
        return self.reshaped[blob, dims]

    def tagged(self, weight: np.ndarray) -> bytes:
        """Return weights as ncnn stores them behind a word that says how."""
        if self.storage != 'float16':
            return np.uint32(0).tobytes() + weight.astype('<f4').tobytes()
        if np.abs(weight).max(initial=0) > np.finfo(np.float16).max:
            raise ValueError("--storage float16: a weight is larger than 65504; write float32")
        return np.uint32(_FLOAT16).tobytes() + _padded(weight.astype('<f2').tobytes())


def _padded(data: bytes) -> bytes:
    return data + b'\0' * (-len(data) % 4)


def sides(dims: tuple) -> dict:
    """Return the settings of Reshape, Input and MemoryData for axes, outermost first."""
    keys = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 11, 1, 0)}[len(dims)]
    return dict(sorted(zip(keys, dims)))


def ncnn_files(graph: Graph, *, storage: str = 'float32', scales: Optional[Scales] = None) -> tuple:
    """Return (text of the .param, bytes of the .bin). Raises ValueError for what ncnn cannot compute."""
    layers = ncnn_layers(graph, storage=storage, scales=scales)
    blobs = sum(len(layer.outputs) for layer in layers)
    lines = [_MAGIC, f'{len(layers)} {blobs}', *(_line(layer) for layer in layers)]
    return '\n'.join(lines) + '\n', b''.join(layer.data for layer in layers)


def ncnn_layers(graph: Graph, *, storage: str = 'float32', scales: Optional[Scales] = None) -> list:
    """Return the layers in order, each blob used once."""
    from src.deploy.ncnn_layers import NODES, split_attention
    graph = graph.copy()
    split_attention(graph)
    writer = Writer(graph, storage, scales)
    writer.add('Input', [], sides(without_batch(graph.shape(graph.input))), name=INPUT)
    writer.blobs[graph.input] = INPUT, without_batch(graph.shape(graph.input))
    for node in graph.nodes:
        if node.output in writer.done:
            continue
        if node.op not in NODES:
            raise ValueError(f"--file_format NCNN: ncnn has no layer for {node.op}")
        NODES[node.op](writer, node)
    last = writer.blob(graph.output)
    layers = [layer._replace(outputs=[OUTPUT if name == last else name for name in layer.outputs],
                             inputs=[OUTPUT if name == last else name for name in layer.inputs])
              for layer in writer.layers]
    return _with_splits(layers)


def _with_splits(layers: list) -> list:
    """Return the layers with a Split behind each blob that several take."""
    uses = Counter(name for layer in layers for name in layer.inputs)
    taken: Counter = Counter()
    result = []
    for layer in layers:
        inputs = []
        for name in layer.inputs:
            inputs.append(name if uses[name] == 1 else f'{name}_to_{taken[name]}')
            taken[name] += 1
        result.append(layer._replace(inputs=inputs))
        result += [Layer('Split', f'split_{name}', [name], [f'{name}_to_{i}' for i in range(uses[name])], {})
                   for name in layer.outputs if uses[name] > 1]
    return result


def _line(layer: Layer) -> str:
    settings = ' '.join(f'{key}={_shown(value)}' for key, value in layer.settings.items())
    return (f'{layer.kind:<22} {layer.name:<28} {len(layer.inputs)} {len(layer.outputs)} '
            f'{" ".join([*layer.inputs, *layer.outputs])} {settings}').rstrip()


def _shown(value: Any) -> str:
    """Return a setting as ncnn writes it: a number with a point is a float, a list starts with its length."""
    if isinstance(value, (tuple, list)):
        return ','.join(map(str, [len(value), *map(_shown, value)]))
    return f'{value:.8e}' if isinstance(value, float) else str(int(value))


def int8_weights(weight: np.ndarray, groups: int) -> tuple:
    """Return (weights as int8, one scale an output, for depthwise layers one a group)."""
    rows = weight.reshape(groups if groups > 1 else len(weight), -1)
    scales = 127 / np.maximum(np.abs(rows).max(1), _TINY_SCALE)
    return np.clip(np.rint(rows * scales[:, None]), -127, 127).astype(np.int8), scales.astype(np.float32)


def layer_data(writer: Writer, name: str, weight: np.ndarray, bias: Optional[np.ndarray], groups: int = 1) -> tuple:
    """Return (bytes of a convolution or linear layer, further settings): weights, bias and, for int8, scales."""
    tail = b'' if bias is None else bias.astype('<f4').tobytes()
    if writer.storage != 'int8' or writer.scales is None or name not in writer.scales.inputs:
        return writer.tagged(weight) + tail, {}
    numbers, scales = int8_weights(weight, groups)
    writer.scales.weights[name] = scales
    going_in = np.float32(writer.scales.inputs[name])
    data = np.uint32(_INT8).tobytes() + _padded(numbers.tobytes()) + tail + scales.tobytes() + going_in.tobytes()
    return data, {8: 1}
