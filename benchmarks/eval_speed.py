"""LFW and BLUFR from features: ours beside the way of existing scripts and a vectorised NumPy one, in one run.

    python benchmarks/eval_speed.py --dataset_path faces
    python benchmarks/eval_speed.py --dataset_path faces --ckpt ckpt       # also: embedding beside the bare network

Claim: all 10 BLUFR trials on 13,233 x 256 features in 10 s and 1.5 GB on two cores, LFW in 1 s, and embedding within
1.2 times the bare network. Seconds are those of the scoring itself, files read and numba compiled before; peak memory
is the process's. Every contender runs in a process of its own. The other two do one BLUFR trial, shown times ten.
"""
import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from src.config import get_config  # noqa: E402
from src.data import lists  # noqa: E402
from src.scoring import metrics  # noqa: E402

CONTENDERS = {'scripts': 'existing scripts', 'numpy': 'vectorised NumPy', 'ours': 'ours'}


def make_features(labels):
    """Return random features (N, 256) float32 in which people can be told apart, as in the golden values."""
    rng = np.random.default_rng(20261122)
    centres = rng.standard_normal((labels.max() + 1, 256)).astype(np.float32)
    return centres[labels] + np.float32(2.5) * rng.standard_normal((len(labels), 256)).astype(np.float32)


def script_lfw(features, genuine, impostor):
    """Pair by pair, then all thresholds compared with all scores."""
    def cosine(a, b):
        return np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))
    scores = np.array([cosine(features[a], features[b]) for a, b in np.concatenate([genuine, impostor])])
    same = np.arange(len(scores)) < len(genuine)
    thresholds = np.sort(scores)[::-1]
    tpr = np.array([np.mean(scores[same] >= t) for t in thresholds])
    far = np.array([np.mean(scores[~same] >= t) for t in thresholds])
    return 1 - metrics.equal_error_rate(np.append(0, far), np.append(0, tpr))


def numpy_lfw(features, genuine, impostor):
    """One einsum, one sort."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    scores = [np.einsum('pd,pd->p', unit[pairs[:, 0]], unit[pairs[:, 1]]) for pairs in (genuine, impostor)]
    far, tpr, _ = metrics.roc(*scores)
    return 1 - metrics.equal_error_rate(far, tpr)


def script_trial(features, labels, trial):
    """The authors' functions line by line: whole float64 matrices, full sorts, all thresholds against all scores."""
    unit = features.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    scores = unit[trial['test']] @ unit[trial['test']].T
    same = labels[trial['test']][:, None] == labels[trial['test']][None]
    below = np.tril(np.ones(scores.shape, bool), -1)
    genuine, impostor = scores[below & same], np.sort(scores[below & ~same])[::-1]
    ks = metrics.accepted_count(metrics.VR_FARS, len(impostor))
    thresholds = impostor[np.maximum(ks, 1) - 1]
    vr = np.mean(genuine[:, None] >= thresholds[None], axis=0)
    np.mean(impostor[:, None] >= thresholds[None], axis=0)                   # the FAR that they return with it

    columns = unit[trial['gallery']] @ unit[trial['probe']].T
    same = labels[trial['gallery']][:, None] == labels[trial['probe']][None]
    known = same.any(0)
    unknown = np.sort(columns[:, ~known].max(0))[::-1]
    thresholds = unknown[np.maximum(metrics.accepted_count(metrics.DIR_FARS, len(unknown)), 1) - 1]
    order = np.argsort(-columns[:, known], axis=0)
    mates = np.take_along_axis(same[:, known], order, 0)
    rank = 1 + mates.argmax(0)
    detection = np.take_along_axis(columns[:, known], order, 0)[rank - 1, np.arange(rank.size)]
    hits = (detection[:, None, None] >= thresholds[None, None]) & (rank[:, None, None] <=
                                                                  metrics.DIR_RANKS[None, :, None])
    return vr, hits.mean(0)


