"""Probes against a gallery or among distractors: ranks, open-set thresholds, TAR at FAR over all impostor pairs.

    gallery, probes = vectors(gallery_features), vectors(probe_features)
    result = one_to_many(probes, gallery, probe_people, gallery_people, memory_mb=1024)
    result = with_distractors(probes, probe_people, vectors(distractor_features), memory_mb=1024)
"""
import math
from collections.abc import Callable, Sequence

import numpy as np

from src.scoring.all_with_all import MEMORY_MB, Vectors, compare, mates_of
from src.scoring.metrics import tpr_at_far

RANKS = (1, 5, 10)
FPIRS = (0.01, 0.1)
FARS = (1e-6, 1e-5, 1e-4, 1e-3)


def one_to_many(probes: Vectors, gallery: Vectors, probe_people: np.ndarray, gallery_people: np.ndarray, *,
                ranks: Sequence = RANKS, fpirs: Sequence = FPIRS, memory_mb: int = MEMORY_MB) -> dict:
    """Return the numbers of probes against a gallery (IJB 1:N), as shares.

    A probe's mate is its person's gallery row, the best one of several; its rank is 1 + the rows of other people that
    score higher. 'rank': {r: share of probes with a mate of rank <= r}. 'tpir': {FPIR: (share of those probes whose
    mate is accepted, threshold)}: of the probes without a mate at most that share may have any row accepted; nan where
    they are too few. 'tpir_pairs': {x: (share, threshold)} by the rule of insightface's ijb_1n.py: the threshold is the
    ceil(x * probes)-th largest score of all impostor pairs.
    """
    mates = mates_of(probes, gallery, probe_people, gallery_people)
    has_mate = np.diff(mates.starts) > 0
    num_mated = int(has_mate.sum())
    found = compare(probes, gallery, probe_people, gallery_people, mates, memory_mb=memory_mb,
                    ranks_of=lambda _: [math.ceil(num_mated * x) for x in fpirs])
    last = mates.starts[1:][has_mate] - 1                    # ascending: the best mate stands last
    genuine, rank = mates.scores[last], 1 + found.larger[last]
    unknown = found.best[~has_mate & np.isfinite(found.best)]
    return {'num_probes': len(has_mate), 'num_mated': num_mated, 'num_gallery': len(gallery.lengths),
            'rank': {r: float(np.mean(rank <= r)) if num_mated else math.nan for r in ranks},
            'tpir': {x: tpr_at_far(genuine, unknown, x) if num_mated and len(unknown) else (math.nan, math.nan)
                     for x in fpirs},
            'tpir_pairs': {x: (float(np.mean(genuine > score)), float(score)) if np.isfinite(score) and num_mated else
                           (math.nan, math.nan) for x, score in zip(fpirs, found.at_rank)},
            'genuine': genuine, 'ranks': rank, 'unknown': unknown}


def with_distractors(probes: Vectors, people: np.ndarray, distractors: Vectors, *, ranks: Sequence = RANKS,
                     fars: Sequence = FARS, memory_mb: int = MEMORY_MB, progress: Callable = iter) -> dict:
    """Return MegaFace's numbers, as shares: each picture of a person beside all distractors, found by each other one.

    The rank of a pair of pictures of a person is 1 + the distractors that are more alike to the probe than its mate.
    'rank': {r: share of pairs of rank <= r}; 'tar_at_far': {FAR: (share of those pairs accepted, threshold)} with at
    most floor(FAR * probes * distractors) distractors accepted, nan where that is none; 'genuine', 'ranks'.
    """
    mates = mates_of(probes, probes, people, people, same_set=True)
    if not len(mates.scores):
        raise ValueError(f"none of {len(people)} probe pictures has another one of its person")
    nobody = np.full(len(distractors.lengths), -1, np.int64)
    _, compact = np.unique(people, return_inverse=True)
    allowed = []

    def ranks_of(num_impostors: int) -> list:
        allowed.extend(math.floor(far * num_impostors + 1e-9) for far in fars)
        return [k + 1 for k in allowed]                      # the first that must be refused
    found = compare(probes, distractors, compact.astype(np.int64), nobody, mates, ranks_of=ranks_of,
                    memory_mb=memory_mb, progress=progress)
    tars = {far: accepted_above(mates.scores, refused, k) for far, k, refused in zip(fars, allowed, found.at_rank)}
    rank = 1 + found.larger
    return {'num_probes': len(people), 'num_people': len(np.unique(people)), 'num_distractors': len(nobody),
            'num_genuine': len(rank), 'num_impostors': found.num_impostors,
            'rank': {r: float(np.mean(rank <= r)) for r in ranks}, 'tar_at_far': tars,
            'genuine': mates.scores, 'ranks': rank, 'probe': mates.probes(), 'best': found.best}


def accepted_above(genuine: np.ndarray, refused: float, num_allowed: int) -> tuple:
    """Return (share of genuine scores above the refused impostor's, threshold); nan where no impostor is allowed."""
    if num_allowed < 1:
        return math.nan, math.nan
    if math.isnan(refused):                                  # every impostor is allowed
        return 1.0, float(genuine.min())
    accepted = genuine[genuine > refused]
    if not len(accepted):
        return 0.0, float(np.nextafter(refused, np.inf))
    return len(accepted) / len(genuine), float(accepted.min())
