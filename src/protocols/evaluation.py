"""From settings to scores: lists, protocol files and features brought together for LFW and BLUFR."""
import os
import sys
import time
from functools import partial

import numpy as np
from tqdm import tqdm

from src.data import lists
from src.data.images import find_images
from src.scoring import metrics, report


def lfw_images(cfg):
    """Return (names, labels) in the order that lfw_pairs.mat counts: the list file, or derived where there is none."""
    return _images(cfg.lfw_img_list, cfg.blufr_config_mat_path, lists.list_for_lfw)


def blufr_images(cfg):
    """Return (names, labels) in the order that blufr_lfw_config.mat counts."""
    return _images(cfg.blufr_img_list, cfg.blufr_config_mat_path, lists.list_for_blufr)


IMAGES = {'lfw': lfw_images, 'blufr': blufr_images}


def _images(list_file, blufr_mat, derive):
    if not os.path.exists(list_file):
        return _derived(derive, lists.load_blufr(blufr_mat))
    names, labels = lists.read_image_list(list_file)
    wrong = np.flatnonzero((labels < 0) | (labels > len(names)))
    if len(wrong):
        raise ValueError(f"{list_file}: label {labels[wrong[0]]} of {names[wrong[0]]} is not in 0..{len(names)} "
                         f"({len(wrong)} such labels); expected the number of a person")
    return names, labels


_DERIVED = {}                    # an evaluation asks several times: {derive: (protocol, names and labels)}


def _derived(derive, protocol):
    if _DERIVED.get(derive, (None,))[0] is not protocol:
        _DERIVED[derive] = protocol, derive(protocol)
    return _DERIVED[derive][1]


def score_lfw(cfg, features_of):
    """Return `metrics.lfw`'s result with 'names', 'pairs' (P, 2) and 'people' (P, 2), genuine pairs first.

    features_of: names -> (N, D) features in their order.
    """
    names, labels = lfw_images(cfg)
    pairs = lists.load_lfw_pairs(cfg.lfw_pairs_mat_path, len(names))
    features = features_of(names)
    result = metrics.lfw(features, *pairs, names=names)
    people = _people(names, labels, pairs, cfg.lfw_img_list)
    _warn_of_duplicates(features, names, people)
    rows = np.concatenate(pairs)
    return {**result, 'names': names, 'pairs': rows, 'people': people[rows]}


def _people(names, labels, pairs, file):
    """Return a number per person (N,): the labels, or where they contradict the pairs the persons in the names."""
    share = np.mean(labels[pairs[0][:, 0]] != labels[pairs[0][:, 1]])
    if share <= 0.05:                                            # LFW's own errata are less than 1 %
        return labels
    warn(f"{file}: the two labels of {100 * share:.0f} % of the genuine pairs differ; the people of the intervals are "
         "taken from the file names instead")
    return np.unique([lists.person_of(name) for name in names], return_inverse=True)[1]


def _warn_of_duplicates(features, names, people):
    """Say if rows of different people are the same to the last bit: the sign of a broken feature file."""
    first, found = {}, []
    for row, feature in enumerate(np.ascontiguousarray(features)):
        twin = first.setdefault(feature.tobytes(), row)
        if people[twin] != people[row]:
            found.append((twin, row))
    if found:
        a, b = found[0]
        warn(f"{len(found)} features equal that of another person, such as rows {a} ({names[a]}) and {b} ({names[b]}); "
             "is the feature file whole and in order?")


