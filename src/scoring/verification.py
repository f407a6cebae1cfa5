"""Scores of a set of pairs as insightface's verification.py computes them, in NumPy: arrays in, numbers out.

    result = score(embeddings, pairs, same, flipped=embeddings_of_mirrored_pictures)

Embeddings are those of a picture, or the sum with those of its mirror image, scaled to length 1; a pair's distance is
the squared one, 0..4. A grid of thresholds is tried on nine tenths of the pairs, the first of the best is measured on
the tenth. LFW's own rule, which tries every score, is `metrics.accuracy_10fold`.
"""
import math
from typing import Optional

import numpy as np

from src.scoring import metrics

THRESHOLDS = np.arange(0, 4, 0.01)       # a distance below the threshold is a match
FARS = (0.1, 0.01, 0.001, 0.0001)
FLIPS = ('none', 'sum', 'concat')


def combine(plain: np.ndarray, flipped: Optional[np.ndarray] = None, flip: str = 'sum') -> np.ndarray:
    """Return unit-length float64 embeddings (N, D), or (N, 2D) for 'concat', of pictures and their mirror images.

    A zero row stays zero.
    """
    if flip not in FLIPS:
        raise ValueError(f"flip '{flip}' is not one of {', '.join(FLIPS)}")
    held = np.asarray(plain, np.float64)
    if flipped is not None and flip != 'none':
        mirrored = np.asarray(flipped, np.float64)
        held = held + mirrored if flip == 'sum' else np.concatenate([held, mirrored], 1)     # (N, D) or (N, 2D)
    length = np.sqrt((held * held).sum(1, keepdims=True))
    return held / np.where(length == 0, 1, length)


def squared_distances(unit: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the squared distances (P,) of `pairs` (P, 2) of rows of `unit` (N, D)."""
    return np.sum(np.square(unit[pairs[:, 0]] - unit[pairs[:, 1]]), 1)


def fold_of(num_pairs: int, num_folds: int = 10) -> np.ndarray:
    """Return the fold (P,) of each pair: runs of file order, the first ones one longer where they do not divide."""
    sizes = np.full(num_folds, num_pairs // num_folds)
    sizes[:num_pairs % num_folds] += 1
    return np.arange(num_folds).repeat(sizes)


def grid_accuracy(distances: np.ndarray, same: np.ndarray, folds: Optional[np.ndarray] = None, *,
                  thresholds: np.ndarray = THRESHOLDS) -> tuple:
    """Return (mean, standard deviation, accuracies (F,), thresholds (F,)) of the cross-validated accuracy.

    distances: (P,). same: (P,) bool. folds: (P,) int, None for ten runs of file order. The deviation is that of the
    folds, ddof = 0, as insightface prints it. Raises ValueError for fewer pairs than folds or a distance that is nan.
    """
    if folds is None and len(distances) < 10:
        raise ValueError(f"{len(distances)} pairs, expected 10 or more for ten folds")
    if not np.isfinite(distances).all():
        raise ValueError(f"{np.sum(~np.isfinite(distances))} of {len(distances)} distances are not finite")
    folds = fold_of(len(distances)) if folds is None else np.asarray(folds)
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise ValueError(f"{len(numbers)} fold, expected 2 or more")
    right = np.stack([_num_right(distances[folds == k], same[folds == k], thresholds) for k in numbers])   # (F, T)
    best = np.argmax(right.sum(0) - right, 1)                # of all other folds
    sizes = np.array([np.sum(folds == k) for k in numbers])
    accuracies = right[np.arange(len(numbers)), best] / sizes
    return float(np.mean(accuracies)), float(np.std(accuracies)), accuracies, thresholds[best]


def _num_right(distances, same, thresholds):
    """Return how many pairs each threshold (T,) tells right."""
    genuine, impostor = np.sort(distances[same]), np.sort(distances[~same])
    return np.searchsorted(genuine, thresholds) + len(impostor) - np.searchsorted(impostor, thresholds)


def score(embeddings: np.ndarray, pairs: np.ndarray, same: np.ndarray, folds: Optional[np.ndarray] = None, *,
          flipped: Optional[np.ndarray] = None, flip: str = 'sum') -> dict:
    """Return the numbers of a set of pairs, as shares.

    embeddings, flipped: (N, D), as the network gives them. pairs: (P, 2) rows. same: (P,) bool. folds: as in
    `grid_accuracy`. The dict: 'grid_accuracy' (mean, standard deviation), 'grid_accuracies', 'grid_thresholds' (F,),
    'accuracy_10fold' (mean, standard error; nan where genuine and impostor pairs do not make ten equal folds),
    'tar_at_far' {FAR: (TAR, least cosine accepted)}, nan where the impostor pairs cannot resolve it or a kind of pair
    is missing, 'genuine', 'impostor' cosines, 'norm' the mean length of an embedding.
    """
    same = np.asarray(same, bool)
    unit = combine(embeddings, flipped, flip)
    distances = squared_distances(unit, np.asarray(pairs))
    mean, deviation, accuracies, thresholds = grid_accuracy(distances, same, folds)
    cosines = np.sum(unit[pairs[:, 0]] * unit[pairs[:, 1]], 1)
    genuine, impostor = cosines[same], cosines[~same]
    both, nothing = len(genuine) > 0 < len(impostor), (math.nan, math.nan)
    lengths = [np.linalg.norm(np.asarray(held, np.float64), axis=1) for held in (embeddings, flipped)
               if held is not None]
    return {'grid_accuracy': (mean, deviation), 'grid_accuracies': accuracies, 'grid_thresholds': thresholds,
            'accuracy_10fold': metrics.accuracy_10fold(genuine, impostor) if both else nothing,
            'tar_at_far': {far: metrics.tpr_at_far(genuine, impostor, far) if both else nothing for far in FARS},
            'genuine': genuine, 'impostor': impostor, 'norm': float(np.mean(lengths))}
