"""The numbers of both protocols: arrays in, numbers out; no files, no MindSpore. Shares are 0..1 in here.

LFW follows the ROC of VLFeat's `vl_roc`, BLUFR the toolkit of its authors (Liao et al., "A Benchmark Study of
Large-scale Unconstrained Face Recognition", IJCB 2014). Scores are cosines, higher means more alike. Thresholds are
exact order statistics of float64 scores; float32 products only narrow down which pairs can matter.
"""
import math

import numpy as np
from numba import get_num_threads, njit, prange

LFW_FARS = (0.01, 0.001, 0.0)
NUM_FOLDS = 10
VR_FARS = np.array([0.0] + [m * 10.0 ** e for e in range(-8, 0) for m in range(1, 10)] + [1.0])
DIR_FARS = np.array([0.0] + [m * 10.0 ** e for e in range(-4, 0) for m in range(1, 10)] + [1.0])
DIR_RANKS = np.array([*range(1, 11), *range(20, 101, 10)])
REPORT_VR_FAR, REPORT_DIR_FAR, REPORT_RANK = 0.001, 0.01, 1

_BINS = 1 << 16                                # from the smallest score to 1
_ERROR = 4e-6                                  # well above what float32 products are off by
_BLOCK = 1024


def unit_rows(features, names=None):
    """Return `features` (N, D) as float64 rows of length 1; ValueError names a zero or non-finite row."""
    features = np.asarray(features, np.float64)
    length = np.sqrt((features * features).sum(1, keepdims=True))
    bad = np.flatnonzero(~np.isfinite(length[:, 0]) | (length[:, 0] == 0))
    if len(bad):
        what = 'zero' if length[bad[0], 0] == 0 else 'not finite'
        name = f" ({names[bad[0]]})" if names is not None else ''
        raise ValueError(f"the feature in row {bad[0]}{name} is {what}; {len(bad)} of {len(features)} rows are bad")
    return features / length


def roc(genuine, impostor):
    """Return (far, tpr, threshold), each (M,), from no pair accepted to all; equal scores share one point."""
    scores = np.concatenate([genuine, impostor])
    order = np.argsort(-scores, kind='stable')
    ranked = scores[order]
    is_genuine = order < len(genuine)
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)      # the last of each run of equal scores
    tp, fp = np.cumsum(is_genuine)[last], np.cumsum(~is_genuine)[last]
    return (np.append(0.0, fp / len(impostor)), np.append(0.0, tp / len(genuine)), np.append(np.inf, ranked[last]))


def equal_error_rate(far, tpr):
    """Return the equal error rate of an ROC the way `vl_roc` reads it off."""
    tnr = 1 - far
    s = np.flatnonzero(tnr > tpr)[-1]
    return 1 - tpr[s] if s + 1 < len(tpr) and tpr[s] == tpr[s + 1] else 1 - tnr[s]


def tpr_at_far(genuine, impostor, far):
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


