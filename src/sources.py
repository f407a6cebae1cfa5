"""Where the features of an evaluation come from: networks of any kind, each in one embedding pass, or .npy files.

    listing = list_images(cfg, {'lfw': protocol('lfw')})
    sources = all_sources(args, cfg, listing)                # {label: Source}: row i belongs to listing.keys[i]
"""
import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Optional

import numpy as np
from easydict import EasyDict as edict

from src.data import lists
from src.protocols import Protocol
from src.protocols.protocol import in_order

UNTRAINED = 'untrained'


class Source(NamedTuple):
    """Features (N, D) of the images that `keys` tell, and the lengths (M,) of the embeddings they were made of."""

    features: np.ndarray
    keys: list
    lengths: np.ndarray          # (N,), or (2N,) where mirror images were embedded too
    network: Any = None          # the `Network` that embedded them, None for features from a file

    def of(self, kind: Protocol) -> Callable:
        """Return a function names of that protocol -> their features (N, D)."""
        return in_order(self.features, self.keys, kind.key)


class Listing(NamedTuple):
    """The images of all protocols of an evaluation, each once: their keys, in the order of the rows of features."""

    protocols: dict              # {name: Protocol}
    keys: list

    def pictures(self, cfg: edict) -> dict:
        """Return {protocol name: (its pictures that no protocol before it lists, their rows)}."""
        found, seen = {}, {}
        for name, kind in self.protocols.items():
            of = dict(zip(map(kind.key, kind.images(cfg)[0]), kind.pictures(cfg)))
            rows = [row for row, key in enumerate(self.keys) if key in of and seen.setdefault(key, name) == name]
            found[name] = [of[self.keys[row]] for row in rows], rows
        return found


class Model(NamedTuple):
    """One model to be judged: its weight file, features (.npy), or neither for initial weights; its face format."""

    label: str
    weights: Optional[str] = None
    features: Optional[str] = None
    face_format: Optional[str] = None


def list_images(cfg: edict, protocols: dict) -> Listing:
    """Return the images that any of the protocols lists, each once, the first protocol's in its order.

    ValueError for an option that none of the protocols has.
    """
    known = {key for kind in protocols.values() for key in kind.OPTIONS}
    unknown = sorted(set(cfg.protocol_options) - known)
    if unknown:
        raise ValueError(f"--{unknown[0]}: none of the protocols {', '.join(protocols)} has this option; their "
                         f"options: {', '.join(sorted(known)) or 'none'}")
    first, found = None, {}
    for kind in protocols.values():
        keys = [kind.key(name) for name in kind.images(cfg)[0]]
        first = keys if first is None else first
        found.update(dict.fromkeys(keys))
    return Listing(protocols, first if len(found) == len(set(first)) else list(found))


def models_of(args: argparse.Namespace) -> list:
    """Return the `Model`s that the flags name, with labels of their own. ValueError if --face_format does not fit."""
    weights, features = args.ckpt or [], args.features or []
    if not (weights or features or args.untrained):
        raise ValueError('no model is named: expected --resume, --features or --untrained')
    formats = args.face_format or [None]
    if len(formats) not in (1, len(weights)):
        raise ValueError(f"--face_format: {len(formats)} formats for {len(weights)} models, expected one, or one each")
    formats = formats * len(weights) if len(formats) == 1 else formats
    models = [Model(_base(file), file, None, face) for file, face in zip(weights, formats)]
    models += [Model(_base(file), None, file) for file in features]
    if args.untrained:
        models.append(Model(UNTRAINED))
    labels = [model.label for model in models]
    models = [model._replace(label=model.weights or model.features or model.label)
              if labels.count(model.label) > 1 else model for model in models]
    twice = next((m.label for i, m in enumerate(models) if m.label in [n.label for n in models[:i]]), None)
    if twice:
        raise ValueError(f"{twice} is named twice; expected different models")
    return models


def _base(file):
    return os.path.basename(os.path.normpath(file))


def all_sources(args: argparse.Namespace, cfg: edict, listing: Listing) -> dict:
    """Return {label: Source} of every model that the flags name; --save_features keeps the features of one."""
    models = models_of(args)
    if args.save_features and len(models) > 1:
        raise ValueError(f"--save_features {args.save_features}: holds the features of one model, {len(models)} are "
                         "named")
    if args.features and args.flip != 'none':
        raise ValueError(f"--flip {args.flip} needs a network; --features are scored as they are")
    held = None if all(model.features for model in models) else listing.pictures(cfg)
    sources = {}
    for model in models:
        if model.features:
            label, source = model.label, source_of(load_features(model.features, len(listing.keys)), listing.keys)
        else:
            label, source = _embed(args, cfg, listing, held, model)
        sources[label if label not in sources else model.label] = source
        if args.save_features:
            lists.write_array(args.save_features, source.features)
    return sources


