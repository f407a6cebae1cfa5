"""What a threshold promises: 95 % intervals of thresholds, and of the error rates at a threshold, over people.

    rows = threshold_intervals(genuine, impostor, people, {0.001: 0.31})
    rows[0.001]['threshold'], rows[0.001]['far'], rows[0.001]['tpr']             # (low, high) each

The resamples of people are those of `uncertainty`. 'threshold' is chosen anew in every resample, as by somebody with
other people; 'far' and 'tpr' are those of the given threshold among other people, as it would do in use.
"""
from collections.abc import Mapping

import numpy as np
from numba import njit, prange

from src.scoring.uncertainty import LEVEL, person_draws

BUDGET = 2_000_000_000           # pairs x resamples: more pairs, fewer resamples, 100 at least


def num_resamples(num_pairs: int) -> int:
    """Return how many resamples so many pairs get: 1,000 up to two million pairs, fewer then."""
    return max(100, min(1000, BUDGET // max(num_pairs, 1)))


def threshold_intervals(genuine: np.ndarray, impostor: np.ndarray, people: np.ndarray, points: Mapping) -> dict:
    """Return {FAR: {'threshold', 'far', 'tpr': (low, high)}} for `points`, {FAR: threshold measured on all pairs}.

    genuine (P,), impostor (N,): scores. people: (P + N, 2) labels, genuine pairs first. nan where no resample can
    measure it.
    """
    if not points:
        return {}
    counts, pairs = person_draws(people, num_resamples(len(people)))
    scores = np.concatenate([genuine, impostor])
    order = np.argsort(-scores, kind='stable')
    ranked = scores[order]
    fars = np.array(list(points), np.float64)
    ends = np.searchsorted(-ranked, -np.array(list(points.values())), side='right')      # pairs accepted
    sample = _resampled(order < len(genuine), ranked, pairs[order], counts, fars, ends)
    return {far: {key: _interval(sample[:, f, k]) for k, key in enumerate(('threshold', 'far', 'tpr'))}
            for f, far in enumerate(points)}


def _interval(values):
    values, tail = values[np.isfinite(values)], (1 - LEVEL) / 2
    return tuple(np.quantile(values, (tail, 1 - tail))) if len(values) else (np.nan, np.nan)


@njit(cache=True, parallel=True)
def _resampled(is_genuine, ranked, people, counts, fars, ends):
    """Return (B, F, 3): threshold at each FAR, FAR and TPR of the first ends[f] pairs, of every resample of people.

    Pairs are ranked by falling score; a threshold is the score of the last pair accepted before one impostor too many.
    """
    out = np.full((len(counts), len(fars), 3), np.nan)
    for b in prange(len(counts)):
        weights = np.empty(len(ranked), np.int64)
        totals = np.zeros(2, np.int64)
        for i in range(len(ranked)):
            p, q = people[i, 0], people[i, 1]
            weights[i] = counts[b, p] if p == q else counts[b, p] * counts[b, q]
            totals[int(is_genuine[i])] += weights[i]
        if totals[0] == 0 or totals[1] == 0:
            continue
        for f in range(len(fars)):
            allowed, fp = np.floor(fars[f] * totals[0] + 1e-9), 0
            accepted = np.zeros(2, np.int64)
            for i in range(ends[f]):
                accepted[int(is_genuine[i])] += weights[i]
            out[b, f, 1], out[b, f, 2] = accepted[0] / totals[0], accepted[1] / totals[1]
            if fars[f] > 0 and allowed < 1:
                continue
            for i in range(len(ranked)):
                if not is_genuine[i]:
                    fp += weights[i]
                    if fp > allowed:
                        break
                if weights[i] > 0:
                    out[b, f, 0] = ranked[i]
    return out
