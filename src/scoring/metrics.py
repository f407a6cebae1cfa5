"""The numbers of both protocols: arrays in, numbers out; no files, no MindSpore. Shares are 0..1.

LFW follows the ROC of VLFeat's `vl_roc`, BLUFR the toolkit of its authors (Liao et al., "A Benchmark Study of
Large-scale Unconstrained Face Recognition", IJCB 2014). Scores are cosines, higher means more alike. Thresholds are
exact order statistics of float64 scores; float32 products only narrow down which pairs can matter.
"""
import math
from collections.abc import Callable, Sequence
from typing import Any, Optional

import numpy as np
from numba import get_num_threads, njit, prange

LFW_FARS = (0.01, 0.001, 0.0)
SMALL_FARS = (1e-4, 1e-5, 1e-6)                # also measured on sets with enough impostor pairs
NUM_FOLDS = 10
VR_FARS = np.array([0.0] + [m * 10.0 ** e for e in range(-8, 0) for m in range(1, 10)] + [1.0])
DIR_FARS = np.array([0.0] + [m * 10.0 ** e for e in range(-4, 0) for m in range(1, 10)] + [1.0])
DIR_RANKS = np.array([*range(1, 11), *range(20, 101, 10)])
REPORT_VR_FAR, REPORT_DIR_FAR, REPORT_RANK = 0.001, 0.01, 1

_BINS = 1 << 16                                # from the smallest score to 1
_ERROR = 4e-6                                  # well above the error of float32 products
_BLOCK = 1024


def unit_rows(features: np.ndarray, names: Optional[Sequence] = None) -> np.ndarray:
    """Return `features` (N, D) as float64 rows of length 1; ValueError names a zero or non-finite row."""
    features = np.asarray(features, np.float64)
    length = np.sqrt((features * features).sum(1, keepdims=True))
    bad = np.flatnonzero(~np.isfinite(length[:, 0]) | (length[:, 0] == 0))
    if len(bad):
        problem = 'zero' if length[bad[0], 0] == 0 else 'not finite'
        name = f" ({names[bad[0]]})" if names is not None else ''
        raise ValueError(f"the feature in row {bad[0]}{name} is {problem}; {len(bad)} of {len(features)} rows are bad")
    return features / length


def roc(genuine: np.ndarray, impostor: np.ndarray) -> tuple:
    """Return (far, tpr, threshold), each (M,), from no pair accepted to all; equal scores share one point."""
    scores = np.concatenate([genuine, impostor])
    order = np.argsort(-scores, kind='stable')
    ranked = scores[order]
    is_genuine = order < len(genuine)
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)      # the last of each run of equal scores
    tp, fp = np.cumsum(is_genuine)[last], np.cumsum(~is_genuine)[last]
    return (np.append(0.0, fp / len(impostor)), np.append(0.0, tp / len(genuine)), np.append(np.inf, ranked[last]))


def equal_error_rate(far: np.ndarray, tpr: np.ndarray) -> float:
    """Return the equal error rate of an ROC the way `vl_roc` reads it off."""
    tnr = 1 - far
    s = np.flatnonzero(tnr > tpr)[-1]
    return 1 - tpr[s] if s + 1 < len(tpr) and tpr[s] == tpr[s + 1] else 1 - tnr[s]


def tpr_at_far(genuine: np.ndarray, impostor: np.ndarray, far: float) -> tuple:
    """Return (tpr, threshold): the largest tpr with at most floor(far * N) false accepts, scores >= threshold.

    (nan, nan) where N impostor pairs cannot resolve that FAR.
    """
    num_allowed = math.floor(far * len(impostor) + 1e-9)
    if far > 0 and num_allowed < 1:
        return math.nan, math.nan
    if num_allowed >= len(impostor):
        return 1.0, float(min(np.min(genuine), np.min(impostor)))
    # everything above the first impostor that must be refused is accepted, nothing equal to it
    refused = np.sort(impostor)[::-1][num_allowed]
    accepted = genuine[genuine > refused]
    above = np.concatenate([accepted, impostor[impostor > refused]])
    return len(accepted) / len(genuine), float(above.min()) if len(above) else float(np.nextafter(refused, np.inf))


