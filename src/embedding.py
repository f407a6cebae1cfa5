"""Network and image list -> features: row i belongs to image i of the list.

    network = network_of(backbone, 'lightcnn')
    features = embed(network, paths)                   # (N, D) float32

Features are kept beside the checkpoint by content: an image's bytes, the weights, the preprocessing and the device. So
LFW and BLUFR, which list the same images in two orders, embed each image once.
"""
import hashlib
import os
import sys
import zipfile
from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from typing import Any, Optional

import numpy as np
from tqdm import tqdm

from src.data.face_format import FaceFormat, face_format
from src.data.images import check_alignment, face_for_test, preprocessing, read_face
from src.data.lists import file_sha256, write_array
from src.data.pictures import picture_sha256
from src.dataset import prefetch


class Network:
    """A network for evaluation: images (N, C, S, S) float32 -> features (N, D) float32, both NumPy arrays.

    face_format: the `FaceFormat` of its input, image_size: the side S, name: of the backbone, file: of its weights
    (None: initial ones), runtime: device or library that computes it.
    """

    def __init__(self, function: Callable, *, name: str, face_format: FaceFormat, image_size: int,
                 embedding_size: int = 0, file: Optional[str] = None, runtime: str = ''):
        self.function, self.name, self.face_format, self.image_size = function, name, face_format, image_size
        self.embedding_size, self.file, self.runtime = embedding_size, file, runtime

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the features of images in this network's face format, scaled as `FaceFormat.to_input` does."""
        return self.function(np.ascontiguousarray(images, np.float32))


def network_of(backbone: Any, face: Optional[str] = None, *, file: Optional[str] = None, runtime: str = '') -> Network:
    """Return a MindSpore backbone as a `Network`. face: the name of its face format, None for the backbone's own.

    On the CPU's fast path it has the weights of this moment: call it again after a training.
    """
    from mindspore import Tensor

    from src.cpu.fast_path import inference
    backbone.set_train(False)
    function = inference(backbone) or (lambda images: backbone(Tensor(images)).asnumpy())
    return Network(function, name=backbone.name,
                   face_format=face_format(face or backbone.face_format), image_size=backbone.image_size,
                   embedding_size=backbone.embedding_size, file=file, runtime=runtime)


def embed(network: Network, paths: Sequence, *, batch_size: int = 64, num_workers: int = 2,
          to_face: Callable = face_for_test, mirrored: bool = False) -> np.ndarray:
    """Return the embeddings (N, D) float32 of the pictures `paths`, in their order.

    paths: of picture files, or `src.data.pictures.Picture`s. to_face: function (image, face format, image_size, name)
    -> (image_size, image_size[, 3]) uint8. mirrored: embed the mirror images. Raises ValueError for a picture that
    cannot be decoded or is not an aligned face.
    """
    face, size = network.face_format, network.image_size

    def batch(start: int) -> np.ndarray:
        faces = [to_face(read_face(path, face.colour), face, size, str(path))
                 for path in paths[start:start + batch_size]]
        faces = [image[:, ::-1] for image in faces] if mirrored else faces
        faces += [faces[-1]] * (batch_size - len(faces))         # one shape: the graph is compiled once
        return face.to_input(np.stack(faces))

    starts = range(0, len(paths), batch_size)
    batches = tqdm(prefetch(batch, starts, num_workers), 'embedding', len(starts), unit='batch', disable=None)
    features = np.concatenate([network(images) for images in batches])[:len(paths)]
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise ValueError(f"{paths[bad[0]]}: its feature is not finite ({len(bad)} of {len(paths)} images)")
    return features.astype(np.float32)


def check_faces(network: Network, root: str, paths: Sequence, assumed: str = '') -> None:
    """Raise ValueError if the alignment of the pictures is not the network's; `assumed` overrides the pictures'."""
    check_alignment(root, paths, network.face_format, assumed)


def embed_cached(embed_paths: Callable, network: Network, paths: Sequence, cache_file: Optional[str], *,
                 mirrored: bool = False) -> tuple:
    """Return (embeddings (N, D) float32 of `paths`, how many came from cache_file); embed_paths makes the others.

    embed_paths: function of a list of pictures -> (M, D); of equal pictures it gets one. The cache is made or
    completed; one that is broken, or was made with other weights or preprocessing, is replaced. A cache that cannot be
    written is a warning. cache_file: None keeps nothing. mirrored: embed_paths makes embeddings of mirror images.
    """
    with ThreadPool(2) as pool:
        keys = [bytes.fromhex(digest) for digest in pool.imap(picture_sha256, paths, chunksize=64)]
    if mirrored:
        keys = [hashlib.sha256(key + b'mirrored').digest() for key in keys]
    if cache_file is None:
        distinct = dict(zip(keys, paths))
        made = dict(zip(distinct, embed_paths(list(distinct.values()))))
        return np.stack([made[key] for key in keys]), 0
    made_with = (f'{file_sha256(network.file)} {preprocessing(network.face_format)} {network.image_size} '
                 f'{network.runtime}')
    known = _read_cache(cache_file, made_with)
    new = {key: path for key, path in zip(keys, paths) if key not in known}
    if new:
        known.update(zip(new, embed_paths(list(new.values()))))
        _write_cache(cache_file, made_with, known)
    return np.stack([known[key] for key in keys]), len(set(keys)) - len(new)


def _read_cache(file: str, made_with: str) -> dict:
    """Return {sha256 of an image's bytes: feature}, empty if the file is absent, broken or of other weights."""
    if not os.path.exists(file):
        return {}
    try:
        with np.load(file, allow_pickle=False) as cache:
            if str(cache['made_with']) != made_with:
                return {}
            keys, features = cache['keys'], cache['features']
        if keys.shape != (len(features), 32) or features.ndim != 2 or not np.isfinite(features).all():
            raise ValueError(f"arrays of shape {keys.shape} and {features.shape}")
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        print(f"warning: {file}: not a readable feature cache, made anew ({error})", file=sys.stderr, flush=True)
        return {}
    return {key.tobytes(): feature for key, feature in zip(keys, features)}


def _write_cache(file: str, made_with: str, known: dict) -> None:
    keys = np.frombuffer(b''.join(known), np.uint8).reshape(-1, hashlib.sha256().digest_size)
    try:
        write_array(file, made_with=made_with, keys=keys, features=np.stack(list(known.values())))
    except OSError as error:
        print(f"warning: {file}: features are not kept ({error})", file=sys.stderr, flush=True)
