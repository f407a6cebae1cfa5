"""The Python API: networks, features, scores, training and export without a command line.

    from src import api
    network = api.load_network('ckpt')                       # a checkpoint, its folder, or a weight file of others
    features = api.embed(network, ['a.jpg', 'b.jpg'])        # (N, D) float32
    print(api.compare(*features))                            # cosine similarity, -1 to 1
    scored = api.score('lfw', features, names, cfg)          # numbers, table, curves

`network(images)` takes (N, C, S, S) float32 in `network.face_format` and returns (N, D) float32. Errors are ValueError,
FileNotFoundError or OSError with one line that names the file, the problem and the expected content.
"""
import os
from collections.abc import Callable, Sequence
from typing import Any, Optional

import numpy as np
from easydict import EasyDict as edict

from src import device, evaluation
from src.data.images import training_face_for_test
from src.embedding import Network, check_faces, embed_cached, network_of
from src.embedding import embed as _embed
from src.protocols import protocol
from src.scoring.report import Scored
from src.sources import source_of
from src.weights import EXTENSIONS


def load_network(file: str, *, network_type: Optional[str] = None, face_format: Optional[str] = None,
                 backend: str = 'mindspore', device_target: str = 'auto', device_id: Optional[str] = None) -> Network:
    """Return the network in `file`: a checkpoint, a folder of them (its newest one), an exported .onnx file, or the
    weights of others (.pt, .pth, .pth.tar, .safetensors, .params, .param, .bin, .onnx; see src/weights/importing.py).

    An .onnx file runs in ONNX Runtime. One of others, whose face format nothing tells, is recognised by its weights and
    runs in MindSpore. network_type: the backbone that the checkpoint must hold (None: any). face_format: overrides the
    one in the metadata. backend: 'mindspore', 'onnx' for ONNX Runtime, or 'ncnn', in which export.py's .param files
    run. Raises FileNotFoundError or ValueError.
    """
    machine = device.set_up(device_target, device_id)
    if file.endswith('.onnx'):
        return _onnx(file, network_type, face_format, machine.target)
    from src.deploy.metadata import is_own_ncnn
    if is_own_ncnn(file):
        from src.deploy.ncnn_backend import ncnn_network
        return ncnn_network(file, face_format)
    if file.endswith(EXTENSIONS):
        from src.weights.importing import import_weights
        imported = import_weights(file, network=network_type, target=machine.target if backend == 'mindspore' else None)
        return on_backend(imported.backbone, backend, face_format, file, machine.target)
    from src.training import checkpoint
    ckpt = checkpoint.newest(file)
    backbone = checkpoint.load_backbone(ckpt, network_type, machine.target if backend == 'mindspore' else None)
    return on_backend(backbone, backend, face_format, ckpt, machine.target)


def _onnx(file: str, network_type: Optional[str], face_format: Optional[str], target: str) -> Network:
    """Return an .onnx file as it is, or the backbone of its weights where it takes colour without saying how."""
    from src.deploy.onnx_backend import onnx_network
    try:
        return onnx_network(file, face_format)
    except ValueError as error:
        if face_format or os.path.isfile(os.path.splitext(file)[0] + '.json'):
            raise
        from src.weights.importing import import_weights
        try:
            imported = import_weights(file, network=network_type, target=target)
        except ValueError:
            raise error from None
    return on_backend(imported.backbone, 'mindspore', None, file, target)


def initial_network(cfg: edict, *, backend: str = 'mindspore', device_target: str = 'auto',
                    device_id: Optional[str] = None) -> Network:
    """Return the network of a recipe with its initial weights, not trained."""
    machine = device.set_up(device_target, device_id)
    from src.training.network import initial_backbone
    backbone = initial_backbone(cfg, machine.target if backend == 'mindspore' else None)
    return on_backend(backbone, backend, cfg.face_format, None, machine.target)


def on_backend(backbone: Any, backend: str, face_format: Optional[str], file: Optional[str], target: str) -> Network:
    """Return a backbone as a `Network` that runs in MindSpore, ONNX Runtime or ncnn."""
    network = network_of(backbone, face_format, file=file, runtime=target)
    if backend != 'mindspore':
        from src.deploy.export import in_runtime
        return in_runtime(backbone, network, backend)
    return network


def embed(network: Network, paths: Sequence, *, batch_size: int = 64, num_workers: int = 2) -> np.ndarray:
    """Return the features (N, D) float32 of aligned faces, row i of paths[i]. ValueError names a picture that fails."""
    return _embed(network, paths, batch_size=batch_size, num_workers=num_workers)


