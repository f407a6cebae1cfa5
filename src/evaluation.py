"""From flags to results: the code that evaluate.py, eval_lfw.py and eval_blufr.py share.

One embedding pass serves all protocols; their tables, JSON, thresholds and report come from the same functions.
"""
import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Optional

import numpy as np
from easydict import EasyDict as edict

from src.data import lists
from src.protocols import PROTOCOLS, SETS, Protocol, protocol
from src.protocols.lfw import LFW, threshold_for
from src.protocols.protocol import in_order
from src.scoring import report
from src.scoring.report import Scored


class Source(NamedTuple):
    """Features (N, D) of the images that `keys` tell, and the lengths (M,) of the embeddings they were made of."""

    features: np.ndarray
    keys: list
    lengths: np.ndarray          # (N,), or (2N,) where mirror images were embedded too

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


def evaluate(args: argparse.Namespace, cfg: edict, names: list) -> None:
    """Score the protocols `names` as the flags say, compare, write tables, JSON, thresholds and report."""
    listing = list_images(cfg, {name: protocol(name) for name in names})
    label, source = _own_features(args, cfg, listing)
    sources = {label: source}
    if getattr(args, 'threshold_for', None) is not None:
        print(threshold_for(args.threshold_for, LFW.measure(cfg, source.of(LFW))))
        return
    runs = {label: {name: score(kind, cfg, source) for name, kind in listing.protocols.items()}}
    print('\n\n'.join(report.table(scored) for scored in runs[label].values()))
    if args.compare:
        for scored in list(runs[label].values()):
            other, name = _load_compared(args.compare, cfg, scored, sources, runs, listing)
            print(report.comparison_table(scored, other, name))
    if args.json:
        write_json(args.json, list(runs[label].values()))
    if args.report:
        for run, of_run in sources.items():
            for name in _for_the_report(names):
                if name not in runs[run]:
                    runs[run][name] = score(protocol(name), cfg, of_run)
        write_report(args.report, runs, cfg)
    thresholds = args.thresholds or os.path.join(args.report or '.', 'thresholds.json')
    report.write_thresholds(thresholds, label, runs[label].values())


def score(kind: Protocol, cfg: edict, source: Source) -> Scored:
    """Return a protocol's result with the norms of the embeddings of its images: their mean and standard deviation."""
    scored = kind.score(cfg, source.of(kind))
    lengths = in_order(source.lengths.reshape(-1, len(source.keys)).T, source.keys, kind.key)(kind.images(cfg)[0])
    scored.numbers['norm'] = {'mean': float(np.mean(lengths)), 'std': float(np.std(lengths))}
    return scored


def _for_the_report(names: list) -> list:
    """Return the protocols of a report: LFW and BLUFR, which list the same images, stand on one page."""
    return [*names, *(name for name in ('lfw', 'blufr') if set(names) & {'lfw', 'blufr'} and name not in names)]


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


def write_json(file: str, results: list) -> None:
    """Write one result as it is, several as {protocol: result}."""
    if len(results) == 1:
        report.write_json(file, results[0].numbers)
        return
    lists.write_text(file, json.dumps({scored.protocol.name: scored.numbers for scored in results}, indent=1,
                                      allow_nan=False) + '\n')


def write_report(out_dir: str, runs: dict, cfg: edict, note: str = '') -> None:
    """Write out_dir/report.html. runs: {label: {protocol: Scored}}, where a run may lack a protocol."""
    from src.scoring.page import write_page
    os.makedirs(out_dir, exist_ok=True)
    file = os.path.join(out_dir, 'report.html')
    write_page(file, runs, cfg.root_path, note)
    print(f"report: {file}")


def _load_compared(file: str, cfg: edict, scored: Scored, sources: dict, runs: dict, listing: Listing) -> tuple:
    """Return (the Scored of features (.npy) or the checked numbers of --json (.json), a label).

    Features become a source and a run of their own.
    """
    own = next(iter(runs))
    label = os.path.basename(file) if os.path.basename(file) != own else f'{file} (compared)'
    name = scored.protocol.name
    if not file.endswith('.json'):
        if label not in sources:
            sources[label] = source_of(load_features(file, len(listing.keys)), listing.keys)
        runs.setdefault(label, {})[name] = score(scored.protocol, cfg, sources[label])
        return runs[label][name], label
    numbers = lists.read_json(file, 'no such file to --compare with')
    if isinstance(numbers, dict) and 'protocol' not in numbers and name in numbers:
        numbers = numbers[name]
    report.check_comparable(file, numbers, scored)
    return numbers, label


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


