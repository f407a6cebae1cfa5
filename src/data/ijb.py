"""IJB-B and IJB-C as insightface and FaceX-Zoo hand them on: loose crops, and lists of what belongs together.

    folder = find_ijb('faces', 'ijbc')                   # IJBC/loose_crop, IJBC/meta/ijbc_*.txt and .csv
    pictures = read_pictures(folder, 'ijbc')             # names, points, detector scores, templates, media
    first, second, same = read_template_pairs(folder, 'ijbc')

face_tid_mid.txt: 'picture template medium'. name_5pts_score.txt: 'picture x1 y1 .. x5 y5 score'.
template_pair_label.txt: 'template template 1|0'. 1N_gallery_*.csv, 1N_probe_mixed.csv: 'TEMPLATE_ID,SUBJECT_ID,...'
with one line of names, a line a template or, as NIST has them, a picture.
"""
import os
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numba import njit

from src.data import align
from src.data.lists import check_relative

MAX_BYTES = 1 << 32
GEOMETRIES = ('arcface', *align.LEVEL, 'none')   # none: the pictures are aligned already
_BLOCK = 1 << 24
_LARGEST = (1 << 31) - 1


class IjbPictures(NamedTuple):
    """Loose crops in the order of the files: names, points (N, 5, 2), detector scores, template and medium ids (N,)."""

    names: list
    points: np.ndarray
    scores: np.ndarray
    templates: np.ndarray
    media: np.ndarray


def find_ijb(folder: str, name: str) -> str:
    """Return the folder of 'ijbb' or 'ijbc', which has meta/NAME_face_tid_mid.txt; FileNotFoundError says where it was
    looked for."""
    inside = ('', name, name.upper(), os.path.join('ijb', name.upper()), os.path.join('IJB', name.upper()),
              os.path.join('IJB_release', name.upper()))
    for place in inside:
        if os.path.isfile(os.path.join(folder, place, 'meta', f'{name}_face_tid_mid.txt')):
            return os.path.join(folder, place)
    raise FileNotFoundError(f"{folder}: no meta/{name}_face_tid_mid.txt in it, nor in its folder {name.upper()} "
                            "(--root_path, or setting sets_path)")


def read_pictures(folder: str, name: str) -> IjbPictures:
    """Return the `IjbPictures`; ValueError where the two files do not list the same pictures."""
    meta = os.path.join(folder, 'meta')
    media_file, points_file = os.path.join(meta, f'{name}_face_tid_mid.txt'), os.path.join(
        meta, f'{name}_name_5pts_score.txt')
    names, media = _rows(media_file, 2, int, 'picture template medium')
    others, points = _rows(points_file, 11, float, 'picture x1 y1 .. x5 y5 score')
    if names != others:
        if len(set(names)) != len(names) or sorted(names) != sorted(others):
            line = next((i for i, (a, b) in enumerate(zip(names, others), 1) if a != b), min(len(names), len(others)))
            raise ValueError(f"{points_file}: lists {len(others)} pictures, {os.path.basename(media_file)} "
                             f"{len(names)}; they differ from line {line} on, expected the same pictures")
        row = {other: i for i, other in enumerate(others)}
        points = points[[row[picture] for picture in names]]
    scores = points[:, 10]
    if (scores < 0).any():
        raise ValueError(f"{points_file}, line {np.argmax(scores < 0) + 1}: the detector's score is negative")
    return IjbPictures(names, points[:, :10].reshape(-1, 5, 2), scores, media[:, 0], media[:, 1])


def _rows(file, count, kind, expected):
    """Return (names, numbers (N, count)) of lines of a name and that many numbers."""
    names, numbers = [], []
    with _opened(file) as lines:
        for number, line in enumerate(lines, 1):
            fields = line.split()
            if not fields:
                continue
            try:
                if len(fields) != count + 1:
                    raise ValueError(line)
                numbers.append([kind(field) for field in fields[1:]])
            except ValueError:
                raise ValueError(f"{file}, line {number}: expected '{expected}', found '{line.strip()[:60]}'") from None
            check_relative(fields[0], f'{file}, line {number}')
            names.append(fields[0])
    if not names:
        raise ValueError(f"{file}: no picture is listed; expected lines of '{expected}'")
    table = np.array(numbers, np.float64)
    bad = np.flatnonzero(~np.isfinite(table).all(1) | (np.abs(table) > _LARGEST).any(1))
    if len(bad):
        raise ValueError(f"{file}: a number of {names[bad[0]]} is too large or not finite ({len(bad)} such lines)")
    return names, table.astype(np.int64) if kind is int else table


def _opened(file):
    if not os.path.isfile(file):
        raise FileNotFoundError(f"{file}: no such file")
    if os.path.getsize(file) > MAX_BYTES:
        raise ValueError(f"{file}: {os.path.getsize(file)} bytes, expected at most {MAX_BYTES}")
    return open(file, encoding='utf-8-sig', errors='surrogateescape')


