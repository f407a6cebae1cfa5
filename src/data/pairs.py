"""Lists of pairs of pictures: LFW, CPLFW, CALFW, AgeDB-30, CFP, FaceX-Zoo's, any CSV or TSV; one form for all.

    pairs = read_pairs('pairs_CPLFW.txt')          # names, rows (P, 2), same (P,) bool, folds (P,) or None
    pairs = read_pairs('CFP/Protocol/Split/FP')

Three or four words a line with numbers are LFW's (`person n m`, `person n person m`), two are CPLFW's and CALFW's (a
picture and its answer, two lines a pair), two paths and an answer are everybody else's. Names are relative to the
pictures' folder; each is listed once, in the order of first appearance.
"""
import csv
import os
import re
from collections.abc import Iterable
from typing import NamedTuple, Optional

import numpy as np

from src.data.lists import check_relative

MAX_BYTES = 1 << 30
MAX_LINE = 1 << 16
NUM_FOLDS = 10
_ANSWERS = {'1': True, 'true': True, 'same': True, 'yes': True, 'genuine': True, 'match': True, 'positive': True,
            '0': False, 'false': False, 'different': False, 'diff': False, 'no': False, 'impostor': False,
            'mismatch': False, 'nonmatch': False, 'negative': False, '-1': False}
_ANSWER_NAMES = {'same', 'label', 'labels', 'issame', 'is_same', 'same_person', 'match', 'genuine', 'target', 'answer'}
_COLUMN_NAME = re.compile('(path|image|img|picture|photo|file|name|filename|first|second|left|right|fold|split|set|'
                          '[abxy])[ _]?[12ab]?')
_FOLD_NAMES = {'fold', 'split', 'set'}


class Pairs(NamedTuple):
    """Names of pictures, `rows` (P, 2) int64 of them, `same` (P,) bool, `folds` (P,) int64 from 0, None if untold."""

    names: list
    rows: np.ndarray
    same: np.ndarray
    folds: Optional[np.ndarray]


def read_pairs(path: str) -> Pairs:
    """Return the pairs of any list that this module knows, told by what stands in it.

    A folder is CFP's Protocol/Split/FF or FP. ValueError names the file and the line that is wrong.
    """
    if os.path.isdir(path):
        return read_cfp(path)
    lines = _lines(path)
    first = next((line.split() for _, line in lines if line.strip()), [])
    if first and all(field.isdigit() for field in first) and len(first) <= 2 or _is_lfw_pair(first):
        return read_lfw(path)
    fields = next((_fields(line, _delimiter(line), path, number) for number, line in lines if line.strip()), [])
    return read_alternating(path) if len(fields) == 2 else read_table(path)


def read_lfw(path: str, extension: str = '.jpg') -> Pairs:
    """Return the pairs of LFW's pairs.txt or pairsDev*.txt; names are '<person>/<person>_0001.jpg'.

    Its first line '10 300' gives the folds: 300 genuine pairs and 300 impostor pairs each. RFW's lists have no such
    line; theirs are told by the order.
    """
    builder, header = _Builder(), None
    for number, line in _lines(path):
        fields = line.split()
        if number == 1 and not _is_lfw_pair(fields):
            header = fields
            continue
        if not fields:
            continue
        if len(fields) not in (3, 4) or not (_is_number(fields[1]) and _is_number(fields[-1])):
            raise ValueError(f"{path}, line {number}: expected 'person n m' or 'person n person m', found "
                             f"'{line.strip()[:60]}'")
        people = fields[0], fields[0] if len(fields) == 3 else fields[2]
        builder.add(*(f'{person}/{person}_{int(n):04d}{extension}' for person, n in zip(people, (fields[1],
                    fields[-1]))), len(fields) == 3, f'{path}, line {number}')
    pairs = builder.pairs(path)
    return pairs._replace(folds=tenths(pairs.same) if header is None else _lfw_folds(header, pairs.same, path))


def _is_lfw_pair(fields):
    """Whether a line is 'person n m' or 'person n person m', as far as one line can tell."""
    return len(fields) in (3, 4) and _is_number(fields[1]) and _is_number(fields[-1]) and not (
        _is_number(fields[0]) or len(fields) == 4 and _is_number(fields[2]))


def _is_number(text):
    return re.fullmatch('[0-9]{1,6}', text) is not None


