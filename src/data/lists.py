"""Image lists and the LFW and BLUFR protocol files -> arrays. Every file is checked before it is believed.

A list has one "path label" a line; names with spaces, a third column, blank lines and CRLF are understood. Rows that
the protocol files count from 1 are returned counted from 0.
"""
import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy.io import loadmat, whosmat

# the path ends with its extension, whatever blanks it holds; without one it ends before the last blank
_WITH_EXTENSION = re.compile(r'(.*\.(?:jpe?g|png|bmp))\s+(-?\d+)(?:\s.*)?$', re.IGNORECASE)
# matches nearly every line, so that a block of lines is parsed at once
_SIMPLE = re.compile(r'^(?![/\\]|.:)(\S+\.(?:jpg|bmp|png)) (\d{1,9})$', re.MULTILINE)
_BLOCK = 2**24
_PLAIN = re.compile(r'(.*\S)\s+(-?\d+)$')
_LFW_NAME = re.compile(r'[^/\\.][^/\\]*_\d+\.\w+$')
MAX_MAT_BYTES = 200 * 2**20
MAX_JSON_BYTES = 256 * 2**20

# LFW's errata page: these pictures show another person than their file name says
LFW_ERRATA = {
    'Recep_Tayyip_Erdogan_0004': 'Abdullah_Gul', 'Anja_Paerson_0001': 'Janica_Kostelic',
    'Janica_Kostelic_0001': 'Anja_Paerson', 'Bart_Hendricks_0001': 'Ricky_Ray', 'Carlos_Beltran_0001': 'Raul_Ibanez',
    'Emmy_Rossum_0001': 'Eva_Amurri', 'Michael_Schumacher_0008': 'Rubens_Barrichello',
    'Mahmoud_Abbas_0012': 'Hamad_Bin_Isa_al-Khalifa', 'John_Gruden_0001': 'Jon_Gruden',
}


class Blufr(NamedTuple):
    """The BLUFR protocol: names and labels (N,) and, per trial, 0-based rows as int64 arrays."""

    names: list
    labels: np.ndarray
    trials: list                 # of dicts: test, gallery, probe


def read_image_list(file: str) -> tuple:
    """Return (names, labels int64 (N,)) of a "path label" list; ValueError names the first line that is wrong."""
    names, labels = [], array('q')
    for rows in _blocks(file):
        names += [name for name, _ in rows]
        labels.extend(int(label) for _, label in rows)
    if not names:
        raise ValueError(f"{file}: no image is listed; expected lines of 'path label'")
    return names, np.frombuffer(labels, np.int64)


def iterate_list(file: str) -> Iterator:
    """Yield (name, label) of every line of a "path label" list; ValueError names a line that is wrong."""
    for rows in _blocks(file):
        yield from ((name, int(label)) for name, label in rows)


def _blocks(file):
    """Yield lists of (name, label), a block of lines at a time: five million lines are read in seconds."""
    number = 0
    with open(file, encoding='utf-8', errors='surrogateescape', newline=None) as text:
        while lines := text.readlines(_BLOCK):
            block = ''.join(lines)
            rows = _SIMPLE.findall(block)
            if len(rows) != len(lines) or '..' in block:         # not all are "path label": one by one
                rows = [_split_line(line, file, number + i) for i, line in enumerate(map(str.strip, lines), 1) if line]
            yield rows
            number += len(lines)


def _split_line(line, file, number):
    match = _WITH_EXTENSION.match(line) or _PLAIN.match(line)
    if not match:
        raise ValueError(f"{file}, line {number}: expected 'path label', found '{line[:80]}'")
    name, text = match.group(1), match.group(2)
    check_relative(name, f"{file}, line {number}")
    if len(text) > 9:
        raise ValueError(f"{file}, line {number}: the label {text[:20]} is too large")
    return name, int(text)


def check_relative(name: str, where: str) -> None:
    """Raise ValueError if a path from a file would leave the image folder."""
    if name[0] in '/\\' or '..' in name and '..' in re.split(r'[/\\]', name) or name[1:2] == ':':
        raise ValueError(f"{where}: '{name[:80]}' leaves the image folder; expected a relative path")


