"""Network and image list -> features: row i belongs to image i of the list."""
import os

import numpy as np
from mindspore import Tensor
from tqdm import tqdm

from src.dataset import prefetch
from src.images import face_for_test, find_image, read_grey, to_input


def find_images(root, names):
    """Return the path of every listed image under `root`; FileNotFoundError counts and names the missing ones.

    A name may end in another picture extension than the file.
    """
    if not os.path.isdir(root):
        raise FileNotFoundError(f"{root}: no such image folder (--root_path or --dataset_path)")
    paths = [find_image(root, name) for name in names]
    missing = [name for name, path in zip(names, paths) if path is None]
    if missing:
        raise FileNotFoundError(f"{root}: {len(missing)} of {len(names)} listed images are missing: "
                                f"{', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}")
    return paths


def embed(network, paths, image_size, batch_size=64, num_workers=2):
    """Return the embeddings (N, D) float32 of the picture files `paths`, in their order.

    Raises ValueError for a picture that cannot be decoded or is not an aligned face.
    """
    def batch(start):
        faces = [face_for_test(read_grey(path), image_size, path) for path in paths[start:start + batch_size]]
        faces += [faces[-1]] * (batch_size - len(faces))         # one shape: the graph is compiled once
        return to_input(np.stack(faces))

    starts = range(0, len(paths), batch_size)
    batches = tqdm(prefetch(batch, starts, num_workers), 'embedding', len(starts), unit='batch', disable=None)
    features = np.concatenate([network(Tensor(images)).asnumpy() for images in batches])[:len(paths)]
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise ValueError(f"{paths[bad[0]]}: its feature is not finite ({len(bad)} of {len(paths)} images)")
    return features.astype(np.float32)
