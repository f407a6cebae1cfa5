"""Groups of people at one global threshold: TPR and FAR of each, FAR between them, how far apart, with intervals.

    groups = Groups(('African', 'Asian'), of_row)               # of_row: (N,) group of each picture, -1 for none
    result = measure(vectors(features), people, groups, genuine_pairs, fars=(0.01, 0.001))

Impostor pairs are all pairs of pictures of two people, or a list; the threshold is set on all of them, whatever the
group. Intervals come from a bootstrap over people, as LFW's. The ratio of the worst and the best group has an interval
that holds for any two groups at once (Bonferroni): groups that differ by chance only have 1 in it.
"""
import math
from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np
from numba import njit, prange

from src.scoring import far_bound
from src.scoring.all_with_all import MEMORY_MB, Vectors, accepted_pairs, exact_scores, score_at_share
from src.scoring.uncertainty import LEVEL

FARS = (0.01, 0.001)
NUM_RESAMPLES = 2000


class Groups(NamedTuple):
    """Names of the groups, and the group (N,) of each picture, -1 for none."""

    names: tuple
    of_row: np.ndarray

    def cells(self, pairs: np.ndarray) -> np.ndarray:
        """Return which two groups pairs (P, 2) of rows belong to: low * G + high, -1 if one has none."""
        both = np.sort(self.of_row[pairs], axis=1)
        return np.where(both[:, 0] < 0, -1, both[:, 0] * len(self.names) + both[:, 1])


class Cells(NamedTuple):
    """Shares of accepted pairs by cell (G * G,): pairs, accepted ones, and both in every resample (B, G * G)."""

    totals: np.ndarray
    accepted: np.ndarray
    resampled_totals: np.ndarray
    resampled_accepted: np.ndarray

    def shares(self) -> np.ndarray:
        """Return the share of each cell, nan without pairs."""
        with np.errstate(invalid='ignore', divide='ignore'):
            return self.accepted / self.totals

    def resampled(self) -> np.ndarray:
        """Return the shares (B, G * G) of the resamples."""
        with np.errstate(invalid='ignore', divide='ignore'):
            return self.resampled_accepted / self.resampled_totals


def measure(features: Vectors, people: np.ndarray, groups: Groups, genuine_pairs: np.ndarray, *,
            impostor_pairs: Optional[np.ndarray] = None, fars: Sequence = FARS, memory_mb: int = MEMORY_MB,
            num_resamples: int = NUM_RESAMPLES) -> dict:
    """Return {'groups': names, 'points': [...]}, a point for each FAR, shares 0..1.

    features: of N pictures; people: (N,) numbers; genuine_pairs, impostor_pairs: (P, 2) rows, None: all pairs of two
    people. A point: 'far', 'threshold', 'tpr' and 'fars' (matrix G x G), with 'pairs', 'interval95', and 'upper' the
    FAR promised with 95 % (`far_bound`), 'ratio' of FAR and of misses between the worst and best group.
    Raises ValueError if fewer than two groups have pictures.
    """
    present = np.unique(groups.of_row[groups.of_row >= 0])
    if len(present) < 2:
        raise ValueError(f"{len(present)} of the groups {', '.join(groups.names)} have pictures, expected two or more")
    persons, compact = np.unique(people, return_inverse=True)
    genuine = exact_scores(features, features, *np.asarray(genuine_pairs).T)
    drawn = _draws(len(persons), num_resamples)
    of_genuine = _listed(groups, compact, genuine_pairs, drawn)
    counts = [[len(np.unique(compact[rows])) for rows in (groups.of_row == g, genuine_pairs[:, 0][
        groups.cells(genuine_pairs) == g * (len(groups.names) + 1)])] for g in range(len(groups.names))]
    impostors = _All(features, compact, groups, drawn, memory_mb) if impostor_pairs is None else \
        _Listed(features, compact, groups, impostor_pairs, drawn)
    points = []
    for far in fars:
        num_allowed = math.floor(far * impostors.num_pairs + 1e-9)
        if not 1 <= num_allowed < impostors.num_pairs:
            continue                                         # the pairs cannot resolve it
        threshold = float(np.nextafter(impostors.refused(num_allowed), np.inf))
        accepted = genuine >= threshold
        points.append({'far': far, 'threshold': threshold, 'tpr': _number(np.mean(accepted)),
                       'impostor_pairs': impostors.num_pairs,
                       **_point(of_genuine(accepted), impostors, threshold, groups, np.array(counts))})
    return {'groups': list(groups.names), 'points': points,
            'pictures': [int(np.sum(groups.of_row == g)) for g in range(len(groups.names))],
            'people': [count for count, _ in counts],
            'without_group': int(np.sum(groups.of_row < 0))}