def check_train_labels(labels: np.ndarray, num_classes: int, file: str) -> None:
    """Raise ValueError unless `labels` (N,) are 0..K-1 without a gap and K <= num_classes.

    Lines are counted without blank ones; of a .rec file, pictures.
    """
    where = f"{file}, {'picture' if file.endswith('.rec') else 'line'}"
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(f"{where} {row + 1}: label {labels[row]} is not in 0..{num_classes - 1} "
                         f"({len(wrong)} such {where.rpartition(' ')[2]}s); num_classes is {num_classes}")
    counts = np.bincount(labels)
    gaps = np.flatnonzero(counts == 0)
    if len(gaps):
        row = int(np.argmax(labels > gaps[0]))
        raise ValueError(f"{where} {row + 1}: label {labels[row]} comes after a gap: {len(gaps)} labels have no "
                         f"image, the first is {gaps[0]}; expected 0..{len(counts) - 1 - len(gaps)}")


def write_image_list(file: str, names: Iterable, labels: Iterable) -> None:
    """Write a "path label" list, whole or not at all."""
    write_text(file, ''.join(f"{name} {label}\n" for name, label in zip(names, labels)))


@contextmanager
def whole_file(file: Any, mode: str = 'wb', sync: bool = True, **kwargs: Any) -> Iterator:
    """Open `file` for writing so that it appears whole or not at all: temporary name, fsync (if `sync`), rename."""
    temporary = f"{file}.{os.getpid()}.tmp"
    try:
        with open(temporary, mode, **kwargs) as out:
            yield out
            out.flush()
            if sync:
                os.fsync(out.fileno())
        os.replace(temporary, file)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def write_text(file: Any, text: str) -> None:
    """Write `text` to `file`, whole or not at all."""
    with whole_file(file, 'w', encoding='utf-8', errors='surrogateescape') as out:
        out.write(text)


def write_array(file: Any, *array: np.ndarray, **arrays: Any) -> None:
    """Write one array as .npy, or named ones as .npz, whole or not at all."""
    with whole_file(file) as out:
        (np.savez if arrays else np.save)(out, *array, **arrays)