def accuracy_10fold(genuine, impostor):
    """Return (mean, standard error) of LFW's 10-fold accuracy; pairs in file order, folds of equal size."""
    folds = np.arange(NUM_FOLDS).repeat(len(genuine) // NUM_FOLDS)
    if len(genuine) != len(impostor) or len(folds) != len(genuine):
        return math.nan, math.nan
    return _fold_statistics([_fold_accuracy(genuine, impostor, folds, k) for k in range(NUM_FOLDS)])


def _fold_accuracy(genuine, impostor, folds, fold):
    far, tpr, threshold = roc(genuine[folds != fold], impostor[folds != fold])
    best = threshold[np.argmax(tpr - far)]                     # as many genuine as impostor pairs: the best accuracy
    held_out = folds == fold
    return (np.mean(genuine[held_out] >= best) + np.mean(impostor[held_out] < best)) / 2


def _fold_statistics(accuracies):
    return float(np.mean(accuracies)), float(np.std(accuracies, ddof=1) / np.sqrt(len(accuracies)))


def pair_scores(features, pairs):
    """Return the cosine similarity (P,) of `pairs` (P, 2) of rows of unit-length `features` (N, D)."""
    scores = np.empty(len(pairs))
    for start in range(0, len(pairs), 1 << 14):                              # the gathered rows stay in the cache
        some = pairs[start:start + (1 << 14)]
        np.einsum('pd,pd->p', features[some[:, 0]], features[some[:, 1]], out=scores[start:start + len(some)])
    return scores


def lfw(features, genuine_pairs, impostor_pairs, names=None):
    """Score LFW's pairs. features: (N, D), pairs: (P, 2) rows. Returns a dict of shares and the scores themselves."""
    unit = unit_rows(features, names)
    genuine, impostor = pair_scores(unit, genuine_pairs), pair_scores(unit, impostor_pairs)
    far, tpr, _ = roc(genuine, impostor)
    return {'eer100': 1 - equal_error_rate(far, tpr), 'auc': float(np.trapezoid(tpr, far)) if hasattr(np, 'trapezoid')
            else float(np.trapz(tpr, far)), 'tpr_at_far': {x: tpr_at_far(genuine, impostor, x) for x in LFW_FARS},
            'accuracy_10fold': accuracy_10fold(genuine, impostor), 'genuine': genuine, 'impostor': impostor}


def blufr(features, protocol, names=None, progress=iter):
    """Score the BLUFR protocol. features: (N, D) in its order; protocol: labels (N,), trials of 0-based rows.

    Returns a dict: 'vr' (trials, len(VR_FARS)), 'dir' (trials, len(DIR_RANKS), len(DIR_FARS)), both as shares of
    genuine pairs or probes, 'vr_thresholds', 'dir_thresholds' of the same FAR grids, and 'num_impostors', the impostor
    pairs of each trial. `progress` wraps the trials.
    """
    unit = unit_rows(features, names)
    labels = np.ascontiguousarray(protocol.labels)
    scores = _lower_triangle(unit.astype(np.float32))
    lowest = np.float32(min(scores[i, :i].min() for i in range(1, len(scores))))
    pairs = _genuine_pairs(labels)
    pair_score = pair_scores(unit, pairs)
    trials = [_trial(unit, scores, lowest, labels, pairs, pair_score, trial) for trial in progress(protocol.trials)]
    return {key: np.array([trial[key] for trial in trials]) for key in trials[0]}


def _trial(unit, scores, lowest, labels, pairs, pair_score, trial):
    in_test = np.zeros(len(labels), bool)
    in_test[trial['test']] = True
    genuine = np.sort(pair_score[in_test[pairs[:, 0]] & in_test[pairs[:, 1]]])
    thresholds, num_impostors = _verification_thresholds(unit, scores, lowest, labels, np.sort(trial['test']), genuine)
    vr = 1 - np.searchsorted(genuine, thresholds) / len(genuine)
    shares, dir_thresholds = _identification(unit, labels, trial['gallery'], trial['probe'])
    return {'vr': vr, 'vr_thresholds': thresholds, 'dir': shares, 'dir_thresholds': dir_thresholds,
            'num_impostors': num_impostors}


def _lower_triangle(unit):
    """Return (N, N) float32 products of which only the lower triangle is filled (and takes memory), in -1..1."""
    scores = np.empty((len(unit), len(unit)), np.float32)
    for start in range(0, len(unit), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(unit)))
        np.matmul(unit[rows], unit[:rows.stop].T, out=scores[rows, :rows.stop])
    return scores


def _genuine_pairs(labels):
    """Return all pairs (P, 2) of rows with the same label."""
    order = np.argsort(labels, kind='stable')
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    index = [np.tril_indices(len(group), -1) for group in groups]
    return np.concatenate([np.stack([group[i], group[j]], 1) for group, (i, j) in zip(groups, index)])


def accepted_count(far, num_impostors):
    """Return round-half-away-from-zero(far * num_impostors), the rank of the threshold among impostor scores."""
    return np.floor(np.asarray(far) * num_impostors + 0.5).astype(np.int64)


