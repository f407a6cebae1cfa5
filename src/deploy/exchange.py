"""What the C++ program reads and writes: a .bin for each distinct image with a manifest, a file of features with ids.

    write_inputs(cfg, face_format('lightcnn'), 48, 'preprocess_Result')       # manifest.tsv, 000000.bin, ...
    features, ids = read_results('result_Files', cfg)            # (N, D), row i is the image ids[i]

An id is an image's name without folder and extension; LFW and BLUFR list the same 13,233 images in two orders.
"""
import hashlib
import os

import numpy as np
from easydict import EasyDict as edict
from tqdm import tqdm

from src.data.face_format import FaceFormat
from src.data.images import check_alignment, face_for_test, find_images, preprocessing, read_face
from src.data.lists import whole_file, write_text
from src.dataset import prefetch
from src.deploy.metadata import taken_format
from src.protocols.blufr import BLUFR
from src.protocols.lfw import LFW
from src.protocols.protocol import image_id

MANIFEST = 'manifest.tsv'
HEADER = '# lightcnn manifest 1'
FEATURES = 'features.bin'
MAX_HEAD = 4096


def listed_images(cfg: edict) -> dict:
    """Return {id: name} of every image that LFW or BLUFR lists; ValueError if two of one list share an id."""
    found = {}
    for protocol in (LFW, BLUFR):
        names, _ = protocol.images(cfg)
        own = {image_id(name): name for name in names}
        if len(own) != len(names):
            raise ValueError(f"{len(names) - len(own)} images of the {protocol.name} list share a name with another; "
                             "results are joined by it")
        found = {**own, **found}
    return found


def dataset_tree(path: str) -> str:
    """Return the data set folder that `path` means: itself, or its parent if it is the lfw folder in it."""
    own, inner = os.path.join(path, 'lfw', 'image'), os.path.join(path, 'image')
    if not os.path.isdir(own) and os.path.isdir(inner) and os.path.basename(os.path.abspath(path)) == 'lfw':
        return os.path.dirname(os.path.abspath(path))
    return path


def model_input(model: str) -> tuple:
    """Return (face format, side) of the faces that an exported model takes, from the metadata beside it."""
    face, (_, size) = taken_format(model)
    return face, size


def write_inputs(cfg: edict, face: FaceFormat, image_size: int, out_dir: str, *, num_workers: int = 2) -> tuple:
    """Write every listed image as network input, (C, S, S) float32, and the manifest; return (images, how many anew).

    Nothing is done if the folder holds just this already. The manifest is written last: a run that was cut off has
    none.
    """
    names = listed_images(cfg)
    paths = find_images(cfg.root_path, list(names.values()))
    manifest = os.path.join(out_dir, MANIFEST)
    files = [f'{row:06d}.bin' for row in range(len(paths))]
    text = HEADER + '\n' + ''.join(f'{name}\t{file}\n' for name, file in zip(names, files))
    check_alignment(cfg.root_path, paths, face, cfg.assume_format)
    made_of = _made_of(paths, face, image_size, text)
    stamp = os.path.join(out_dir, 'made_of.txt')
    num_bytes = 4 * face.num_channels * image_size ** 2
    if _holds(out_dir, files, num_bytes) and _read(stamp) == made_of and _read(manifest) == text:
        return len(paths), 0
    os.makedirs(out_dir, exist_ok=True)
    for old in (stamp, manifest):
        if os.path.exists(old):
            os.remove(old)

    def write(row):
        picture = face_for_test(read_face(paths[row], face.colour), face, image_size, paths[row])
        with whole_file(os.path.join(out_dir, files[row]), sync=False) as out:
            out.write(face.to_input(picture[None]).tobytes())

    for _ in tqdm(prefetch(write, range(len(paths)), num_workers), 'writing inputs', len(paths), disable=None):
        pass
    write_text(manifest, text)
    write_text(stamp, made_of)
    return len(paths), len(paths)


def _made_of(paths: list, face: FaceFormat, image_size: int, text: str) -> str:
    """Return what the inputs depend on, as a short text: images by size and time, preprocessing, manifest."""
    digest = hashlib.sha256(f'{preprocessing(face)} {image_size}\n{text}'.encode(errors='surrogateescape'))
    for path in paths:
        stat = os.stat(path)
        digest.update(f'{os.path.abspath(path)} {stat.st_size} {stat.st_mtime_ns}\n'.encode(errors='surrogateescape'))
    return digest.hexdigest() + '\n'


def _holds(folder, files, num_bytes):
    if not os.path.isdir(folder):
        return False
    with os.scandir(folder) as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries if entry.name.endswith('.bin')}
    return all(sizes.get(file) == num_bytes for file in files)


def _read(file):
    if not os.path.isfile(file):
        return None
    with open(file, encoding='utf-8', errors='surrogateescape') as text:
        return text.read()


def read_results(result_dir: str, cfg: edict) -> tuple:
    """Return (features (N, D), ids of their images) of the C++ program's result file.

    Raises FileNotFoundError or ValueError for a file that is cut off, holds a number that is none, or whose ids are
    not those of the lists.
    """
    file = os.path.join(result_dir, FEATURES)
    ids, features = read_features(file)
    wanted = listed_images(cfg)
    found = set(ids)
    missing = [name for name in wanted if name not in found]
    extra = [name for name in ids if name not in wanted]
    for problem, names in (('missing', missing), ('not in the lists', extra)):
        if names:
            raise ValueError(f"{file}: {len(names)} of {len(wanted)} results are {problem}: {', '.join(names[:3])}"
                             f"{' ...' if len(names) > 3 else ''}; preprocess and infer again")
    return features, ids


def read_features(file: str) -> tuple:
    """Return (ids, features (N, D) float32) of a features.bin."""
    if not os.path.isfile(file):
        raise FileNotFoundError(f"{file}: no such result; ascend310_infer writes it")
    with open(file, 'rb') as data:
        head = data.readline(MAX_HEAD).split()
        numbers = [int(word) for word in head[3:] if word.isdigit() and len(word) < 10]
        if head[:3] != [b'lightcnn', b'features', b'1'] or len(numbers) != 2 or min(numbers) < 1:
            raise ValueError(f"{file}: not the features of ascend310_infer")
        num, length = numbers
        ids = [data.readline(MAX_HEAD).rstrip(b'\n').decode('utf-8', 'surrogateescape') for _ in range(
            min(num, os.path.getsize(file)))]
        left = os.path.getsize(file) - data.tell()
        if left != 4 * num * length:
            raise ValueError(f"{file}: holds {left} bytes of features, expected {num} x {length} float32 "
                             f"({4 * num * length}); it is cut off or too long")
        features = np.frombuffer(data.read(), '<f4').reshape(num, length)
    if len(set(ids)) != num:
        raise ValueError(f"{file}: {num - len(set(ids))} ids are there twice")
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise ValueError(f"{file}: the feature of {ids[bad[0]]} is not finite ({len(bad)} of {num})")
    return ids, features
