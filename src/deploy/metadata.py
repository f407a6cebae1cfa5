"""The metadata beside an exported file, NAME.json: what the file takes and gives, how it was compared.

    face, (channels, side) = taken_format('model.param')
"""
import os
from dataclasses import replace
from typing import Any

from src.data.face_format import FaceFormat, from_metadata
from src.data.lists import read_json


def beside(file: str) -> str:
    """Return the name of the metadata of an exported file."""
    return os.path.splitext(file)[0] + '.json'


def raw(face: FaceFormat) -> FaceFormat:
    """Return a face format whose values are pixels, 0 to 255: for a network that scales them itself."""
    return replace(face, mean=0.0, scale=1.0)


def input_format(held: Any, file: str) -> FaceFormat:
    """Return the face format that an exported file takes. held: its metadata."""
    face = from_metadata(held, file)
    taken = held.get('input') if isinstance(held, dict) else None
    return raw(face) if isinstance(taken, dict) and taken.get('scaling') == 'inside' else face


def taken_format(file: str) -> tuple:
    """Return (face format, (channels, side)) of the faces that an exported model takes. Raises ValueError."""
    name = beside(file)
    held = read_json(name, f'no metadata beside the model; export.py writes both ({file})')
    try:
        _, channels, side, _ = held['input']['shape']
    except (KeyError, ValueError, TypeError):
        channels, side = None, None
    if channels not in (1, 3) or not isinstance(side, int) or not 16 <= side <= 1344:
        raise ValueError(f"{name}: does not tell the input's shape; export.py writes it")
    return input_format(held, name), (channels, side)


def is_own_ncnn(file: str) -> bool:
    """Whether a .param file has the metadata of export.py beside it."""
    if not file.endswith('.param') or not os.path.isfile(beside(file)):
        return False
    held = read_json(beside(file))
    return isinstance(held, dict) and held.get('file_format') == 'NCNN'
