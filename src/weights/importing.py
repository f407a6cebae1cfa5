"""Other people's weight files to backbones and back: PyTorch, safetensors, MXNet, ncnn, ONNX.

    python prepare.py import --file backbone.pth --out backbone.ckpt
    python prepare.py import --file model-0000.params --network mobilefacenet_y1 --out y1.ckpt

The kind of file is told by its bytes, the network by the names and shapes of its tensors. What a file asks to be run
is refused; weights that do not fit are listed by name, and nothing is loaded then. `export_weights` writes a PyTorch
file with the names of the original.
"""
import argparse
import os
from collections.abc import Callable
from typing import NamedTuple, Optional

import numpy as np
from mindspore import Tensor

from src.backbone import Backbone
from src.data.face_format import FACE_FORMATS, face_format
from src.data.lists import file_sha256
from src.initializers import Init
from src.weights import ncnn
from src.weights.mxnet import LIST_START, read_mxnet, symbol_file
from src.weights.names import original_names, state_of
from src.weights.onnx_file import read_onnx
from src.weights.recognise import recognise
from src.weights.safetensors_file import read_safetensors
from src.weights.state import InputFile, Weights, listed, shown
from src.weights.torch_files import LEGACY_START, ZIP_START, read_torch, write_torch

EXAMPLES = '\n'.join(__doc__.split('\n\n')[1].splitlines())
_SAME_SCALING = 1e-3                 # ncnn prints 1 / 128 as 0.007813
_NORM_ORDER = ('weight', 'bias', 'running_mean', 'running_var')


class Imported(NamedTuple):
    """A backbone with somebody's weights, the metadata of its checkpoint, and the tensors of the head in the file."""

    backbone: Backbone
    metadata: dict
    head: dict


def read_weights(file: str) -> Weights:
    """Return the weights in a file of any kind that is known. Raises FileNotFoundError, or ValueError with one line."""
    with InputFile(file) as data:
        start = data.read(0, min(data.size, 512), 'the first bytes')
    extension = os.path.splitext(str(file))[1].lower()
    if start.startswith((ZIP_START, LEGACY_START)):
        return read_torch(file)
    if start.startswith(LIST_START):
        return read_mxnet(file)
    if extension == '.safetensors' or start[8:9] == b'{':
        return read_safetensors(file)
    if start.startswith(ncnn.MAGIC) or extension == '.bin' and os.path.isfile(ncnn.pair(str(file))[0]):
        return ncnn.read_ncnn(file)
    if extension == '.onnx':
        return read_onnx(file)
    raise ValueError(f"{file}: {_unknown(start)}; read are PyTorch (.pt, .pth, .pth.tar), .safetensors, MXNet .params, "
                     "ncnn .param and .bin, and .onnx files")


def _unknown(start: bytes) -> str:
    if start[257:262] == b'ustar':
        return "a tar file, as PyTorch wrote before 0.1.10; load and save it with a newer PyTorch"
    if start[:1] == b'\x80':
        return "refused: a pickle, but not one that PyTorch's save() wrote"
    return f"not a weight file that is known: it starts with '{shown(start[:16], 20)}'" if start else "an empty file"


def import_weights(file: str, *, network: Optional[str] = None, target: Optional[str] = None) -> Imported:
    """Return the backbone of which `file` holds the weights, with metadata for a checkpoint and the head's tensors.

    network: the name that it must be of (None: whichever fits). target: where it will run, see `Init`. Raises
    FileNotFoundError, or ValueError with one line: what the file is instead, or which tensors do not fit.
    """
    file = str(file)
    weights = read_weights(file)
    state = state_of(weights)
    backbone, tensors = recognise(file, state.tensors, weights.operations, network=network, init=Init(target=target))
    tensors = _with_eps(file, tensors, state.eps, backbone)
    tensors = _with_scaling(file, tensors, weights.input_scaling, backbone)
    _check_numbers(file, tensors)
    for name, parameter in original_names(backbone).items():
        parameter.set_data(Tensor(tensors[name]))
    metadata = {'format': 1, 'network_type': backbone.name, 'backbone_options': backbone.options,
                'face_format': FACE_FORMATS[backbone.face_format].as_metadata(), 'source': _source(file, weights)}
    return Imported(backbone.set_train(False), metadata, state.head)