def compare(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine similarity of two features (D,), -1 to 1. ValueError for one that is zero or not finite."""
    from src.scoring.metrics import unit_rows
    first, second = unit_rows(np.stack([a, b]))
    return float(first @ second)


def score(name: str, features: np.ndarray, names: list, cfg: edict) -> Scored:
    """Return the result of protocol `name`: `.numbers` in percent, `.points`, and `report.table(scored)` as text.

    name: of a protocol, or the file of a set of pairs. features: (N, D), row i belongs to the image names[i]; LFW's
    and BLUFR's names count without folder and extension. cfg: the paths of the protocol's files, from
    `get_config(dataset_path=...)`.
    """
    kind = protocol(name)
    return evaluation.score(kind, cfg, source_of(features, [kind.key(name) for name in names]))


def embed_list(network: Network, root: str, names: Sequence, *, cache_suffix: str = '.audit.npz') -> np.ndarray:
    """Return the features (N, D) of listed training faces that can all be read, kept beside the network's file."""
    from src.data.images import find_image
    paths = [find_image(root, name) for name in names]
    check_faces(network, root, paths)

    def embed_paths(new: list) -> np.ndarray:
        return _embed(network, new, to_face=training_face_for_test)
    if network.file is None:
        return embed_paths(paths)
    return embed_cached(embed_paths, network, paths, os.path.splitext(network.file)[0] + cache_suffix)[0]


def train(cfg: edict, *, recipe: str = 'lightcnn9_ms1m', ckpt_dir: str = 'ckpt', resume: Optional[str] = None,
          finetune: Optional[str] = None, eval_every: int = 0, device_target: str = 'auto',
          device_id: Optional[str] = None, run_distribute: bool = False, deterministic: bool = False) -> int:
    """Train with the settings `cfg` to the end and return the number of steps done; see src/training/trainer.py."""
    machine = device.set_up(device_target, device_id, run_distribute, deterministic=deterministic)
    from src.protocols.lfw import lfw_scorer
    from src.training.stages import train_stages
    from src.training.trainer import train as train_once
    evaluate: Optional[Callable] = lfw_scorer(cfg, machine) if eval_every else None
    run = train_stages if cfg.stages else train_once
    return run(cfg, machine, recipe, ckpt_dir, resume=resume, evaluate=evaluate, eval_every=eval_every,
               finetune=finetune)


def verify(card: str, dataset_path: str, *, own: Optional[edict] = None, finetune: Optional[str] = None,
           device_target: str = 'auto', device_id: Optional[str] = None, run_distribute: bool = False) -> Any:
    """Take the first steps of the training that wrote a card.json again; see src/training/repeat.py."""
    machine = device.set_up(device_target, device_id, run_distribute)
    from src.training.repeat import verify as repeat
    return repeat(card, dataset_path, machine, own=own, finetune=finetune)


def export(backbone: Any, name: str, *, file_format: str = 'MINDIR', batch_size: Optional[int] = 1,
           ir: Optional[int] = None, int8: bool = False, dataset_path: Optional[str] = None, storage: str = 'float32',
           normalise: bool = False, flip: bool = False, scaling: bool = False) -> dict:
    """Write a backbone as NAME.mindir, NAME.onnx, NAME.param and .bin, or NAME.air, with NAME.json.

    It is compared before it counts. Returns the metadata. batch_size: None for any. ir: 1 for MindSpore Lite 2.0.
    storage: of ncnn's weights, float32 or float16. normalise: embeddings of length 1. flip: the sum with the mirror
    image's. scaling: the file takes pixels, 0 to 255. dataset_path: compare on its LFW faces instead of synthetic ones;
    int8 takes its ranges from its training faces. See src/deploy/export.py.
    """
    from src.deploy.export import calibration_faces, export_backbone, faces_to_compare
    from src.deploy.inside import Inside
    network = network_of(backbone)
    return export_backbone(backbone, name, file_format, face=network.face_format, batch_size=batch_size, ir=ir,
                           faces=faces_to_compare(dataset_path, network), storage=storage,
                           inside=Inside(normalise=normalise, flip=flip, scaling=scaling),
                           calibration=calibration_faces(dataset_path, network, file_format) if int8 else None)


def load_backbone(file: str) -> tuple:
    """Return (backbone with weights, the file they came from) of a checkpoint, its folder, or weights of others."""
    if file.endswith((*EXTENSIONS, '.onnx')):
        from src.weights.importing import import_weights
        return import_weights(file).backbone, file
    from src.training import checkpoint
    ckpt = checkpoint.newest(file)
    return checkpoint.load_backbone(ckpt), ckpt
