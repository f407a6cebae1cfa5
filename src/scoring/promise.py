"""What can be promised at each FAR (src/scoring/far_bound.py), from listed impostor pairs or from all pictures.

    measured = all_pairs(vectors(features), people, share=0.05)           # the highest scores, and what each weighs
    numbers = promises(genuine, impostor, measured, {0.01: 0.31, 0.001: 0.42})
    print('\\n'.join(promise_lines(numbers)))

All pairs of all people promise about twice as much as a list of pairs of the same people: K people are K // 2
independent pairs, whatever the number of pictures.
"""
import math
from typing import NamedTuple

import numpy as np

from src.scoring.far_bound import (
    LEVEL,
    PairWeights,
    far_bound,
    pair_weights,
    people_needed,
    threshold_for,
    upper_bound,
)
from src.scoring.all_with_all import MEMORY_MB, Vectors, accepted_pairs, exact_scores, score_at_share


class Measured(NamedTuple):
    """Impostor scores (P,), perhaps only the highest, their weights, and of how many people they are."""

    scores: np.ndarray
    weighted: PairWeights
    num_people: int


def listed_pairs(impostor: np.ndarray, people: np.ndarray) -> Measured:
    """Return the `Measured` of a list of impostor pairs. people: (P, 2)."""
    return Measured(impostor, pair_weights(people), len(np.unique(people)))


def all_pairs(features: Vectors, people: np.ndarray, lowest: float = math.inf, *, share: float = 0.03,
              memory_mb: int = MEMORY_MB) -> Measured:
    """Return the `Measured` of all pairs of pictures of two people: the highest `share` of them, and all >= lowest.

    people: (N,). Two people weigh the same whatever the number of their pictures. Raises ValueError for fewer than two
    people, and where the pairs do not fit into memory_mb.
    """
    persons, compact, counts = np.unique(people, return_inverse=True, return_counts=True)
    if len(persons) < 2:
        raise ValueError(f"{len(persons)} people, expected two or more to compare")
    num_pairs = (len(people) ** 2 - (counts ** 2).sum()) / 2
    share = min(share, memory_mb * 2 ** 20 / 100 / num_pairs)            # bytes a pair, with what they are made from
    lowest = min(lowest, score_at_share(features, compact, share, memory_mb=memory_mb))
    pairs = accepted_pairs(features, compact, lowest, memory_mb=memory_mb)
    weights = 1.0 / (counts[compact[pairs[:, 0]]] * counts[compact[pairs[:, 1]]])
    weighted = PairWeights(weights / (len(persons) * (len(persons) - 1) / 2), len(persons) // 2)
    return Measured(exact_scores(features, features, *pairs.T), weighted, len(persons))


def promises(genuine: np.ndarray, impostor: np.ndarray, measured: Measured, thresholds: dict) -> dict:
    """Return what can be promised for each FAR of `thresholds` {FAR: threshold, nan for none}, as JSON holds it.

    A point: 'far' wanted, the 'threshold' that measured it on the `impostor` scores, 'measured' there, 'upper' bound
    there; 'promised_threshold' whose bound is at most `far` and 'promised_tpr' there in percent, or null;
    'people_needed' for that bound if none is accepted; 'people_for_double': for a bound of twice the rate over people,
    if that stays.
    """
    weighted = measured.weighted
    points = []
    for far, threshold in thresholds.items():
        at = None if math.isnan(threshold) else far_bound(measured.scores, np.zeros((0, 2)), threshold,
                                                          weighted=weighted)
        promised, _ = threshold_for(measured.scores, np.zeros((0, 2)), far, weighted=weighted) if far > 0 else \
            (math.nan, None)
        found = not math.isnan(promised)
        points.append({
            'far': far, 'threshold': at and float(threshold), 'measured': at and float(np.mean(impostor >= threshold)),
            'over_people': at and at.over_people, 'upper': at and at.upper,
            'promised_threshold': promised if found else None,
            'promised_tpr': 100 * float(np.mean(genuine >= promised)) if found and len(genuine) else None,
            'people_needed': people_needed(far),
            'people_for_double': at and people_needed(min(2 * at.over_people, 1.0), at.over_people)})
    return {'level': LEVEL, 'people': measured.num_people, 'independent_pairs': weighted.num_pairs,
            'least_far': upper_bound(0.0, weighted.num_pairs), 'points': points}


def promise_lines(promised: dict) -> list:
    """Return `promises` as lines of at most 80 columns."""
    lines = [f"Promised with {100 * promised['level']:g} % over people ({promised['people']} people, "
             f"{promised['independent_pairs']} independent pairs)",
             f"{'FAR wanted':>10}{'threshold':>11}{'measured':>11}{'at most':>11}{'promising':>12}{'TPR, %':>10}"
             f"{'people needed':>15}"]
    for point in promised['points']:
        cells = (_share(point['far']), _cosine(point['threshold']), _share(point['measured']), _share(point['upper']),
                 _cosine(point['promised_threshold']),
                 '-' if point['promised_tpr'] is None else f"{point['promised_tpr']:.4f}",
                 '-' if point['people_needed'] is None else str(point['people_needed']))
        lines.append(''.join(f'{cell:>{width}}' for cell, width in zip(cells, (10, 11, 11, 11, 12, 10, 15))))
    return lines


def _share(share):
    return '-' if share is None else f'{100 * share:.3g}%'


def _cosine(threshold):
    return '-' if threshold is None else f'{threshold:.6f}'