def accuracy_10fold(genuine: np.ndarray, impostor: np.ndarray, folds: Optional[np.ndarray] = None) -> tuple:
    """Return (mean, standard error) of LFW's 10-fold accuracy.

    folds: (P,) of all pairs, genuine ones first, or None for the tenth of its kind, in file order, that each pair lies
    in. (nan, nan) for fewer than ten pairs of a kind.
    """
    if min(len(genuine), len(impostor)) < NUM_FOLDS:
        return math.nan, math.nan
    if folds is None:
        folds = np.concatenate([np.arange(len(kind)) * NUM_FOLDS // len(kind) for kind in (genuine, impostor)])
    return _fold_statistics([_fold_accuracy(genuine, impostor, folds == k) for k in np.unique(folds)])


def _fold_accuracy(genuine, impostor, held_out):
    """Return the accuracy on the pairs `held_out` (P,) at the threshold that is best on all others."""
    ours, theirs = held_out[:len(genuine)], held_out[len(genuine):]
    others = genuine[~ours], impostor[~theirs]
    if not len(others[0]) or not len(others[1]):
        return math.nan
    far, tpr, threshold = roc(*others)
    if len(others[0]) != len(others[1]):
        tpr, far = tpr * len(others[0]), far * len(others[1])              # pairs count, not kinds
    best = threshold[np.argmax(tpr - far)]
    return (np.sum(genuine[ours] >= best) + np.sum(impostor[theirs] < best)) / held_out.sum()


def _fold_statistics(accuracies):
    return float(np.mean(accuracies)), float(np.std(accuracies, ddof=1) / np.sqrt(len(accuracies)))


def pair_scores(features: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the cosine similarity (P,) of `pairs` (P, 2) of rows of unit-length `features` (N, D)."""
    return _dots(np.ascontiguousarray(features), np.ascontiguousarray(pairs))


def lfw(features: np.ndarray, genuine_pairs: np.ndarray, impostor_pairs: np.ndarray,
        names: Optional[Sequence] = None) -> dict:
    """Score LFW's pairs. features: (N, D), pairs: (P, 2) rows. Returns `pair_statistics` of their cosines."""
    unit = unit_rows(features, names)
    return pair_statistics(pair_scores(unit, genuine_pairs), pair_scores(unit, impostor_pairs))


def pair_statistics(genuine: np.ndarray, impostor: np.ndarray, *, folds: Optional[np.ndarray] = None) -> dict:
    """Return a dict of shares, and the scores themselves, of genuine (P,) and impostor (N,) pairs.

    'eer100', 'auc', 'tpr_at_far' {FAR: (TPR, threshold)}: LFW_FARS, and between them those of SMALL_FARS that the
    impostor pairs resolve; 'accuracy_10fold' (mean, standard error), folds as there. nan where a kind is missing.
    """
    fars = [*LFW_FARS[:-1], *(far for far in SMALL_FARS if far * len(impostor) >= 1 - 1e-9), LFW_FARS[-1]]
    if not len(genuine) or not len(impostor):
        return {'eer100': math.nan, 'auc': math.nan, 'tpr_at_far': dict.fromkeys(fars, (math.nan, math.nan)),
                'accuracy_10fold': (math.nan, math.nan), 'genuine': genuine, 'impostor': impostor}
    far, tpr, _ = roc(genuine, impostor)
    return {'eer100': 1 - equal_error_rate(far, tpr), 'auc': float(np.trapezoid(tpr, far)) if hasattr(np, 'trapezoid')
            else float(np.trapz(tpr, far)), 'tpr_at_far': {x: tpr_at_far(genuine, impostor, x) for x in fars},
            'accuracy_10fold': accuracy_10fold(genuine, impostor, folds), 'genuine': genuine, 'impostor': impostor}


def blufr(features: np.ndarray, protocol: Any, names: Optional[Sequence] = None, progress: Callable = iter) -> dict:
    """Score the BLUFR protocol. features: (N, D) in its order; protocol: labels (N,), trials of 0-based rows.

    Returns a dict: 'vr' (trials, len(VR_FARS)), 'dir' (trials, len(DIR_RANKS), len(DIR_FARS)), both as shares of
    genuine pairs or probes, 'vr_thresholds', 'dir_thresholds' of the same FAR grids, and 'num_impostors', the impostor
    pairs of each trial. `progress` wraps the trials.
    """
    unit = unit_rows(features, names)
    labels = np.ascontiguousarray(protocol.labels)
    binned = _binned_triangle(unit.astype(np.float32))
    pairs = _genuine_pairs(labels)
    pair_score = pair_scores(unit, pairs)
    trials = [_trial(unit, binned, labels, pairs, pair_score, trial) for trial in progress(protocol.trials)]
    return {key: np.array([trial[key] for trial in trials]) for key in trials[0]}


def _trial(unit, binned, labels, pairs, pair_score, trial):
    in_test = np.zeros(len(labels), bool)
    in_test[trial['test']] = True
    inside = in_test[pairs[:, 0]] & in_test[pairs[:, 1]]
    genuine = np.sort(pair_score[inside])
    thresholds, num_impostors = _verification_thresholds(unit, binned, labels, np.sort(trial['test']), pairs[inside],
                                                         genuine)
    vr = 1 - np.searchsorted(genuine, thresholds) / len(genuine)
    shares, dir_thresholds = _identification(unit, labels, trial['gallery'], trial['probe'])
    return {'vr': vr, 'vr_thresholds': thresholds, 'dir': shares, 'dir_thresholds': dir_thresholds,
            'num_impostors': num_impostors}


def _binned_triangle(unit):
    """Return (bins (N, N) uint16, margin): float32 products as bins between the smallest and 1, lower triangle only.

    margin: how many bins a float32 product may be off.
    """
    scores = np.empty((len(unit), len(unit)), np.float32)                    # the upper half takes no memory
    for start in range(0, len(unit), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(unit)))
        np.matmul(unit[rows], unit[:rows.stop].T, out=scores[rows, :rows.stop])
    lowest = min(scores[i, :i].min() for i in range(1, len(scores)))
    scale = np.float32(_BINS / max(1 - lowest, 1e-3))
    bins = np.empty(scores.shape, np.uint16)
    _bin(scores, lowest, scale, bins)
    return bins, 1 + int(_ERROR * scale)


def _genuine_pairs(labels):
    """Return all pairs (P, 2) of rows with the same label."""
    order = np.argsort(labels, kind='stable')
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    index = [np.tril_indices(len(group), -1) for group in groups]
    return np.concatenate([np.stack([group[i], group[j]], 1) for group, (i, j) in zip(groups, index)])


def accepted_count(far: Any, num_impostors: int) -> np.ndarray:
    """Return round-half-away-from-zero(far * num_impostors), the rank of the threshold among impostor scores."""
    return np.floor(np.asarray(far) * num_impostors + 0.5).astype(np.int64)


def _verification_thresholds(unit, binned, labels, rows, genuine_pairs, genuine):
    """Return the threshold of each of VR_FARS over all impostor pairs among `rows`, exact, and how many pairs."""
    bins, margin = binned
    by_thread = _histogram(bins, rows, get_num_threads())                    # of all pairs
    counts = by_thread.sum(0) - np.bincount(bins[genuine_pairs[:, 0], genuine_pairs[:, 1]], minlength=_BINS)
    num_impostors = int(counts.sum())
    above = np.append(np.cumsum(counts[::-1])[::-1], 0)                      # (BINS + 1,) pairs in bin b or higher
    ks = accepted_count(VR_FARS, num_impostors)
    wanted = np.clip(ks, 1, num_impostors)
    near = np.zeros(_BINS, bool)
    for b in rank_bins(above, wanted):                                       # the bin of the k-th largest
        near[max(b - margin, 0):b + margin + 1] = True
    pairs = _collect(bins, rows, near, np.cumsum(by_thread[:, near].sum(1)))
    pairs = pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]]
    found = bins[pairs[:, 0], pairs[:, 1]]
    thresholds = kth_largest(found, pair_scores(unit, pairs), above, wanted, margin)
    return _special_thresholds(thresholds, ks, VR_FARS, genuine), num_impostors