def _point(genuine, impostors, threshold, groups, counts):
    """Return the numbers of all groups at a threshold. genuine: `Cells` there; counts (G, 2): people, with mates."""
    num = len(groups.names)
    own = np.arange(num) * (num + 1)                         # the cells of one group with itself
    cells = impostors.cells(threshold)
    upper = impostors.upper(threshold)
    by_group = [{'group': name, 'tpr': _number(genuine.shares()[cell]), 'genuine_pairs': int(genuine.totals[cell]),
                 'tpr_interval95': _interval(genuine.resampled()[:, cell]), 'far': _number(cells.shares()[cell]),
                 'impostor_pairs': int(cells.totals[cell]), 'far_interval95': _interval(cells.resampled()[:, cell]),
                 'far_upper': upper[name]} for name, cell in zip(groups.names, own)]
    between = [{'groups': [groups.names[g], groups.names[h]], 'far': _number(cells.shares()[g * num + h]),
                'impostor_pairs': int(cells.totals[g * num + h]),
                'far_interval95': _interval(cells.resampled()[:, g * num + h])}
               for g in range(num) for h in range(g + 1, num)]
    misses = genuine._replace(accepted=genuine.totals - genuine.accepted,
                              resampled_accepted=genuine.resampled_totals - genuine.resampled_accepted)
    return {'by_group': by_group, 'between': between, 'far_ratio': ratio(cells, own, groups.names, counts[:, 0] // 2),
            'miss_ratio': ratio(misses, own, groups.names, counts[:, 1])}


def ratio(cells: Cells, own: np.ndarray, names: Sequence, independent: np.ndarray) -> Optional[dict]:
    """Return the ratio of the highest and the lowest share among cells `own`; None if fewer than two are measured,
    or all are equal.

    independent: (G,) how many independent observations are in each cell. 'ratio' is None (infinite) if the lowest is 0;
    then the lower end of the interval takes for it what 0 of so many observations leave possible. The interval holds
    for any two of the cells at once.
    """
    shares = cells.shares()[own]
    measured = np.flatnonzero(np.isfinite(shares))
    if len(measured) < 2:
        return None
    worst, best = measured[np.argmax(shares[measured])], measured[np.argmin(shares[measured])]
    if shares[worst] == shares[best]:
        return None                                          # none is worse
    high, low = cells.resampled()[:, own[worst]], cells.resampled()[:, own[best]]
    wrong = (1 - LEVEL) / (len(measured) * (len(measured) - 1) / 2)
    if shares[best] > 0:
        with np.errstate(invalid='ignore', divide='ignore'):
            interval = _interval(high / low, 1 - wrong)
    else:
        least = _interval(high, 1 - wrong)[0]
        interval = [least and least / far_bound.upper_bound(0.0, int(independent[best]), 1 - wrong / 2), None]
    return {'worst': names[worst], 'best': names[best], 'interval95': interval,
            'ratio': float(shares[worst] / shares[best]) if shares[best] > 0 else None}


def _number(share):
    return float(share) if np.isfinite(share) else None


def _interval(values, level=LEVEL):
    """Return [low, high] of resampled shares; None for an end that is not a number."""
    values = values[~np.isnan(values)]
    if not len(values):
        return [None, None]
    tail = (1 - level) / 2
    return [_number(np.quantile(values, q, method='lower' if q < 0.5 else 'higher')) for q in (tail, 1 - tail)]


def _draws(num_people, num_resamples, seed=0):
    """Return how often each person was drawn: (B, K) uint8 counts of resamples with replacement."""
    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(num_people, size=num_people), minlength=num_people)
                     for _ in range(num_resamples)]).astype(np.uint8)


def _listed(groups, people, pairs, drawn):
    """Return a function: accepted (P,) bool -> `Cells` of the listed pairs."""
    cell, persons = groups.cells(pairs), np.ascontiguousarray(people[pairs])
    num = len(groups.names) ** 2
    totals = np.bincount(cell[cell >= 0], minlength=num)
    resampled = _weighted(persons, cell, drawn, num)

    def cells(accepted: np.ndarray) -> Cells:
        held = accepted & (cell >= 0)
        return Cells(totals, np.bincount(cell[held], minlength=num), resampled,
                     _weighted(persons[held], cell[held], drawn, num))
    return cells