def numpy_trial(features, labels, trial):
    """Float32 products, a selection in place of the sort, counting by search."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    test, gallery, probe = (unit[trial[key]] for key in ('test', 'gallery', 'probe'))
    number = labels[trial['test']]
    scores = test @ test.T
    below = np.tril(np.ones(scores.shape, bool), -1)
    same = number[:, None] == number[None]
    genuine, impostor = np.sort(scores[below & same]), scores[below & ~same]
    places = len(impostor) - np.maximum(metrics.accepted_count(metrics.VR_FARS, len(impostor)), 1)
    vr = 1 - np.searchsorted(genuine, np.partition(impostor, np.unique(places))[places]) / len(genuine)

    scores = probe @ gallery.T
    same = labels[trial['probe']][:, None] == labels[trial['gallery']][None]
    known = same.any(1)
    unknown = np.sort(scores[~known].max(1))[::-1]
    thresholds = unknown[np.maximum(metrics.accepted_count(metrics.DIR_FARS, len(unknown)), 1) - 1]
    detection = np.where(same[known], scores[known], -np.inf).max(1)
    rank = 1 + (scores[known] > detection[:, None]).sum(1)
    detected = detection[:, None] >= thresholds
    return vr, np.stack([(detected & (rank <= r)[:, None]).mean(0) for r in metrics.DIR_RANKS])


def contender(name, protocol, cfg):
    """Return {'seconds', 'value', 'gib'} of one protocol in this process."""
    blufr = lists.load_blufr(cfg.blufr_config_mat_path)
    names, labels = (lists.list_for_lfw if protocol == 'lfw' else lists.list_for_blufr)(blufr)
    features = make_features(labels)
    if protocol == 'lfw':
        pairs = lists.load_lfw_pairs(cfg.lfw_pairs_mat_path, len(names))
        run = {'scripts': script_lfw, 'numpy': numpy_lfw, 'ours': lambda *a: metrics.lfw(*a)['eer100']}[name]
        run(features[:20], *(np.arange(20).reshape(10, 2) for _ in range(2)))               # compiles or loads
        seconds, value = timed(run, features, *pairs)
    elif name == 'ours':
        metrics.blufr(features[:300], lists.Blufr(names[:300], labels[:300], [
            {key: rows[rows < 300] for key, rows in blufr.trials[0].items()}]))             # compiles or loads
        seconds, result = timed(metrics.blufr, features, blufr)
        value = metrics.blufr_reported(result)[0][0]
    else:
        run = {'scripts': script_trial, 'numpy': numpy_trial}[name]
        seconds, (vr, _) = timed(run, features, labels, blufr.trials[0])
        seconds, value = seconds * len(blufr.trials), vr[np.argmin(np.abs(metrics.VR_FARS - metrics.REPORT_VR_FAR))]
    return {'seconds': seconds, 'value': 100 * float(value),
            'gib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def timed(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def embedding_lines(cfg, ckpt, num_images):
    """Return the table of embedding beside the bare network on ready batches of the same size."""
    from src import api
    from src.data.images import find_images
    network = api.load_network(ckpt, device_target='CPU')
    names = lists.load_blufr(cfg.blufr_config_mat_path)
    paths = find_images(cfg.root_path, lists.list_for_lfw(names)[0])[:num_images]
    shape = 64, network.face_format.num_channels, network.image_size, network.image_size
    batch = np.random.default_rng(0).random(shape, np.float32)
    network(batch)
    whole, _ = timed(api.embed, network, paths)
    bare, _ = timed(lambda: [network(batch) for _ in range(-(-len(paths) // 64))])
    return [f'{"embedding, " + str(len(paths)) + " images":<32}{"seconds":>10}{"images/s":>11}{"to the bare":>14}',
            f'{"  bare network, ready batches":<32}{bare:>10.1f}{len(paths) / bare:>11.1f}{1:>14.2f}',
            f'{"  ours, from files":<32}{whole:>10.1f}{len(paths) / whole:>11.1f}{whole / bare:>14.2f}']


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument('--dataset_path', help="folder with mat_files/ (default: the project's own)")
    flags.add_argument('--ckpt', help='checkpoint or folder: measure embedding too')
    flags.add_argument('--num_images', type=int, default=13233, help='images to embed (default %(default)s)')
    flags.add_argument('--contender', nargs=2, help=argparse.SUPPRESS)
    args = flags.parse_args()
    cfg = get_config(dataset_path=args.dataset_path)
    if args.contender:
        print(json.dumps(contender(*args.contender, cfg)))
        return
    for protocol, heading in (('lfw', 'LFW, 6,000 pairs'), ('blufr', 'BLUFR, 10 trials')):
        print(f'{heading:<32}{"seconds":>10}{"to ours":>11}{"peak GiB":>14}{"EER/VR, %":>13}')
        rows = {name: measure(name, protocol, args.dataset_path) for name in CONTENDERS}
        for name, title in CONTENDERS.items():
            row = rows[name]
            print(f'{"  " + title:<32}{row["seconds"]:>10.2f}{row["seconds"] / rows["ours"]["seconds"]:>11.1f}'
                  f'{row["gib"]:>14.2f}{row["value"]:>13.4f}', flush=True)
    if args.ckpt:
        print('\n'.join(embedding_lines(cfg, args.ckpt, args.num_images)))


def measure(name, protocol, dataset_path):
    command = [sys.executable, __file__, '--contender', name, protocol]
    done = subprocess.run(command + (['--dataset_path', dataset_path] if dataset_path else []), stdout=subprocess.PIPE,
                          text=True, check=True)
    return json.loads(done.stdout)


if __name__ == '__main__':
    main()
