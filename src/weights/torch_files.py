"""PyTorch's weight files, zip (since 1.6) and legacy form, read and written without PyTorch.

    weights = read_torch('backbone.pth')                  # .tensors: {name: float32 array}
    write_torch('mine.pt', {'conv1.weight': array})       # torch.load('mine.pt') gives the state dict

Names lose what training put before them (`module.`, `backbone.`, ...); the tensors of a head keep theirs.
"""
import struct
import zipfile
from collections.abc import Mapping
from typing import Any, Optional

import numpy as np

from src.data.lists import whole_file
from src.weights.pickles import MAX_PICKLE_BYTES, Machine, Storage, TensorView
from src.weights.state import (Budget, InputFile, Weights, as_float32, bfloat16_to_float32, checked_name, count_of,
                               shown)

ZIP_START = b'PK\x03\x04'
LEGACY_START = bytes.fromhex('80028a0a6cfc9c46f9206aa85019')
_LEGACY_PROTOCOL = 1001
MAX_DIRECTORY_BYTES = 4 * 2**20          # of a zip file: 60,000 members
# where a training keeps the state dict of the backbone, and that of the head
_STATE_KEYS, _HEAD_KEYS = ('state_dict', 'state_dict_backbone'), ('state_dict_softmax_fc',)
_ALIGNMENT = 64


class _DirectoryReader:
    """A file for `zipfile`: while it reads the directory, it does not get more than a directory may have."""

    def __init__(self, data: InputFile):
        self.file, self.name, self.limit = data.file, data.name, MAX_DIRECTORY_BYTES

    def seek(self, *position: int) -> int:
        return self.file.seek(*position)

    def tell(self) -> int:
        return self.file.tell()

    def seekable(self) -> bool:
        return True

    def read(self, length: int = -1) -> bytes:
        if self.limit is not None and length > self.limit:
            raise ValueError(f"its directory claims {length} bytes")
        return self.file.read(length)


class _Archive:
    """The members of a zip file: all stored as they are, with plain names, in one folder."""

    def __init__(self, data: InputFile):
        self.data = data
        reader = _DirectoryReader(data)
        try:
            self.zip = zipfile.ZipFile(reader)
        except Exception as error:           # zipfile raises many kinds for a damaged file
            raise ValueError(f"{data.name}: not a whole zip file ({shown(error)})") from None
        reader.limit = None
        self.members = {}
        for member in self.zip.infolist():
            self._check(member)
            self.members[member.filename] = member
        if sum(member.file_size for member in self.members.values()) > data.size:
            raise ValueError(f"{data.name}: its members overlap: together they are larger than the file")

    def _check(self, member: zipfile.ZipInfo) -> None:
        name, parts = member.filename, member.filename.split('/')
        if name.startswith('/') or '..' in parts or '\\' in name or ':' in name or '\0' in member.orig_filename:
            raise ValueError(f"{self.data.name}: refused: a member is called '{shown(name)}', a path out of the file")
        if name in self.members:
            raise ValueError(f"{self.data.name}: two members are called '{shown(name)}'")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise ValueError(f"{self.data.name}: refused: {shown(name)} is compressed to {member.compress_size} of "
                             f"{member.file_size} bytes; PyTorch stores weights uncompressed")
        if member.flag_bits & 1:
            raise ValueError(f"{self.data.name}: refused: {shown(name)} is encrypted")

    def prefix(self) -> str:
        """Return the folder of the archive that holds data.pkl, with a slash."""
        found = [name[:-len('data.pkl')] for name in self.members if name.endswith('/data.pkl')]
        if len(found) != 1 or '/' in found[0][:-1]:
            raise ValueError(f"{self.data.name}: a zip file, but not PyTorch's: it has {len(found)} members "
                             f"NAME/data.pkl, expected one (TorchScript and others are not read)")
        if f'{found[0]}constants.pkl' in self.members:
            raise ValueError(f"{self.data.name}: refused: a TorchScript program; save its state_dict() instead")
        return found[0]

    def read(self, name: str, limit: Optional[int] = None) -> bytes:
        """Return the bytes of a member, checked by its CRC-32; at most `limit`."""
        member = self.members.get(name)
        if member is None:
            raise ValueError(f"{self.data.name}: the member {shown(name)} is missing")
        if limit is not None and member.file_size > limit:
            raise ValueError(f"{self.data.name}: {shown(name)} has {member.file_size} bytes, expected at most {limit}")
        try:
            return self.zip.read(member)
        except Exception as error:           # as above
            raise ValueError(f"{self.data.name}: {shown(name)} is damaged ({shown(error)})") from None


