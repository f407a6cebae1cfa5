"""Folders of people -> pictures, genuine and impostor pairs: photos/<person>/<picture>.

    names, labels, people = read_people('photos')        # names relative to it, labels (N,) 0..K-1 of people (K,)
    pairs = pairs_of(labels, num_impostors=1_000_000, seed=1)
"""
import os
from typing import NamedTuple

import numpy as np

from src.data.images import EXTENSIONS

MAX_GENUINE = 20_000_000


class PeoplePairs(NamedTuple):
    """rows (P, 2) of pictures, genuine ones first; same (P,) bool; how many pairs of either kind there are in all."""

    rows: np.ndarray
    same: np.ndarray
    all_genuine: int
    all_impostors: int


def read_people(root: str) -> tuple:
    """Return (names relative to root, labels int64 (N,), people (K,)) of root/<person>/<picture>, sorted by name.

    Folders in a person's folder are that person's; hidden files and other files than pictures do not count. Raises
    FileNotFoundError for a missing folder, ValueError for fewer than two people.
    """
    if not os.path.isdir(root):
        raise FileNotFoundError(f"{root}: no such folder of people (--root)")
    people, names, labels = [], [], []
    for entry in sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != '.'):
        held = _pictures_in(root, entry)
        if held:
            labels += [len(people)] * len(held)
            names += held
            people.append(entry)
    if len(people) < 2:
        raise ValueError(f"{root}: {len(people)} folders with pictures ({', '.join(EXTENSIONS)}); expected "
                         "<person>/<picture> of two people or more")
    return names, np.array(labels, np.int64), people


def _pictures_in(root, person):
    return sorted(os.path.relpath(os.path.join(folder, name), root)
                  for folder, _, files in os.walk(os.path.join(root, person)) for name in files
                  if name.lower().endswith(EXTENSIONS) and name[0] != '.')


def pairs_of(labels: np.ndarray, num_impostors: int, seed: int = 1, *, max_genuine: int = MAX_GENUINE) -> PeoplePairs:
    """Return all genuine pairs of pictures, and `num_impostors` of all impostor pairs, each as likely as any other.

    labels: (N,) ascending. All impostor pairs if there are no more than that; of more genuine pairs than max_genuine
    as many are drawn. Raises ValueError if there is no pair of one kind.
    """
    counts = np.bincount(labels)
    num = len(labels)
    all_genuine = int((counts * (counts - 1) // 2).sum())
    all_impostors = num * (num - 1) // 2 - all_genuine
    for kind, found, hint in (('genuine', all_genuine, 'a person with two pictures'),
                              ('impostor', all_impostors, 'a second person')):
        if not found:
            raise ValueError(f"{num} pictures of {np.count_nonzero(counts)} people make no {kind} pair; add {hint}")
    rng = np.random.default_rng(seed)
    genuine = _all_genuine(labels, counts)
    if all_genuine > max_genuine:
        genuine = genuine[np.sort(rng.choice(all_genuine, max_genuine, replace=False))]
    impostor = _impostors(labels, min(num_impostors, all_impostors), all_impostors, rng)
    same = np.arange(len(genuine) + len(impostor)) < len(genuine)
    return PeoplePairs(np.concatenate([genuine, impostor]), same, all_genuine, all_impostors)


def _all_genuine(labels, counts):
    """Return every pair (G, 2) of rows of one label; labels ascend."""
    first = np.concatenate([[0], np.cumsum(counts)])[:-1]
    parts = [first[k] + np.stack(np.triu_indices(counts[k], 1), 1) for k in np.flatnonzero(counts > 1)]
    return np.concatenate(parts).astype(np.int64)


def _impostors(labels, wanted, num_all, rng):
    """Return `wanted` different pairs (I, 2) of rows of two labels, in the order of their rows."""
    num = len(labels)
    if 2 * wanted >= num_all:                                    # few are left out: list all of them
        last = np.searchsorted(labels, labels, 'right')          # the first row of the next person
        rows = np.repeat(np.arange(num), num - last)
        other = np.concatenate([np.arange(start, num) for start in last])
        pairs = np.stack([rows, other], 1)
        return pairs if wanted == num_all else pairs[np.sort(rng.choice(num_all, wanted, replace=False))]
    found = np.zeros(0, np.int64)
    while len(found) < wanted:
        a, b = np.sort(rng.integers(num, size=(2, 2 * wanted)), axis=0)
        found = np.union1d(found, (a * num + b)[labels[a] != labels[b]])
    found = np.sort(rng.choice(found, wanted, replace=False))
    return np.stack([found // num, found % num], 1)
