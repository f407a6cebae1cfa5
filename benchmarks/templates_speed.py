"""IJB-C and MegaFace at full size on random features: ours beside the way of the existing scripts, in one run.

    python benchmarks/templates_speed.py                   # all, about 15 minutes and 6 GB on two cores
    python benchmarks/templates_speed.py --scale 0.1 --only ijb

Claim: pooling 10 times, scoring of 15.7 million pairs 5 times as fast as the scripts, 1:N not slower; MegaFace (3,530
probes, a million distractors x 512) gives all ranks and TAR at FAR 1e-6, exact, with at most --memory_mb beside the
features, in the time of a few products (the scripts: rank 1 from one product, with all scores in memory).
Every contender runs in a process of its own; seconds are those of pooling, scoring and
thresholds, files read and numba compiled before; peak memory is the process's, features included. The script's way
(insightface's ijb_11.py and ijb_1n.py, FaceX-Zoo's megaface_evaluator.py as NumPy) runs on a share of the templates,
pairs or distractors, shown scaled up to all of them.
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

from src.scoring import identification, templates  # noqa: E402
from src.scoring.all_with_all import vectors# noqa: E402

SIZE = 512
IJBC = {'pictures': 469_375, 'templates': 23_124, 'pairs': 15_658_489, 'genuine': 19_557, 'probes': 19_593,
        'gallery': 3_531}
MEGAFACE = {'probes': 3_530, 'people': 80, 'distractors': 1_000_000}
PART = {'pool': 0.05, 'pairs': 0.02, '1n': 0.1, 'megaface': 0.02}            # what the scripts' way is timed on


def near(centres, people, noise, rng, block=1 << 14):
    """Return features (N, SIZE) float32 of people around their centres, made in blocks."""
    features = np.empty((len(people), SIZE), np.float32)
    for start in range(0, len(people), block):
        part = slice(start, start + block)
        features[part] = centres[people[part]] + noise * rng.standard_normal((len(people[part]), SIZE), np.float32)
    return features


def ijb(scale):
    """Return pictures of templates, and listed pairs, in IJB-C's numbers."""
    rng = np.random.default_rng(0)
    num = {key: max(int(value * scale), 100) for key, value in IJBC.items()}
    subject = rng.integers(max(num['gallery'], 1), size=num['templates'])
    template = np.concatenate([np.arange(num['templates']), rng.integers(num['templates'], size=num['pictures'] -
                                                                         num['templates'])])
    centres = rng.standard_normal((num['gallery'], SIZE), np.float32)
    features = near(centres, subject[template], np.float32(2.5), rng)
    first, second = rng.integers(num['templates'], size=(2, num['pairs']), dtype=np.int32)
    order = np.argsort(subject, kind='stable')
    first[:num['genuine']] = order[:-1][rng.integers(num['templates'] - 1, size=num['genuine'])]
    place = np.argsort(order)
    second[:num['genuine']] = order[np.minimum(place[first[:num['genuine']]] + 1, num['templates'] - 1)]
    return {'features': features, 'template': template, 'media': rng.integers(1 << 20, size=num['pictures']) // 3,
            'scores': rng.random(num['pictures']), 'first': first, 'second': second,
            'same': subject[first] == subject[second], 'subject': subject, 'num': num}


def megaface(scale):
    """Return probes, their people, distractors."""
    rng = np.random.default_rng(1)
    people = np.arange(int(MEGAFACE['probes'] * scale ** 0.5)) % MEGAFACE['people']
    centres = rng.standard_normal((MEGAFACE['people'], SIZE), np.float32)
    probes = near(centres, people, np.float32(2.5), rng)
    nobody = np.zeros(int(MEGAFACE['distractors'] * scale), np.int64)
    return probes, people, near(np.zeros((1, SIZE), np.float32), nobody, np.float32(1), rng)


def timed(seconds, name, work):
    """Return work(), and put how long it took into `seconds`."""
    start = time.time()
    result = work()
    seconds[name] = time.time() - start
    return result


def ours_ijb(data, memory_mb):
    """Pool, score all pairs, TAR at FAR; then 1:N."""
    seconds = {}
    ids, pooled = timed(seconds, 'pool', lambda: templates.pool(data['features'], data['template'], data['media'],
                                                                detector_scores=data['scores']))
    def pairs():
        scores = templates.pair_scores(ids, pooled, data['first'], data['second'], memory_mb=memory_mb)
        return templates.verification(scores[data['same']], scores[~data['same']])
    result = timed(seconds, 'pairs', pairs)
    _, gallery = np.unique(data['subject'], return_index=True)
    probes = np.setdiff1d(np.arange(len(ids)), gallery)[:data['num']['probes']]
    sides = [vectors(pooled[rows]) for rows in (probes, gallery)]
    many = timed(seconds, '1n', lambda: identification.one_to_many(
        *sides, data['subject'][probes], data['subject'][gallery], memory_mb=memory_mb))
    return seconds, {'tar@1e-4': result['tar_at_far'][1e-4][0], 'rank 1': many['rank'][1]}


