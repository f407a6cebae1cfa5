"""Folders that hold two people, and people that have two folders: features and labels in, lists out.

    two = two_in_one(unit, labels, threshold)            # a folder whose pictures fall into two groups
    one = one_in_two(unit, labels, threshold)            # two folders that look like one person

A folder is cut where its pictures hang together least (average linkage): its score is the mean cosine between the two
groups. Two folders are compared by the mean cosine between their pictures.
"""
from typing import NamedTuple

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

MAX_OF_A_PERSON = 2000           # pictures of a folder that are looked at
_BLOCK = 2048


class Split(NamedTuple):
    """A folder in two groups: its label, the mean cosine between the groups, the rows of the smaller and the larger."""

    label: int
    score: float
    smaller: np.ndarray
    larger: np.ndarray


def cut(unit: np.ndarray, rows: np.ndarray, label: int = 0) -> Split:
    """Return the pictures `rows` (n,), n >= 2, of `unit` (N, D) cut in two groups by average linkage."""
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_OF_A_PERSON)).astype(np.int64)]
    held = unit[rows]
    distances = np.maximum(1 - (held @ held.T)[np.triu_indices(len(rows), 1)], 0)
    tree = linkage(distances, 'average')
    first = fcluster(tree, 2, 'maxclust') == 1
    if first.all():                                              # all merges at one height: the first against the rest
        first = np.arange(len(rows)) == 0
    smaller, larger = sorted((rows[first], rows[~first]), key=len)
    return Split(label, float(1 - tree[-1, 2]), smaller, larger)


def two_in_one(unit: np.ndarray, labels: np.ndarray, threshold: float) -> list:
    """Return the `Split`s of folders whose two groups are less alike than `threshold`, the least alike first.

    unit: (N, D) of length 1. labels: (N,) ascending.
    """
    rows = np.split(np.arange(len(labels)), np.flatnonzero(np.diff(labels)) + 1)
    found = [cut(unit, held, int(labels[held[0]])) for held in rows if len(held) > 1]
    return sorted((split for split in found if split.score < threshold), key=lambda split: split.score)


def one_in_two(unit: np.ndarray, labels: np.ndarray, threshold: float) -> list:
    """Return [(label, other label, mean cosine)] of folders more alike than `threshold`, the most alike first."""
    people, place = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(people), unit.shape[1]))
    np.add.at(sums, place, unit)
    means = sums / np.bincount(place)[:, None]                   # products of means are means of products
    found = []
    for start in range(0, len(people), _BLOCK):
        scores = means[start:start + _BLOCK] @ means.T
        for i, j in np.argwhere(scores >= threshold):
            if start + i < j:
                found.append((int(people[start + i]), int(people[j]), float(scores[i, j])))
    return sorted(found, key=lambda pair: -pair[2])


def found_of_planted(unit: np.ndarray, labels: np.ndarray, threshold: float, num: int = 200, seed: int = 0) -> float:
    """Return the share of folders merged on purpose, two people each, that `two_in_one` would find; nan for one person.

    It tells how good the features are at it.
    """
    people = np.unique(labels)
    if len(people) < 2:
        return float('nan')
    rng, hits = np.random.default_rng(seed), 0
    for _ in range(num):
        a, b = rng.choice(people, 2, replace=False)
        rows = np.flatnonzero((labels == a) | (labels == b))
        hits += cut(unit, rows).score < threshold
    return hits / num