class _Storages:
    """Storages by key, as arrays over the bytes of the file; each is read once, when a tensor needs it."""

    def __init__(self, data: InputFile):
        self.data, self.arrays, self.budget = data, {}, Budget(data)

    def bytes_of(self, storage: Storage) -> bytes:
        """Return the bytes of a storage."""
        raise NotImplementedError

    def array(self, storage: Storage) -> np.ndarray:
        """Return the numbers (n,) of a storage; bfloat16 as float32."""
        if storage not in self.arrays:
            bits = np.dtype('<u2' if storage.dtype == 'bfloat16' else storage.dtype)
            data = self.bytes_of(storage)
            if len(data) != storage.count * bits.itemsize:
                raise ValueError(f"{self.data.name}: storage {shown(storage.key)} has {len(data)} bytes, its "
                                 f"{storage.count} numbers take {storage.count * bits.itemsize}")
            self.budget.take(storage.count)
            array = np.frombuffer(data, bits)
            self.arrays[storage] = bfloat16_to_float32(array) if storage.dtype == 'bfloat16' else array
        return self.arrays[storage]

    def tensor(self, view: TensorView) -> np.ndarray:
        """Return the numbers of a tensor, floating ones as float32."""
        numbers = self.array(view.storage)
        if not count_of(view.shape):
            return np.zeros(view.shape, np.float32)
        self.budget.take(count_of(view.shape))
        strides = [stride * numbers.itemsize for stride in view.strides]      # inside the storage: `pickles` checked
        array = np.lib.stride_tricks.as_strided(numbers[view.offset:], view.shape, strides, writeable=False)
        return np.ascontiguousarray(as_float32(array)).reshape(view.shape)


class _ZipStorages(_Storages):
    def __init__(self, archive: _Archive, prefix: str):
        super().__init__(archive.data)
        self.archive, self.prefix = archive, prefix

    def bytes_of(self, storage: Storage) -> bytes:
        return self.archive.read(f'{self.prefix}data/{storage.key}')


class _LegacyStorages(_Storages):
    """Storages lie one after another behind the pickles: an int64 count, then the numbers."""

    def __init__(self, data: InputFile, keys: list, sizes: Mapping, start: int):
        super().__init__(data)
        self.places = {}
        for key in keys:
            if key not in sizes or key in self.places:
                raise ValueError(f"{data.name}: storage {shown(key)} is listed, but no tensor has it, or twice")
            count = int(np.frombuffer(data.read(start, 8, f'storage {shown(key)}'), '<i8')[0])
            number_bytes, expected = sizes[key]
            if count != expected:
                raise ValueError(f"{data.name}: storage {shown(key)} has {count} numbers, its tensors say {expected}")
            self.places[key] = start + 8, count * number_bytes
            start += 8 + count * number_bytes
        if start > data.size:
            raise ValueError(f"{data.name}: cut off: its storages end at byte {start}, the file at {data.size}")

    def bytes_of(self, storage: Storage) -> bytes:
        if storage.key not in self.places:
            raise ValueError(f"{self.data.name}: storage {shown(storage.key)} is missing")
        return self.data.read(*self.places[storage.key], f'storage {shown(storage.key)}')


def read_torch(file: str) -> Weights:
    """Return the weights in a PyTorch file of either form. Raises ValueError with one line for anything else."""
    with InputFile(file) as data:
        if data.read(0, 4, 'the first bytes') == ZIP_START:
            archive = _Archive(data)
            prefix = archive.prefix()
            order = archive.read(f'{prefix}byteorder', 16) if f'{prefix}byteorder' in archive.members else b'little'
            _check_little(file, order == b'little')
            found = Machine(archive.read(f'{prefix}data.pkl', MAX_PICKLE_BYTES), file).run()
            return _weights(file, found, _ZipStorages(archive, prefix), 'PyTorch (zip)')
        return _read_legacy(data)


def _check_little(file: str, little: bool) -> None:
    if not little:
        raise ValueError(f"{file}: its numbers are big-endian; save it on a usual machine")


