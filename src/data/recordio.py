"""Random access to MXNet's RecordIO files (.rec, .idx) and insightface's train.rec, without MXNet.

    records = RecordFile('faces_emore/train.rec')           # len(records), records.labels (N,) int32
    picture = records.data(5)                               # the encoded bytes of row 5, from any thread

insightface puts a header without picture first, labelled (N + 1, N + 1 + people), then the pictures 1..N, then a header
for each person with the [first, end) of its pictures. The format itself, and its writer, stand in recordio_format.py.
"""
import mmap
import os
import sys
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Optional

import numpy as np

from src.data.recordio_format import (FIRST, HEADER, LAST, MAGIC, MAGIC_BYTES, MAX_LENGTH, MIDDLE, PART, WHOLE, Record,
                                      RecordWriter, pack, read_index, read_lst, read_property, unpack, whole_labels,
                                      write_index, write_lst, write_records)

__all__ = ['Names', 'Record', 'RecordFile', 'RecordWriter', 'iterate_records', 'open_records', 'pack', 'read_index',
           'read_lst', 'read_property', 'scan', 'unpack', 'write_index', 'write_lst', 'write_records']
_CHUNK = 1 << 18                         # records whose headers are looked at together


class RecordFile:
    """Random access to the pictures of a .rec file: len(file), labels (N,) int32, keys (N,) int64, data(row).

    The .idx beside it is taken if it fits; a missing or stale one is built anew in memory (`write_index` keeps it).
    `people` (K, 2) int64 are the picture keys [first, end) of each person in insightface's layout, else None. Reading
    a row takes one `pread`, so that threads and forked processes share the object.
    """

    def __init__(self, path: str):
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path}: no such .rec file")
        self.path, self.people = path, None
        self.file = os.open(path, os.O_RDONLY)
        self.num_bytes = os.fstat(self.file).st_size
        if self.num_bytes < PART.size:
            raise ValueError(f"{path}: {self.num_bytes} bytes, expected a RecordIO file")
        data = mmap.mmap(self.file, 0, access=mmap.ACCESS_READ)                   # until the end of this function
        places, keys = self._index(data)
        table = _headers(np.frombuffer(data, '<u4', len(data) // 4), places, path)
        self.record_places, self.record_keys = places, table.ids if keys is None else keys
        if keys is None and len(np.unique(table.ids)) < len(places):
            self.record_keys = np.arange(len(places))
        rows = self._picture_rows(table)
        self.keys, self.places = self.record_keys[rows], places[rows]
        self.starts, self.lengths = table.starts[rows], table.lengths[rows]
        self.labels = whole_labels(table.labels[rows], self.keys, path)
        self.num_people = int(self.labels.max()) + 1

    def __len__(self) -> int:
        return len(self.labels)

    def __del__(self):
        if hasattr(self, 'file'):
            os.close(self.file)

    @property
    def names(self) -> 'Names':
        """The record keys as text, one for each row."""
        return Names(self.keys)

    def row_of(self, name: str) -> Optional[int]:
        """Return the row of the record with this key, or that the .lst beside the file names so; None if there is none.

        A name of the .lst counts with another picture extension, or none, too.
        """
        key = int(name) if name.isdigit() and len(name) <= 18 else self._listed.get(os.path.splitext(name)[0])
        if key is None:
            return None
        place = int(np.searchsorted(self.keys, key, sorter=self._order))
        row = int(self._order[place]) if place < len(self.keys) else 0
        return row if self.keys[row] == key else None

    @cached_property
    def _order(self):
        return np.argsort(self.keys, kind='stable')

    @cached_property
    def _listed(self):
        beside = os.path.splitext(self.path)[0] + '.lst'
        if not os.path.isfile(beside):
            return {}
        keys, _, names = read_lst(beside)
        return {os.path.splitext(name)[0]: key for name, key in zip(names, keys.tolist())}

    def data(self, row: int) -> bytes:
        """Return the encoded picture of a row; OSError if the file ends before it."""
        length = int(self.lengths[row])
        if length < 0:                                       # in parts
            return unpack(self._joined(int(self.places[row])), f'{self.path}, record {self.keys[row]}').data
        return self._read(int(self.starts[row]), length)

    def record(self, row: int) -> Record:
        """Return the whole record of a row, with all its labels."""
        return unpack(self._joined(int(self.places[row])), f'{self.path}, record {self.keys[row]}')

    def _read(self, start, length):
        data = os.pread(self.file, length, start)
        if len(data) != length:
            raise OSError(f"{self.path}: ends before byte {start + length}; it was cut off while it was in use")
        return data

    def _joined(self, place):
        parts = []
        while True:
            magic, word = PART.unpack(self._read(place, PART.size))
            flag, length = word >> 29, word & MAX_LENGTH - 1
            if magic != MAGIC:
                raise OSError(f"{self.path}: byte {place} does not start a record; it changed while it was in use")
            parts.append(self._read(place + PART.size, length))
            if flag in (WHOLE, LAST):
                return MAGIC_BYTES.join(parts)
            place += PART.size + length + -length % 4

    def _index(self, data):
        """Return (places, keys or None) of the records, ascending, from the .idx where it fits."""
        index = os.path.splitext(self.path)[0] + '.idx'
        if os.path.isfile(index):
            keys, places = read_index(index)
            order = np.argsort(places, kind='stable')
            if _are_all_records(data, places[order]):
                return places[order], keys[order]
            print(f"warning: {index}: does not fit {self.path}; the places of the records are looked up again",
                  file=sys.stderr, flush=True)
        return scan(data, self.path), None

    def _picture_rows(self, table):
        """Return the rows that are pictures: all, or those between insightface's headers."""
        total, empty = len(table.flags), (table.lengths == 0) & (table.flags == 2)
        if not empty[0]:
            if empty.any():
                raise ValueError(f"{self.path}: record {np.argmax(empty)} holds no picture, and record 0 "
                                 "is not insightface's header; the beginning of the file is missing")
            return np.arange(total)
        pictures = np.flatnonzero(~empty)
        end = int(pictures[-1]) + 1 if len(pictures) else 1
        said, held = table.pairs[0], np.array([end, total], np.float32)          # float32 rounds above 2^24
        if not len(pictures) or said[0] != held[0] or said[1] not in held:
            raise ValueError(f"{self.path}: its header says pictures up to record {said[0] - 1:.0f} and "
                             f"{said[1]:.0f} records, it holds {total}, the last picture in record {end - 1}; it is "
                             "cut off: copy it anew")
        people = table.pairs[end:].astype(np.float64)
        if not (np.isfinite(people).all() and (people >= 1).all() and (people <= held[0]).all()
                and (people[:, 0] <= people[:, 1]).all()):
            raise ValueError(f"{self.path}: a person's header counts pictures outside 1..{end - 1}")
        self.people = people.astype(np.int64) if len(people) else None
        return np.arange(1, end)


class Names(Sequence):
    """Keys (N,) as text, made when one is asked for: millions of them cost no memory."""

    def __init__(self, keys: np.ndarray):
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, row: Any) -> Any:
        return Names(self.keys[row]) if isinstance(row, slice) else str(int(self.keys[row]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Names, list)) and list(self) == list(other)

    __hash__ = None


@lru_cache(4)
def _opened(path, size, time):
    return RecordFile(path)


def open_records(path: str) -> RecordFile:
    """Return the `RecordFile` of a path, opened once for all who ask while the file stays as it is."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such .rec file")
    stat = os.stat(path)
    return _opened(os.path.abspath(path), stat.st_size, stat.st_mtime_ns)


class _Table(NamedTuple):
    """Of every record: flag, first label, id, start and length (-1: in parts) of the picture, its first two labels."""

    flags: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    pairs: np.ndarray


def _headers(words, places, path):
    """Return the `_Table` of all records. words: the file as uint32."""
    parts = [_header_block(words, places[i:i + _CHUNK], i, path) for i in range(0, len(places), _CHUNK)]
    return _Table(*(np.concatenate(column) for column in zip(*parts)))


def _header_block(words, places, first, path):
    reach = np.minimum(places[:, None] // 4 + np.arange(10), len(words) - 1)
    held = words[reach]                                      # (M, 10): part header, IRHeader, two labels
    payload = (held[:, 1] & np.uint32(MAX_LENGTH - 1)).astype(np.int64)
    in_parts = np.flatnonzero(held[:, 1] >> 29 != WHOLE)
    for row in in_parts:
        start = int(places[row]) // 4
        whole = _join_words(words, start)
        payload[row] = len(whole)
        held[row, 2:] = np.frombuffer(whole[:32].ljust(32, b'\0'), '<u4')
    flags = held[:, 2].astype(np.int64)
    wrong = np.flatnonzero(payload < HEADER.size + 4 * flags)
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(f"{path}: record {first + row} at byte {places[row]} has {payload[row]} bytes, its header "
                         f"needs {HEADER.size + 4 * int(flags[row])}; it does not hold pictures, or is damaged")
    pairs = np.ascontiguousarray(held[:, 8:10]).view('<f4')
    labels = np.where(flags > 0, pairs[:, 0], np.ascontiguousarray(held[:, 3]).view('<f4'))
    ids = held[:, 4].astype(np.int64) | (held[:, 5].astype(np.int64) & 0x7fffffff) << 32
    lengths = payload - HEADER.size - 4 * flags
    lengths[in_parts] = -1
    return flags, labels, ids, places + PART.size + HEADER.size + 4 * flags, lengths, pairs


def _join_words(words, place):
    parts = []
    while True:
        length = int(words[place + 1]) & MAX_LENGTH - 1
        parts.append(words[place + 2:place + 2 + (length + 3) // 4].tobytes()[:length])
        if int(words[place + 1]) >> 29 in (WHOLE, LAST):
            return MAGIC_BYTES.join(parts)
        place += 2 + (length + 3) // 4


def _are_all_records(data, places):
    """Whether records start at `places` (ascending), each where the one before ends, the last one at the file's end."""
    if not len(places) or len(data) % 4 or places[0] != 0 or (places % 4).any() or places[-1] > len(data) - PART.size:
        return False
    sizes, words = np.diff(np.append(places, len(data))), np.frombuffer(data, '<u4')
    for i in range(0, len(places), _CHUNK):
        at, size = places[i:i + _CHUNK], sizes[i:i + _CHUNK]
        magic, word = words[at // 4], words[at // 4 + 1]
        length = (word & np.uint32(MAX_LENGTH - 1)).astype(np.int64)
        whole = word >> 29 == WHOLE
        if (magic != MAGIC).any() or (((length + 3) // 4 * 4 + PART.size != size) & whole).any():
            return False
        if any(_record_end(data, int(at[row])) != at[row] + size[row] for row in np.flatnonzero(~whole)):
            return False
    return True


def _record_end(data, place):
    """Return where the record at `place` ends, None if it is not whole."""
    expected = (WHOLE, FIRST)
    while place + PART.size <= len(data):
        magic, word = PART.unpack_from(data, place)
        flag, length = word >> 29, word & MAX_LENGTH - 1
        place += PART.size + length + -length % 4
        if magic != MAGIC or flag not in expected or flag in (FIRST, MIDDLE) and length % 4 or place > len(data):
            return None
        if flag in (WHOLE, LAST):
            return place
        expected = (MIDDLE, LAST)
    return None


def scan(data: mmap.mmap, path: str) -> np.ndarray:
    """Return the places of all records, int64 (N,); ValueError where one is not whole."""
    places, place = array('q'), 0
    while place < len(data):
        places.append(place)
        place = _record_end(data, place)
        if place is None:
            raise ValueError(f"{path}: record {len(places) - 1} at byte {places[-1]} of {len(data)} is not a whole "
                             "RecordIO record; the file is cut off, damaged or of another kind: copy it anew")
    return np.array(places, np.int64)


def iterate_records(path: str) -> Iterator:
    """Yield the `Record` of every record in file order, header records too."""
    records = RecordFile(path)
    for number, place in enumerate(records.record_places.tolist()):
        yield unpack(records._joined(place), f'{path}, record {number}')