def _with_eps(file: str, tensors: dict, eps: dict, backbone: Backbone) -> dict:
    """Return tensors whose variances are for the network's eps, where the file was made for another."""
    tensors = dict(tensors)
    for prefix, cell in backbone.cells_and_names():
        name = f'{prefix}.running_var'
        if prefix not in eps or name not in tensors or np.isclose(eps[prefix], cell.eps, rtol=1e-6):
            continue
        moved = tensors[name].astype(np.float64) + eps[prefix] - cell.eps
        if moved.min() < -1e-6:
            raise ValueError(f"{file}: the variance of {shown(prefix)} with eps {eps[prefix]:g} is {moved.min():.3g} "
                             f"for a network with eps {cell.eps:g}; expected none below 0")
        tensors[name] = np.maximum(moved, 0).astype(np.float32)
    return tensors


def _with_scaling(file: str, tensors: dict, scaling: Optional[tuple], backbone: Backbone) -> dict:
    """Return tensors for the network's own scaling of pixels, where the file's graph has another factor."""
    face = face_format(backbone.face_format)
    if scaling is None:
        return tensors
    mean, factor = scaling[0], scaling[1] * face.scale
    if mean != face.mean or not 0.1 < factor < 10:
        raise ValueError(f"{file}: its graph feeds (pixel - {mean:g}) * {scaling[1]:g}, a {backbone.name} "
                         f"{face.values}")
    if abs(factor - 1) < _SAME_SCALING:
        return tensors
    first = next(name for name, array in tensors.items() if array.ndim == 4)
    return {**tensors, first: tensors[first] * np.float32(factor)}


def _check_numbers(file: str, tensors: dict) -> None:
    wrong = [name for name, array in tensors.items() if array.dtype != np.float32]
    if wrong:
        raise ValueError(f"{file}: {len(wrong)} tensors are {tensors[wrong[0]].dtype}, expected floating numbers "
                         f"({listed(wrong)})")
    wrong = [name for name, array in tensors.items() if not np.isfinite(array).all()
             or name.endswith('running_var') and array.min() < 0]
    if wrong:
        raise ValueError(f"{file}: {len(wrong)} tensors hold numbers that are not finite, or negative variances "
                         f"({listed(wrong)})")


def _source(file: str, weights: Weights) -> dict:
    """Return where weights come from, with the sha256 of every file that was read."""
    files = [file]
    if weights.form == 'ncnn':
        files = list(ncnn.pair(file))[::-1]                  # the numbers first
    elif weights.form == 'MXNet' and symbol_file(file):
        files.append(symbol_file(file))
    digests = {os.path.basename(name): file_sha256(name) for name in files}
    plain = {key: value for key, value in weights.metadata.items() if value == value}        # JSON knows no NaN
    return {'file': os.path.basename(files[0]), 'sha256': digests[os.path.basename(files[0])], 'form': weights.form,
            'files': digests, 'metadata': plain}


def export_weights(backbone: Backbone, file: str) -> None:
    """Write a backbone's weights as a PyTorch file with the names of the original's state dict.

    torch.load(file) gives the state dict for the original's `load_state_dict`. Tensors that an original has and never
    reads (EfficientNet's _fc, AttentionNet's unused conv4, Swin's buffers) are not in it: strict=False there.
    """
    arrays = {name: parameter.asnumpy() for name, parameter in original_names(backbone).items()}
    tensors = {}
    for name in arrays:
        prefix = name.rpartition('.')[0]
        if f'{prefix}.running_var' not in arrays:
            tensors[name] = arrays[name]
        elif f'{prefix}.running_var' not in tensors:
            tensors.update((f'{prefix}.{last}', arrays[f'{prefix}.{last}']) for last in _NORM_ORDER)
            tensors[f'{prefix}.num_batches_tracked'] = np.zeros((), np.int64)
    write_torch(file, tensors)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the import to a parser."""
    parser.add_argument('--file', required=True, help="somebody's weights: .pt, .pth, .pth.tar, .safetensors, .params, "
                        ".param, .bin or .onnx")
    parser.add_argument('--network', help='the network that it must be of (default: told by names and shapes)')
    parser.add_argument('--out', required=True, help='the checkpoint to write, NAME.ckpt; NAME.json comes with it')


def run(args: argparse.Namespace, save: Callable) -> None:
    """Import args.file and save it as the checkpoint args.out. save: function (file, parameters, metadata)."""
    if not args.out.endswith('.ckpt'):
        raise ValueError(f"--out {args.out}: expected NAME.ckpt")
    backbone, metadata, head = import_weights(args.file, network=args.network)
    save(args.out, {f'backbone.{parameter.name}': parameter for parameter in backbone.get_parameters()}, metadata)
    print(f"{args.out}: {backbone.name} from {metadata['source']['form']}, embedding {backbone.embedding_size}, faces "
          f"{backbone.face_format} {backbone.image_size}x{backbone.image_size}"
          + (f"; left out the head: {listed(head)}" if head else ''))