def _read_legacy(data: InputFile) -> Weights:
    code = data.read(0, min(data.size, MAX_PICKLE_BYTES), 'the pickles')
    found, position = [], 0
    for _ in range(5):                                   # magic number, protocol, system, object, keys of storages
        machine = Machine(code, data.name, position)
        found.append((machine.run(), machine))
        position = machine.position
    (_, _), (protocol, _), (system, _), (held, holder), (keys, _) = found
    if protocol != _LEGACY_PROTOCOL or type(keys) is not list or not all(type(key) is str for key in keys):
        raise ValueError(f"{data.name}: not PyTorch's legacy form: protocol {shown(protocol)}, expected "
                         f"{_LEGACY_PROTOCOL}, and a list of storages")
    _check_little(data.name, type(system) is not dict or system.get('little_endian', True) is True)
    sizes = {}
    for storage in holder.storages:
        number_bytes = 2 if storage.dtype == 'bfloat16' else np.dtype(storage.dtype).itemsize
        if sizes.setdefault(storage.key, (number_bytes, storage.count)) != (number_bytes, storage.count):
            raise ValueError(f"{data.name}: storage {shown(storage.key)} is described in two ways")
    return _weights(data.name, held, _LegacyStorages(data, keys, sizes, position), 'PyTorch (legacy)')


def _weights(file: str, held: Any, storages: _Storages, form: str) -> Weights:
    """Return the tensors of the state dict in what a pickle holds, and the plain values beside it."""
    if type(held) is not dict:
        kind = 'a single tensor' if isinstance(held, TensorView) else 'no dict'
        raise ValueError(f"{file}: holds {kind}, expected a state dict")
    key = next((key for key in _STATE_KEYS if type(held.get(key)) is dict), None)
    named = dict(_tensors_of(file, held if key is None else held[key]))
    for head in _HEAD_KEYS if key else ():
        if type(held.get(head)) is dict:
            named.update((f'head.{name}', view) for name, view in _tensors_of(file, held[head]).items())
    if not named:
        raise ValueError(f"{file}: holds no tensors; its keys: {', '.join(shown(key, 20) for key in list(held)[:6])}")
    metadata = {shown(name): value for name, value in held.items() if key and _is_plain(value)}
    return Weights({name: storages.tensor(view) for name, view in named.items()}, form, metadata)


def _tensors_of(file: str, state: dict) -> dict:
    """Return {name: TensorView} of a state dict; what is no tensor is passed over."""
    found = {}
    for name, value in state.items():
        if isinstance(value, TensorView):
            found[checked_name(name, file, found)] = value
    return found


def _is_plain(value: Any) -> bool:
    return type(value) in (int, float, bool) or type(value) is str and len(value) <= 80


def _pickled_text(text: str) -> bytes:
    data = text.encode()
    return b'X' + struct.pack('<I', len(data)) + data


def _pickled_sizes(sizes: tuple) -> bytes:
    return b'(' + b''.join(b'J' + struct.pack('<i', size) for size in sizes) + b't'


def _pickled_tensor(array: np.ndarray, key: str) -> bytes:
    """Return the operations that make torch._utils._rebuild_tensor_v2 build a tensor of the whole storage `key`."""
    kind = {'f4': 'Float', 'i8': 'Long'}[array.dtype.str[1:]]
    strides = tuple(stride // array.itemsize for stride in array.strides)
    storage = (b'(' + _pickled_text('storage') + b'ctorch\n' + f'{kind}Storage\n'.encode() + _pickled_text(key)
               + _pickled_text('cpu') + b'J' + struct.pack('<i', array.size) + b'tQ')
    return (b'ctorch._utils\n_rebuild_tensor_v2\n(' + storage + b'K\x00' + _pickled_sizes(array.shape)
            + _pickled_sizes(strides) + b'\x89ccollections\nOrderedDict\n)RtR')


def _pickled_state(tensors: Mapping) -> bytes:
    items = b''.join(_pickled_text(name) + _pickled_tensor(array, str(i))
                     for i, (name, array) in enumerate(tensors.items()))
    return b'\x80\x02ccollections\nOrderedDict\n)R(' + items + b'u.'


def write_torch(file: str, tensors: Mapping, prefix: str = 'archive') -> None:
    """Write {name: float32 or int64 array} as a PyTorch file of the zip form; the same tensors give the same bytes."""
    tensors = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in tensors.items()}
    members = {'data.pkl': _pickled_state(tensors), 'byteorder': b'little',
               **{f'data/{i}': array.tobytes() for i, array in enumerate(tensors.values())}, 'version': b'3\n'}
    with whole_file(file) as out, zipfile.ZipFile(out, 'w', zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            member = zipfile.ZipInfo(f'{prefix}/{name}')                 # dated 1980
            taken = out.tell() + 30 + len(member.filename) + 4
            padding = -taken % _ALIGNMENT                                # PyTorch maps aligned data into memory
            member.extra = struct.pack('<2sH', b'FB', padding) + b'Z' * padding
            archive.writestr(member, data)
