"""Every row of one set against every row of another, in blocks: exact ranks and thresholds in bounded memory.

    probes, gallery = vectors(probe_features), vectors(gallery_features)
    mates = mates_of(probes, gallery, probe_people, gallery_people)
    compared = compare(probes, gallery, probe_people, gallery_people, mates, memory_mb=1024)

Scores are cosines of float64 sums. A float32 product of blocks tells nearly all pairs apart; where its rounding error
could turn a comparison over, the pair is computed again in float64, so that ranks and thresholds are exact. Large sets
stay in the type they come in (a memory-mapped .npy file too); what is held beside them is at most `memory_mb`.
"""
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Optional

import numpy as np
from numba import get_num_threads, njit, prange

from src.scoring.metrics import kth_largest, rank_bins

MEMORY_MB = 2048
_BINS = 1 << 16                  # of scores from -1 to 1
_LOWEST, _SCALE = -1.001, _BINS / 2.002
_LEAST = 256                     # rows and columns of the smallest block
_GATHERED = 4096                 # pairs whose rows are gathered at once


class Vectors(NamedTuple):
    """Features (N, D) as they come, and their lengths (N,) float64."""

    features: np.ndarray
    lengths: np.ndarray


class Mates(NamedTuple):
    """Genuine scores of each probe: those of probe p are scores[starts[p]:starts[p + 1]], ascending; rows tell whom."""

    starts: np.ndarray           # (P + 1,)
    scores: np.ndarray           # (M,)
    rows: np.ndarray             # (M,)

    def probes(self) -> np.ndarray:
        """Return the probe (M,) of each score."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


class Compared(NamedTuple):
    """What all pairs of a probe and another person of the gallery say."""

    larger: np.ndarray           # (M,) gallery rows of other people above each genuine score
    best: np.ndarray             # (P,) the highest score with another person
    num_impostors: int
    at_rank: np.ndarray          # the scores at the wanted ranks of all impostor pairs, 1 = the largest


def vectors(features: np.ndarray, names: Optional[Sequence] = None, *, what: str = 'feature') -> Vectors:
    """Return the `Vectors` of features (N, D); ValueError names a row that is zero or not finite."""
    lengths = np.empty(len(features))
    for start in range(0, len(features), 1 << 14):           # a memory-mapped file is gone through once
        block = np.asarray(features[start:start + (1 << 14)], np.float64)
        lengths[start:start + len(block)] = np.sqrt(np.einsum('nd,nd->n', block, block))
    bad = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if len(bad):
        problem = 'zero' if lengths[bad[0]] == 0 else 'not finite'
        name = f' ({names[bad[0]]})' if names is not None else ''
        raise ValueError(f"the {what} in row {bad[0]}{name} is {problem}; {len(bad)} of {len(features)} rows are bad")
    return Vectors(features, lengths)


def mates_of(probes: Vectors, gallery: Vectors, probe_people: np.ndarray, gallery_people: np.ndarray, *,
             same_set: bool = False) -> Mates:
    """Return the `Mates` of every probe: gallery rows of its person. same_set: probes are the gallery, none its own."""
    order = np.argsort(gallery_people, kind='stable')
    ranked = gallery_people[order]
    first, last = (np.searchsorted(ranked, probe_people, side) for side in ('left', 'right'))
    probe = np.repeat(np.arange(len(probe_people)), last - first)
    place = np.arange(len(probe)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
    row = order[np.repeat(first, last - first) + place]
    if same_set:
        probe, row = probe[probe != row], row[probe != row]
    scores = exact_scores(probes, gallery, probe, row)
    order = np.lexsort((scores, probe))
    starts = np.searchsorted(probe, np.arange(len(probe_people) + 1))
    return Mates(starts, scores[order], row[order])


def exact_scores(a: Vectors, b: Vectors, rows_a: np.ndarray, rows_b: np.ndarray) -> np.ndarray:
    """Return the cosines (M,) float64 of rows of `a` with rows of `b`."""
    scores = np.empty(len(rows_a))
    for start in range(0, len(scores), _GATHERED):
        part = slice(start, start + _GATHERED)
        sides = [(np.asarray(side.features[rows[part]], np.float64), side.lengths[rows[part]])
                 for side, rows in ((a, rows_a), (b, rows_b))]
        _cosines(*sides[0], *sides[1], scores[part])
    return scores


def compare(probes: Vectors, gallery: Vectors, probe_people: np.ndarray, gallery_people: np.ndarray, mates: Mates, *,
            ranks_of: Callable = lambda num_impostors: [], memory_mb: int = MEMORY_MB,
            progress: Callable = iter) -> Compared:
    """Compare every probe with every gallery row of another person.

    ranks_of: number of impostor pairs -> ranks among them whose scores are wanted (1 = the largest); they cost a second
    pass. progress wraps the blocks. Raises ValueError if memory_mb is too small.
    """
    error = (probes.features.shape[1] + 3) * 2.0 ** -24      # of a float32 product of rows of length 1, rounded
    counts = np.zeros((get_num_threads(), _BINS), np.int64)
    larger, best = np.zeros(len(mates.scores), np.int64), np.full(len(probes.lengths), -np.inf)
    for rows, _, scores, *pair in _blocks(probes, gallery, probe_people, gallery_people, memory_mb, progress):
        _count(scores, rows, *pair, mates.starts[rows:], mates.scores, error, larger, best[rows:], counts)
        del scores, pair                                     # before the next block is made
    _sum_within(larger, mates.starts)
    above = np.append(np.cumsum(counts.sum(0)[::-1])[::-1], 0)
    num_impostors = int(above[0])
    wanted = np.asarray(ranks_of(num_impostors), np.int64)
    at_rank = np.full(len(wanted), np.nan)
    fits = (wanted >= 1) & (wanted <= num_impostors)
    if fits.any():
        at_rank[fits] = _scores_at(probes, gallery, probe_people, gallery_people, counts, above, wanted[fits], error,
                                   memory_mb, progress)
    return Compared(larger, best, num_impostors, at_rank)


def _scores_at(probes, gallery, probe_people, gallery_people, counts, above, ranks, error, memory_mb, progress):
    """Return the exact scores at `ranks` of all impostor pairs: those near their bins are computed in float64."""
    margin = 1 + int(2 * error * _SCALE)
    near = np.zeros(_BINS, bool)
    for b in rank_bins(above, ranks):
        near[max(b - margin, 0):b + margin + 1] = True
    ends = np.cumsum(counts[:, near].sum(1))
    _check_memory(2 * 12 * int(ends[-1]) / 2 ** 20, memory_mb, 'the pairs near the thresholds')
    places = ends - counts[:, near].sum(1)
    bins, exact = np.empty(ends[-1], np.int32), np.empty(ends[-1])
    for rows, _, scores, *pair in _blocks(probes, gallery, probe_people, gallery_people, memory_mb, progress):
        _collect(scores, rows, *pair, near, bins, exact, places)
        del scores, pair
    return kth_largest(bins, exact, above, ranks, margin)


def score_at_share(side: Vectors, people: np.ndarray, share: float, *, memory_mb: int = MEMORY_MB) -> float:
    """Return the score that `share` of all pairs of rows of two people reach: exact, one more for what rounds down."""
    nobody = Mates(np.zeros(len(people) + 1, np.int64), np.zeros(0), np.zeros(0, np.int64))
    # every pair is met from both sides
    found = compare(side, side, people, people, nobody, memory_mb=memory_mb,
                    ranks_of=lambda num: [min(2 * math.floor(share * num / 2 + 1e-9) + 1, num)])
    return float(found.at_rank[0])


def accepted_pairs(side: Vectors, people: np.ndarray, threshold: float, *, memory_mb: int = MEMORY_MB) -> np.ndarray:
    """Return all pairs (M, 2) of rows of two people, the lower row first, whose cosine is at least `threshold`.

    ValueError if they do not fit into memory_mb.
    """
    error = (side.features.shape[1] + 3) * 2.0 ** -24
    found, num_pairs = [], 0
    for first_row, first_column, scores, *_ in _blocks(side, side, people, people, memory_mb, iter):
        rows, columns = np.nonzero(scores >= threshold - error)
        near = scores[rows, columns] < threshold + error
        rows, columns = rows + first_row, columns + first_column
        kept = (rows < columns) & (people[rows] != people[columns])
        unsure = np.flatnonzero(kept & near)                 # float32 cannot tell
        kept[unsure] = exact_scores(side, side, rows[unsure], columns[unsure]) >= threshold
        found.append(np.stack([rows[kept], columns[kept]], 1))
        num_pairs += len(found[-1])
        _check_memory(16 * num_pairs / 2 ** 20, memory_mb, 'the accepted pairs')
    return np.concatenate(found)


def _blocks(probes: Vectors, gallery: Vectors, probe_people: np.ndarray, gallery_people: np.ndarray, memory_mb: int,
            progress: Callable) -> Iterator:
    """Yield (first probe, first gallery row, float32 scores (R, C), features, lengths and people of both sides).

    Scores, and the features of a block as float64 and scaled float32, fit into half of memory_mb.
    """
    dimensions = probes.features.shape[1]
    numbers = memory_mb * 2 ** 20 // 8                       # of four bytes, half of the memory
    _check_memory((_LEAST + 8 * dimensions) * _LEAST * 8 / 2 ** 20, memory_mb, 'a block of scores and its features')
    num_rows = min(len(probes.lengths), 4096)
    num_columns = min((numbers - 4 * num_rows * dimensions) // (num_rows + 4 * dimensions), 1 << 15)
    if num_columns < _LEAST:
        num_rows, num_columns = _LEAST, _LEAST
    for start in range(0, len(probes.lengths), num_rows):
        rows = slice(start, start + num_rows)
        left = _part(probes, probe_people, rows)
        left_unit = _unit32(*left[:2])                                               # (R, D)
        for first in progress(range(0, len(gallery.lengths), num_columns)):
            right = _part(gallery, gallery_people, slice(first, first + num_columns))
            yield start, first, left_unit @ _unit32(*right[:2]).T, *left, *right     # (R, C)
            del right


def _part(side, people, rows):
    return np.array(side.features[rows], np.float64, order='C'), side.lengths[rows], people[rows]


def _unit32(features: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return (features / lengths[:, None]).astype(np.float32)


def _check_memory(needed, memory_mb, what):
    if needed > memory_mb:
        raise ValueError(f"memory_mb {memory_mb} is too small: {what} need {math.ceil(needed)} MB")


@njit(cache=True, inline='always')
def _cosine(a, length_a, b, length_b):
    """Eight sums in a fixed order: the same bits wherever it is called, so that equal pictures tie."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    whole = len(a) // 8 * 8
    for i in range(0, whole, 8):
        s0 += a[i] * b[i]
        s1 += a[i + 1] * b[i + 1]
        s2 += a[i + 2] * b[i + 2]
        s3 += a[i + 3] * b[i + 3]
        s4 += a[i + 4] * b[i + 4]
        s5 += a[i + 5] * b[i + 5]
        s6 += a[i + 6] * b[i + 6]
        s7 += a[i + 7] * b[i + 7]
    for i in range(whole, len(a)):
        s0 += a[i] * b[i]
    return (((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))) / (length_a * length_b)


