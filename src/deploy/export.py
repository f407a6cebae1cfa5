"""From a checkpoint to a deployable file: the embedding network alone, read back and compared before it counts.

    metadata = export_backbone(backbone, 'lightcnn9', 'MINDIR', face=face_format('lightcnn'), faces=faces, ir=1)

NAME.mindir or NAME.onnx comes with NAME.json: input name, shape, dtype, scale, sha256 and the largest difference.
"""
import copy
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.train.mind_ir_pb2 import ModelProto

from src.backbone import Backbone
from src.config import get_config
from src.data.face_format import FaceFormat
from src.data.images import face_for_test, find_images, listed_faces, read_face, training_face_for_test
from src.data.lists import file_sha256, write_text
from src.data.synthetic import faces_as_input
from src.embedding import Network
from src.lightcnn import MFM, LightCNN, MaxAvgPool
from src.protocols.lfw import LFW

SUFFIXES = {'MINDIR': '.mindir', 'ONNX': '.onnx', 'AIR': '.air'}
NUM_FACES, NUM_CALIBRATION = 8, 256
INT8_COSINE = 0.8                # between a face's features before and after int8
TOLERANCE = 1e-4                 # of the largest feature: kernels sum in other orders


class PlainConv(nn.Cell):
    """A convolution and its bias as two operators that every MindSpore Lite knows: Conv2D and Add."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, padding: int):
        super().__init__()
        out_channels, in_channels, kernel_size, _ = weight.shape
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, pad_mode='pad', padding=padding, has_bias=False,
                              weight_init=Tensor(weight))
        self.bias = Parameter(Tensor(bias.reshape(1, -1, 1, 1)), name='bias')

    def construct(self, x):
        return self.conv(x) + self.bias


class PlainMFM(nn.Cell):
    """Max-Feature-Map as two convolutions of half the channels each: MindSpore Lite 2.0 has no Split for MINDIR."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, padding: int):
        super().__init__()
        half = len(weight) // 2
        self.first = PlainConv(weight[:half], bias[:half], padding)
        self.second = PlainConv(weight[half:], bias[half:], padding)
        self.maximum = ops.Maximum()

    def construct(self, x):
        return self.maximum(self.first(x), self.second(x))


class PlainEmbedding(nn.Cell):
    """(N, C, S, S) -> (N, D) with the fully connected layer as a convolution over all that is left of the image."""

    def __init__(self, features: nn.Cell, fc: nn.Cell, embedding_size: int):
        super().__init__()
        self.features, self.fc, self.embedding_size = features, fc, embedding_size
        self.reshape = ops.Reshape()

    def construct(self, x):
        return self.reshape(self.fc(self.features(x)), (-1, self.embedding_size))    # -1: the batch can be changed


class PlainMaxAvgPool(nn.Cell):
    """`MaxAvgPool` with the mean as a convolution of its own for each map: AvgPool has changed its form."""

    def __init__(self, channels: int):
        super().__init__()
        self.max_pool = nn.MaxPool2d(2, 2)
        self.mean = nn.Conv2d(channels, channels, 2, 2, pad_mode='valid', group=channels, has_bias=False,
                              weight_init=Tensor(np.full((channels, 1, 2, 2), 0.25, np.float32)))

    def construct(self, x):
        return self.max_pool(x) + self.mean(x)


def plain_form(network: LightCNN) -> PlainEmbedding:
    """Return a copy of a `LightCNN` in operators whose form has not changed since MindSpore 1: the same function."""
    if not isinstance(network, LightCNN):
        raise ValueError(f"--ir 1: {network.name} needs operators that MindSpore Lite 2.0 does not know; leave --ir "
                         "away")
    network, channels, features = copy.deepcopy(network), network.channels, []
    for cell in network.features:
        filters = [p.shape[0] for p in cell.get_parameters() if p.ndim == 4]
        channels = filters[-1] // 2 if filters else channels
        features.append(PlainMaxAvgPool(channels) if isinstance(cell, MaxAvgPool) else _plain(cell))
    return PlainEmbedding(nn.SequentialCell(features), _plain_dense(network.fc),
                          network.embedding_size).set_train(False)


