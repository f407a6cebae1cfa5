"""From settings to scores: lists, protocol files and features brought together for LFW and BLUFR."""
import os
import time

import numpy as np

from src import lists, metrics


def lfw_images(cfg):
    """Return (names, labels) in the order that lfw_pairs.mat counts: the list file, or derived where there is none."""
    return _images(cfg.lfw_img_list, cfg.blufr_config_mat_path, lists.list_for_lfw)


def blufr_images(cfg):
    """Return (names, labels) in the order that blufr_lfw_config.mat counts."""
    return _images(cfg.blufr_img_list, cfg.blufr_config_mat_path, lists.list_for_blufr)


def _images(list_file, blufr_mat, derive):
    if os.path.exists(list_file):
        return lists.read_image_list(list_file)
    return derive(lists.load_blufr(blufr_mat))


def score_lfw(cfg, features_of):
    """Return `metrics.lfw`'s result. features_of: names -> (N, D) features in their order."""
    names, _ = lfw_images(cfg)
    pairs = lists.load_lfw_pairs(cfg.lfw_pairs_mat_path, len(names))
    return metrics.lfw(features_of(names), *pairs, names=names)


def score_blufr(cfg, features_of, progress=iter):
    """Return `metrics.blufr`'s result. features_of: names -> (N, D) features in their order."""
    protocol = lists.load_blufr(cfg.blufr_config_mat_path)
    names, labels = blufr_images(cfg)
    if len(names) != len(protocol.names):
        raise ValueError(f"{cfg.blufr_img_list}: lists {len(names)} images, {cfg.blufr_config_mat_path} "
                         f"{len(protocol.names)}")
    own, _ = lists.list_for_blufr(protocol)
    differs = next((i for i, (a, b) in enumerate(zip(names, own)) if os.path.splitext(a)[0] != os.path.splitext(b)[0]),
                   None)
    if differs is not None:
        raise ValueError(f"{cfg.blufr_img_list}: image {differs + 1} is {names[differs]}, in "
                         f"{cfg.blufr_config_mat_path} it is {own[differs]}; the order must be the same")
    return metrics.blufr(features_of(names), protocol, names, progress)


def lfw_scorer(cfg, device):
    """Return a function network -> LFW numbers in percent that embeds only the images that pairs use.

    All ranks call it together: each embeds its share, so that none waits for another longer than a collective may.
    Lists, protocol and images are looked up now, so that what is missing is said before a training starts.
    """
    from src.embedding import embed, find_images
    from src.lightcnn import EMBEDDING_SIZE
    from src.report import lfw_json
    names, _ = lfw_images(cfg)
    pairs = lists.load_lfw_pairs(cfg.lfw_pairs_mat_path, len(names))
    used, compact = np.unique(np.concatenate(pairs), return_inverse=True)
    genuine, impostor = np.split(compact.reshape(-1, 2), [len(pairs[0])])
    paths = find_images(cfg.root_path, [names[row] for row in used])

    def score(network):
        features = np.zeros((len(paths), EMBEDDING_SIZE), np.float32)
        mine = slice(device.rank, None, device.rank_size)
        features[mine] = embed(network, paths[mine], cfg.image_size, num_workers=cfg.num_workers)
        if device.rank_size > 1:
            from mindspore import Tensor, ops
            features = ops.AllReduce()(Tensor(features)).asnumpy()
        return lfw_json(metrics.lfw(features, genuine, impostor))
    return score


def features_source(args, cfg):
    """Return a function names -> (N, D) features: from --features, or embedded with the checkpoint in --resume.

    They are kept in --save_features if that is asked for.
    """
    def features_of(names):
        features = load_features(args.features, len(names)) if args.features else _embed(args, cfg, names)
        if args.save_features:
            save_features(args.save_features, features)
        return features
    return features_of


def _embed(args, cfg, names):
    from src import checkpoint, device
    from src.embedding import embed, find_images
    from src.lightcnn import initial_embedding
    paths = find_images(cfg.root_path, names)
    here = device.set_up(args.device_target, args.device_id)
    if args.untrained:
        network, network_type, image_size, name = initial_embedding(cfg), cfg.network_type, cfg.image_size, 'untrained'
    else:
        asked = cfg.network_type if any(s.startswith('network_type=') for s in args.settings) else None
        name = checkpoint.newest(args.ckpt)
        network, network_type, image_size = checkpoint.load_embedding(name, asked)
    print(f"{name}: {network_type} for {image_size}x{image_size} faces, on {here.target}", flush=True)
    start = time.time()
    features = embed(network, paths, image_size, args.batch_size, cfg.num_workers)
    seconds = time.time() - start
    print(f"embedded {len(paths)} images in {seconds:.1f} s, {len(paths) / seconds:.1f} images/s", flush=True)
    return features


def load_features(file, num_images):
    """Return the (N, D) float32 features in a .npy file; nothing is unpickled. ValueError if they do not fit."""
    if not os.path.isfile(file):
        raise FileNotFoundError(f"{file}: no such feature file")
    try:
        features = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{file}: not a readable .npy file of numbers ({error})") from None
    if not isinstance(features, np.ndarray) or features.ndim != 2 or features.dtype.kind != 'f':
        raise ValueError(f"{file}: holds {getattr(features, 'dtype', type(features).__name__)} "
                         f"{getattr(features, 'shape', '')}, expected floats of shape ({num_images}, D)")
    if len(features) != num_images:
        raise ValueError(f"{file}: holds {len(features)} features, the list has {num_images} images")
    return features


def save_features(file, features):
    """Write features (N, D) as .npy, whole or not at all."""
    temporary = f"{file}.{os.getpid()}.tmp"
    with open(temporary, 'wb') as out:
        np.save(out, features)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, file)