def _own_features(args: argparse.Namespace, cfg: edict, listing: Listing) -> tuple:
    """Return (label, Source) from --features, or embedded with the checkpoint; --save_features keeps the features."""
    if args.features:
        if args.flip != 'none':
            raise ValueError(f"--flip {args.flip} needs a network; --features are scored as they are")
        label, features = os.path.basename(args.features), load_features(args.features, len(listing.keys))
        source = source_of(features, listing.keys)
    else:
        label, source = _embed(args, cfg, listing)
    if args.save_features:
        lists.write_array(args.save_features, source.features)
    return label, source


def _embed(args: argparse.Namespace, cfg: edict, listing: Listing) -> tuple:
    """Return (label, Source) of the listed images, embedded in one pass; --flip embeds their mirror images as well."""
    from src.embedding import embed, embed_cached
    from src.training.checkpoint import features_file
    held = listing.pictures(cfg)
    only_a_number = getattr(args, 'threshold_for', None) is not None
    say = partial(print, file=sys.stderr if only_a_number else sys.stdout, flush=True)
    network = _network(args, cfg)
    for name, (pictures, _) in held.items():
        if pictures:
            listing.protocols[name].check_faces(cfg, pictures, network.face_format)
    say(f"{network.file or 'untrained'}: {network.name} for {network.image_size}x{network.image_size} faces, on "
        f"{network.runtime}")
    paths = _in_rows(held, len(listing.keys))

    def embed_all(mirrored: bool) -> np.ndarray:
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

    features = embed_all(False)
    mirrored = embed_all(True) if args.flip != 'none' else None
    return os.path.basename(network.file or 'untrained'), source_of(features, listing.keys, mirrored, args.flip)


def _in_rows(held: dict, num_rows: int) -> list:
    """Return the picture of every row. held: of `Listing.pictures`."""
    rows: list = [None] * num_rows
    for pictures, places in held.values():
        for picture, place in zip(pictures, places):
            rows[place] = picture
    return rows


def _network(args: argparse.Namespace, cfg: edict):
    """Return the `Network` that the flags ask for."""
    from src import api
    target = {'backend': args.backend, 'device_target': args.device_target, 'device_id': args.device_id}
    if args.untrained:
        return api.initial_network(cfg, **target)
    asked = cfg.network_type if any(s.startswith(('network_type=', 'backbone=')) for s in args.settings) else None
    return api.load_network(args.ckpt, network_type=asked, face_format=args.face_format, **target)


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


def known_protocols() -> str:
    """Return the names of all protocols, for --help."""
    return ', '.join([*PROTOCOLS, *SETS])


def add_protocol_flags(flags: argparse.ArgumentParser) -> None:
    """Add a flag for every option that a protocol declares; one that several declare is one flag."""
    declared: dict = {}
    for name, kind in PROTOCOLS.items():
        for key, option in kind.OPTIONS.items():
            declared.setdefault(key, (option, []))[1].append(name)
    for key, (option, names) in declared.items():
        default = type(option.default)
        how = {'action': 'store_true', 'default': None} if default is bool else \
            {'type': default, 'choices': option.low if isinstance(option.low, tuple) else None, 'metavar': None
             if isinstance(option.low, tuple) else key.upper()}
        flags.add_argument(f'--{key}', dest=f'protocol.{key}', help=f"{', '.join(names)}: {option.meaning}", **how)


def set_protocol_options(args: argparse.Namespace, cfg: edict) -> None:
    """Put the flags of `add_protocol_flags` that were given into the settings."""
    for key, value in vars(args).items():
        if key.startswith('protocol.') and value is not None:
            cfg.protocol_options[key.partition('.')[2]] = value
