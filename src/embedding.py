"""Network and image list -> features: row i belongs to image i of the list.

Features are kept beside the checkpoint by content: an image's bytes, the weights, the preprocessing and the device. So
LFW and BLUFR, which list the same images in two orders, embed each image once.
"""
import hashlib
import os
import sys
import zipfile
from multiprocessing.pool import ThreadPool

import numpy as np
from mindspore import Tensor
from tqdm import tqdm

from src.data.images import PREPROCESSING, face_for_test, read_grey, to_input
from src.data.lists import file_sha256, write_array
from src.dataset import prefetch


def embed(network, paths, image_size, batch_size=64, num_workers=2, to_face=face_for_test):
    """Return the embeddings (N, D) float32 of the picture files `paths`, in their order.

    to_face: function (image, image_size, name) -> (image_size, image_size) uint8. Raises ValueError for a picture that
    cannot be decoded or is not an aligned face.
    """
    def batch(start):
        faces = [to_face(read_grey(path), image_size, path) for path in paths[start:start + batch_size]]
        faces += [faces[-1]] * (batch_size - len(faces))         # one shape: the graph is compiled once
        return to_input(np.stack(faces))

    starts = range(0, len(paths), batch_size)
    batches = tqdm(prefetch(batch, starts, num_workers), 'embedding', len(starts), unit='batch', disable=None)
    features = np.concatenate([network(Tensor(images)).asnumpy() for images in batches])[:len(paths)]
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise ValueError(f"{paths[bad[0]]}: its feature is not finite ({len(bad)} of {len(paths)} images)")
    return features.astype(np.float32)


def embed_cached(embed_paths, paths, cache_file, ckpt_file, image_size, target):
    """Return (embeddings (N, D) float32 of `paths`, how many came from cache_file); embed_paths makes the others.

    embed_paths: function of a list of paths -> (M, D). The cache is made or completed; one that is broken, or was made
    with other weights or preprocessing, is replaced. A cache that cannot be written is a warning.
    """
    made_with = f'{file_sha256(ckpt_file)} {PREPROCESSING} {image_size} {target}'
    with ThreadPool(2) as pool:
        keys = [bytes.fromhex(digest) for digest in pool.imap(file_sha256, paths, chunksize=64)]
    known = _read_cache(cache_file, made_with)
    new = {key: path for key, path in zip(keys, paths) if key not in known}
    if new:
        known.update(zip(new, embed_paths(list(new.values()))))
        _write_cache(cache_file, made_with, known)
    return np.stack([known[key] for key in keys]), len(set(keys)) - len(new)


def _read_cache(file, made_with):
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


def _write_cache(file, made_with, known):
    keys = np.frombuffer(b''.join(known), np.uint8).reshape(-1, hashlib.sha256().digest_size)
    try:
        write_array(file, made_with=made_with, keys=keys, features=np.stack(list(known.values())))
    except OSError as error:
        print(f"warning: {file}: features are not kept ({error})", file=sys.stderr, flush=True)
