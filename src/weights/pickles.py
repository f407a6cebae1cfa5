"""A pickle machine for PyTorch's files: it makes containers and tensors, and cannot call or import anything.

A pickle is a program. Python's own reader lets it call any function; here an opcode or a name that is not in the two
tables below is refused by name. Tensors stay descriptions, `TensorView`, until somebody asks for their numbers.
"""
import struct
from collections.abc import Callable
from typing import Any, NamedTuple, Optional

from src.weights.state import checked_shape, count_of, shown

MAX_OPERATIONS = 1_000_000           # iresnet200 takes 55,000
MAX_PICKLE_BYTES = 16 * 2**20
_MAX_INTEGER_BYTES = 16

STORAGES = {'Float': '<f4', 'Double': '<f8', 'Half': '<f2', 'BFloat16': 'bfloat16', 'Long': '<i8', 'Int': '<i4',
            'Short': '<i2', 'Char': 'i1', 'Byte': 'u1', 'Bool': '?'}


class StorageType(NamedTuple):
    """A class of storages, by the dtype of its numbers."""

    dtype: str


class Storage(NamedTuple):
    """Numbers of one dtype in a row; `key` says where in the file."""

    dtype: str
    key: str
    count: int


class TensorView(NamedTuple):
    """A tensor: numbers of a storage, from `offset` on, in steps of `strides`."""

    storage: Storage
    offset: int
    shape: tuple
    strides: tuple


class Function(NamedTuple):
    """A name that a pickle may call, and what is done then: make(machine, arguments)."""

    name: str
    make: Callable


def _ordered_dict(machine: 'Machine', arguments: tuple) -> dict:
    if not arguments:
        return {}
    pairs = arguments[0]
    if len(arguments) != 1 or not isinstance(pairs, list) or not all(
            type(pair) in (tuple, list) and len(pair) == 2 for pair in pairs):
        raise machine.error("calls OrderedDict with something else than a list of pairs")
    machine.charge(len(pairs))
    return {machine.key(key): value for key, value in pairs}


def _tensor(machine: 'Machine', arguments: tuple) -> TensorView:
    if len(arguments) < 4 or not isinstance(arguments[0], Storage) or type(arguments[1]) is not int:
        raise machine.error("makes a tensor of something else than a storage, an offset, sizes and strides")
    storage, offset = arguments[:2]
    shape, strides = (checked_shape(numbers, machine.name, 'a tensor') for numbers in arguments[2:4])
    if len(shape) != len(strides) or offset < 0:
        raise machine.error("makes a tensor with a negative offset, or as many sizes as it has no strides")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
    if count_of(shape) and (last >= storage.count or count_of(shape) > storage.count):
        raise machine.error(f"makes a tensor {shape} with strides {strides} from {offset} on, of a storage of "
                            f"{storage.count} numbers")
    return TensorView(storage, offset, shape, strides)


def _parameter(machine: 'Machine', arguments: tuple) -> TensorView:
    if not arguments or not isinstance(arguments[0], TensorView):
        raise machine.error("makes a parameter of something else than a tensor")
    return arguments[0]


def _global_table() -> dict:
    table = {name: Function(name, make) for name, make in (
        ('collections.OrderedDict', _ordered_dict), ('torch._utils._rebuild_tensor', _tensor),
        ('torch._utils._rebuild_tensor_v2', _tensor), ('torch._utils._rebuild_parameter', _parameter))}
    for word, dtype in STORAGES.items():
        table[f'torch.{word}Storage'] = table[f'torch.cuda.{word}Storage'] = StorageType(dtype)
    table['torch.storage.UntypedStorage'] = StorageType('u1')
    table['torch.storage.TypedStorage'] = StorageType('')
    return table


GLOBALS = _global_table()
_MARK = object()