def warn(text):
    """Print one line of warning."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


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
    features = features_of(names)
    result = metrics.blufr(features, protocol, names, progress)
    _warn_of_duplicates(features, names, protocol.labels)
    return result


def score(protocol, cfg, features_of):
    """Return the `report.Scored` of 'lfw' or 'blufr'. features_of: names -> (N, D) features in their order."""
    if protocol == 'lfw':
        return report.lfw(score_lfw(cfg, features_of))
    return report.blufr(score_blufr(cfg, features_of, partial(tqdm, desc='trials', unit='trial', disable=None,
                                                              leave=False)))


def evaluate(args, cfg, protocol):
    """Do what the flags of an eval script ask for: score, compare, and write tables, JSON, thresholds and report."""
    listed, _ = IMAGES[protocol](cfg)
    label, features = _own_features(args, cfg, listed)
    sources = {label: in_order(features, listed)}
    if getattr(args, 'threshold_for', None) is not None:
        print(threshold_for(args.threshold_for, score_lfw(cfg, sources[label])))
        return
    runs = {label: {protocol: score(protocol, cfg, sources[label])}}
    scored = runs[label][protocol]
    print(report.table(scored))
    if args.compare:
        other, name = load_compared(args.compare, cfg, scored, sources, runs)
        print(report.comparison_table(scored, other, name))
    if args.json:
        report.write_json(args.json, scored.numbers)
    if args.report:
        second = {'lfw': 'blufr', 'blufr': 'lfw'}[protocol]
        for name, features_of in sources.items():
            runs[name][second] = score(second, cfg, features_of)
        write_report(args.report, runs, cfg)
    thresholds = args.thresholds or os.path.join(args.report or '.', 'thresholds.json')
    report.write_thresholds(thresholds, label, runs[label].values())


def write_report(out_dir, runs, cfg, note=''):
    """Write out_dir/report.html. runs: {label: {'lfw': Scored, 'blufr': Scored}}, one of both may be missing."""
    from src.scoring.page import write_page
    os.makedirs(out_dir, exist_ok=True)
    file = os.path.join(out_dir, 'report.html')
    write_page(file, runs, cfg.root_path, note)
    print(f"report: {file}")


def threshold_for(far, result):
    """Return the threshold of LFW's pairs at a FAR; ValueError if they cannot resolve it."""
    num = len(result['impostor'])
    if not 0 <= far <= 1:
        raise ValueError(f"--threshold_for {far:g} is not a false accept rate; expected 0 to 1, such as 0.001")
    _, threshold = metrics.tpr_at_far(result['genuine'], result['impostor'], far)
    if np.isnan(threshold):
        raise ValueError(f"--threshold_for {far:g}: {num} impostor pairs cannot resolve it; the smallest FAR above 0 "
                         f"that they can is {1 / num:.3g}")
    return threshold


def load_compared(file, cfg, scored, sources, runs):
    """Return (the Scored of features (.npy) or the checked numbers of --json (.json), a label).

    Features become a source and a run of their own.
    """
    label = os.path.basename(file) if os.path.basename(file) not in runs else f'{file} (compared)'
    if not file.endswith('.json'):
        listed, _ = IMAGES[scored.protocol](cfg)
        sources[label] = in_order(load_features(file, len(listed)), listed)
        runs[label] = {scored.protocol: score(scored.protocol, cfg, sources[label])}
        return runs[label][scored.protocol], label
    numbers = lists.read_json(file, 'no such file to --compare with')
    report.check_comparable(file, numbers, scored)
    return numbers, label


def lfw_scorer(cfg, device):
    """Return a function network -> LFW numbers in percent that embeds only the images that pairs use.

    All ranks call it together: each embeds its share, so that none waits for another longer than a collective may.
    Lists, protocol and images are looked up now, so that what is missing is said before a training starts.
    """
    from src.embedding import embed
    from src.lightcnn import EMBEDDING_SIZE
    names, _ = lfw_images(cfg)
    pairs = lists.load_lfw_pairs(cfg.lfw_pairs_mat_path, len(names))
    used, compact = np.unique(np.concatenate(pairs), return_inverse=True)
    genuine, impostor = np.split(compact.reshape(-1, 2), [len(pairs[0])])
    paths = find_images(cfg.root_path, [names[row] for row in used])

    def score_network(network):
        features = np.zeros((len(paths), EMBEDDING_SIZE), np.float32)
        mine = slice(device.rank, None, device.rank_size)
        features[mine] = embed(network, paths[mine], cfg.image_size, num_workers=cfg.num_workers)
        if device.rank_size > 1:
            from mindspore import Tensor, ops
            features = ops.AllReduce()(Tensor(features)).asnumpy()
        return report.lfw_json(metrics.lfw(features, genuine, impostor))
    return score_network


