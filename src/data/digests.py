"""Digests of the pictures of a training set in the order of its list: one changed bit in one picture is found.

    listed = Listed(open_faces(cfg))                     # before unreadable pictures are dropped
    held = digests(listed)
    first_difference(listed, held, digests_of_another_time)      # None, or one line that names the picture

A picture's digest is the sha256 of its bytes (of a pack: of the stored face) with its label. Pictures stand in at most
MAX_ROWS rows of `width`; the digest of every row and of every column finds one that changed, whatever its number, in
0.2 MB for ten million. Up to MAX_ROWS pictures a row is one picture. 0.03 to 0.1 ms of CPU a picture, with reading it.
"""
import hashlib
import math
import os
from collections.abc import Callable
from typing import Any, Optional

import numpy as np

from src.data.images import find_image
from src.data.pictures import read_bytes

MAX_ROWS = 4096
MISSING = bytes(32)              # stands for the sha256 of a picture that cannot be opened
_DIGITS = 16                     # of the sha256 of a row or a column that are kept


class Listed:
    """The pictures of a training set as its list gives them, unreadable ones too: len, data(row), name(row)."""

    def __init__(self, faces: Any):
        self.pack, self.root = getattr(faces, 'pack', None), getattr(faces, 'root', None)
        self.names, self.pictures = getattr(faces, 'names', None), getattr(faces, 'pictures', None)
        self.labels = np.asarray(faces.labels, '<i4')

    def __len__(self) -> int:
        return len(self.labels)

    def data(self, row: int) -> Optional[bytes]:
        """Return the bytes of picture `row`, None if there is no such file."""
        try:
            if self.pack is not None:
                return self.pack.data(row)
            picture = self.pictures[row] if self.pictures else find_image(self.root, self.names[row])
            return None if picture is None else read_bytes(picture)
        except (OSError, ValueError):
            return None

    def name(self, row: int) -> str:
        """Return what a message calls picture `row`."""
        if self.pack is None:
            return f"picture {row + 1} of the list, {self.names[row]}"
        shard = int(np.searchsorted(self.pack.first, row, 'right')) - 1
        return f"face {row + 1} of the pack, in {os.path.basename(self.pack.shards[shard]['file'])}"

    def digest(self, row: int) -> bytes:
        """Return the sha256 of the bytes of picture `row`, with its label."""
        data = self.data(row)
        own = MISSING if data is None else hashlib.sha256(data).digest()
        return own + self.labels[row].tobytes()


def width_of(count: int) -> int:
    """Return how many pictures stand in a row."""
    return max(1, math.ceil(count / MAX_ROWS))


def digests(listed: Listed, stopped: Callable = lambda: False) -> Optional[dict]:
    """Return the digests of all pictures; None as soon as `stopped` says so.

    'sha256': of all pictures' digests in list order. 'rows', 'columns': the first digits of those of each.
    """
    count, width = len(listed), width_of(len(listed))
    total, rows, columns = hashlib.sha256(), [], [hashlib.sha256() for _ in range(width)]
    for start in range(0, count, width):
        if stopped():
            return None
        row = [listed.digest(place) for place in range(start, min(start + width, count))]
        for column, digest in zip(columns, row):
            column.update(digest)
        total.update(b''.join(row))
        rows.append(hashlib.sha256(b''.join(row)).hexdigest()[:_DIGITS])
    return {'num_pictures': count, 'sha256': total.hexdigest(), 'width': width, 'rows': rows,
            'columns': [column.hexdigest()[:_DIGITS] for column in columns] if width > 1 else []}


def check_digests(held: Any) -> None:
    """Raise ValueError unless `held` is what `digests` returns."""
    try:
        count, width = held['num_pictures'], held['width']
        good = type(count) is int and count > 0 and width == width_of(count) and is_hex(held['sha256'], 64) and \
            len(held['rows']) == math.ceil(count / width) and len(held['columns']) == (width if width > 1 else 0) and \
            all(is_hex(text, _DIGITS) for text in [*held['rows'], *held['columns']])
    except (KeyError, TypeError):
        good = False
    if not good:
        raise ValueError('its digests of pictures are not whole')


def is_hex(text: Any, digits: int) -> bool:
    """Whether `text` is a string of so many lower-case hexadecimal digits."""
    return isinstance(text, str) and len(text) == digits and set(text) <= set('0123456789abcdef')


def first_difference(listed: Listed, now: dict, then: dict) -> Optional[str]:
    """Return what differs first between two digests of a list, in one line; None if nothing does."""
    if now['num_pictures'] != then['num_pictures']:
        return f"{now['num_pictures']} pictures here, {then['num_pictures']} then"
    if now['sha256'] == then['sha256']:
        return None
    row = next((i for i, pair in enumerate(zip(now['rows'], then['rows'])) if pair[0] != pair[1]), None)
    if row is None:
        return 'the digest of all pictures, but of no row of them: it was not written by this program'
    width = now['width']
    changed = [i for i, pair in enumerate(zip(now['columns'], then['columns'])) if pair[0] != pair[1]] or [0]
    places = [place for place in (row * width + i for i in changed) if place < now['num_pictures']]
    others = sum(a != b for a, b in zip(now['rows'][row + 1:], then['rows'][row + 1:]))
    further = f" (and {'pictures' if width == 1 else 'groups of pictures'} further on: {others})" if others else ''
    missing = ', which cannot be opened' if len(places) == 1 and listed.data(places[0]) is None else ''
    first = listed.name(places[0]) if places else f'pictures from {row * width + 1} on'
    return f"{first if len(places) < 2 else f'one of {len(places)}, the first of them {first}'}{missing}{further}"