class Machine:
    """Runs one pickle of `code` (bytes) from `position` on; `run` returns its object. Errors are ValueErrors."""

    def __init__(self, code: bytes, name: str, position: int = 0):
        self.code, self.name, self.position = code, name, position
        self.stack, self.memo, self.operations, self.storages = [], {}, 0, []

    def error(self, what: str) -> ValueError:
        """Return the error that its pickle does `what`."""
        return ValueError(f"{self.name}: refused: its pickle {what}")

    def run(self) -> Any:
        """Return the object that the pickle makes, out of dict, list, tuple, numbers, text and `TensorView`."""
        while True:
            self.charge(1)
            code = self.take(1)[0]
            if code == ord('.'):
                return self.pop()
            if code not in OPCODES:
                raise self.error(f"has the opcode 0x{code:02x} at byte {self.position - 1}, which weights do not need")
            OPCODES[code](self)

    def charge(self, operations: int) -> None:
        """Count operations; ValueError where there are too many."""
        self.operations += operations
        if self.operations > MAX_OPERATIONS:
            raise self.error(f"has more than {MAX_OPERATIONS} operations")

    def take(self, length: int) -> bytes:
        """Return the next bytes of the program."""
        if length < 0 or self.position + length > len(self.code):
            raise ValueError(f"{self.name}: cut off or lying: its pickle ends at byte {len(self.code)}")
        self.position += length
        return self.code[self.position - length:self.position]

    def line(self) -> str:
        """Return the next bytes up to the end of the line."""
        end = self.code.find(b'\n', self.position, self.position + 1024)
        if end < 0:
            raise self.error("has a name without an end")
        return self.take(end + 1 - self.position)[:-1].decode('latin-1')

    def integer(self, form: str) -> int:
        """Return the next integer, in a form of `struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, form: str, encoding: str = 'utf-8') -> str:
        """Return text after its length."""
        data = self.take(self.integer(form))
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            raise self.error(f"holds text that is not {encoding}") from None

    def pop(self) -> Any:
        """Return what lies on top of the stack."""
        if not self.stack or self.stack[-1] is _MARK:
            raise self.error("takes from an empty stack")
        return self.stack.pop()

    def pop_to_mark(self) -> list:
        """Return what lies above the last mark."""
        items = []
        while self.stack and self.stack[-1] is not _MARK:
            items.append(self.stack.pop())
        if not self.stack:
            raise self.error("takes from an empty stack")
        self.stack.pop()
        return items[::-1]

    def key(self, key: Any) -> Any:
        """Return a key of a dict; others than text and integers could make hashing endless."""
        if type(key) not in (str, int, float, bool, type(None)):
            raise self.error("has a dict with a key that is neither text nor a number")
        return key

    def container(self, kind: type) -> Any:
        """Return the dict or list on top of the stack, which stays there."""
        if not self.stack or type(self.stack[-1]) is not kind:
            raise self.error(f"puts items into something that is no {kind.__name__}")
        return self.stack[-1]

    def set_items(self, items: list) -> None:
        """Put keys and values into the dict on top of the stack."""
        target = self.container(dict)
        if len(items) % 2:
            raise self.error("has a key without a value")
        target.update((self.key(key), value) for key, value in zip(items[::2], items[1::2]))

    def find_global(self, module: Any, name: Any) -> None:
        """Push what a name stands for; a name that is not in GLOBALS is refused."""
        full = f'{module}.{name}' if isinstance(module, str) and isinstance(name, str) else ''
        if full not in GLOBALS:
            raise self.error(f"asks for {shown(full) or 'something without a name'}; only tensors in plain containers "
                             "are read (save model.state_dict() instead)")
        self.stack.append(GLOBALS[full])

    def call(self) -> None:
        """Make what a pickle calls one of the allowed functions for."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Function) or type(arguments) is not tuple:
            raise self.error("calls something that is no allowed function")
        self.stack.append(function.make(self, arguments))

    def build(self) -> None:
        """Drop the attributes of an OrderedDict, such as `_metadata`."""
        state = self.pop()
        if type(state) is not dict:
            raise self.error("sets attributes that are no dict")
        self.container(dict)

    def storage(self) -> None:
        """Push the storage that a persistent id describes."""
        described = self.pop()
        if type(described) is not tuple or len(described) not in (5, 6) or described[0] != 'storage':
            raise self.error("has a persistent id that is no storage")
        _, kind, key, _, count, *view = described
        if not isinstance(kind, StorageType) or not kind.dtype or type(key) is not str or type(count) is not int or \
                not 0 <= count < 2**40:
            raise self.error("has a storage without a type, a key or a number of elements")
        if view and view[0] is not None:
            raise self.error("has a view of a storage, as PyTorch wrote them before 0.4; save it again")
        self.storages.append(Storage(kind.dtype, key, count))
        self.stack.append(self.storages[-1])

    def remember(self, place: int) -> None:
        """Keep what lies on top of the stack under a number."""
        if not self.stack or self.stack[-1] is _MARK:
            raise self.error("keeps what is not there")
        self.memo[place] = self.stack[-1]

    def recall(self, place: int) -> None:
        """Push what was kept."""
        if place not in self.memo:
            raise self.error("asks for what it did not keep")
        self.stack.append(self.memo[place])

    def long_integer(self, form: str) -> None:
        """Push an integer of up to 16 bytes."""
        length = self.integer(form)
        if not 0 <= length <= _MAX_INTEGER_BYTES:
            raise self.error(f"has an integer of {length} bytes")
        self.stack.append(int.from_bytes(self.take(length), 'little', signed=True))

    def stop_protocol(self) -> None:
        """Check the protocol number."""
        number = self.take(1)[0]
        if number > 5:
            raise self.error(f"has protocol {number}, expected at most 5")


