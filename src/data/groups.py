"""A file that says which group pictures or people belong to -> the group of every listed picture.

    groups = read_groups('groups.tsv')               # {'Aaron_Eckhart': 'men', ...}
    names, of_row = group_of_names(groups, ['Aaron_Eckhart/Aaron_Eckhart_0001.jpg', ...], 'groups.tsv')

A line is 'picture or person<TAB>group' (commas and semicolons are understood too). A picture is looked for by its name
as it is listed, without extension, without folder, then by its folder, then by the person in an LFW file name.
"""
import os
from collections.abc import Sequence

import numpy as np

from src.data.lists import person_of

MAX_BYTES = 1 << 30
MAX_GROUPS = 50
_NAMES_OF_KEYS = {'image', 'picture', 'file', 'name', 'path', 'person', 'subject', 'id', 'people', 'identity'}


def read_groups(file: str) -> dict:
    """Return {picture or person: group}; ValueError names a line that is wrong or contradicts another."""
    if not os.path.isfile(file):
        raise FileNotFoundError(f"{file}: no such file of groups")
    if os.path.getsize(file) > MAX_BYTES:
        raise ValueError(f"{file}: {os.path.getsize(file)} bytes, expected at most {MAX_BYTES}")
    held: dict = {}
    with open(file, encoding='utf-8-sig', errors='surrogateescape') as lines:
        for number, line in enumerate(lines, 1):
            mark = next((mark for mark in '\t;,' if mark in line), None)
            fields = [field.strip().strip('"') for field in line.split(mark)]
            if not line.strip() or number == 1 and len(fields) == 2 and fields[0].lower() in _NAMES_OF_KEYS:
                continue
            if len(fields) != 2 or not all(fields):
                raise ValueError(f"{file}, line {number}: expected 'picture or person<TAB>group', found "
                                 f"'{line.strip()[:60]}'")
            if held.setdefault(fields[0], fields[1]) != fields[1]:
                raise ValueError(f"{file}, line {number}: {fields[0][:60]} is in {fields[1][:40]} and in "
                                 f"{held[fields[0]][:40]} before")
    if not 2 <= len(set(held.values())) <= MAX_GROUPS:
        raise ValueError(f"{file}: {len(set(held.values()))} groups, expected 2 to {MAX_GROUPS}")
    return held


def group_of_names(groups: dict, names: Sequence, file: str) -> tuple:
    """Return (names of the groups, the group (N,) int64 of each listed picture, -1 for none).

    ValueError if no picture is found in `groups`.
    """
    known = sorted(set(groups.values()))
    number = {group: i for i, group in enumerate(known)}
    of_row = np.array([number.get(_group(groups, str(name)), -1) for name in names], np.int64)
    if (of_row < 0).all():
        raise ValueError(f"{file}: names none of the {len(names)} pictures, such as {names[0]}, nor their people; "
                         f"it names {', '.join(list(groups)[:3])}")
    return tuple(known), of_row


def _group(groups, name):
    base, folder = os.path.basename(name), os.path.dirname(name)
    keys = (name, os.path.splitext(name)[0], base, os.path.splitext(base)[0], folder, os.path.basename(folder),
            person_of(name))
    return next((groups[key] for key in keys if key in groups), None)