def _own_features(args, cfg, listed):
    """Return (label, features (N, D)) from --features, or embedded with the checkpoint; --save_features keeps them."""
    if args.features:
        label, features = os.path.basename(args.features), load_features(args.features, len(listed))
    else:
        label, features = _embed(args, cfg, listed)
    if args.save_features:
        lists.write_array(args.save_features, features)
    return label, features


def in_order(features, listed):
    """Return a function names -> their rows of features (N, D), which belong to the `listed` images.

    LFW and BLUFR list the same images in two orders; a name counts without folder and extension.
    """
    def features_of(names):
        if names == listed:
            return features
        row_of = {image_id(name): row for row, name in enumerate(listed)}
        missing = [name for name in names if image_id(name) not in row_of]
        if missing:
            raise ValueError(f"{len(missing)} images of the other protocol are not in the list, such as {missing[0]}; "
                             "--report needs both")
        return features[[row_of[image_id(name)] for name in names]]
    return features_of


def image_id(name):
    """Return what joins the images of both protocols: a listed name without folder and extension."""
    return os.path.splitext(os.path.basename(name))[0]


def _embed(args, cfg, names):
    """Return (label, features (N, D)) of the listed images."""
    from src import device
    from src.embedding import embed, embed_cached
    from src.training import checkpoint
    paths = find_images(cfg.root_path, names)
    here = device.set_up(args.device_target, args.device_id)
    only_a_number = getattr(args, 'threshold_for', None) is not None
    say = partial(print, file=sys.stderr if only_a_number else sys.stdout, flush=True)
    network, what, image_size, ckpt = _network(args, cfg, None if args.backend == 'onnx' else here.target)
    where = getattr(network, 'runtime', here.target)
    say(f"{ckpt or 'untrained'}: {what} for {image_size}x{image_size} faces, on {where}")

    def embed_paths(some):
        start = time.time()
        features = embed(network, some, image_size, args.batch_size, cfg.num_workers)
        seconds = time.time() - start
        say(f"embedded {len(some)} images in {seconds:.1f} s, {len(some) / seconds:.1f} images/s")
        return features

    if ckpt is None:
        return 'untrained', embed_paths(paths)
    if args.no_cache:
        return os.path.basename(ckpt), embed_paths(paths)
    cache_file = checkpoint.features_file(ckpt)
    features, num_kept = embed_cached(embed_paths, paths, cache_file, ckpt, image_size, where)
    if num_kept:
        say(f"{num_kept} features taken from {cache_file} (--no_cache embeds again)")
    return os.path.basename(ckpt), features


def _network(args, cfg, target):
    """Return (network, its type, image size, checkpoint file or None) that the flags ask for."""
    from src.lightcnn import initial_embedding
    from src.training import checkpoint
    if args.ckpt and args.ckpt.endswith('.onnx'):
        from src.deploy.onnx_backend import OnnxNetwork
        network = OnnxNetwork(args.ckpt)
        return network, 'ONNX', network.image_size, args.ckpt
    if args.untrained:
        network, network_type, image_size, ckpt = initial_embedding(cfg, target), cfg.network_type, cfg.image_size, None
    else:
        asked = cfg.network_type if any(s.startswith('network_type=') for s in args.settings) else None
        ckpt = checkpoint.newest(args.ckpt)
        network, network_type, image_size = checkpoint.load_embedding(ckpt, asked, target)
    if args.backend == 'onnx':
        from src.deploy.export import as_onnx
        network = as_onnx(network, image_size)
    return network, network_type, image_size, ckpt


def load_features(file, num_images):
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
