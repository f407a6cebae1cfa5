"""What stands in MXNet's RecordIO files: records, their parts, .idx, .lst and `property`; written without MXNet.

    write_records('train.rec', labels, pictures, people=True)               # and train.idx
    with RecordWriter('any.rec') as out:
        out.write(0, pack(3, 0, picture))

A record is uint32 magic, uint32 (part flag << 29 | length), payload, zeros up to 4 bytes. A payload that holds the
magic on a 4-byte boundary is cut there into parts. The payload of a picture is an IRHeader (uint32 flag, float32 label,
uint64 id, uint64 id2), `flag` float32 labels in place of `label` where flag > 0, and the encoded picture.
"""
import os
import re
import struct
from array import array
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import NamedTuple, Optional

import numpy as np

from src.data.lists import check_relative, whole_file, write_text

MAGIC = 0xced7230a
MAX_LENGTH = 1 << 29                     # of one part, exclusive
MAX_LABEL = 1 << 24                      # float32 counts up to here
WHOLE, FIRST, MIDDLE, LAST = range(4)    # part flags
MAGIC_BYTES = struct.pack('<I', MAGIC)
PART = struct.Struct('<II')
HEADER = struct.Struct('<IfQQ')
MAX_TEXT_BYTES = 1 << 31
_INDEX = re.compile(r'(?:\d{1,18}\t\d{1,18}\r?(?:\n|\Z)|\r?\n)*', re.ASCII)


class Record(NamedTuple):
    """What a payload says: labels (L,) float32, id, and the encoded picture, b'' for a header record."""

    flag: int
    labels: np.ndarray
    id: int
    data: bytes


def unpack(payload: bytes, where: str = 'record') -> Record:
    """Return the `Record` in a payload; ValueError if it is too short for what its header says."""
    if len(payload) < HEADER.size:
        raise ValueError(f"{where}: {len(payload)} bytes, expected a header of {HEADER.size}")
    flag, label, number, _ = HEADER.unpack_from(payload)
    end = HEADER.size + 4 * flag
    if end > len(payload):
        raise ValueError(f"{where}: its header promises {flag} labels, the record ends after {len(payload)} bytes")
    labels = np.frombuffer(payload, '<f4', flag, HEADER.size) if flag else np.array([label], np.float32)
    return Record(flag, labels, number, bytes(payload[end:]))


def pack(labels: object, number: int, data: bytes) -> bytes:
    """Return the payload of a record as MXNet packs it: a number as the header's label, several after the header."""
    if np.ndim(labels) == 0:
        return HEADER.pack(0, float(labels), number, 0) + data
    vector = np.asarray(labels, '<f4')
    return HEADER.pack(len(vector), 0.0, number, 0) + vector.tobytes() + data


def frame(payload: bytes) -> bytes:
    """Return a payload as it stands in a file: cut into parts where it holds the magic on a 4-byte boundary."""
    if len(payload) >= MAX_LENGTH:
        raise ValueError(f"a record of {len(payload)} bytes, expected less than {MAX_LENGTH}")
    parts, start, place = [], 0, payload.find(MAGIC_BYTES)
    while place >= 0:
        if place % 4 == 0:
            parts.append(PART.pack(MAGIC, (MIDDLE if parts else FIRST) << 29 | place - start) + payload[start:place])
            start = place + 4
        place = payload.find(MAGIC_BYTES, start if place % 4 == 0 else place + 1)
    rest = payload[start:]
    return b''.join([*parts, PART.pack(MAGIC, (LAST if parts else WHOLE) << 29 | len(rest)), rest,
                     bytes(-len(payload) % 4)])


def whole_labels(labels: np.ndarray, keys: np.ndarray, path: str) -> np.ndarray:
    """Return float32 labels (N,) as int32; ValueError names the first that is not a class."""
    wrong = np.flatnonzero(~((labels >= 0) & (labels <= MAX_LABEL) & (labels == np.floor(labels))))
    if len(wrong):
        raise ValueError(f"{path}: record {keys[wrong[0]]} has the label {labels[wrong[0]]:g}, expected a whole number "
                         f"0..{MAX_LABEL} ({len(wrong)} such records)")
    return labels.astype(np.int32)


def read_index(path: str) -> tuple:
    """Return (keys, places), int64 (N,), of an .idx file; ValueError names the first line that is wrong."""
    text = _read_text(path)
    if not _INDEX.fullmatch(text):
        number, line = next((i, line) for i, line in enumerate(text.split('\n'), 1) if not _INDEX.fullmatch(line))
        raise ValueError(f"{path}, line {number}: expected 'key<TAB>byte', found {line[:60]!r}; delete the file and "
                         "the index is built anew")
    rows = np.array(text.split(), np.int64).reshape(-1, 2)
    if len(np.unique(rows[:, 0])) < len(rows) or (rows < 0).any():
        raise ValueError(f"{path}: a key comes twice or a number is negative; delete the file and the index is built "
                         "anew")
    return rows[:, 0], rows[:, 1]


