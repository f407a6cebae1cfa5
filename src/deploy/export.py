"""From a checkpoint to a deployable file: the embedding network alone, read back and compared before it counts.

    metadata = export_backbone(backbone, 'lightcnn9', 'MINDIR', face=face_format('lightcnn'), faces=faces, ir=1)

NAME.mindir, NAME.onnx or NAME.param and NAME.bin come with NAME.json: input name, shape, dtype, scale, sha256 and the
largest difference.
"""
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.train.mind_ir_pb2 import ModelProto

from src.backbone import Backbone
from src.config import get_config
from src.data.face_format import FaceFormat
from src.data.images import face_for_test, find_images, listed_faces, read_face, training_face_for_test
from src.data.lists import file_sha256, write_text
from src.data.synthetic import faces_as_input
from src.deploy.fold import fold, simplify
from src.deploy.graph import Graph
from src.deploy.inside import Deployed, Inside, expected, fed
from src.deploy.trace import trace
from src.embedding import Network
from src.protocols.lfw import LFW

SUFFIXES = {'MINDIR': ('.mindir',), 'ONNX': ('.onnx',), 'NCNN': ('.param', '.bin'), 'AIR': ('.air',)}
STORAGES = ('float32', 'float16')
NUM_FACES, NUM_CALIBRATION = 8, 256
NUM_CALIBRATION_NCNN = 64        # one at a time, every layer looked at
INT8_COSINE = 0.8                # between a face's features before and after int8
FLOAT16_COSINE = 0.999           # weights rounded to 11 bits
TOLERANCE = 1e-4                 # of the largest feature: kernels sum in other orders


@dataclass
class Job:
    """What is to be written: the network as it will run, and how.

    batch_size: None for any. ir: 1 for MindSpore Lite 2.0. storage: of ncnn's weights. report: what writing it showed.
    """

    cell: Deployed
    batch_size: Optional[int] = 1
    ir: Optional[int] = None
    storage: str = 'float32'
    report: dict = field(default_factory=dict)
    unfolded: Optional[Graph] = None

    @property
    def face_shape(self) -> tuple:
        """(C, S, S) of a face."""
        return self.cell.channels, self.cell.image_size, self.cell.image_size

    @property
    def example(self) -> Tensor:
        """A batch of the size to be written."""
        return Tensor(np.zeros((self.batch_size or 1, *self.face_shape), np.float32))


def export_backbone(network: Backbone, name: str, file_format: str, *, face: FaceFormat, faces: np.ndarray,
                    batch_size: Optional[int] = 1, ir: Optional[int] = None, storage: str = 'float32',
                    inside: Optional[Inside] = None, calibration: Optional[np.ndarray] = None) -> dict:
    """Write NAME.<format> and NAME.json and return the metadata; they appear only if the file gives the same features.

    network: with weights. face: what it takes. faces: (n, C, S, S) float32 to compare on. batch_size: a number, or
    None for any. ir: 1 for MindSpore Lite 2.0, else None. storage: of ncnn's weights, float32 or float16. inside: what
    else the file does by itself. calibration: faces from which the int8 form of ONNX or ncnn takes its ranges. Raises
    RuntimeError where features differ, ValueError for what the format cannot do.
    """
    inside = inside or Inside()
    _check(file_format, batch_size, ir, storage, calibration)
    network.set_train(False)
    job = Job(Deployed(network, face, inside), batch_size, ir, storage)
    write, read = FORMATS[file_format]
    wanted, stem = expected(network, faces, inside), f'{name}.{os.getpid()}.tmp'
    files = [stem + suffix for suffix in SUFFIXES[file_format]]
    tables = {}
    try:
        os.makedirs(os.path.dirname(os.path.abspath(name)), exist_ok=True)
        input_name = write(job, files[0])
        again = partial(read, files[0], fed(faces, face, inside), batch_size or len(faces), face) if read else None
        compared = _compared(wanted, again(), name + SUFFIXES[file_format][0], storage) if read else {}
        if calibration is not None:
            tables = _QUANTISE[file_format](job, files[0], fed(calibration, face, inside))
            compared['int8_smallest_cosine'] = _smallest_cosine(wanted, again(), name, INT8_COSINE, 'int8')
        sizes = [_settle(file, name + suffix) for file, suffix in zip(files, SUFFIXES[file_format])]
    finally:
        for file in files:
            if os.path.exists(file):
                os.remove(file)
    for suffix, text in tables.items():
        write_text(name + suffix, text)
    held = _metadata(job, name, file_format, face, inside, input_name)
    metadata = {**held, 'bytes': sum(sizes), 'compared_on': len(faces) if read else 0, 'largest_difference': None,
                'int8_smallest_cosine': None, **compared, 'largest_feature': float(np.abs(wanted).max()), **job.report}
    write_text(name + '.json', json.dumps(metadata, indent=1) + '\n')
    return metadata