def kth_largest(bins: np.ndarray, exact: np.ndarray, above: np.ndarray, ranks: np.ndarray, margin: int) -> np.ndarray:
    """Return the ranks-th largest (1 = the largest) of many scores, of which only those near their bins are at hand.

    bins: (M,) of inexact scores, at most `margin` bins off; exact: (M,) float64; all scores within `margin` bins of the
    bin of a wanted rank are among them. above: (BINS + 1,) how many of all scores lie in bin b or higher.
    """
    order = np.argsort(bins, kind='stable')
    found, exact = bins[order].astype(np.int64), exact[order]
    thresholds = np.empty(len(ranks))
    for i, (k, b) in enumerate(zip(ranks, rank_bins(above, ranks))):
        candidates = exact[np.searchsorted(found, b - margin):np.searchsorted(found, b + margin + 1)]
        place = len(candidates) - (k - above[min(b + margin + 1, len(above) - 1)])
        thresholds[i] = np.partition(candidates, place)[place]
    return thresholds


def rank_bins(above: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return the bin of the ranks-th largest score. above: (BINS + 1,) how many scores lie in bin b or higher."""
    return len(above) - 1 - np.searchsorted(above[::-1], ranks)


def _special_thresholds(thresholds, ks, fars, genuine):
    """Put in the protocol's own thresholds for no false accept and for FAR = 1; `genuine` is sorted."""
    if len(thresholds):
        first = np.flatnonzero(ks == 0)
        if len(first):
            largest = thresholds[first[0]]                                   # of k = 1: the largest impostor
            higher = np.searchsorted(genuine, largest, side='right')
            thresholds[first] = (largest + genuine[higher]) / 2 if higher < len(genuine) else \
                largest + math.sqrt(np.finfo(np.float64).eps)
        thresholds[fars == 1] = -np.inf
    return thresholds


def _identification(unit, labels, gallery, probe):
    """Return (DIR shares (len(DIR_RANKS), len(DIR_FARS)), thresholds (len(DIR_FARS),)) of one trial."""
    probes, galleries = unit[probe], unit[gallery]
    scores = probes.astype(np.float32) @ galleries.astype(np.float32).T      # (P, G)
    score, rank = _best_matches(scores, probes, galleries, labels[probe], labels[gallery])
    has_mate = rank > 0
    detection, rank = score[has_mate], rank[has_mate]
    impostor = np.sort(score[~has_mate])[::-1]
    ks = accepted_count(DIR_FARS, len(impostor))
    thresholds = impostor[np.clip(ks, 1, len(impostor)) - 1].copy()
    thresholds = _special_thresholds(thresholds, ks, DIR_FARS, np.sort(detection))
    detected = detection[:, None] >= thresholds                              # (genuine probes, FARs)
    return np.stack([(detected & (rank <= r)[:, None]).mean(0) for r in DIR_RANKS]), thresholds


def mean_and_lower(shares: Sequence) -> tuple:
    """Return (mean, mean - std) over trials, std with ddof = 1; a single trial has no spread: nan."""
    mean = float(np.mean(shares))
    return mean, mean - float(np.std(shares, ddof=1)) if len(shares) > 1 else math.nan


def blufr_reported(result: dict) -> tuple:
    """Return per-trial shares at the reported points: (VR at FAR 0.1 %, DIR at rank 1 and FAR 1 %)."""
    vr = result['vr'][:, np.argmin(np.abs(VR_FARS - REPORT_VR_FAR))]
    return vr, result['dir'][:, list(DIR_RANKS).index(REPORT_RANK), np.argmin(np.abs(DIR_FARS - REPORT_DIR_FAR))]


@njit(cache=True, fastmath={'reassoc', 'contract'}, inline='always')
def _dot(a, b):
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@njit(cache=True, parallel=True, fastmath={'reassoc', 'contract'})
def _dots(features, pairs):
    """Return the products (P,) of the rows that `pairs` (P, 2) name."""
    scores = np.empty(len(pairs))
    for i in prange(len(pairs)):
        scores[i] = _dot(features[pairs[i, 0]], features[pairs[i, 1]])
    return scores


@njit(cache=True, parallel=True)
def _bin(scores, lowest, scale, bins):
    """Fill the lower triangle of `bins` (N, N) from that of `scores`."""
    for i in prange(len(scores)):
        for j in range(i):
            bins[i, j] = min(int((scores[i, j] - lowest) * scale), _BINS - 1)


@njit(cache=True, parallel=True)
def _histogram(bins, rows, num_threads):
    """Count the pairs among `rows` (ascending) by bin: (num_threads, BINS); thread t has every num_threads-th row."""
    counts = np.zeros((num_threads, _BINS), np.int64)
    for thread in prange(num_threads):
        for i in range(thread, len(rows), num_threads):
            row = bins[rows[i]]
            for j in range(i):
                counts[thread, row[rows[j]]] += 1
    return counts


@njit(cache=True, parallel=True)
def _collect(bins, rows, near, ends):
    """Return the pairs (M, 2) among `rows` that lie in a bin marked in `near`; thread t fills up to ends[t]."""
    pairs = np.empty((ends[-1], 2), np.int64)
    for thread in prange(len(ends)):
        n = ends[thread - 1] if thread else 0
        for i in range(thread, len(rows), len(ends)):
            row = bins[rows[i]]
            for j in range(i):
                if near[row[rows[j]]]:
                    pairs[n, 0], pairs[n, 1] = rows[i], rows[j]
                    n += 1
    return pairs


@njit(cache=True, parallel=True, fastmath={'reassoc', 'contract'})
def _best_matches(scores, probes, galleries, probe_labels, gallery_labels):
    """Return (score, rank) of each probe: its best mate's score and 1-based place, or its highest score and 0.

    scores: float32 products (P, G); where those are too close to call, float64 products of the rows decide.
    """
    best, rank = np.empty(len(probes)), np.zeros(len(probes), np.int64)
    for p in prange(len(probes)):
        mate, highest = -np.inf, np.float32(-2)
        for g in range(len(galleries)):
            highest = max(highest, scores[p, g])
            if gallery_labels[g] == probe_labels[p]:
                mate = max(mate, _dot(probes[p], galleries[g]))
        if mate > -np.inf:
            larger = 0
            for g in range(len(galleries)):
                if scores[p, g] > mate + _ERROR or (scores[p, g] >= mate - _ERROR and gallery_labels[g] !=
                                                    probe_labels[p] and _dot(probes[p], galleries[g]) > mate):
                    larger += 1
            best[p], rank[p] = mate, 1 + larger
        else:
            exact = -np.inf
            for g in range(len(galleries)):
                if scores[p, g] >= highest - 2 * _ERROR:
                    exact = max(exact, _dot(probes[p], galleries[g]))
            best[p] = exact
    return best, rank
