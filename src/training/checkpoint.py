"""Save, find and load checkpoints. A checkpoint is NAME.ckpt with metadata, NAME.json; both appear whole or not at all.

The metadata hold the sha256 of the weights, the step, the settings, the versions and the face format. Which network a
checkpoint holds is read from them, or from the shapes of its weights, never from a file name.
"""
import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from typing import Optional

import mindspore as ms

from src.backbone import Backbone
from src.backbones import BACKBONES, build_backbone
from src.data.face_format import from_metadata
from src.data.lists import file_sha256, read_json, write_text
from src.initializers import Init

_PACKAGES = ('mindspore', 'numpy', 'opencv-python', 'opencv-python-headless')
_NUMBERED = re.compile(r'lightcnn-\d+_\d+\.ckpt$')
_TEMPORARY = re.compile(r'\.(\d+)-.*\.(?:ckpt|tmp)$')
_STAGE = re.compile(r'stage(\d+)$')
PREFIX = 'backbone.'
# names of parameters until checkpoints held other networks than LightCNN
_OLDER_NAMES = (('embedding.', 'backbone.'), ('classifier.fc2_', 'head.'))
PATIENCE = 20                    # seconds that a training waits for another one in its folder to end


def metadata_file(ckpt_file: str) -> str:
    """Return the name of a checkpoint's metadata file."""
    return os.path.splitext(ckpt_file)[0] + '.json'


def features_file(ckpt_file: str) -> str:
    """Return the name of the features that evaluation keeps beside a checkpoint."""
    return os.path.splitext(ckpt_file)[0] + '.features.npz'


def save(ckpt_file: str, parameters: dict, metadata: dict) -> None:
    """Write `parameters` (name -> Parameter) to ckpt_file, and `metadata` with the weights' sha256 beside it."""
    temporary = os.path.join(os.path.dirname(ckpt_file) or '.', f".{os.getpid()}-{os.path.basename(ckpt_file)}")
    try:
        try:
            ms.save_checkpoint([{'name': name, 'data': p} for name, p in parameters.items()], temporary)
        except (OSError, RuntimeError, ValueError) as error:     # what MindSpore raises for a full or read-only disk
            reason = ' '.join(str(error).split())[-200:]
            raise OSError(f"{ckpt_file}: the checkpoint could not be written, is the disk full? ({reason})") from None
        with open(temporary, 'rb+') as written:
            os.fsync(written.fileno())
        metadata = {**metadata, 'sha256': file_sha256(temporary)}
        os.chmod(temporary, 0o644)
        os.replace(temporary, ckpt_file)
    finally:
        for left_over in (temporary, os.path.splitext(temporary)[0] + '.tmp'):         # the second is MindSpore's own
            if os.path.exists(left_over):
                os.remove(left_over)
    write_text(metadata_file(ckpt_file), json.dumps(metadata, indent=1) + '\n')


def remove_old(ckpt_dir: str, keep: int) -> None:
    """Delete all but the newest `keep` numbered checkpoints of a folder, with what belongs to them."""
    numbered = [ckpt for ckpt in by_step(ckpt_dir) if _NUMBERED.match(os.path.basename(ckpt))]
    for ckpt in numbered[:-keep]:
        for file in (features_file(ckpt), metadata_file(ckpt), ckpt):
            if os.path.exists(file):
                os.remove(file)


def by_step(ckpt_dir: str) -> list:
    """Return the checkpoint files of a folder by the step in their metadata, after those without, by age."""
    files = [os.path.join(ckpt_dir, n) for n in os.listdir(ckpt_dir) if n.endswith('.ckpt') and not n.startswith('.')]
    return sorted(files, key=lambda ckpt: (_step(ckpt), os.path.getmtime(ckpt)))


def _step(ckpt):
    try:
        return int(read_json(metadata_file(ckpt))['step'])
    except (OSError, ValueError, KeyError, TypeError):
        return -1


def read_metadata(ckpt_file: str) -> Optional[dict]:
    """Return the metadata of a checkpoint after checking the weights' sha256, or None where it has no metadata file."""
    try:
        metadata = read_json(metadata_file(ckpt_file))
    except FileNotFoundError:
        return None
    if not isinstance(metadata, dict) or not isinstance(metadata.get('step', 0), int):
        raise ValueError(f"{metadata_file(ckpt_file)}: not the metadata of a checkpoint")
    if metadata.get('sha256') != file_sha256(ckpt_file):
        raise ValueError(f"{ckpt_file}: does not match the sha256 in {metadata_file(ckpt_file)}; the file is damaged "
                         "or the two do not belong together")
    return metadata


@contextlib.contextmanager
def sole_writer(ckpt_dir: str) -> Iterator:
    """While it is entered, no other training enters a folder; ValueError if one is there and stays for PATIENCE.

    One that was killed a moment ago may take seconds to give its memory back, and the folder with it. Where the file
    system knows no locks, as some network ones do, nobody is kept out.
    """
    folder, deadline = os.open(ckpt_dir, os.O_RDONLY), time.monotonic() + PATIENCE
    try:
        while not _locked(folder):
            if time.monotonic() > deadline:
                raise ValueError(f"{ckpt_dir}: another training writes to this folder; stop it, or give another "
                                 "--ckpt_path")
            time.sleep(0.1)
        yield
    finally:
        os.close(folder)


def _locked(folder):
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:                              # this file system knows no locks
        pass
    return True


def remove_left_over(ckpt_dir: str) -> None:
    """Delete the temporary files of processes that were killed while they saved."""
    for name in os.listdir(ckpt_dir):
        match = _TEMPORARY.match(name)
        if match and not os.path.exists(f"/proc/{match[1]}"):
            os.remove(os.path.join(ckpt_dir, name))