def _read_text(path):
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file")
    if os.path.getsize(path) > MAX_TEXT_BYTES:
        raise ValueError(f"{path}: {os.path.getsize(path)} bytes, expected at most {MAX_TEXT_BYTES}")
    with open(path, encoding='utf-8', errors='surrogateescape') as text:
        return text.read()


def write_index(path: str, keys: Iterable, places: Iterable) -> None:
    """Write an .idx file, whole or not at all."""
    write_text(path, ''.join(f'{key}\t{place}\n' for key, place in zip(keys, places)))


def read_lst(path: str) -> tuple:
    """Return (keys (N,) int64, labels (N, L) float32, names) of a .lst file: 'key<TAB>label ...<TAB>path' a line."""
    keys, labels, names = [], [], []
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        fields = line.split('\t')
        if not line.strip():
            continue
        try:
            keys.append(int(fields[0]))
            labels.append([float(field) for field in fields[1:-1]])
        except ValueError:
            fields = []
        if len(fields) < 3 or len(labels[-1]) != len(labels[0]) or not fields[-1]:
            raise ValueError(f"{path}, line {number}: expected 'key<TAB>label<TAB>path', found {line[:60]!r}")
        check_relative(fields[-1], f'{path}, line {number}')
        names.append(fields[-1])
    if not names:
        raise ValueError(f"{path}: no image is listed; expected lines of 'key<TAB>label<TAB>path'")
    return np.array(keys, np.int64), np.array(labels, np.float32), names


def write_lst(path: str, keys: Sequence, labels: Sequence, names: Sequence) -> None:
    """Write a .lst file as MXNet's im2rec does. labels: (N,) or (N, L)."""
    rows = np.asarray(labels, np.float64).reshape(len(names), -1)
    write_text(path, ''.join(f'{key}\t' + ''.join(f'{label:f}\t' for label in row) + f'{name}\n'
                             for key, row, name in zip(keys, rows.tolist(), names)))


def read_property(path: str) -> tuple:
    """Return (people, height, width) of insightface's `property` file."""
    fields = _read_text(path)[:100].strip().split(',')
    if len(fields) != 3 or not all(field.strip().isdigit() and 0 < int(field) < 1 << 31 for field in fields):
        raise ValueError(f"{path}: expected 'people,height,width', found {','.join(fields)[:60]!r}")
    return tuple(map(int, fields))


class RecordWriter:
    """Write FILE.rec and FILE.idx, both whole or not at all: `with RecordWriter(file) as out: out.write(key, payload)`.

    The files get their names only where the block ends without an error.
    """

    def __init__(self, path: str):
        self.path, self.place = path, 0
        self.keys, self.places = array('q'), array('q')

    def __enter__(self) -> 'RecordWriter':
        self.stack = ExitStack()
        self.out = self.stack.enter_context(whole_file(self.path))
        return self

    def write(self, key: int, payload: bytes) -> None:
        """Append a record."""
        framed = frame(payload)
        self.keys.append(key)
        self.places.append(self.place)
        self.place += len(framed)
        self.out.write(framed)

    def __exit__(self, *error: Optional[object]) -> None:
        self.stack.__exit__(*error)
        if error[0] is None:
            write_index(os.path.splitext(self.path)[0] + '.idx', self.keys, self.places)


def write_records(path: str, labels: Sequence, pictures: Iterable, *, people: bool = False,
                  size: Optional[tuple] = None) -> None:
    """Write pictures with labels (N,) or (N, L) as a .rec and an .idx file.

    people: insightface's layout, header first, a header for each person last; `labels` must then ascend from 0. size:
    (height, width) of the pictures, for its `property` file. Raises ValueError for labels that it cannot hold.
    """
    labels, first = np.asarray(labels, np.float32), int(people)
    classes = whole_labels(labels.reshape(len(labels), -1)[:, 0], np.arange(first, first + len(labels)), path)
    bounds = _person_bounds(classes, path) if people else []
    number = -1
    with RecordWriter(path) as out:
        if people:
            out.write(0, pack([len(labels) + 1, len(labels) + len(bounds)], 0, b''))
        for number, picture in enumerate(pictures):
            if number >= len(labels):
                break
            out.write(number + first, pack(labels[number], number + first, picture))
        if number + 1 != len(labels):
            raise ValueError(f"{path}: {len(labels)} labels and another number of pictures")
        for key, ends in enumerate(zip(bounds, bounds[1:]), len(labels) + 1):
            out.write(key, pack(list(ends), key, b''))
    if people and size:
        write_text(os.path.join(os.path.dirname(path), 'property'), f'{len(bounds) - 1},{size[0]},{size[1]}\n')


def _person_bounds(classes, path):
    steps = np.diff(classes)
    if not len(classes) or classes[0] != 0 or ((steps != 0) & (steps != 1)).any():
        raise ValueError(f"{path}: insightface's layout needs labels that ascend from 0 without a gap")
    return [1, *(np.flatnonzero(steps) + 2).tolist(), len(classes) + 1]
