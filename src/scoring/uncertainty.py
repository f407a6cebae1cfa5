"""Uncertainty of results: 95 % intervals, and whether two models differ by more than chance. Shares are 0..1.

LFW's pairs are not independent: a face, and even more a person, stands in many of them. Its intervals come from a
bootstrap over people: a resample draws people with replacement, a genuine pair counts as often as its person was drawn,
an impostor pair as often as its two people together (the pigeonhole bootstrap, Owen 2007, doi:10.1214/07-AOAS122).
BLUFR's come from Student's t over its trials; those share people, so they are rather too narrow than too wide.
"""
from collections.abc import Sequence

import numpy as np
from numba import njit, prange
from scipy.special import stdtr, stdtrit

from src.scoring.metrics import LFW_FARS, NUM_FOLDS

LEVEL = 0.95
NUM_RESAMPLES = 1000
MAX_DRAWS = 50_000_000                   # people x resamples: more people, fewer resamples, 100 at least


def pair_statistics(fars: Sequence = LFW_FARS) -> tuple:
    """Return the names of the statistics of pairs, in the order of `lfw_statistics`' columns."""
    return ('eer100', 'auc', 'accuracy_10fold', *(f'tpr@{far:g}' for far in fars))


LFW_STATISTICS = pair_statistics()


