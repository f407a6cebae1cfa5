"""A false accept rate that is promised, not guessed: an upper bound that holds with 95 % over people, not pairs.

    bound = far_bound(scores, people, threshold)              # .measured, .over_people, .upper, .num_pairs
    threshold, bound = threshold_for(scores, people, 0.001)   # the lowest threshold that promises 0.1 %

The true rate is that of two people drawn at random from those the test people were drawn from. Pairs share people, so a
million pairs of a thousand people are not a million observations: if one person in 400 is taken for everybody, a
thousand people may well show none of them. The bound holds whatever makes some people alike.

How it works. People fall into n pairs that share nobody in many ways. In each way the false accepts are a sum of n
independent events of mean FAR; the measured rate is the mean over all ways. By Jensen's inequality E f(measured) <=
E f(Binomial(n, FAR) / n) for every convex f (Hoeffding 1963, section 5b). The best such f turns this into: with 95 %,
the measured rate is above the mean of the lowest 5 % of Binomial(n, FAR) / n (Bentkus 2004). The bound is the largest
FAR of which that is not true. Without a false accept it is 1 - 0.05^(1/n), about 3 / n: what a population with a few
people who match everybody allows, so no method that holds for all populations can promise less.
"""
import math
from typing import NamedTuple, Optional

import numpy as np
from numba import njit, prange
from scipy.special import bdtr

LEVEL = 0.95
_WAYS = 1000                     # ways to pair people up that a list of pairs is averaged over, fewer for long lists
_STEPS = 5_000_000              # pairs gone through in all of them


class FarBound(NamedTuple):
    """The FAR at a threshold: measured over pairs and over people, its upper bound, and n independent pairs."""

    measured: float
    over_people: float
    upper: float
    num_pairs: int


class PairWeights(NamedTuple):
    """Weights (P,) of impostor pairs, which sum to 1: the mean over ways to pick n pairs that share nobody."""

    weights: np.ndarray
    num_pairs: int


def lowest_mean(far: float, num_pairs: int, share: float = 1 - LEVEL) -> float:
    """Return the mean of the lowest `share` of Binomial(num_pairs, far)."""
    low, high = 0, num_pairs                                 # the quantile: the least k with P(X <= k) >= share
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if bdtr(middle, num_pairs, far) >= share else (middle + 1, high)
    below = bdtr(low - 1, num_pairs, far) if low else 0.0
    # sum of k P(X = k) over k < low is n FAR P(Binomial(n - 1, FAR) <= low - 2)
    sum_below = num_pairs * far * bdtr(low - 2, num_pairs - 1, far) if low > 1 else 0.0
    return float(sum_below + low * (share - below)) / share


def upper_bound(mean: float, num_pairs: int, level: float = LEVEL) -> float:
    """Return the largest FAR that a measured `mean` (0..1) over n = num_pairs independent pairs does not exclude.

    Raises ValueError for a mean outside 0..1. Without a pair it is 1.
    """
    if not 0 <= mean <= 1:
        raise ValueError(f"a false accept rate of {mean} is not between 0 and 1")
    if num_pairs < 1:
        return 1.0
    if mean == 0:
        return -math.expm1(math.log1p(-level) / num_pairs)
    low, high = mean, 1.0
    while high - low > 1e-9 * high:                          # lowest_mean rises with the FAR
        middle = (low + high) / 2
        low, high = (middle, high) if lowest_mean(middle, num_pairs, 1 - level) < mean * num_pairs else (low, middle)
    return high


