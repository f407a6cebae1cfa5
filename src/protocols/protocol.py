"""The interface of a protocol: which images it lists, how features are scored, and how its numbers are shown."""
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from easydict import EasyDict as edict

from src.scoring.report import Scored


class Protocol:
    """One protocol of the field: lists and files in; scores, table rows, curves and JSON out.

    A subclass sets `name` (of --protocol) and `title`, and defines every method below. `numbers` are in percent and
    become the JSON; an interval is (lowest, highest) of 95 %, (None, None) where there is none.
    """

    name = title = ''

    def images(self, cfg: edict) -> tuple:
        """Return (names, labels (N,)) of the images that are to be embedded, in the protocol's order."""
        raise NotImplementedError

    def score(self, cfg: edict, features_of: Callable) -> Scored:
        """Return the result. features_of: names -> (N, D) features in their order."""
        raise NotImplementedError

    def lines(self, numbers: dict) -> list:
        """Return the table as lines of at most 80 columns."""
        raise NotImplementedError

    def summary(self, numbers: dict) -> Iterator:
        """Yield (name, value, interval), the rows by which runs are laid beside each other."""
        raise NotImplementedError

    def note(self, numbers: dict) -> str:
        """Return a sentence for the report about the limits of the numbers, '' for none."""
        return ''

    def figures(self, runs: dict) -> list:
        """Return the curves of {label: Scored} as [(title, SVG)]."""
        raise NotImplementedError

    def comparison(self, scored: Scored, other: Any) -> list:
        """Return [(name, this, other, difference, interval, p)] against another `Scored`, or the numbers of --json."""
        raise NotImplementedError

    def comparable(self, numbers: dict, wanted: dict) -> tuple:
        """Return (whether `numbers`, read from a file, can be compared with `wanted`, the expected content as text)."""
        raise NotImplementedError


def image_id(name: str) -> str:
    """Return the id that joins the images of several lists: a listed name without folder and extension."""
    return os.path.splitext(os.path.basename(name))[0]


def in_order(features: np.ndarray, listed: list) -> Callable:
    """Return a function names -> their rows of features (N, D), which belong to the `listed` images.

    LFW and BLUFR list the same images in two orders; a name counts without folder and extension.
    """
    rows: dict = {}

    def features_of(names: list) -> np.ndarray:
        if names == listed:
            return features
        if not rows:
            rows.update((image_id(name), row) for row, name in enumerate(listed))
        missing = [name for name in names if image_id(name) not in rows]
        if missing:
            raise ValueError(f"{len(missing)} images of the other protocol are not in the list, such as {missing[0]}; "
                             "--report needs both")
        return features[[rows[image_id(name)] for name in names]]
    return features_of


def warn(text: str) -> None:
    """Print a warning on one line."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def warn_of_duplicates(features: np.ndarray, names: list, people: np.ndarray) -> None:
    """Warn of rows of different people that are equal bit for bit: the sign of a broken feature file."""
    first, found = {}, []
    for row, feature in enumerate(np.ascontiguousarray(features)):
        twin = first.setdefault(feature.tobytes(), row)
        if people[twin] != people[row]:
            found.append((twin, row))
    if found:
        a, b = found[0]
        warn(f"{len(found)} features equal that of another person, such as rows {a} ({names[a]}) and {b} ({names[b]}); "
             "is the feature file whole and in order?")