def _lfw_folds(header, same, path):
    numbers = [int(field) for field in header if _is_number(field)]
    if len(numbers) != len(header) or len(header) not in (1, 2):
        raise ValueError(f"{path}, line 1: expected the number of folds and of pairs, found '{' '.join(header)[:60]}'")
    if len(numbers) == 1:
        return None
    num_folds, size = numbers
    if num_folds * size * 2 != len(same) or not (same.reshape(num_folds, 2, size) == [[True], [False]]).all():
        raise ValueError(f"{path}: {len(same)} pairs, its first line says {num_folds} folds of {size} genuine and "
                         f"{size} impostor pairs")
    return np.arange(num_folds).repeat(2 * size)


def read_alternating(path: str) -> Pairs:
    """Return the pairs of CPLFW's or CALFW's list: 'picture answer' a line, two lines a pair, 0 for two people.

    CALFW gives genuine pairs their fold, 1..10, and impostor pairs 0. Both lists have all genuine pairs first; fold k
    is the k-th tenth of each kind.
    """
    builder, before = _Builder(), None
    for number, line in _lines(path):
        fields = line.split()
        if not fields or number == 1 and len(fields) == 2 and not _is_number(fields[1]):
            continue
        if len(fields) != 2 or not _is_number(fields[1]):
            raise ValueError(f"{path}, line {number}: expected 'picture answer', found '{line.strip()[:60]}'")
        check_relative(fields[0], f'{path}, line {number}')
        if before is None:
            before = fields
            continue
        if before[1] != fields[1]:
            raise ValueError(f"{path}, line {number}: the answer is {fields[1]}, {before[1]} in the line before; "
                             "expected the same in both lines of a pair")
        builder.add(before[0], fields[0], int(fields[1]) > 0, f'{path}, line {number}')
        before = None
    if before:
        raise ValueError(f"{path}: '{before[0][:60]}' in the last line has no partner; expected two lines a pair")
    pairs = builder.pairs(path)
    return pairs._replace(folds=tenths(pairs.same))


def tenths(same: np.ndarray) -> Optional[np.ndarray]:
    """Return the fold (P,) of pairs: the tenth of its kind that each lies in, None if a kind does not divide by ten."""
    folds = np.zeros(len(same), np.int64)
    for kind in (same, ~same):
        count = int(kind.sum())
        if not count or count % NUM_FOLDS:
            return None
        folds[kind] = np.arange(NUM_FOLDS).repeat(count // NUM_FOLDS)
    return folds


def read_cfp(folder: str) -> Pairs:
    """Return the pairs of CFP's Protocol/Split/FF or FP: folders 01..10 with same.txt and diff.txt of 'i,j'.

    i and j count in Pair_list_F.txt, in FP j counts in Pair_list_P.txt; both stand beside Split or in it. Names are
    relative to CFP's folder, such as 'Data/Images/001/frontal/01.jpg'.
    """
    kind = os.path.basename(os.path.abspath(folder)).upper()
    if kind not in ('FF', 'FP'):
        raise ValueError(f"{folder}: expected CFP's folder Protocol/Split/FF or Protocol/Split/FP")
    lists = [_cfp_pictures(folder, letter) for letter in kind]
    builder, folds = _Builder(), []
    splits = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name.isdigit())
    for fold, split in enumerate(splits):
        for name, same in (('same.txt', True), ('diff.txt', False)):
            path = os.path.join(folder, split, name)
            for number, line in _lines(path):
                fields = [field.strip() for field in line.split(',')]
                if not line.strip():
                    continue
                if len(fields) != 2 or not all(_is_number(i) and int(i) in held for i, held in zip(fields, lists)):
                    raise ValueError(f"{path}, line {number}: expected 'i,j' of the picture lists "
                                     f"(1..{len(lists[0])}, 1..{len(lists[1])}), found '{line.strip()[:60]}'")
                builder.add(lists[0][int(fields[0])], lists[1][int(fields[1])], same, f'{path}, line {number}')
                folds.append(fold)
    return builder.pairs(folder)._replace(folds=np.array(folds, np.int64))


def _cfp_pictures(folder, letter):
    """Return {number: name relative to CFP's folder} of Pair_list_F.txt or Pair_list_P.txt."""
    name = f'Pair_list_{letter}.txt'
    places = [os.path.join(os.path.dirname(os.path.abspath(folder)), up, name) for up in ('..', '.')]
    path = os.path.normpath(next((place for place in places if os.path.isfile(place)), places[0]))
    held = {}
    for number, line in _lines(path):
        fields = line.split(None, 1)
        if not fields:
            continue
        if len(fields) != 2 or not _is_number(fields[0]) or int(fields[0]) in held:
            raise ValueError(f"{path}, line {number}: expected 'number picture', found '{line.strip()[:60]}'")
        picture = re.sub(r'^\.\./', '', fields[1].strip())           # written from where Protocol lies
        check_relative(picture, f'{path}, line {number}')
        held[int(fields[0])] = picture
    return held