@njit(cache=True)
def _cosines(a, lengths_a, b, lengths_b, scores):
    for i in range(len(scores)):
        scores[i] = _cosine(a[i], lengths_a[i], b[i], lengths_b[i])


@njit(cache=True, inline='always')
def _bin_of(score):
    return min(max(int((score - _LOWEST) * _SCALE), 0), _BINS - 1)


@njit(cache=True, parallel=True)
def _count(scores, first_row, probes, probe_lengths, probe_people, gallery, gallery_lengths, gallery_people, starts,
           mates, error, larger, best, counts):
    """Add a block to `larger` (each at the highest mate surely below a score), `best` and `counts` by thread."""
    num_threads = len(counts)
    for thread in prange(num_threads):
        for p in range((thread - first_row) % num_threads, len(scores), num_threads):
            lo, hi = starts[p], starts[p + 1]
            least = mates[lo] - error if hi > lo else np.inf
            highest = -np.inf
            for g in range(len(gallery)):
                if gallery_people[g] == probe_people[p]:
                    continue
                score = scores[p, g]
                counts[thread, _bin_of(score)] += 1
                highest = max(highest, score)
                if score < least:
                    continue
                below = lo + np.searchsorted(mates[lo:hi], score - error)            # surely smaller mates
                if below < hi and mates[below] <= score + error:
                    exact = _cosine(probes[p], probe_lengths[p], gallery[g], gallery_lengths[g])
                    below = lo + np.searchsorted(mates[lo:hi], exact)                # strictly smaller ones
                if below > lo:
                    larger[below - 1] += 1
            if highest + error <= best[p]:
                continue
            for g in range(len(gallery)):
                if scores[p, g] >= highest - 2 * error and gallery_people[g] != probe_people[p]:
                    best[p] = max(best[p], _cosine(probes[p], probe_lengths[p], gallery[g], gallery_lengths[g]))


@njit(cache=True)
def _sum_within(larger, starts):
    """A score above a mate is above all lower mates of the probe too."""
    for p in range(len(starts) - 1):
        for m in range(starts[p + 1] - 2, starts[p] - 1, -1):
            larger[m] += larger[m + 1]


@njit(cache=True, parallel=True)
def _collect(scores, first_row, probes, probe_lengths, probe_people, gallery, gallery_lengths, gallery_people, near,
             bins, exact, places):
    """Append bin and exact score of a block's impostor pairs in bins marked in `near`; thread t writes at places[t]."""
    num_threads = len(places)
    for thread in prange(num_threads):
        n = places[thread]
        for p in range((thread - first_row) % num_threads, len(scores), num_threads):
            for g in range(len(gallery)):
                b = _bin_of(scores[p, g])
                if near[b] and gallery_people[g] != probe_people[p]:
                    bins[n] = b
                    exact[n] = _cosine(probes[p], probe_lengths[p], gallery[g], gallery_lengths[g])
                    n += 1
        places[thread] = n