def read_json(file: str, hint: str = 'no such file') -> Any:
    """Return the content of a JSON file, or raise FileNotFoundError (with `hint`) or ValueError with one line."""
    if not os.path.isfile(file):
        raise FileNotFoundError(f"{file}: {hint}")
    if os.path.getsize(file) > MAX_JSON_BYTES:
        raise ValueError(f"{file}: {os.path.getsize(file)} bytes, expected JSON of at most {MAX_JSON_BYTES}")
    try:
        with open(file, encoding='utf-8') as text:
            return json.load(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not readable as JSON ({error})") from None


def file_sha256(file: str) -> str:
    """Return the sha256 of a file's bytes as 64 hex digits."""
    digest = hashlib.sha256()
    with open(file, 'rb') as data:
        while block := data.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_lfw_pairs(file: str, num_images: int) -> tuple:
    """Return LFW's (genuine, impostor) pairs as 0-based rows, each (P, 2) int64, from `lfw_pairs.mat`."""
    mat = _load_mat(file, ('pos_pair', 'neg_pair'))
    return tuple(_pair_rows(mat[key], key, file, num_images) for key in ('pos_pair', 'neg_pair'))


def _pair_rows(value, key, file, num_images):
    if value.ndim != 2 or value.shape[0] != 2 or value.dtype.kind not in 'uif' or value.shape[1] == 0:
        raise ValueError(f"{file}: {key} is {value.dtype} {value.shape}, expected 2 x P row numbers")
    return _rows(value, key, file, num_images).reshape(2, -1).T


def load_lfw_order(file: str, prefix: int) -> tuple:
    """Return (names, labels) in LFW's order from the authors' result file, `prefix` characters cut off its paths."""
    mat = _load_mat(file, ('image_path', 'labels_original'))
    paths, labels = ([_plain(cell) for cell in mat[key].ravel()] for key in ('image_path', 'labels_original'))
    if len(paths) != len(labels):
        raise ValueError(f"{file}: {len(paths)} paths and {len(labels)} labels; expected as many of each")
    lines = [f"{path[prefix:].replace(chr(92), '/')} {label}" for path, label in zip(paths, labels)]
    rows = [_split_line(line.strip(), file, number) for number, line in enumerate(lines, 1)]
    return [name for name, _ in rows], np.array([label for _, label in rows], np.int64)


def _plain(cell):
    while isinstance(cell, np.ndarray) and cell.size == 1:
        cell = cell.flat[0]
    return str(cell)


def load_blufr(file: str) -> Blufr:
    """Return the `Blufr` protocol in `blufr_lfw_config.mat`; ValueError where the file is not that protocol's.

    An evaluation asks for it several times: an unchanged file is read once.
    """
    metadata = os.stat(file) if os.path.isfile(file) else None
    return _load_blufr(file, metadata and (metadata.st_mtime_ns, metadata.st_size, metadata.st_ino))


@lru_cache(maxsize=1)
def _load_blufr(file, metadata):
    keys = ('imageList', 'labels', 'trainIndex', 'testIndex', 'galIndex', 'probIndex')
    mat = _load_mat(file, keys)
    names = [_text(cell, file) for cell in mat['imageList'].ravel()]
    labels = np.asarray(mat['labels']).ravel()
    if len(names) != len(labels) or labels.dtype.kind not in 'uif':
        raise ValueError(f"{file}: {len(names)} names and {len(labels)} labels; expected one numeric label per name")
    trials = [mat[key].ravel() for key in ('testIndex', 'galIndex', 'probIndex')]
    if len({len(cells) for cells in trials}) != 1 or not len(trials[0]):
        raise ValueError(f"{file}: {[len(c) for c in trials]} test, gallery and probe sets; expected as many of each")
    labels = labels.astype(np.int64)
    return Blufr(names, labels, [_trial(cells, labels, number, file) for number, cells in enumerate(zip(*trials), 1)])


def _trial(cells, labels, number, file):
    rows = {key: _rows(cell, f"trial {number}, {key}", file, len(labels))
            for key, cell in zip(('test', 'gallery', 'probe'), cells)}
    if len(np.unique(labels[rows['gallery']])) < 1 or not len(rows['probe']):
        raise ValueError(f"{file}: trial {number} has an empty gallery or probe set")
    return rows


def _rows(value, key, file, num_images):
    rows = np.asarray(value).ravel()
    if rows.dtype.kind not in 'uif' or not np.all(rows == np.round(rows)):
        raise ValueError(f"{file}: {key} does not hold row numbers")
    rows = rows.astype(np.int64)
    if not len(rows) or rows.min() < 1 or rows.max() > num_images:
        low, high = (rows.min(), rows.max()) if len(rows) else (0, 0)
        raise ValueError(f"{file}: {key} counts rows {low}..{high}, expected 1..{num_images}")
    return rows - 1


def _text(cell, file):
    while isinstance(cell, np.ndarray):
        if cell.size != 1:
            raise ValueError(f"{file}: imageList does not hold one name per cell")
        cell = cell.flat[0]
    if not isinstance(cell, str) or not _LFW_NAME.match(cell):
        raise ValueError(f"{file}: imageList holds {str(cell)[:80]!r}, expected names like 'Aaron_Eckhart_0001.jpg'")
    return cell


def _load_mat(file, keys):
    """Load `keys` of a .mat file. SciPy's reader raises a zoo of errors on a broken file: all become ValueError."""
    if not os.path.isfile(file):
        raise FileNotFoundError(f"{file}: no such file; mat_files/README.md says where it comes from")
    if os.path.getsize(file) > MAX_MAT_BYTES:
        raise ValueError(f"{file}: {os.path.getsize(file)} bytes, expected at most {MAX_MAT_BYTES}")
    try:
        held = [name for name, _, _ in whosmat(file)]
        missing = [key for key in keys if key not in held]
        if not missing:
            return loadmat(file, variable_names=list(keys))
    except Exception as error:
        raise ValueError(f"{file}: not a readable .mat file ({type(error).__name__}: {error})") from None
    raise ValueError(f"{file}: holds {', '.join(held) or 'nothing'}; {', '.join(missing)} is missing, so it is not "
                     "this protocol's file")


def person_of(name: str) -> str:
    """Return the person in an LFW file name: 'Aaron_Eckhart_0001.jpg' -> 'Aaron_Eckhart'."""
    return os.path.splitext(os.path.basename(name))[0].rpartition('_')[0]


def list_for_blufr(blufr: Blufr) -> tuple:
    """Return (names, labels) in BLUFR's own order, names as '<person>/<person>_0001.bmp'."""
    return [_list_name(name) for name in blufr.names], blufr.labels


def list_for_lfw(blufr: Blufr) -> tuple:
    """Return (names, labels) in the order that the rows of `lfw_pairs.mat` count.

    That order puts a picture with the person LFW's errata page says it shows, people in the order of their first
    appearance; names and labels stay BLUFR's.
    """
    people = [LFW_ERRATA.get(os.path.splitext(name)[0], person_of(name)) for name in blufr.names]
    first_seen = {}
    for row, person in enumerate(people):
        first_seen.setdefault(person, row)
    order = sorted(range(len(people)), key=lambda row: first_seen[people[row]])          # stable
    return [_list_name(blufr.names[row]) for row in order], blufr.labels[order]


def _list_name(name):
    stem = os.path.splitext(os.path.basename(name))[0]
    return f"{person_of(name)}/{stem}.bmp"