def source_of(features: np.ndarray, keys: list, mirrored: Optional[np.ndarray] = None,
              flip: str = 'none') -> Source:
    """Return the `Source` of embeddings (N, D), and of those of the mirror images where `flip` combines both.

    flip: 'sum' adds them, 'concat' puts them side by side (N, 2D).
    """
    lengths = np.linalg.norm(features.astype(np.float64), axis=1)
    if mirrored is None or flip == 'none':
        return Source(features, keys, lengths)
    lengths = np.concatenate([lengths, np.linalg.norm(mirrored.astype(np.float64), axis=1)])
    both = features + mirrored if flip == 'sum' else np.concatenate([features, mirrored], 1)
    return Source(both, keys, lengths)


def _embed(args: argparse.Namespace, cfg: edict, listing: Listing, held: dict, model: Model) -> tuple:
    """Return (label, Source) of the listed images, embedded in one pass; --flip embeds their mirror images as well."""
    only_a_number = getattr(args, 'threshold_for', None) is not None
    say = partial(print, file=sys.stderr if only_a_number else sys.stdout, flush=True)
    network = _network(args, cfg, model)
    for name, (pictures, _) in held.items():
        if pictures:
            listing.protocols[name].check_faces(cfg, pictures, network.face_format)
    say(f"{network.file or UNTRAINED}: {network.name} for {network.image_size}x{network.image_size} faces, on "
        f"{network.runtime}")
    paths = _in_rows(held, len(listing.keys))
    features = _embed_all(args, cfg, network, paths, say, mirrored=False)
    mirrored = _embed_all(args, cfg, network, paths, say, mirrored=True) if args.flip != 'none' else None
    label = _base(network.file) if network.file and os.path.isdir(model.weights) else model.label
    return label, source_of(features, listing.keys, mirrored, args.flip)._replace(network=network)


def _embed_all(args: argparse.Namespace, cfg: edict, network: Any, paths: Sequence, say: Callable, *,
               mirrored: bool) -> np.ndarray:
    """Return the embeddings (N, D) of all pictures, those that are kept beside the weights from there."""
    from src.embedding import embed, embed_cached
    from src.training.checkpoint import features_file

    def embed_paths(new: list) -> np.ndarray:
        start = time.time()
        features = embed(network, new, batch_size=args.batch_size, num_workers=cfg.num_workers, mirrored=mirrored)
        seconds = time.time() - start
        say(f"embedded {len(new)} {'mirrored ' if mirrored else ''}images in {seconds:.1f} s, "
            f"{len(new) / seconds:.1f} images/s")
        return features
    cache_file = None if network.file is None or args.no_cache else features_file(network.file)
    features, num_kept = embed_cached(embed_paths, network, paths, cache_file, mirrored=mirrored)
    if num_kept:
        say(f"{num_kept} features taken from {cache_file} (--no_cache embeds again)")
    return features


def _in_rows(held: dict, num_rows: int) -> list:
    """Return the picture of every row. held: of `Listing.pictures`."""
    rows: list = [None] * num_rows
    for pictures, places in held.values():
        for picture, place in zip(pictures, places):
            rows[place] = picture
    return rows


def _network(args: argparse.Namespace, cfg: edict, model: Model) -> Any:
    """Return the `Network` of a model that the flags name."""
    from src import api
    target = {'backend': args.backend, 'device_target': args.device_target, 'device_id': args.device_id}
    if model.weights is None:
        return api.initial_network(cfg, **target)
    asked = cfg.network_type if any(s.startswith(('network_type=', 'backbone=')) for s in args.settings) else None
    return api.load_network(model.weights, network_type=asked, face_format=model.face_format, **target)


def load_features(file: str, num_images: int) -> np.ndarray:
    """Return the (N, D) float features in a .npy file; nothing is unpickled. ValueError if they do not fit."""
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
    if features.shape[1] < 2:
        raise ValueError(f"{file}: holds {features.shape[1]} numbers a face, expected at least 2")
    return features