def _check(file_format, batch_size, ir, storage, calibration):
    """Raise ValueError for settings that do not go together."""
    if file_format not in FORMATS:
        raise ValueError(f"unknown file format '{file_format}'; file formats: {', '.join(FORMATS)}")
    if storage not in STORAGES:
        raise ValueError(f"unknown storage '{storage}'; storages: {', '.join(STORAGES)}")
    for flag, given, formats in (('--ir', ir is not None, ('MINDIR',)), ('--storage', storage != 'float32', ('NCNN',)),
                                 ('--int8', calibration is not None, ('ONNX', 'NCNN'))):
        if given and file_format not in formats:
            raise ValueError(f"{flag} is for --file_format {' and '.join(formats)}, not for {file_format}")
    if storage != 'float32' and calibration is not None:
        raise ValueError("--storage float16 and --int8 both say how weights are stored; give one of them")
    if file_format == 'NCNN' and batch_size not in (None, 1):
        raise ValueError(f"--batch_size {batch_size}: ncnn takes one face a call; leave --batch_size away")


def _settle(file, name):
    """Have a finished file appear under its name; return its size."""
    with open(file, 'rb') as written:
        os.fsync(written.fileno())
    os.chmod(file, 0o644)
    os.replace(file, name)
    return os.path.getsize(name)


def _metadata(job, name, file_format, face, inside, input_name):
    """Return what does not depend on comparing."""
    main, *further = (name + suffix for suffix in SUFFIXES[file_format])
    rows = 1 if file_format == 'NCNN' else job.batch_size or 'N'
    values = f'{face.colour}, 0 to 255' if inside.scaling else face.values
    return {'format': 1, 'file': os.path.basename(main), 'file_format': file_format, 'ir': job.ir,
            'sha256': file_sha256(main), 'further_files': {os.path.basename(f): file_sha256(f) for f in further},
            'network_type': job.cell.name, 'face_format': face.as_metadata(), 'normalised': inside.normalise,
            'flip': inside.flip, 'input': {'name': input_name, 'shape': [rows, *job.face_shape], 'dtype': 'float32',
                                           'values': values, 'scaling': 'inside' if inside.scaling else 'outside'},
            'output': {'shape': [rows, job.cell.embedding_size], 'dtype': 'float32'}}


def calibration_faces(dataset_path: str, network: Network, file_format: str = 'ONNX') -> np.ndarray:
    """Return training faces, drawn over the whole list, as network input: NUM_CALIBRATION, for ncnn fewer."""
    cfg = get_config(dataset_path=dataset_path)
    names, _ = listed_faces(cfg.train_list)
    root = cfg.train_list if cfg.train_list.endswith('.rec') else cfg.data_path
    count = NUM_CALIBRATION_NCNN if file_format == 'NCNN' else NUM_CALIBRATION
    rows = np.random.default_rng(0).permutation(len(names))[:count]
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


def _compared(wanted, found, file, storage):
    """Return the largest difference and, for float16, the smallest cosine; RuntimeError beyond what rounds."""
    if found.shape != wanted.shape or storage == 'float32':
        return {'largest_difference': _compare(wanted, found, file)}
    return {'largest_difference': float(np.abs(found - wanted).max()),
            'float16_smallest_cosine': _smallest_cosine(wanted, found, file, FLOAT16_COSINE, 'float16')}


def _compare(expected, found, file):
    """Return the largest difference of features; RuntimeError if it is more than the order of sums explains."""
    allowed = TOLERANCE * max(float(np.abs(expected).max()), 1e-6)
    difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else float('inf')
    if not difference <= allowed:
        raise RuntimeError(f"{file}: not written, its features differ from the checkpoint's by {difference:.3g}, more "
                           f"than {allowed:.3g}")
    return difference


def _smallest_cosine(expected, found, file, lowest, kind):
    """Return the smallest cosine between features before and after; RuntimeError if it is below `lowest`."""
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    cosine = float(((expected * found).sum(1) / np.maximum(lengths, 1e-12)).min())
    if not cosine >= lowest:
        raise RuntimeError(f"{file}: not written, {kind} turns a feature by a cosine of {cosine:.3f}, less than "
                           f"{lowest}; do the calibration faces look like the test faces?")
    return cosine


def folded(job: Job) -> Graph:
    """Return the network's operations with BatchNorm folded; what became of it goes into job.report."""
    graph = trace(job.cell)
    simplify(graph)
    unfolded = graph.copy()
    job.report['fold'] = {**fold(graph), 'operations_before': len(unfolded.nodes), 'operations': len(graph.nodes)}
    job.unfolded = unfolded
    return graph