def person_draws(people: np.ndarray, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> tuple:
    """Return how often each person of `people` (P, 2) was drawn: counts (num_resamples, K), and pairs as 0..K-1."""
    persons, pairs = np.unique(people, return_inverse=True)
    num_resamples = min(num_resamples, max(100, MAX_DRAWS // max(len(persons), 1)))
    pairs = pairs.reshape(-1, 2)
    drawn = np.random.default_rng(seed).integers(len(persons), size=(num_resamples, len(persons)))
    drawn += len(persons) * np.arange(num_resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape), pairs


def lfw_statistics(genuine: np.ndarray, impostor: np.ndarray, people: np.ndarray, counts: np.ndarray,
                   fars: Sequence = LFW_FARS) -> np.ndarray:
    """Return pair_statistics(fars) (B, 3 + F) of every resample of people.

    genuine, impostor: scores (P,), (N,) in file order; people: (P + N, 2) as 0..K-1, genuine pairs first; counts:
    (B, K). Where a resample cannot measure a statistic it is nan.
    """
    scores = np.concatenate([genuine, impostor])
    order = np.argsort(-scores, kind='stable')
    ranked = scores[order]
    last = np.append(np.diff(ranked) != 0, True)                 # equal scores share one point of the ROC
    place = np.concatenate([np.arange(len(genuine)), np.arange(len(impostor))])
    folds = place * NUM_FOLDS // max(len(genuine), 1)
    if len(genuine) != len(impostor) or len(genuine) % NUM_FOLDS:
        folds = np.full(len(scores), -1)
    return _statistics(order < len(genuine), last, folds[order], people[order], counts, np.array(fars))


def lfw_intervals(genuine: np.ndarray, impostor: np.ndarray, people: np.ndarray,
                  num_resamples: int = NUM_RESAMPLES, *, fars: Sequence = LFW_FARS) -> dict:
    """Return {statistic: (low, high)} of LFW. people: labels (P + N, 2) of all pairs, genuine ones first."""
    counts, pairs = person_draws(people, num_resamples)
    return dict(zip(pair_statistics(fars), _percentiles(lfw_statistics(genuine, impostor, pairs, counts, fars))))


def lfw_comparison(scores: tuple, other_scores: tuple, people: np.ndarray, num_resamples: int = NUM_RESAMPLES, *,
                   fars: Sequence = LFW_FARS) -> dict:
    """Compare two models on the same pairs and the same resamples of people (a paired test).

    scores, other_scores: (genuine, impostor). Returns {statistic: (this, other, difference, (low, high), p)}; p is the
    two-sided share of resamples on the other side of no difference, at least 1 / (num_resamples + 1).
    """
    counts, pairs = person_draws(people, num_resamples)
    whole = np.ones((1, counts.shape[1]), np.int64)
    this, other = ([lfw_statistics(*s, pairs, c, fars) for c in (whole, counts)] for s in (scores, other_scores))
    differences = this[1] - other[1]
    intervals = _percentiles(differences)
    rows = {}
    for i, name in enumerate(pair_statistics(fars)):
        measured = differences[np.isfinite(differences[:, i]), i]
        below, above = (measured <= 0).sum(), (measured >= 0).sum()
        p = min(1.0, 2 * (1 + min(below, above)) / (1 + len(measured))) if len(measured) else np.nan
        rows[name] = (this[0][0, i], other[0][0, i], this[0][0, i] - other[0][0, i], intervals[i], p)
    return rows


def person_shares(people: np.ndarray, hits: Sequence, num_resamples: int = NUM_RESAMPLES) -> list:
    """Return (low, high) of the share of each of `hits` (N,) bool by a bootstrap over people (N,)."""
    persons, compact = np.unique(people, return_inverse=True)
    drawn = np.random.default_rng(0).integers(len(persons), size=(num_resamples, len(persons)))
    totals = np.bincount(compact, minlength=len(persons))[drawn].sum(1)
    shares = [np.bincount(compact, weights=hit, minlength=len(persons))[drawn].sum(1) / totals for hit in hits]
    return _percentiles(np.stack(shares, 1))


def _percentiles(statistics):
    """(B, S) -> S pairs (low, high); nan where nothing was measured."""
    tail = (1 - LEVEL) / 2
    return [tuple(np.quantile(column[np.isfinite(column)], (tail, 1 - tail))) if np.isfinite(column).any()
            else (np.nan, np.nan) for column in statistics.T]


def trial_interval(shares: Sequence) -> tuple:
    """Return (low, high) of the mean over trials by Student's t; a single trial has none: nan."""
    if len(shares) < 2:
        return np.nan, np.nan
    half = stdtrit(len(shares) - 1, (1 + LEVEL) / 2) * np.std(shares, ddof=1) / np.sqrt(len(shares))
    return np.mean(shares) - half, np.mean(shares) + half


def trial_comparison(shares: Sequence, other_shares: Sequence) -> tuple:
    """Compare two models trial by trial (paired t-test): (this, other, difference, (low, high), p)."""
    difference = np.subtract(shares, other_shares)
    spread = np.std(difference, ddof=1) if len(difference) > 1 else np.nan
    if spread == 0:
        p = 1.0 if difference[0] == 0 else 0.0
    else:                                                        # two-sided Student's t; nan for a single trial
        t = abs(np.mean(difference)) / spread * np.sqrt(len(difference))
        p = float(2 * stdtr(len(difference) - 1, -t))
    return np.mean(shares), np.mean(other_shares), np.mean(difference), trial_interval(difference), p


@njit(cache=True)
def _weights(is_genuine, folds, people, drawn):
    """Return (weights of the pairs (P,), weight of the impostor and the genuine pairs of each fold (2, NUM_FOLDS))."""
    weights = np.empty(len(is_genuine), np.int64)
    totals = np.zeros((2, NUM_FOLDS), np.int64)
    for i in range(len(is_genuine)):
        p, q = people[i, 0], people[i, 1]
        weights[i] = drawn[p] if p == q else drawn[p] * drawn[q]
        totals[int(is_genuine[i]), max(folds[i], 0)] += weights[i]
    return weights, totals


@njit(cache=True, parallel=True)
def _statistics(is_genuine, last, folds, people, counts, fars):
    """LFW_STATISTICS (B, 3 + len(fars)) of pairs ranked by falling score, weighted by how often people were drawn.

    folds: (P,), -1 if there are none. The formulas are those of `metrics`, with weights for ones.
    """
    num_resamples, num_pairs = len(counts), len(is_genuine)
    out = np.full((num_resamples, 3 + len(fars)), np.nan)
    for b in prange(num_resamples):
        weights, totals = _weights(is_genuine, folds, people, counts[b])
        num_impostor, num_genuine = totals[0].sum(), totals[1].sum()
        if num_impostor == 0 or num_genuine == 0:
            continue
        seen = np.zeros((2, NUM_FOLDS), np.int64)
        best = np.zeros(NUM_FOLDS)
        at_best = np.zeros((2, NUM_FOLDS), np.int64)
        tp, fp, before_tp, before_fp = 0, 0, 0, 0
        crossed, area = False, 0.0
        for f in range(len(fars)):
            if fars[f] == 0 or np.floor(fars[f] * num_impostor + 1e-9) >= 1:
                out[b, 3 + f] = 0.0
        for i in range(num_pairs):
            if is_genuine[i]:
                tp += weights[i]
            else:
                fp += weights[i]
            seen[int(is_genuine[i]), max(folds[i], 0)] += weights[i]
            if not last[i] or (tp == before_tp and fp == before_fp):
                continue
            area += (fp - before_fp) * (tp + before_tp) / 2
            if not crossed and 1 - fp / num_impostor <= tp / num_genuine:
                crossed = True                                           # the point before is the last with tnr > tpr
                out[b, 0] = before_tp / num_genuine if tp == before_tp else 1 - before_fp / num_impostor
            for f in range(len(fars)):
                if fp <= np.floor(fars[f] * num_impostor + 1e-9) and not np.isnan(out[b, 3 + f]):
                    out[b, 3 + f] = tp / num_genuine
            if folds[0] >= 0:
                for f in range(NUM_FOLDS):
                    others = (tp - seen[1, f]) / (num_genuine - totals[1, f]) \
                        - (fp - seen[0, f]) / (num_impostor - totals[0, f])
                    if others > best[f]:
                        best[f] = others
                        at_best[0, f], at_best[1, f] = seen[0, f], seen[1, f]
            before_tp, before_fp = tp, fp
        out[b, 1] = area / num_impostor / num_genuine
        if folds[0] >= 0 and totals.min() > 0:
            out[b, 2] = np.mean((at_best[1] / totals[1] + 1 - at_best[0] / totals[0]) / 2)
    return out