def pair_weights(people: np.ndarray, seed: int = 0) -> PairWeights:
    """Return the `PairWeights` of impostor pairs. people: (P, 2) any integers; the scores play no part."""
    persons, compact = np.unique(people, return_inverse=True)
    compact = np.ascontiguousarray(compact.reshape(-1, 2), np.int64)
    if not len(compact):
        return PairWeights(np.zeros(0), 0)
    degree = np.bincount(compact.ravel(), minlength=len(persons))
    load = degree[compact].sum(1).astype(np.float64)         # people in few pairs go first: more pairs share nobody
    ways = int(np.clip(_STEPS // len(compact), 20, _WAYS))
    chosen, sizes = _disjoint(compact, load, len(persons), ways, seed)
    num_pairs = int(sizes.min())
    counts = np.bincount(chosen[:, :num_pairs].ravel(), minlength=len(compact))
    return PairWeights(counts / counts.sum(), num_pairs)


def far_bound(impostor: np.ndarray, people: np.ndarray, threshold: float, *,
              weighted: Optional[PairWeights] = None, level: float = LEVEL) -> FarBound:
    """Return the `FarBound` at a threshold. impostor: scores (P,); people: (P, 2); a score >= threshold is accepted."""
    weighted = weighted or pair_weights(people)
    accepted = np.asarray(impostor) >= threshold
    mean = min(float(weighted.weights @ accepted), 1.0)
    return FarBound(float(np.mean(accepted)) if len(accepted) else math.nan, mean,
                    upper_bound(mean, weighted.num_pairs, level), weighted.num_pairs)


def threshold_for(impostor: np.ndarray, people: np.ndarray, far: float, *, weighted: Optional[PairWeights] = None,
                  level: float = LEVEL) -> tuple:
    """Return (threshold, FarBound): the lowest threshold whose bound is at most `far`; (nan, None) if none is.

    The promise also holds for the threshold found so: the bound falls with the threshold, and a single crossing
    cannot be wrong more often than the bound at the true crossing.
    """
    weighted = weighted or pair_weights(people)
    allowed = largest_mean(far, weighted.num_pairs, level)
    if allowed is None or not len(impostor):
        return math.nan, None
    scores = np.asarray(impostor, np.float64)
    order = np.argsort(-scores, kind='stable')
    ranked, mean = scores[order], np.cumsum(weighted.weights[order])
    last = np.append(np.diff(ranked) != 0, True)             # equal scores are accepted together
    refused = ranked[last & (mean > allowed + 1e-12)]
    threshold = float(np.nextafter(refused[0], np.inf)) if len(refused) else float(ranked[-1])
    accepted = scores[scores >= threshold]
    threshold = float(accepted.min()) if len(accepted) else threshold
    return threshold, far_bound(impostor, people, threshold, weighted=weighted, level=level)


def largest_mean(far: float, num_pairs: int, level: float = LEVEL) -> Optional[float]:
    """Return the largest measured mean whose bound is at most `far`; None if even 0 promises less than that."""
    if upper_bound(0.0, num_pairs, level) > far:
        return None
    return min(lowest_mean(far, num_pairs, 1 - level) / num_pairs, 1.0)


def people_needed(far: float, mean: float = 0.0, level: float = LEVEL) -> Optional[int]:
    """Return how many people, each compared with each other, promise `far` if the measured rate stays `mean`.

    None where no number does: a mean that is not below `far`.
    """
    if not 0 < far <= 1 or mean >= far:
        return None
    high = 1
    while upper_bound(mean, high, level) > far:
        high *= 2
    low = high // 2 + 1 if high > 1 else 1
    while low < high:                                        # the bound falls with n
        middle = (low + high) // 2
        low, high = (low, middle) if upper_bound(mean, middle, level) <= far else (middle + 1, high)
    return 2 * low


@njit(cache=True, parallel=True)
def _disjoint(people, load, num_people, ways, seed):
    """Return pairs that share nobody: their rows (ways, num_people // 2), and how many (ways,) there are."""
    chosen = np.zeros((ways, max(num_people // 2, 1)), np.int64)
    sizes = np.zeros(ways, np.int64)
    for way in prange(ways):
        np.random.seed(seed * ways + way)
        order = np.argsort(np.random.random(len(people)) * load)
        used = np.zeros(num_people, np.bool_)
        for row in order:
            p, q = people[row, 0], people[row, 1]
            if p != q and not used[p] and not used[q]:
                used[p] = used[q] = True
                chosen[way, sizes[way]] = row
                sizes[way] += 1
    return chosen, sizes