def read_table(path: str) -> Pairs:
    """Return the pairs of a table of two paths and an answer: commas, semicolons, tabs or blanks, quoted or not.

    The answer is 0 or 1, same or different, true or false and such. It is the third column unless a first line of
    names says another, and a column 'fold' is understood; a first line without an answer is such a line.
    """
    builder, folds, columns, delimiter = _Builder(), [], None, None
    for number, line in _lines(path):
        if not line.strip():
            continue
        delimiter = delimiter or _delimiter(line)
        fields = _fields(line, delimiter, path, number)
        if columns is None:
            columns = _columns(fields)
            if columns.named:
                continue
        if len(fields) != columns.count or fields[columns.answer].lower() not in _ANSWERS:
            raise ValueError(f"{path}, line {number}: expected two paths and an answer (0, 1, same, different) in "
                             f"{columns.count} columns, found '{line.strip()[:60]}'")
        builder.add(fields[columns.first], fields[columns.second], _ANSWERS[fields[columns.answer].lower()],
                    f'{path}, line {number}')
        if columns.fold is not None:
            folds.append(fields[columns.fold])
    pairs = builder.pairs(path)
    return pairs._replace(folds=np.unique(folds, return_inverse=True)[1] if folds else None)


class _Columns(NamedTuple):
    count: int
    first: int
    second: int
    answer: int
    fold: Optional[int]
    named: bool


def _columns(fields):
    """Return where the columns stand, from the first line: names, or the first pair."""
    words = [field.lower() for field in fields]
    named = len(words) < 3 or not any(word in _ANSWERS for word in words[2:] + words[:1]) or \
        all(word in _ANSWER_NAMES or _COLUMN_NAME.fullmatch(word) for word in words)       # 'same' is both
    answer = fold = None
    if named:
        answer = next((i for i, word in enumerate(words) if word in _ANSWER_NAMES), None)
        fold = next((i for i, word in enumerate(words) if word in _FOLD_NAMES), None)
    elif words[0] in _ANSWERS and words[2] not in _ANSWERS:
        answer = 0
    answer = min(2, len(words) - 1) if answer is None else answer
    paths = [i for i in range(max(3, len(words))) if i not in (answer, fold)]
    return _Columns(max(3, len(words)), paths[0], paths[1] if len(paths) > 1 else paths[0], answer, fold, named)


def _delimiter(line):
    return next((mark for mark in '\t,;' if mark in line), ' ')


def _fields(line, delimiter, path, number):
    try:
        rows = list(csv.reader([line.strip(' \r\n') if delimiter == '\t' else line.strip()], delimiter=delimiter,
                               skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {number}: {error}, found '{line.strip()[:60]}'") from None
    fields = [field.strip() for field in rows[0]] if rows else []
    return [field for field in fields if field] if delimiter == ' ' else fields


class _Builder:
    """Collects pairs of names."""

    def __init__(self):
        self.row_of, self.rows, self.same = {}, [], []

    def add(self, first: str, second: str, same: bool, where: str) -> None:
        """Add a pair; ValueError if a name is empty, leaves its folder or holds what no name holds."""
        for name in (first, second):
            if not name or '\0' in name:
                raise ValueError(f"{where}: the name {name[:60]!r} is not that of a picture")
            if name not in self.row_of:
                check_relative(name, where)
                self.row_of[name] = len(self.row_of)
        self.rows.append((self.row_of[first], self.row_of[second]))
        self.same.append(same)

    def pairs(self, path: str) -> Pairs:
        """Return all pairs; ValueError if there are none."""
        if not self.rows:
            raise ValueError(f"{path}: no pair is listed")
        return Pairs(list(self.row_of), np.array(self.rows, np.int64), np.array(self.same, bool), None)


def _lines(path: str) -> Iterable:
    """Return [(number from 1, line)] of a text file."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file")
    if os.path.getsize(path) > MAX_BYTES:
        raise ValueError(f"{path}: {os.path.getsize(path)} bytes, expected a list of at most {MAX_BYTES}")
    with open(path, encoding='utf-8-sig', errors='surrogateescape', newline=None) as text:
        lines = list(enumerate(text, 1))
    long = next((number for number, line in lines if len(line) > MAX_LINE), None)
    if long:
        raise ValueError(f"{path}, line {long}: longer than {MAX_LINE} characters; not a list of pairs")
    return lines