def read_template_pairs(folder: str, name: str) -> tuple:
    """Return (first (P,), second (P,) template ids int32, same (P,) bool) of template_pair_label.txt.

    15.7 million lines are read in blocks, by compiled code.
    """
    file = os.path.join(folder, 'meta', f'{name}_template_pair_label.txt')
    _opened(file).close()
    parts, number, rest = [], 0, b''
    with open(file, 'rb') as data:
        while block := data.read(_BLOCK):
            block = rest + block
            end = block.rfind(b'\n') + 1
            block, rest = block[:end], block[end:]
            if len(rest) > 1 << 16:
                raise ValueError(f"{file}, line {number + 1}: longer than {1 << 16} bytes; not a list of pairs")
            parts.append(_triples(block, file, number))
            number += block.count(b'\n')
    parts.append(_triples(rest + b'\n', file, number))
    table = np.concatenate(parts)
    if not len(table):
        raise ValueError(f"{file}: no pair is listed; expected lines of 'template template 1|0'")
    return table[:, 0], table[:, 1], table[:, 2].astype(bool)


def _triples(block, file, lines_before):
    text = np.frombuffer(block, np.uint8)
    rows, wrong = _parse(text, np.empty((block.count(b'\n'), 3), np.int32), _LARGEST)
    if wrong >= 0:
        line = block.split(b'\n')[wrong].decode('utf-8', 'replace').strip()
        raise ValueError(f"{file}, line {lines_before + wrong + 1}: expected 'template template 1|0', found "
                         f"'{line[:60]}'")
    return rows


@njit(cache=True)
def _parse(text, rows, largest):
    """Return (lines of three whole numbers, the last 0 or 1, as rows; the first line that is none, -1)."""
    count, line, column, value, inside = 0, 0, 0, 0, False
    fields = np.zeros(3, np.int64)
    for byte in text:
        if 48 <= byte <= 57:
            value = value * 10 + (byte - 48)
            inside = True
            if value > largest:
                return rows[:0], line
        elif byte in (10, 13, 32, 9):
            if inside:
                if column == 3:
                    return rows[:0], line
                fields[column] = value
                column += 1
                value, inside = 0, False
            if byte == 10:
                if column != 0:
                    if column != 3 or fields[2] > 1:
                        return rows[:0], line
                    rows[count, 0], rows[count, 1], rows[count, 2] = fields[0], fields[1], fields[2]
                    count += 1
                column = 0
                line += 1
        else:
            return rows[:0], line
    return rows[:count], -1


def read_subjects(file: str) -> tuple:
    """Return (template ids (T,), subject ids (T,)) of a gallery or probe .csv, each template once.

    The columns TEMPLATE_ID and SUBJECT_ID are looked for in the first line, else they are the first two.
    """
    held: dict = {}
    with _opened(file) as lines:
        columns = None
        for number, line in enumerate(lines, 1):
            fields = [field.strip().strip('"') for field in line.split(',')]
            if columns is None:
                names = [field.upper() for field in fields]
                known = 'TEMPLATE_ID' in names and 'SUBJECT_ID' in names
                columns = (names.index('TEMPLATE_ID'), names.index('SUBJECT_ID')) if known else (0, 1)
                if known or not fields[0].isdigit():
                    continue
            if not line.strip():
                continue
            template, subject = (fields[c] if c < len(fields) else '' for c in columns)
            if not (template.isdigit() and subject.isdigit() and len(template) < 10 and len(subject) < 10):
                raise ValueError(f"{file}, line {number}: expected template and subject ids, found "
                                 f"'{line.strip()[:60]}'")
            if held.setdefault(int(template), int(subject)) != int(subject):
                raise ValueError(f"{file}, line {number}: template {template} belongs to subject {subject} and to "
                                 f"{held[int(template)]} before")
    if not held:
        raise ValueError(f"{file}: no template is listed")
    return np.array(list(held), np.int64), np.array(list(held.values()), np.int64)


def gallery_files(folder: str, name: str) -> list:
    """Return the two gallery files: S1 and S2 of IJB-B, G1 and G2 of IJB-C."""
    meta = os.path.join(folder, 'meta')
    for letter in ('GS' if name == 'ijbc' else 'SG'):
        files = [os.path.join(meta, f'{name}_1N_gallery_{letter}{i}.csv') for i in (1, 2)]
        if all(map(os.path.isfile, files)):
            return files
    raise FileNotFoundError(f"{meta}: no {name}_1N_gallery_{'G' if name == 'ijbc' else 'S'}1.csv and ..2.csv")


class LooseCrops:
    """A source of pictures (src.data.pictures): loose crops, aligned by their five points when they are read."""

    def __init__(self, folder: str, names: Sequence, points: np.ndarray, geometry: str = 'arcface'):
        self.path, self.names, self.points, self.geometry = folder, names, points, geometry

    def __len__(self) -> int:
        return len(self.names)

    def data(self, row: int) -> bytes:
        """Return the aligned face as the bytes of a picture file.

        Raises FileNotFoundError, or ValueError for points that are no face.
        """
        path = os.path.join(self.path, self.names[row])
        with open(path, 'rb') as file:
            data = file.read()
        if self.geometry == 'none':
            return data
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if image is None:
            raise ValueError(f"{path}: not a picture that can be decoded")
        points = self.points[row]
        if np.linalg.norm(points[1] - points[0]) == 0 or np.abs(points).max() > 1e5:
            raise ValueError(f"{path}: its five points are no face")
        matrix, side = _matrix(points, self.geometry)
        # without check_points: points of IJB may lie outside the crop, which is black there
        return cv2.imencode('.bmp', align.warp(image, matrix, side))[1].tobytes()


def _matrix(points, geometry):
    if geometry == 'arcface':
        return align.similarity_transform(points, align.ARCFACE), align.ARCFACE_SIDE
    return align.level_transform(points, *align.LEVEL[geometry]), align.LEVEL[geometry][0]