class _Listed:
    """Impostor pairs from a list."""

    def __init__(self, features: Vectors, people: np.ndarray, groups: Groups, pairs: np.ndarray, drawn: np.ndarray):
        self.scores = exact_scores(features, features, *np.asarray(pairs).T)
        self.num_pairs, self.people, self.groups = len(pairs), people[pairs], groups
        self.cell, self._cells = groups.cells(pairs), _listed(groups, people, pairs, drawn)

    def refused(self, num_allowed: int) -> float:
        """Return the highest score that must be refused if num_allowed are accepted."""
        return float(np.sort(self.scores)[::-1][num_allowed])

    def cells(self, threshold: float) -> Cells:
        return self._cells(self.scores >= threshold)

    def upper(self, threshold: float) -> dict:
        """Return the promised FAR within each group."""
        num, found = len(self.groups.names), {}
        for g, name in enumerate(self.groups.names):
            rows = np.flatnonzero(self.cell == g * (num + 1))
            found[name] = far_bound.far_bound(self.scores[rows], self.people[rows], threshold).upper if len(rows) \
                else None
        return found


class _All:
    """All pairs of pictures of two people: counted in blocks, only accepted ones are held."""

    def __init__(self, features: Vectors, people: np.ndarray, groups: Groups, drawn: np.ndarray, memory_mb: int):
        self.features, self.people, self.groups = features, people.astype(np.int64), groups
        self.drawn, self.memory_mb = drawn, memory_mb
        num = len(groups.names)
        self.counts = np.zeros((num, int(people.max()) + 1), np.int64)       # pictures by group and person
        grouped = groups.of_row >= 0
        np.add.at(self.counts, (groups.of_row[grouped], people[grouped]), 1)
        same = np.bincount(people)
        self.num_pairs = (len(people) ** 2 - int((same ** 2).sum())) // 2
        self.resampled = np.stack([self._totals(weights) for weights in drawn])
        self.totals = self._totals(np.ones(self.counts.shape[1], np.int64))
        self.pairs = None

    def _totals(self, weights):
        """Return the pairs (G * G,) if each person counts as often as its weight: (sum)^2 less those of one person."""
        held = self.counts * weights                                         # (G, K)
        both = np.outer(held.sum(1), held.sum(1)) - held @ held.T
        both[np.diag_indices(len(both))] //= 2
        return np.triu(both).ravel()

    def refused(self, num_allowed: int) -> float:
        return score_at_share(self.features, self.people, num_allowed / self.num_pairs, memory_mb=self.memory_mb)

    def cells(self, threshold: float) -> Cells:
        self.pairs = accepted_pairs(self.features, self.people, threshold, memory_mb=self.memory_mb)
        cell = self.groups.cells(self.pairs)
        held, num = cell >= 0, len(self.groups.names) ** 2
        persons = np.ascontiguousarray(self.people[self.pairs[held]])
        return Cells(self.totals, np.bincount(cell[held], minlength=num), self.resampled,
                     _weighted(persons, cell[held], self.drawn, num))

    def upper(self, threshold: float) -> dict:
        """Return the promised FAR within each group: the mean over all pairs of its people, each of equal weight."""
        num, found = len(self.groups.names), {}
        cell = self.groups.cells(self.pairs)
        for g, name in enumerate(self.groups.names):
            persons = np.flatnonzero(self.counts[g])
            both = self.people[self.pairs[cell == g * (num + 1)]]
            # the share of accepted picture pairs of two people, summed over pairs of people
            accepted = float((1.0 / (self.counts[g][both[:, 0]] * self.counts[g][both[:, 1]])).sum())
            pairs = len(persons) * (len(persons) - 1) / 2
            found[name] = far_bound.upper_bound(min(accepted / pairs, 1.0), len(persons) // 2) if pairs else None
        return found


@njit(cache=True, parallel=True)
def _weighted(people, cells, drawn, num_cells):
    """Return the pairs of each cell in every resample (B, num_cells): a pair counts as often as its people together."""
    sums = np.zeros((len(drawn), num_cells), np.int64)
    for b in prange(len(drawn)):
        for i in range(len(people)):
            if cells[i] >= 0:
                p, q = people[i, 0], people[i, 1]
                sums[b, cells[i]] += np.int64(drawn[b, p]) * (1 if p == q else np.int64(drawn[b, q]))
    return sums
