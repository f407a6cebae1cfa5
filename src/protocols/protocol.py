"""The interface of a protocol: which images it lists, how features are scored, and how its numbers are shown."""
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Optional

import numpy as np
from easydict import EasyDict as edict

from src.data.face_format import FaceFormat
from src.data.images import check_alignment, find_image, find_images
from src.data.pictures import AnyPicture
from src.options import checked_options
from src.scoring.report import Scored


class Protocol:
    """One protocol of the field: lists and files in; scores, table rows, curves and JSON out.

    A subclass sets `name` (of --protocol) and `title`, and defines `images`, `score`, `lines`, `summary`, `figures`,
    `comparison` and `comparable`. One whose pictures are not LFW's sets `lists_lfw` to False and defines `root`, and
    `pictures` and `picture` where they are not files below that folder. Its own settings stand in `OPTIONS`: each
    becomes a flag of evaluate.py, and `options(cfg)` gives their values. `numbers` are in percent and become the JSON;
    an interval is (lowest, highest) of 95 %, (None, None) where there is none.
    """

    name = title = ''
    OPTIONS: Mapping = {}        # {name: src.options.Option}: --NAME, or --set protocol.NAME=VALUE
    lists_lfw = True             # whether its images are LFW's
    paired_test = 'bootstrap over people'        # of `comparison`; '' for none

    def images(self, cfg: edict) -> tuple:
        """Return (names, labels (N,)) of the images that are to be embedded, in the protocol's order."""
        raise NotImplementedError

    def options(self, cfg: edict) -> dict:
        """Return the value of each of OPTIONS: the one given by flag or setting, or its default."""
        given = {key: value for key, value in cfg.protocol_options.items() if key in self.OPTIONS}
        return checked_options(f'protocol {self.name}', self.OPTIONS, given)

    def root(self, cfg: edict) -> str:
        """Return the folder whose face_format.json, if there is one, says what the faces are."""
        return cfg.root_path

    def pictures(self, cfg: edict) -> list:
        """Return the picture (src.data.pictures) of each name of `images`; FileNotFoundError counts missing ones."""
        return find_images(self.root(cfg), self.images(cfg)[0])

    def picture(self, cfg: edict, name: str) -> Optional[AnyPicture]:
        """Return the picture of one name for the report, None if it is missing."""
        return find_image(self.root(cfg), name)

    def key(self, name: str) -> str:
        """Return what tells this image from those of all protocols.

        Protocols that list the same images share their keys, and so their rows of features: of LFW's, the name without
        folder and extension.
        """
        return image_id(name) if self.lists_lfw else f'{self.name}\n{name}'

    def check_faces(self, cfg: edict, pictures: Sequence, face: FaceFormat) -> None:
        """Raise ValueError if the pictures are aligned in another way than `face` needs; assume_format overrides."""
        check_alignment(self.root(cfg), pictures, face, cfg.assume_format)

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

    def details(self, numbers: dict) -> list:
        """Return further tables as [(title, lines of at most 80 columns)], [] for none."""
        return []

    def figures(self, runs: dict) -> list:
        """Return the curves of {label: Scored} as [(title, SVG)]."""
        raise NotImplementedError

    def comparison(self, scored: Scored, other: Any) -> list:
        """Return [(name, this, other, difference, interval, p)] against another `Scored`, or the numbers of --json."""
        raise NotImplementedError

    def compared(self, scored: Scored, other: Scored, num_pairs: int) -> list:
        """Return `comparison` where num_pairs pairs of models are tested together, and p must be told that finely.

        A protocol without a comparison has nothing to test.
        """
        return [] if type(self).comparison is Protocol.comparison else self.comparison(scored, other)

    def comparable(self, numbers: dict, wanted: dict) -> tuple:
        """Return (whether `numbers`, read from a file, can be compared with `wanted`, the expected content as text)."""
        raise NotImplementedError


def image_id(name: str) -> str:
    """Return the id that joins the images of several lists: a listed name without folder and extension."""
    return os.path.splitext(os.path.basename(name))[0]


def in_order(features: np.ndarray, keys: Sequence, key_of: Callable = image_id) -> Callable:
    """Return a function names -> their rows of features (N, D); row i belongs to the image of keys[i].

    key_of: function name -> key, a protocol's `key`. LFW and BLUFR list the same images in two orders.
    """
    rows: dict = {}

    def features_of(names: Sequence) -> np.ndarray:
        wanted = [key_of(name) for name in names]
        if wanted == list(keys):
            return features
        if not rows:
            rows.update((key, row) for row, key in enumerate(keys))
        missing = [name for name, key in zip(names, wanted) if key not in rows]
        if missing:
            raise ValueError(f"{len(missing)} images of the other protocol are not in the list, such as {missing[0]}; "
                             "--report needs both")
        return features[[rows[key] for key in wanted]]
    return features_of


def numbers_of(other: Any) -> dict:
    """Return the numbers of a `Scored`, or those of --json as they are."""
    return other.numbers if isinstance(other, Scored) else other


def plain_comparison(rows: Iterable, other_rows: Iterable) -> list:
    """Return rows of `Protocol.comparison` without interval and test. rows: of (name, percent or None, ...)."""
    return [(name, this, that, None if None in (this, that) else this - that, (None, None), np.nan)
            for (name, this, *_), (_, that, *_) in zip(rows, other_rows)]


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
