"""Where the bytes of a picture come from: a file on disk, or a place inside another file (.bin, .rec, pack).

    picture = Picture(RecordFile('train.rec'), 5)
    data = read_bytes(picture)                           # read_bytes('face.jpg') likewise

A picture is the path of a file, or a `Picture`: a row of a source, which is any object with `path`, `names` (N,) and
data(row) -> the bytes of a picture file. Everything that embeds, checks or shows pictures takes both.
"""
import hashlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Union

from src.data.lists import file_sha256


class Picture(NamedTuple):
    """Row `row` of `source`, which has `path`, `names` and data(row)."""

    source: Any
    row: int

    def __str__(self) -> str:
        return f'{self.source.path}, picture {self.source.names[self.row]}'


AnyPicture = Union[str, os.PathLike, Picture]


class Held:
    """Pictures held in memory as bytes: what a .bin or a web request gives."""

    def __init__(self, path: str, pictures: Sequence, names: Sequence):
        self.path, self.pictures, self.names = path, pictures, names

    def __len__(self) -> int:
        return len(self.pictures)

    def data(self, row: int) -> bytes:
        """Return the bytes of picture `row`."""
        return self.pictures[row]


class Pictures(Sequence):
    """The `Picture`s in some rows of a source, made when one is asked for."""

    def __init__(self, source: Any, rows: Sequence):
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return Pictures(self.source, self.rows[place]) if isinstance(place, slice) else \
            Picture(self.source, int(self.rows[place]))

    def take(self, places: Sequence) -> 'Pictures':
        """Return the pictures in these places."""
        return Pictures(self.source, [self.rows[place] for place in places])


def pictures_of(source: Any) -> Pictures:
    """Return every `Picture` of a source, in its order."""
    return Pictures(source, range(len(source.names)))


def read_bytes(picture: AnyPicture) -> bytes:
    """Return the bytes of a picture file. Raises FileNotFoundError or OSError."""
    if isinstance(picture, Picture):
        return picture.source.data(picture.row)
    with open(picture, 'rb') as file:
        return file.read()


def picture_sha256(picture: AnyPicture) -> str:
    """Return the SHA-256 of the bytes of a picture file, in hexadecimal: two pictures of equal bytes are one."""
    if isinstance(picture, Picture):
        return hashlib.sha256(read_bytes(picture)).hexdigest()
    return file_sha256(picture)