def write_mindir(job: Job, file: str) -> str:
    """Write a MINDIR; return the name of its input."""
    if job.ir == 1 and job.batch_size is None:
        raise ValueError("--batch_size dynamic: a MINDIR of --ir 1 has a fixed batch, which the program that loads it "
                         "can change (ascend310_infer: --batch_size)")
    shape = Tensor(shape=[None, *job.face_shape], dtype=ms.float32) if job.batch_size is None else job.example
    ms.export(plain_form(job) if job.ir == 1 else job.cell, shape, file_name=file, file_format='MINDIR')
    if job.ir == 1:
        os.chmod(file, 0o644)                                    # MindSpore writes it read-only
        with open(file, 'rb') as data:
            model = ModelProto.FromString(data.read())
        model.mind_ir_version = 1
        with open(file, 'wb') as out:
            out.write(model.SerializeToString())
    return 'x'


def plain_form(job: Job) -> nn.Cell:
    """Return the network in operators whose form has not changed since MindSpore 1: the same function."""
    from src.deploy.plain import PlainNetwork, plain_graph
    return PlainNetwork(plain_graph(folded(job), job.cell.name))


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


def write_onnx(job: Job, file: str) -> str:
    """Write an ONNX file; return the name of its input."""
    from src.deploy.onnx_writer import need_onnx, write_graph
    need_onnx()
    return write_graph(folded(job), file, batch_size=job.batch_size)


def read_onnx(file: str, faces: np.ndarray, batch_size: int, face: FaceFormat) -> np.ndarray:
    """Return the features of an ONNX file in ONNX Runtime."""
    from src.deploy.onnx_backend import onnx_network
    return in_batches(onnx_network(file, face.name), faces, batch_size)


def quantise_onnx(job: Job, file: str, faces: np.ndarray) -> dict:
    """Turn an ONNX file into int8 in place."""
    from src.deploy.onnx_backend import quantise
    quantise(file, faces, job.batch_size or 16)
    return {}


def write_ncnn(job: Job, file: str) -> str:
    """Write ncnn's two files; the report compares layers and time with and without folding."""
    from src.deploy.ncnn_backend import compare_times, load_ncnn, write_pair
    load_ncnn()
    graph = folded(job)
    layers = write_pair(graph, file, job.storage)
    job.report['ncnn'] = {'storage': job.storage, **compare_times(job.unfolded, file, layers)}
    return 'x'


def read_ncnn(file: str, faces: np.ndarray, batch_size: int, face: FaceFormat) -> np.ndarray:
    """Return the features of ncnn's two files in ncnn."""
    from src.deploy.ncnn_backend import NcnnNet
    return NcnnNet(file)(faces)


def quantise_ncnn(job: Job, file: str, faces: np.ndarray) -> dict:
    """Turn ncnn's two files into int8 in place; return {'.table': ncnn's calibration table}."""
    from src.deploy.ncnn_backend import write_pair
    from src.deploy.ncnn_int8 import calibrate, table
    from src.deploy.ncnn_writer import ncnn_layers
    graph = folded(job)
    scales = calibrate(file, ncnn_layers(graph), faces)
    job.report['ncnn']['layers'] = write_pair(graph, file, 'int8', scales)
    job.report['ncnn']['storage'] = 'int8'
    return {'.table': table(scales)}


def in_runtime(backbone: Backbone, network: Network, backend: str) -> Network:
    """Return a backbone, which is `network` in MindSpore, as a network in ONNX Runtime or ncnn for any batch size."""
    from src.deploy.ncnn_backend import ncnn_network
    from src.deploy.onnx_backend import onnx_network
    kind, load = {'onnx': ('ONNX', onnx_network), 'ncnn': ('NCNN', ncnn_network)}[backend]
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, 'network')
        export_backbone(backbone, name, kind, face=network.face_format, batch_size=None,
                        faces=faces_as_input(network.image_size, face=network.face_format))
        found = load(name + SUFFIXES[kind][0])
    found.name, found.file, found.embedding_size = network.name, network.file, network.embedding_size
    return found


def write_air(job: Job, file: str) -> str:
    """Write an AIR file, which only MindSpore on Ascend can; nothing here can read it back."""
    if ms.get_context('device_target') != 'Ascend':
        raise ValueError("--file_format AIR: only MindSpore on an Ascend card can write it; run this there, or use "
                         "MINDIR, which an Ascend 310 reads as well")
    if job.batch_size is None:
        raise ValueError("--batch_size dynamic: an AIR file has a fixed batch")
    ms.export(job.cell, job.example, file_name=file, file_format='AIR')
    return 'x'


FORMATS = {'MINDIR': (write_mindir, read_mindir), 'ONNX': (write_onnx, read_onnx), 'NCNN': (write_ncnn, read_ncnn),
           'AIR': (write_air, None)}
_QUANTISE = {'ONNX': quantise_onnx, 'NCNN': quantise_ncnn}