def scripts_ijb(data):
    """insightface's loops in NumPy on a part of templates and pairs; seconds as for all."""
    seconds, num = {}, data['num']
    wanted = np.arange(int(num['templates'] * PART['pool']))
    held = data['features'] * data['scores'][:, None].astype(np.float32)
    pooled = np.zeros((num['templates'], SIZE))

    def pool():
        for t in wanted:
            rows = np.where(data['template'] == t)[0]
            media = data['media'][rows]
            pooled[t] = np.sum([held[rows][media == m].mean(0) for m in np.unique(media)], 0)
    timed(seconds, 'pool', pool)
    seconds['pool'] /= PART['pool']
    pooled[len(wanted):] = pooled[wanted[np.arange(num['templates'] - len(wanted)) % len(wanted)]]
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    count = int(num['pairs'] * PART['pairs'])

    def pairs():
        parts = [slice(i, min(i + 100_000, count)) for i in range(0, count, 100_000)]
        return np.concatenate([np.sum(unit[data['first'][part]] * unit[data['second'][part]], -1) for part in parts])
    timed(seconds, 'pairs', pairs)
    seconds['pairs'] /= PART['pairs']
    probes = unit[:int(num['probes'] * PART['1n'])]
    gallery = unit[-num['gallery']:]

    def many():
        similarity = probes @ gallery.T
        return np.argsort(-similarity), np.sort(similarity.ravel())[-len(probes):]
    timed(seconds, '1n', many)
    seconds['1n'] /= PART['1n']
    return seconds, {}


def ours_megaface(data, memory_mb):
    """All ranks, TAR at FAR 1e-6 .. 1e-3."""
    probes, people, distractors = data
    seconds = {}
    result = timed(seconds, 'megaface', lambda: identification.with_distractors(
        vectors(probes), people, vectors(distractors), memory_mb=memory_mb))
    return seconds, {'rank 1': result['rank'][1], 'tar@1e-6': result['tar_at_far'][1e-6][0]}


def scripts_megaface(data):
    """FaceX-Zoo's way: one product, an argpartition for each rank, pairs of a person in a loop; rank 1 only."""
    probes, people, distractors = data
    part = distractors[:int(len(distractors) * PART['megaface'])]
    seconds = {}
    unit, others = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (probes, part))

    def work():
        scores = unit @ others.T
        return np.take_along_axis(scores, np.argpartition(scores, -1, axis=1)[:, -1:], 1)[:, 0]
    best = timed(seconds, 'products', work)

    def loop():
        hits = 0
        for person in np.unique(people)[:4]:
            rows = np.flatnonzero(people == person)
            intra = unit[rows] @ unit[rows].T
            for i in range(len(rows)):
                for j in range(len(rows)):
                    hits += i != j and intra[i][j] >= best[rows[j]]
        return hits
    timed(seconds, 'loop', loop)
    return {'megaface': seconds['products'] / PART['megaface'] + seconds['loop'] * MEGAFACE['people'] / 4}, {}


def worker(kind, contender, scale, memory_mb):
    """Run one contender and print its numbers as JSON."""
    if contender == 'ours':                                  # numba compiles on a small set first
        small = ijb(0.002) if kind == 'ijb' else megaface(0.002)
        (ours_ijb if kind == 'ijb' else ours_megaface)(small, memory_mb)
    data = ijb(scale) if kind == 'ijb' else megaface(scale)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    run = {('ijb', 'ours'): lambda: ours_ijb(data, memory_mb), ('ijb', 'scripts'): lambda: scripts_ijb(data),
           ('megaface', 'ours'): lambda: ours_megaface(data, memory_mb),
           ('megaface', 'scripts'): lambda: scripts_megaface(data)}[kind, contender]
    seconds, numbers = run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({'seconds': seconds, 'numbers': numbers, 'peak_mb': peak, 'features_mb': before}))


def main():
    """Run every contender in its own process and print the table."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument('--scale', type=float, default=1.0)
    flags.add_argument('--only', choices=('ijb', 'megaface'))
    flags.add_argument('--memory_mb', type=int, default=1024)
    flags.add_argument('--worker', nargs=2, help=argparse.SUPPRESS)
    args = flags.parse_args()
    if args.worker:
        worker(*args.worker, args.scale, args.memory_mb)
        return
    for kind in (args.only,) if args.only else ('ijb', 'megaface'):
        found = {}
        for contender in ('ours', 'scripts'):
            done = subprocess.run([sys.executable, __file__, '--worker', kind, contender, '--scale', str(args.scale),
                                   '--memory_mb', str(args.memory_mb)], capture_output=True, text=True, check=True)
            found[contender] = json.loads(done.stdout.splitlines()[-1])
        print(f"{kind} at {args.scale:g} of full size, --memory_mb {args.memory_mb}; {found['ours']['numbers']}")
        for name, seconds in found['ours']['seconds'].items():
            other = found['scripts']['seconds'][name]
            print(f"  {name:<10}{seconds:>9.1f} s{other:>10.1f} s as the scripts{other / seconds:>8.1f} x", flush=True)
        for contender, one in found.items():
            print(f"  peak memory, {contender:<8}{one['peak_mb']:>8.0f} MB, of that {one['features_mb']:.0f} MB before "
                  'scoring', flush=True)


if __name__ == '__main__':
    main()
