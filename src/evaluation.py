"""From flags to results: the code that evaluate.py, eval_lfw.py and eval_blufr.py share.

One embedding pass serves all protocols; their tables, JSON, thresholds and report come from the same functions.
"""
import argparse
import json
import os
import sys
import time
from functools import partial

import numpy as np
from easydict import EasyDict as edict

from src.data import lists
from src.data.images import find_images
from src.protocols import PROTOCOLS, protocol
from src.protocols.lfw import LFW, threshold_for
from src.protocols.protocol import image_id, in_order
from src.scoring import report
from src.scoring.report import Scored


def evaluate(args: argparse.Namespace, cfg: edict, names: list) -> None:
    """Score the protocols `names` as the flags say, compare, write tables, JSON, thresholds and report."""
    listed = union_of_images(cfg, names)
    label, features = _own_features(args, cfg, listed)
    sources = {label: in_order(features, listed)}
    if getattr(args, 'threshold_for', None) is not None:
        print(threshold_for(args.threshold_for, LFW.measure(cfg, sources[label])))
        return
    runs = {label: {name: protocol(name).score(cfg, sources[label]) for name in names}}
    print('\n\n'.join(report.table(scored) for scored in runs[label].values()))
    if args.compare:
        for scored in list(runs[label].values()):
            other, name = _load_compared(args.compare, cfg, scored, sources, runs, listed)
            print(report.comparison_table(scored, other, name))
    if args.json:
        write_json(args.json, list(runs[label].values()))
    if args.report:
        for run, features_of in sources.items():
            for name in _for_the_report(names):
                if name not in runs[run]:
                    runs[run][name] = protocol(name).score(cfg, features_of)
        write_report(args.report, runs, cfg)
    thresholds = args.thresholds or os.path.join(args.report or '.', 'thresholds.json')
    report.write_thresholds(thresholds, label, runs[label].values())


def _for_the_report(names: list) -> list:
    """Return the protocols of a report: LFW and BLUFR, which list the same images, stand on one page."""
    return [*names, *(name for name in ('lfw', 'blufr') if set(names) & {'lfw', 'blufr'} and name not in names)]


def union_of_images(cfg: edict, names: list) -> list:
    """Return the images that any of the protocols lists, each once, the first protocol's in its order."""
    found: dict = {}
    for name in names:
        images, _ = protocol(name).images(cfg)
        if name == names[0]:
            first = images
        found.update((image_id(image), image) for image in images if image_id(image) not in found)
    return first if len(found) == len({image_id(image) for image in first}) else list(found.values())


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


def _load_compared(file: str, cfg: edict, scored: Scored, sources: dict, runs: dict, listed: list) -> tuple:
    """Return (the Scored of features (.npy) or the checked numbers of --json (.json), a label).

    Features become a source and a run of their own.
    """
    own = next(iter(runs))
    label = os.path.basename(file) if os.path.basename(file) != own else f'{file} (compared)'
    name = scored.protocol.name
    if not file.endswith('.json'):
        if label not in sources:
            sources[label] = in_order(load_features(file, len(listed)), listed)
        runs.setdefault(label, {})[name] = scored.protocol.score(cfg, sources[label])
        return runs[label][name], label
    numbers = lists.read_json(file, 'no such file to --compare with')
    if isinstance(numbers, dict) and 'protocol' not in numbers and name in numbers:
        numbers = numbers[name]
    report.check_comparable(file, numbers, scored)
    return numbers, label


def _own_features(args: argparse.Namespace, cfg: edict, listed: list) -> tuple:
    """Return (label, features (N, D)) from --features, or embedded with the checkpoint; --save_features keeps them."""
    if args.features:
        label, features = os.path.basename(args.features), load_features(args.features, len(listed))
    else:
        label, features = _embed(args, cfg, listed)
    if args.save_features:
        lists.write_array(args.save_features, features)
    return label, features


def _embed(args: argparse.Namespace, cfg: edict, names: list) -> tuple:
    """Return (label, features (N, D)) of the listed images."""
    from src.embedding import check_faces, embed, embed_cached
    from src.training.checkpoint import features_file
    paths = find_images(cfg.root_path, names)
    only_a_number = getattr(args, 'threshold_for', None) is not None
    say = partial(print, file=sys.stderr if only_a_number else sys.stdout, flush=True)
    network = _network(args, cfg)
    check_faces(network, cfg.root_path, paths, cfg.assume_format)
    say(f"{network.file or 'untrained'}: {network.name} for {network.image_size}x{network.image_size} faces, on "
        f"{network.runtime}")

    def embed_paths(new: list) -> np.ndarray:
        start = time.time()
        features = embed(network, new, batch_size=args.batch_size, num_workers=cfg.num_workers)
        seconds = time.time() - start
        say(f"embedded {len(new)} images in {seconds:.1f} s, {len(new) / seconds:.1f} images/s")
        return features

    if network.file is None:
        return 'untrained', embed_paths(paths)
    if args.no_cache:
        return os.path.basename(network.file), embed_paths(paths)
    cache_file = features_file(network.file)
    features, num_kept = embed_cached(embed_paths, network, paths, cache_file)
    if num_kept:
        say(f"{num_kept} features taken from {cache_file} (--no_cache embeds again)")
    return os.path.basename(network.file), features


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
    return ', '.join(PROTOCOLS)