def _verification_thresholds(unit, scores, lowest, labels, rows, genuine):
    """Return the threshold of each of VR_FARS over all impostor pairs among `rows`, exact, and how many pairs."""
    scale = np.float32(_BINS / max(1 - lowest, 1e-3))
    margin = 1 + int(_ERROR * scale)                                         # bins that a float32 error may cross
    counts = _histogram(scores, labels, rows, lowest, scale, get_num_threads()).sum(0)
    num_impostors = int(counts.sum())
    above = np.append(np.cumsum(counts[::-1])[::-1], 0)                      # (BINS + 1,) pairs in bin b or higher
    ks = accepted_count(VR_FARS, num_impostors)
    wanted = np.clip(ks, 1, num_impostors)
    centre = _BINS - np.searchsorted(above[::-1], wanted)                    # the bin of the k-th largest
    near = np.zeros(_BINS, bool)
    for b in centre:
        near[max(b - margin, 0):b + margin + 1] = True
    pairs = _collect(scores, labels, rows, near, lowest, scale, counts[near].sum())
    bins = _bin(scores[pairs[:, 0], pairs[:, 1]], lowest, scale)
    order = np.argsort(bins, kind='stable')
    bins, exact = bins[order], pair_scores(unit, pairs[order])
    thresholds = np.empty(len(ks))
    for i, (k, b) in enumerate(zip(wanted, centre)):
        candidates = exact[np.searchsorted(bins, b - margin):np.searchsorted(bins, b + margin + 1)]
        place = len(candidates) - (k - above[min(b + margin + 1, _BINS)])
        thresholds[i] = np.partition(candidates, place)[place]
    return _special_thresholds(thresholds, ks, VR_FARS, genuine), num_impostors


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
    scores = unit[probe] @ unit[gallery].T                                   # (P, G)
    mate = labels[probe][:, None] == labels[gallery][None]
    has_mate = mate.any(1)
    impostor = np.sort(scores[~has_mate].max(1))[::-1]
    genuine_scores = scores[has_mate]
    detection = np.where(mate[has_mate], genuine_scores, -np.inf).max(1)
    rank = 1 + (genuine_scores > detection[:, None]).sum(1)
    ks = accepted_count(DIR_FARS, len(impostor))
    thresholds = impostor[np.clip(ks, 1, len(impostor)) - 1].copy()
    thresholds = _special_thresholds(thresholds, ks, DIR_FARS, np.sort(detection))
    detected = detection[:, None] >= thresholds                              # (genuine probes, FARs)
    return np.stack([(detected & (rank <= r)[:, None]).mean(0) for r in DIR_RANKS]), thresholds


def mean_and_lower(shares):
    """Return (mean, mean - std) over trials, std with ddof = 1; a single trial has no spread: nan."""
    mean = float(np.mean(shares))
    return mean, mean - float(np.std(shares, ddof=1)) if len(shares) > 1 else math.nan


def blufr_reported(result):
    """Return per-trial shares at the reported points: (VR at FAR 0.1 %, DIR at rank 1 and FAR 1 %)."""
    vr = result['vr'][:, np.argmin(np.abs(VR_FARS - REPORT_VR_FAR))]
    return vr, result['dir'][:, list(DIR_RANKS).index(REPORT_RANK), np.argmin(np.abs(DIR_FARS - REPORT_DIR_FAR))]


@njit(cache=True, inline='always')
def _bin_of(score, lowest, scale):
    return min(int((score - lowest) * scale), _BINS - 1)


@njit(cache=True)
def _bin(scores, lowest, scale):
    bins = np.empty(len(scores), np.int64)
    for i in range(len(scores)):
        bins[i] = _bin_of(scores[i], lowest, scale)
    return bins


@njit(cache=True, parallel=True)
def _histogram(scores, labels, rows, lowest, scale, num_threads):
    """Count the impostor pairs among `rows` (ascending) by score bin: (num_threads, BINS)."""
    counts = np.zeros((num_threads, _BINS), np.int64)
    for thread in prange(num_threads):
        for i in range(thread, len(rows), num_threads):
            row, label = scores[rows[i]], labels[rows[i]]
            for j in range(i):
                if labels[rows[j]] != label:
                    counts[thread, _bin_of(row[rows[j]], lowest, scale)] += 1
    return counts


@njit(cache=True)
def _collect(scores, labels, rows, near, lowest, scale, num_pairs):
    """Return the impostor pairs (num_pairs, 2) among `rows` whose score lies in a bin marked in `near`."""
    pairs = np.empty((num_pairs, 2), np.int64)
    n = 0
    for i in range(len(rows)):
        row, label = scores[rows[i]], labels[rows[i]]
        for j in range(i):
            if near[_bin_of(row[rows[j]], lowest, scale)] and labels[rows[j]] != label:
                pairs[n, 0], pairs[n, 1] = rows[i], rows[j]
                n += 1
    return pairs
