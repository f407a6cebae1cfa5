"""What a reader of somebody else's weight file returns, and how it reads bytes that it does not trust.

    with InputFile('model.pt') as data:
        head = data.read(0, 4, 'the first bytes')        # ValueError, one line, where the file is shorter

Every size in a file is a claim: it is compared with the bytes that are there before anything of that size is made.
"""
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np

MAX_FILE_BYTES = 16 * 2**30
MAX_NAME = 512                       # characters of a tensor's name
MAX_DIMS = 8
MAX_TENSORS = 100_000
_PLAIN = re.compile(r'[^\x20-\x7e]+')


@dataclass
class Weights:
    """The tensors of a file, and what else it tells.

    tensors: {name as in the file: array}, floating ones as float32. form: which kind of file. metadata: plain values
    such as the epoch. eps: {prefix of a BatchNorm's tensors: what is to be added to its variance}. fixed: names of
    scales that are 1 whatever is stored. input_scaling: (mean, factor) by which the file's own graph scales pixels.
    operations: [Operation] in the order in which the file's graph computes, where it has one.
    """

    tensors: dict
    form: str
    metadata: dict = field(default_factory=dict)
    eps: dict = field(default_factory=dict)
    fixed: tuple = ()
    input_scaling: Optional[tuple] = None
    operations: Optional[list] = None


@dataclass
class Operation:
    """A layer with weights: kind 'conv', 'norm', 'prelu' or 'linear', and its arrays by their PyTorch names."""

    kind: str
    arrays: dict
    eps: float = 0.0


class InputFile:
    """A file that is read by position; nothing beyond its end is believed. Raises FileNotFoundError, ValueError."""

    def __init__(self, name: str):
        self.name = str(name)
        if not os.path.isfile(self.name):
            raise FileNotFoundError(f"{self.name}: no such weight file")
        self.file = open(self.name, 'rb')                         # noqa: SIM115
        self.size = os.fstat(self.file.fileno()).st_size
        if self.size > MAX_FILE_BYTES:
            self.file.close()
            raise ValueError(f"{self.name}: {self.size} bytes; weight files of at most {MAX_FILE_BYTES} are read")

    def __enter__(self) -> 'InputFile':
        return self

    def __exit__(self, *unused: Any) -> None:
        self.file.close()

    def read(self, start: int, length: int, what: str) -> bytes:
        """Return `length` bytes from position `start`; ValueError says that `what` ends too early."""
        if start < 0 or length < 0 or start + length > self.size:
            raise ValueError(f"{self.name}: cut off or lying: {what} should be {length} bytes at {start}, the file "
                             f"has {self.size}")
        self.file.seek(start)
        data = self.file.read(length)
        if len(data) != length:
            raise ValueError(f"{self.name}: {what} could not be read")
        return data


class Cursor:
    """Reads an `InputFile` from front to back."""

    def __init__(self, data: InputFile, position: int = 0):
        self.data, self.position = data, position

    def read(self, length: int, what: str) -> bytes:
        """Return the next bytes."""
        found = self.data.read(self.position, length, what)
        self.position += length
        return found

    def number(self, what: str, dtype: str = '<u8') -> int:
        """Return the next integer."""
        return int(np.frombuffer(self.read(np.dtype(dtype).itemsize, what), dtype)[0])

    def array(self, dtype: str, count: int, what: str) -> np.ndarray:
        """Return the next `count` numbers."""
        return np.frombuffer(self.read(count * np.dtype(dtype).itemsize, what), dtype)


class Budget:
    """Counts the bytes of the arrays that are made of a file: at most `factor` times the file's own."""

    def __init__(self, data: InputFile, factor: int = 4):
        self.name, self.free = data.name, factor * data.size + 2**20

    def take(self, count: int) -> None:
        """Count `count` float32 numbers; ValueError where the file cannot hold what it claims."""
        self.free -= 4 * count
        if self.free < 0:
            raise ValueError(f"{self.name}: its tensors would take far more memory than the file has bytes")


def shown(text: Any, length: int = 80) -> str:
    """Return a name from a file as a few printable characters, fit for an error message."""
    text = text.decode('latin-1') if isinstance(text, bytes) else str(text)
    text = _PLAIN.sub('?', text[:4 * length])
    return text if len(text) <= length else text[:length - 3] + '...'


def listed(names: Iterable) -> str:
    """Return the first three names."""
    names = list(names)
    return ', '.join(shown(name) for name in names[:3]) + (', ...' if len(names) > 3 else '')


def checked_shape(shape: Any, file: str, name: str) -> tuple:
    """Return a shape from a file as a tuple of integers; ValueError where it is none."""
    if not isinstance(shape, (tuple, list)) or len(shape) > MAX_DIMS or not all(
            type(n) is int and 0 <= n < 2**40 for n in shape):
        raise ValueError(f"{file}: {shown(name)} has no shape of at most {MAX_DIMS} sizes")
    return tuple(shape)


def count_of(shape: tuple) -> int:
    """Return how many numbers a shape has; exact, however large."""
    return math.prod(shape)


def checked_name(name: Any, file: str, held: Mapping) -> str:
    """Return a tensor's name; ValueError where it is no text, too long or there twice."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise ValueError(f"{file}: a tensor has no name of 1 to {MAX_NAME} characters, but '{shown(name)}'")
    if name in held:
        raise ValueError(f"{file}: two tensors are called '{shown(name)}'")
    if len(held) >= MAX_TENSORS:
        raise ValueError(f"{file}: holds more than {MAX_TENSORS} tensors")
    return name


def as_float32(array: np.ndarray) -> np.ndarray:
    """Return an array with floating numbers as float32; others stay."""
    return array.astype(np.float32) if array.dtype.kind == 'f' else array


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """Return the float32 numbers of which `bits` (uint16) are the upper halves."""
    return (np.atleast_1d(bits).astype(np.uint32) << 16).view(np.float32).reshape(bits.shape)
