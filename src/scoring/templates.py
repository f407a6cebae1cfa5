"""Templates of IJB-B and IJB-C: pictures pooled by medium, then 1:1 verification of listed pairs.

    ids, pooled = pool(features, templates, media, detector_scores=scores)
    genuine, impostor = pair_scores(ids, pooled, first, second, same)
    result = verification(genuine, impostor)

As insightface's evaluation does: pictures of one template and medium (a video's frames) are averaged, a template is the
sum of its media, and two templates score the cosine. A picture weighs by its detector's score, and by the length of its
embedding unless `by_length` is False.
"""
import math
from collections.abc import Sequence
from typing import Optional

import numpy as np
from numba import njit, prange

from src.scoring import metrics
from src.scoring.all_with_all import MEMORY_MB, vectors
from src.scoring.identification import accepted_above

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def pool(features: np.ndarray, templates: np.ndarray, media: np.ndarray, *,
         detector_scores: Optional[np.ndarray] = None, by_length: bool = True,
         names: Optional[Sequence] = None) -> tuple:
    """Return (template ids (T,) ascending, pooled features (T, D) float64, not scaled).

    features: (N, D), as the network gives them; templates, media: (N,) ids of each picture's; detector_scores: (N,).
    Raises ValueError for rows that are not finite or zero, and for a template that pools to zero.
    """
    lengths = vectors(features, names).lengths
    weights = np.ones(len(features)) if detector_scores is None else np.asarray(detector_scores, np.float64)
    if weights.shape != (len(features),) or len(templates) != len(features) or len(media) != len(features):
        raise ValueError(f"{len(features)} features, {len(templates)} templates, {len(media)} media and "
                         f"{len(weights)} detector scores; expected as many of each")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"{int((~(weights >= 0)).sum())} detector scores are negative or not finite")
    ids, row = np.unique(templates, return_inverse=True)
    medium = np.unique(media, return_inverse=True)[1].astype(np.int64)
    _, group, size = np.unique(row.astype(np.int64) * (int(medium.max()) + 1) + medium, return_inverse=True,
                               return_counts=True)
    weights = weights / size[group]
    if not by_length:
        weights = weights / lengths
    order = np.argsort(row, kind='stable')
    pooled = _weighted_sums(features, weights, order, np.searchsorted(row[order], np.arange(len(ids) + 1)))
    vectors(pooled, ids, what='template')
    return ids, pooled


def rows_of(ids: np.ndarray, wanted: np.ndarray, what: str) -> np.ndarray:
    """Return the row of each wanted template in ascending `ids`; ValueError names one without pictures."""
    rows = np.searchsorted(ids, wanted)
    missing = np.flatnonzero(ids[np.minimum(rows, len(ids) - 1)] != wanted)
    if len(missing):
        raise ValueError(f"{what}: template {wanted[missing[0]]} has no picture ({len(missing)} such rows)")
    return rows


def pair_scores(ids: np.ndarray, pooled: np.ndarray, first: np.ndarray, second: np.ndarray, *,
                memory_mb: int = MEMORY_MB, what: str = 'pairs') -> np.ndarray:
    """Return the cosines (P,) of pairs of templates, given by their ids; blocks of them stay below memory_mb."""
    unit = metrics.unit_rows(pooled, ids)
    scores = np.empty(len(first))
    step = max(memory_mb * 2 ** 20 // 64, 1)
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        pairs = np.stack([rows_of(ids, side[part], what) for side in (first, second)], 1)
        scores[part] = metrics.pair_scores(unit, pairs)
    return scores


def verification(genuine: np.ndarray, impostor: np.ndarray, fars: Sequence = FARS) -> dict:
    """Return {'tar_at_far': {FAR: (TAR, threshold)}, 'tar_nearest': {FAR: TAR}} as shares, nan where unmeasurable.

    tar_at_far: at most floor(FAR * impostors) are accepted. tar_nearest: at the point of the ROC whose FAR is nearest,
    as insightface's ijb_11.py reads it off scikit-learn's roc_curve; it may lie above the FAR asked for.
    """
    if not len(genuine) or not len(impostor):
        raise ValueError(f"{len(genuine)} genuine and {len(impostor)} impostor pairs, expected both kinds")
    # only scores above the impostor at the largest FAR matter: the others are never sorted
    num_top = min(len(impostor), math.floor(1.1 * max(fars) * len(impostor)) + 1000)
    top = np.sort(np.partition(impostor, len(impostor) - num_top)[len(impostor) - num_top:])[::-1]
    allowed = {far: math.floor(far * len(impostor) + 1e-9) for far in fars}
    return {'tar_at_far': {far: accepted_above(genuine, top[k] if k < len(top) else math.nan, k)
                           for far, k in allowed.items()},
            'tar_nearest': _nearest(genuine, top, len(impostor), fars)}


def _nearest(genuine, top, num_impostors, fars):
    """Return the TAR at the corner of the ROC nearest to each FAR. top: the highest impostor scores, falling."""
    upper = genuine[genuine >= top[-1]]
    if not len(upper):
        return dict.fromkeys(fars, 0.0)
    far, tar, _ = metrics.roc(upper, top)
    far, tar = far * len(top) / num_impostors, tar * len(upper) / len(genuine)
    corner = np.ones(len(far), bool)
    fp, tp = np.rint(far * num_impostors), np.rint(tar * len(genuine))
    corner[1:-1] = (np.diff(fp, 2) != 0) | (np.diff(tp, 2) != 0)         # scikit-learn drops what lies on a line,
    corner[1] = True                                                     # but not the highest score
    far, tar = far[corner][::-1], tar[corner][::-1]                      # the largest TAR of equal FARs comes first
    return {x: float(tar[np.argmin(np.abs(far - x))]) for x in fars}


@njit(cache=True, parallel=True)
def _weighted_sums(features, weights, order, starts):
    """Return sums (T, D) float64 of weighted rows; those of sum t are order[starts[t]:starts[t + 1]]."""
    sums = np.zeros((len(starts) - 1, features.shape[1]))
    for t in prange(len(starts) - 1):
        for i in range(starts[t], starts[t + 1]):
            row = order[i]
            for d in range(features.shape[1]):
                sums[t, d] += weights[row] * features[row, d]
    return sums