def _push(make: Callable) -> Callable:
    return lambda machine: machine.stack.append(make(machine))


def _tuple(length: Optional[int]) -> Callable:
    def make(machine):
        if length is None:
            return tuple(machine.pop_to_mark())
        return tuple([machine.pop() for _ in range(length)][::-1])
    return _push(make)


def _append(machine: Machine) -> None:
    item = machine.pop()
    machine.container(list).append(item)


def _extend(machine: Machine) -> None:
    items = machine.pop_to_mark()
    machine.container(list).extend(items)


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.find_global(module, name)


OPCODES = {ord(code): action for code, action in {
    '\x80': Machine.stop_protocol, '\x95': lambda m: m.take(8),                                    # PROTO FRAME
    '}': _push(lambda m: {}), ')': _push(lambda m: ()), ']': _push(lambda m: []),                  # EMPTY_*
    '(': _push(lambda m: _MARK), 'N': _push(lambda m: None),                                       # MARK NONE
    '\x88': _push(lambda m: True), '\x89': _push(lambda m: False),                                 # NEWTRUE NEWFALSE
    'X': _push(lambda m: m.text('<I')), '\x8c': _push(lambda m: m.text('<B')),                     # (SHORT_)BINUNICODE
    'U': _push(lambda m: m.text('<B', 'ascii')), 'T': _push(lambda m: m.text('<i', 'ascii')),      # (SHORT_)BINSTRING
    'J': _push(lambda m: m.integer('<i')), 'K': _push(lambda m: m.integer('<B')),                  # BININT BININT1
    'M': _push(lambda m: m.integer('<H')), 'G': _push(lambda m: m.integer('>d')),                  # BININT2 BINFLOAT
    '\x8a': lambda m: m.long_integer('<B'), '\x8b': lambda m: m.long_integer('<i'),                # LONG1 LONG4
    't': _tuple(None), '\x85': _tuple(1), '\x86': _tuple(2), '\x87': _tuple(3),                    # TUPLE*
    's': _set_item, 'u': lambda m: m.set_items(m.pop_to_mark()), 'a': _append, 'e': _extend,
    'q': lambda m: m.remember(m.integer('<B')), 'r': lambda m: m.remember(m.integer('<I')),        # (LONG_)BINPUT
    'h': lambda m: m.recall(m.integer('<B')), 'j': lambda m: m.recall(m.integer('<I')),            # (LONG_)BINGET
    '\x94': lambda m: m.remember(len(m.memo)),                                                     # MEMOIZE
    'c': lambda m: m.find_global(m.line(), m.line()), '\x93': _stack_global,                       # GLOBAL
    'R': Machine.call, 'b': Machine.build, 'Q': Machine.storage,                                   # REDUCE .. BINPERSID
}.items()}