def newest(path: str, with_metadata: bool = False) -> str:
    """Return the checkpoint file that `path` means: a file itself, of a folder the newest valid one.

    Newest is the highest step in the metadata. Unless `with_metadata`, one without is taken if no other is there, and
    of a staged training that of the last stage. Raises FileNotFoundError if there is none; a damaged newer one is named
    and passed over.
    """
    if os.path.isfile(path):
        return path
    if not os.path.isdir(path):
        raise FileNotFoundError(f"{path}: no such checkpoint file or folder")
    files = by_step(path)
    if not files and not with_metadata:
        for _, folder in sorted(stage_folders(path).items(), reverse=True):
            with contextlib.suppress(FileNotFoundError):
                return newest(folder)
    for ckpt in reversed(files):
        try:
            if read_metadata(ckpt) is not None:
                return ckpt
        except ValueError as error:
            print(f"{error}; passed over", flush=True)
    without_metadata = [ckpt for ckpt in files if not os.path.exists(metadata_file(ckpt))]
    if not without_metadata or with_metadata:
        raise FileNotFoundError(f"{path}: holds no valid .ckpt file")
    return without_metadata[-1]


def stage_folders(path: str) -> dict:
    """Return {number of a stage: its folder} of those in a staged training's folder that hold checkpoints."""
    found = {int(m[1]): os.path.join(path, m[0]) for m in map(_STAGE.match, os.listdir(path)) if m}
    return {number: folder for number, folder in found.items() if os.path.isdir(folder) and by_step(folder)}


def load_parameters(ckpt_file: str) -> dict:
    """Return {name: Parameter} of a MindSpore checkpoint; ValueError where the file is none."""
    if not os.path.isfile(ckpt_file):
        raise FileNotFoundError(f"{ckpt_file}: no such checkpoint file")
    try:
        parameters = ms.load_checkpoint(ckpt_file)
    except Exception as error:           # MindSpore raises several kinds for a broken file
        reason = ' '.join(str(error).split('\n')[0].split())
        raise ValueError(f"{ckpt_file}: not a readable MindSpore checkpoint ({reason[:160]})") from None
    return {_current_name(name): parameter for name, parameter in parameters.items()}


def _current_name(name: str) -> str:
    moment, owner = ('moments.', name[len('moments.'):]) if name.startswith('moments.') else ('', name)
    for older, current in _OLDER_NAMES:
        if owner.startswith(older):
            return moment + current + owner[len(older):]
    return name


def load_backbone(ckpt_file: str, network_type: Optional[str] = None, target: Optional[str] = None) -> Backbone:
    """Return the backbone of any training checkpoint with its weights, `name` and `face_format`; no head is needed.

    target: where it will run, see `Init`. Raises ValueError if the checkpoint holds another network than
    `network_type` (None: any).
    """
    metadata = read_metadata(ckpt_file) or {}
    parameters = load_parameters(ckpt_file)
    weights = {name[len(PREFIX):]: p for name, p in parameters.items() if name.startswith(PREFIX)}
    name, options = _network_in(metadata, {name: p.shape for name, p in weights.items()})
    if name is None:
        raise ValueError(f"{ckpt_file}: holds {len(parameters)} parameters such as {', '.join(list(parameters)[:3])}; "
                         f"they are not those of {', '.join(LIGHTCNNS)}, and no metadata tell another network")
    if network_type and network_type != name:
        raise ValueError(f"{ckpt_file}: holds a {name}, not the {network_type} that was asked for")
    network = build_backbone(name, init=Init(target=target), **options)
    wrong = [p.name for p in network.get_parameters() if p.name not in weights or weights[p.name].shape != p.shape]
    if wrong or len(weights) != len(list(network.get_parameters())):
        raise ValueError(f"{ckpt_file}: its weights are not those of a {name}: {len(wrong)} are missing or of another "
                         f"shape{', such as ' + wrong[0] if wrong else ''}")
    ms.load_param_into_net(network, weights, strict_load=True)
    network.face_format = from_metadata(metadata, metadata_file(ckpt_file)).name
    return network.set_train(False)


def _network_in(metadata: dict, shapes: dict) -> tuple:
    """Return (name, options) of the backbone that metadata tell or {name: shape} mean; (None, {}) for neither."""
    options = metadata.get('backbone_options')
    if isinstance(options, dict) and metadata.get('network_type') in BACKBONES:
        return metadata['network_type'], options
    return identify(shapes)


LIGHTCNNS = ('LightCNN_9Layers', 'LightCNN_29Layers', 'LightCNN_29Layers_v2')


def identify(shapes: dict) -> tuple:
    """Return (name, options) of the LightCNN with these {name: shape}, or (None, {})."""
    fc, first = shapes.get('fc.layer.weight', shapes.get('fc.weight')), shapes.get('features.0.layer.weight')
    if fc is None or first is None or len(fc) != 2 or len(first) != 4 or first[1] not in (1, 3):
        return None, {}
    image_size = 16 * round((fc[1] / 128) ** 0.5)
    for name in LIGHTCNNS if image_size else ():
        length = fc[0] // 2 if name != 'LightCNN_29Layers_v2' else fc[0]
        options = {'image_size': image_size, 'channels': first[1], 'embedding_size': length}
        network = build_backbone(name, **options)
        if {p.name: p.shape for p in network.get_parameters()} == shapes:
            return name, options
    return None, {}


def versions() -> dict:
    """Return the versions that a result depends on."""
    found = {'python': platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
