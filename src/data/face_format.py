"""The face format: what a network takes and a data set holds. It travels with data sets, checkpoints, exported files.

    face = face_format('arcface')                       # RGB, 112x112, (x - 127.5) / 127.5
    images = face.to_input(faces)                       # (N, H, W, 3) uint8 -> (N, 3, H, W) float32

Two formats are compared wherever two meet. Colour becomes grey and RGB becomes BGR exactly; another alignment shows
another part of the face, so it is refused unless the user insists.
"""
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class FaceFormat:
    """Channels, colour order, size, alignment and value range of faces.

    colour: 'grey', 'RGB' or 'BGR'. alignment: 'lightcnn' (eyes level, 144x144 to train, its centre 128x128 to test) or
    'arcface' (five points onto insightface's template, 112x112). Values are (pixel - mean) / scale.
    """

    name: str
    colour: str
    alignment: str
    train_side: int
    test_side: int
    mean: float
    scale: float

    @property
    def num_channels(self) -> int:
        """1 for grey, 3 for colour."""
        return 1 if self.colour == 'grey' else 3

    @property
    def values(self) -> str:
        """The value range in words, as checkpoints of grey faces have always told it."""
        return f'{self.colour} / {self.scale:g}' if not self.mean else \
            f'({self.colour} - {self.mean:g}) / {self.scale:g}'

    def to_input(self, faces: np.ndarray) -> np.ndarray:
        """Return faces (N, H, W) or (N, H, W, 3) uint8 in this colour order as (N, C, H, W) float32."""
        values = faces.astype(np.float32)
        if self.mean:
            values -= np.float32(self.mean)
        values /= np.float32(self.scale)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if values.ndim == 4 else values[:, None]

    def as_metadata(self) -> dict:
        """Return what stands in the metadata of a checkpoint, a data set or an exported file."""
        return asdict(self)


FACE_FORMATS = {face.name: face for face in (
    FaceFormat('lightcnn', 'grey', 'lightcnn', 144, 128, 0.0, 255.0),
    FaceFormat('lightcnn_v4', 'BGR', 'lightcnn', 144, 128, 0.0, 255.0),
    FaceFormat('arcface', 'RGB', 'arcface', 112, 112, 127.5, 127.5),
    FaceFormat('facexzoo', 'BGR', 'arcface', 112, 112, 127.5, 128.0),
    FaceFormat('mobilefacenet_y1', 'RGB', 'arcface', 112, 112, 127.5, 128.0),
)}


def face_format(name: str) -> FaceFormat:
    """Return a face format by name; ValueError lists the known ones."""
    if name not in FACE_FORMATS:
        raise ValueError(f"unknown face format '{name}'; face formats: {', '.join(FACE_FORMATS)}")
    return FACE_FORMATS[name]


def from_metadata(metadata: Any, file: str) -> FaceFormat:
    """Return the face format in the metadata of `file`; grey LightCNN faces where it is older than face formats."""
    held = metadata.get('face_format') if isinstance(metadata, dict) else None
    if held is None:
        return FACE_FORMATS['lightcnn']
    known = FACE_FORMATS.get(held.get('name')) if isinstance(held, dict) else None
    if known is None or known.as_metadata() != held:
        raise ValueError(f"{file}: its face format {str(held)[:80]} is not one of {', '.join(FACE_FORMATS)}")
    return known


def check_formats(name: str, held: FaceFormat, wanted: FaceFormat, assumed: str = '') -> None:
    """Raise ValueError unless faces of format `held` (of the file `name`) can become `wanted` ones exactly.

    assumed: the name of a format that the user insists the faces have, '' for none.
    """
    alignment = FACE_FORMATS[assumed].alignment if assumed else held.alignment
    if alignment != wanted.alignment:
        raise ValueError(f"{name}: the faces are aligned as '{alignment}', the network takes '{wanted.alignment}' "
                         f"(face format {wanted.name}); align them anew (prepare.py align), or insist with "
                         f"--assume_format {wanted.name}")
    if held.colour == 'grey' and wanted.colour != 'grey':
        raise ValueError(f"{name}: the faces are grey, the network takes {wanted.colour} (face format {wanted.name})")