def _plain(cell):
    """Return `cell` with every Max-Feature-Map convolution in it replaced."""
    if isinstance(cell, MFM):
        return PlainMFM(*_arrays(cell.layer), cell.layer.weight.shape[2] // 2)
    for name, child in cell.name_cells().items():
        if isinstance(child, MFM):
            setattr(cell, name, _plain(child))
    return cell


def _arrays(layer):
    return layer.weight.asnumpy(), layer.bias.asnumpy()


def _plain_dense(fc):
    weight, bias = _arrays(fc.layer if isinstance(fc, MFM) else fc)
    side = round((weight.shape[1] / 128) ** 0.5)                 # (out, 128 * side * side) -> (out, 128, side, side)
    weight = weight.reshape(len(weight), 128, side, side)
    return PlainMFM(weight, bias, 0) if isinstance(fc, MFM) else PlainConv(weight, bias, 0)


def export_backbone(network: Backbone, name: str, file_format: str, *, face: FaceFormat, faces: np.ndarray,
                    batch_size: Optional[int] = 1, ir: Optional[int] = None,
                    calibration: Optional[np.ndarray] = None) -> dict:
    """Write NAME.<format> and NAME.json and return the metadata; both appear only if the file gives the same features.

    network: with weights. face: what it takes. faces: (n, C, S, S) float32 to compare on. batch_size: a number, or
    None for any. ir: 1 for MindSpore Lite 2.0, else None. calibration: faces from which ONNX's int8 form takes its
    ranges. Raises RuntimeError where features differ, ValueError for what the format cannot do.
    """
    write, read = FORMATS[file_format]
    file, expected = name + SUFFIXES[file_format], network(Tensor(faces)).asnumpy()
    temporary = f'{name}.{os.getpid()}.tmp{SUFFIXES[file_format]}'
    try:
        os.makedirs(os.path.dirname(os.path.abspath(file)), exist_ok=True)
        example = np.zeros((batch_size or 1, *faces.shape[1:]), np.float32)
        input_name = write(network, example, batch_size is None, ir, temporary)
        again = partial(read, temporary, faces, batch_size or len(faces), face) if read else None
        difference = _compare(expected, again(), file) if read else None
        cosine = None
        if calibration is not None:
            from src.deploy.onnx_backend import quantise
            quantise(temporary, calibration, batch_size or 16)
            cosine = _compare_int8(expected, again(), file)
        with open(temporary, 'rb') as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    metadata = {'format': 1, 'file': os.path.basename(file), 'file_format': file_format, 'ir': ir,
                'sha256': file_sha256(file), 'bytes': os.path.getsize(file), 'network_type': network.name,
                'face_format': face.as_metadata(),
                'input': {'name': input_name, 'shape': [batch_size or 'N', *faces.shape[1:]], 'dtype': 'float32',
                          'values': face.values},
                'output': {'shape': [batch_size or 'N', network.embedding_size], 'dtype': 'float32'},
                'compared_on': len(faces) if read else 0, 'largest_difference': difference,
                'largest_feature': float(np.abs(expected).max()), 'int8_smallest_cosine': cosine}
    write_text(name + '.json', json.dumps(metadata, indent=1) + '\n')
    return metadata


def calibration_faces(dataset_path: str, network: Network) -> np.ndarray:
    """Return NUM_CALIBRATION training faces, drawn over the whole list, as network input."""
    cfg = get_config(dataset_path=dataset_path)
    names, _ = listed_faces(cfg.train_list)
    root = cfg.train_list if cfg.train_list.endswith('.rec') else cfg.data_path
    rows = np.random.default_rng(0).permutation(len(names))[:NUM_CALIBRATION]
    return _as_input(network, find_images(root, [names[row] for row in rows]), training_face_for_test)


def faces_to_compare(dataset_path: Optional[str], network: Network) -> np.ndarray:
    """Return NUM_FACES faces as network input: LFW's first, or synthetic ones without a data set."""
    if not dataset_path:
        return faces_as_input(network.image_size, NUM_FACES, network.face_format)
    cfg = get_config(dataset_path=dataset_path)
    return _as_input(network, find_images(cfg.root_path, LFW.images(cfg)[0][:NUM_FACES]), face_for_test)


def _as_input(network: Network, paths: list, to_face: Callable) -> np.ndarray:
    face = network.face_format
    return face.to_input(np.stack([to_face(read_face(path, face.colour), face, network.image_size, path)
                                   for path in paths]))


def _compare(expected, found, file):
    """Return the largest difference of features; RuntimeError if it is more than the order of sums explains."""
    allowed = TOLERANCE * max(float(np.abs(expected).max()), 1e-6)
    difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else float('inf')
    if not difference <= allowed:
        raise RuntimeError(f"{file}: not written, its features differ from the checkpoint's by {difference:.3g}, more "
                           f"than {allowed:.3g}")
    return difference


def _compare_int8(expected, found, file):
    """Return the smallest cosine between features before and after; RuntimeError if it is below INT8_COSINE."""
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    cosine = float(((expected * found).sum(1) / np.maximum(lengths, 1e-12)).min())
    if not cosine >= INT8_COSINE:
        raise RuntimeError(f"{file}: not written, int8 turns a feature by a cosine of {cosine:.3f}, less than "
                           f"{INT8_COSINE}; do the calibration faces look like the test faces?")
    return cosine


def write_mindir(network: Backbone, example: np.ndarray, dynamic: bool, ir: Optional[int], file: str) -> str:
    """Write a MINDIR; return the name of its input."""
    if ir == 1 and dynamic:
        raise ValueError("--batch_size dynamic: a MINDIR of --ir 1 has a fixed batch, which the program that loads it "
                         "can change (ascend310_infer: --batch_size)")
    shape = Tensor(shape=[None, *example.shape[1:]], dtype=ms.float32) if dynamic else Tensor(example)
    ms.export(plain_form(network) if ir == 1 else network, shape, file_name=file, file_format='MINDIR')
    if ir == 1:
        os.chmod(file, 0o644)                                    # MindSpore writes it read-only
        with open(file, 'rb') as data:
            model = ModelProto.FromString(data.read())
        model.mind_ir_version = 1
        with open(file, 'wb') as out:
            out.write(model.SerializeToString())
    return 'x'


def read_mindir(file: str, faces: np.ndarray, batch_size: int, face: FaceFormat) -> np.ndarray:
    """Return the features of a MINDIR in MindSpore."""
    graph = nn.GraphCell(ms.load(file))
    return in_batches(lambda images: graph(Tensor(images)).asnumpy(), faces, batch_size)


def in_batches(network: Callable, faces: np.ndarray, batch_size: int) -> np.ndarray:
    """Return the features (n, D) of faces (n, C, S, S) from a network that takes exactly batch_size of them."""
    found = []
    for start in range(0, len(faces), batch_size):
        some = faces[start:start + batch_size]
        full = np.concatenate([some, np.repeat(some[-1:], batch_size - len(some), 0)])
        found.append(network(full)[:len(some)])
    return np.concatenate(found)


def write_onnx(network: Backbone, example: np.ndarray, dynamic: bool, ir: Optional[int], file: str) -> str:
    """Write an ONNX file; return the name of its input."""
    try:
        import onnx
    except ImportError:
        raise ValueError("ONNX needs two more packages: pip install onnx onnxruntime") from None
    ms.export(network, Tensor(example), file_name=file, file_format='ONNX')
    os.chmod(file, 0o644)
    model = onnx.load(file)
    if dynamic:                                                  # no operator of these graphs fixes the batch
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_param = 'N'
    onnx.checker.check_model(model)
    onnx.save(model, file)
    return model.graph.input[0].name


def read_onnx(file: str, faces: np.ndarray, batch_size: int, face: FaceFormat) -> np.ndarray:
    """Return the features of an ONNX file in ONNX Runtime."""
    from src.deploy.onnx_backend import onnx_network
    return in_batches(onnx_network(file, face.name), faces, batch_size)


def as_onnx(backbone: Backbone, network: Network) -> Network:
    """Return a backbone, which is `network` in MindSpore, as a network in ONNX Runtime for any batch size."""
    from src.deploy.onnx_backend import onnx_network
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, 'network')
        export_backbone(backbone, name, 'ONNX', face=network.face_format, batch_size=None,
               faces=faces_as_input(network.image_size, face=network.face_format))
        found = onnx_network(name + '.onnx')
    found.name, found.file, found.embedding_size = network.name, network.file, network.embedding_size
    return found


def write_air(network: Backbone, example: np.ndarray, dynamic: bool, ir: Optional[int], file: str) -> str:
    """Write an AIR file, which only MindSpore on Ascend can; nothing here can read it back."""
    if ms.get_context('device_target') != 'Ascend':
        raise ValueError("--file_format AIR: only MindSpore on an Ascend card can write it; run this there, or use "
                         "MINDIR, which an Ascend 310 reads as well")
    if dynamic:
        raise ValueError("--batch_size dynamic: an AIR file has a fixed batch")
    ms.export(network, Tensor(example), file_name=file, file_format='AIR')
    return 'x'


FORMATS = {'MINDIR': (write_mindir, read_mindir), 'ONNX': (write_onnx, read_onnx), 'AIR': (write_air, None)}
