"""Convolutions of every kind by oneDNN, forward and backward, on blocked maps: any stride, padding and groups.

    shape = ConvShape(64, 128, (56, 56), (3, 3), (2, 2), (1, 1, 1, 1), 1)
    forward = compiled('forward', shape, num=4)              # for 4 images at once
    weight = forward.pack(plain)                             # (F, C / groups, K, K) -> as oneDNN wants it
    forward.run(x, weight, y)                                # addresses, or arrays, of (4, C / BLOCK, H, W, BLOCK)

Channels beyond the last whole block are zeros that travel along. Groups that are no whole blocks are joined to groups
that are, with zeros between (`merged_groups`); convolutions of one map a group stay as they are. Primitives run in the
thread that calls them and hold no Python lock while they do.
"""
import ctypes
import functools
import math
import threading
from typing import Any, NamedTuple, Union

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from src.cpu import onednn
from src.cpu.onednn import BLOCK, aligned, library

_FORWARD_INFERENCE, _AUTO = 96, 3
_BIAS, _DIFF_SRC, _DIFF_SRC_MD = 41, 129, 130
_ELTWISE_RELU, _ELTWISE_SWISH, _ELTWISE_LOGISTIC = 0x1f, 0xdf, 0xaf


class ConvShape(NamedTuple):
    """A convolution: sizes of its maps and filters. size: (H, W) of the inputs; padding: top, bottom, left, right."""

    channels: int
    filters: int
    size: tuple
    kernel: tuple
    stride: tuple
    padding: tuple
    groups: int
    picture: bool = False                 # the inputs are pictures, plain (N, C, H, W)

    def output_size(self) -> tuple:
        """Return (H, W) of the outputs."""
        top, bottom, before, after = self.padding
        return tuple((side + pads - kernel) // stride + 1 for side, pads, kernel, stride in
                     zip(self.size, (top + bottom, before + after), self.kernel, self.stride))

    def weight_shape(self) -> tuple:
        """Return (F, C / groups, K, K)."""
        return self.filters, self.channels // self.groups, *self.kernel

    def is_depthwise(self) -> bool:
        """Whether every map has a filter of its own."""
        return self.groups == self.channels == self.filters > 1

    def merged_groups(self) -> int:
        """Return into how many groups, each of whole blocks, the groups are joined for oneDNN."""
        if self.groups == 1 or self.is_depthwise():
            return self.groups
        inputs, outputs = self.channels // self.groups, self.filters // self.groups
        fitting = [m for m in range(1, self.groups + 1)
                   if self.groups % m == 0 and m * inputs % BLOCK == 0 and m * outputs % BLOCK == 0]
        return self.groups // fitting[0] if fitting else 1


def num_blocks(channels: int) -> int:
    """Return how many blocks hold so many maps."""
    return -(-channels // BLOCK)


def maps_shape(num: int, channels: int, size: tuple) -> tuple:
    """Return the shape (N, C / BLOCK, H, W, BLOCK) of blocked maps; C is rounded up."""
    return num, num_blocks(channels), *size, BLOCK


def to_blocked(maps: np.ndarray) -> np.ndarray:
    """(N, C, H, W) -> (N, C / BLOCK, H, W, BLOCK), zeros beyond C."""
    num, channels, *size = maps.shape
    padded = np.zeros((num, num_blocks(channels) * BLOCK, *size), np.float32)
    padded[:, :channels] = maps
    return np.ascontiguousarray(padded.reshape(num, -1, BLOCK, *size).transpose(0, 1, 3, 4, 2))


def to_plain(maps: np.ndarray, channels: int) -> np.ndarray:
    """(N, C / BLOCK, H, W, BLOCK) -> (N, C, H, W)."""
    num, blocks, height, width, _ = maps.shape
    return np.ascontiguousarray(maps.transpose(0, 1, 4, 2, 3)).reshape(num, blocks * BLOCK, height, width)[:, :channels]


def expanded(weight: np.ndarray, groups: int, merged: int) -> np.ndarray:
    """Return the weight (F, C / merged, K, K) of the same convolution in fewer groups, with zeros between."""
    filters, inputs = weight.shape[:2]
    together = groups // merged
    out = np.zeros((merged, together, filters // groups, together, inputs, *weight.shape[2:]), np.float32)
    split = weight.reshape(merged, together, filters // groups, inputs, *weight.shape[2:])
    for i in range(together):
        out[:, i, :, i] = split[:, i]
    return out.reshape(filters, together * inputs, *weight.shape[2:])


def reduced(gradient: np.ndarray, groups: int, merged: int) -> np.ndarray:
    """Return the part of an `expanded` weight's gradient that belongs to the weight itself."""
    filters, inputs = gradient.shape[:2]
    together = groups // merged
    split = gradient.reshape(merged, together, filters // groups, together, inputs // together, *gradient.shape[2:])
    own = np.stack([split[:, i, :, i] for i in range(together)], 1)
    return own.reshape(filters, inputs // together, *gradient.shape[2:])


def _call(builder, address, result, arguments):
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(builder.inttoptr(address, kind.as_pointer()), arguments)


@intrinsic
def _set_handle(_, function, memory, handle):
    """dnnl_memory_set_data_handle."""
    def generate(context, builder, signature, args):
        return _call(builder, args[0], ir.IntType(32), args[1:])
    return types.int32(types.intp, types.intp, types.intp), generate


@intrinsic
def _execute(_, function, primitive, stream, count, arguments):
    """dnnl_primitive_execute."""
    def generate(context, builder, signature, args):
        args = list(args)
        args[3] = builder.trunc(args[3], ir.IntType(32))
        return _call(builder, args[0], ir.IntType(32), args[1:])
    return types.int32(types.intp, types.intp, types.intp, types.intp, types.intp), generate


@njit(nogil=True, cache=True)
def _run(set_handle, execute, primitive, stream, memories, arguments, a, b, c, d):
    """Run a primitive of up to four arrays, given by their addresses; the last of `memories` is its scratchpad."""
    _set_handle(set_handle, memories[0], a)
    _set_handle(set_handle, memories[1], b)
    if len(memories) > 3:
        _set_handle(set_handle, memories[2], c)
    if len(memories) > 4:
        _set_handle(set_handle, memories[3], d)
    return _execute(execute, primitive, stream, len(memories), arguments)


@functools.cache
def _functions() -> tuple:
    """Return the addresses of the two functions."""
    c = library().c
    return tuple(ctypes.cast(function, ctypes.c_void_p).value
                 for function in (c.dnnl_memory_set_data_handle, c.dnnl_primitive_execute))


def address(array: Union[np.ndarray, int]) -> int:
    """Return the address of an array's memory."""
    return array if isinstance(array, int) else array.__array_interface__['data'][0]


class Primitive:
    """A compiled operation on arrays given by their addresses. Each thread has memory objects and a scratchpad."""

    def __init__(self, created: ctypes.c_void_p, arguments: dict):
        """created: a primitive descriptor; arguments: {argument: query for its memory descriptor}, in `run`'s order."""
        self.made = onednn._Primitive(created, arguments)
        self.order = [*arguments, onednn._SCRATCHPAD]
        self.implementation, self.num_bytes = self.made.implementation, self.made.num_bytes
        self.held = threading.local()

    def _prepare(self):
        dnnl, held = library(), self.held
        scratch = onednn.scratch('onednn', (max(self.num_bytes[onednn._SCRATCHPAD], 1),), np.uint8)
        memories = np.zeros(len(self.order), np.int64)
        for i, key in enumerate(self.order):
            memory = ctypes.c_void_p()
            dnnl('dnnl_memory_create', ctypes.byref(memory), self.made.descs[key], dnnl.engine,
                 ctypes.c_void_p(address(scratch)))
            memories[i] = memory.value
        held.arguments = (onednn._Argument * len(self.order))(
            *(onednn._Argument(key, int(memory)) for key, memory in zip(self.order, memories)))
        held.fixed = (*_functions(), self.made.primitive.value, dnnl.stream().value, memories,
                      ctypes.addressof(held.arguments))
        held.scratch, held.memories = scratch, memories

    def run(self, a: Any, b: Any, c: Any = 0, d: Any = 0) -> None:
        """Compute in place; arrays or addresses in the order of the arguments."""
        held = self.held
        if not hasattr(held, 'fixed'):
            self._prepare()
        num_bytes = self.num_bytes[onednn._SCRATCHPAD]
        if num_bytes:                                    # the scratchpad is the thread's, and may have grown elsewhere
            scratch = onednn.scratch('onednn', (num_bytes,), np.uint8)
            if scratch.base is not held.scratch.base:
                held.scratch = scratch
                library()('dnnl_memory_set_data_handle', ctypes.c_void_p(int(held.memories[-1])),
                          ctypes.c_void_p(address(scratch)))
        status = _run(*held.fixed, address(a), address(b), address(c), address(d))
        if status:
            raise RuntimeError(f"oneDNN: dnnl_primitive_execute returned {status}")


def maps_desc(num: int, channels: int, size: tuple, picture: bool = False) -> Any:
    """Return the memory descriptor of blocked maps, or of pictures."""
    if picture:
        return onednn._plain(num, channels, *size)
    desc = onednn._plain(num, channels, *size)
    padded = num_blocks(channels) * BLOCK
    desc.padded_dims[1] = padded
    height, width = size
    desc.strides[:4] = [padded * height * width, height * width * BLOCK, width * BLOCK, BLOCK]
    desc.inner_nblks, desc.inner_blks[0], desc.inner_idxs[0] = 1, BLOCK, 1
    return desc


def _weight_dims(shape):
    groups = shape.merged_groups()
    dims = shape.filters // groups, shape.channels // groups, *shape.kernel
    return dims if groups == 1 else (groups, *dims)


def _attributes(act):
    attributes = onednn._attributes()
    if act is not None:
        algorithm, alpha = {'relu': (_ELTWISE_RELU, 0.0), 'silu': (_ELTWISE_SWISH, 1.0),
                            'sigmoid': (_ELTWISE_LOGISTIC, 0.0)}[act]
        post = ctypes.c_void_p()
        library()('dnnl_post_ops_create', ctypes.byref(post))
        library()('dnnl_post_ops_append_eltwise', post, ctypes.c_float(1), algorithm, ctypes.c_float(alpha),
                  ctypes.c_float(0))
        library()('dnnl_primitive_attr_set_post_ops', attributes, post)
    return attributes


def _describe(kind, shape, num, algorithm, act=None, bias=False, hint=None):
    """Return the primitive descriptor of a convolution."""
    x = maps_desc(num, shape.channels, shape.size, shape.picture)
    y = maps_desc(num, shape.filters, shape.output_size())
    weight, offset = onednn._any(*_weight_dims(shape)), onednn._plain(shape.filters)
    top, bottom, left, right = shape.padding
    geometry = onednn._Dims(*shape.stride), onednn._Dims(top, left), onednn._Dims(bottom, right)
    operation, created = ctypes.create_string_buffer(1 << 14), ctypes.c_void_p()
    x, y, weight, offset = map(ctypes.byref, (x, y, weight, offset))
    if kind == 'forward':
        library()('dnnl_convolution_forward_desc_init', operation, onednn._FORWARD, algorithm, x, weight,
                  offset if bias else None, y, *geometry)
    elif kind == 'backward_data':
        library()('dnnl_convolution_backward_data_desc_init', operation, algorithm, x, weight, y, *geometry)
    else:
        library()('dnnl_convolution_backward_weights_desc_init', operation, algorithm, x, weight, None, y, *geometry)
    library()('dnnl_primitive_desc_create', ctypes.byref(created), operation, _attributes(act), library().engine, hint)
    return created


_ARGUMENTS = {
    'forward': {onednn._SRC: onednn._SRC_MD, onednn._WEIGHTS: onednn._WEIGHTS_MD, onednn._DST: onednn._DST_MD},
    'backward_data': {onednn._DIFF_DST: onednn._DIFF_DST_MD, onednn._WEIGHTS: onednn._WEIGHTS_MD,
                      _DIFF_SRC: _DIFF_SRC_MD},
    'backward_weights': {onednn._SRC: onednn._SRC_MD, onednn._DIFF_DST: onednn._DIFF_DST_MD,
                         onednn._DIFF_WEIGHTS: onednn._DIFF_WEIGHTS_MD},
}


class Compiled:
    """One of the three passes of a convolution over `num` images. run: (x, weight, y[, bias]), (dy, weight, dx) or
    (x, dy, dweight), weights as `pack` gives them and `unpack` takes them."""

    def __init__(self, kind: str, shape: ConvShape, num: int, act: Any = None, bias: bool = False):
        self.shape = shape
        self.primitive = self._best(kind, shape, num, act, bias)
        if 'jit' not in self.primitive.implementation:
            raise RuntimeError(f"oneDNN has no fast kernel for {shape}: {self.primitive.implementation}")
        self.key = onednn._DIFF_WEIGHTS if kind == 'backward_weights' else onednn._WEIGHTS
        self.num_bytes, self.run = self.primitive.num_bytes[self.key], self.primitive.run
        plain, own = ctypes.byref(onednn._plain(*_weight_dims(shape))), self.primitive.made.descs[self.key]
        self.reorder = onednn._reorder(*((own, plain) if kind == 'backward_weights' else (plain, own)))

    @staticmethod
    def _best(kind, shape, num, act, bias):
        arguments = dict(_ARGUMENTS[kind])
        if bias:
            arguments[_BIAS] = onednn._WEIGHTS_MD + 0
        if shape.kernel == (3, 3) and shape.stride == (1, 1) and kind != 'backward_weights':
            try:
                return Compiled._made(kind, shape, num, onednn._WINOGRAD, act, bias)
            except RuntimeError:                         # not for this size, or not on this processor
                pass
        return Compiled._made(kind, shape, num, onednn._DIRECT, act, bias)

    @staticmethod
    def _made(kind, shape, num, algorithm, act, bias):
        hint = None if kind == 'forward' else _describe('forward', shape, num, onednn._DIRECT)
        created = _describe(kind, shape, num, algorithm, act, bias, hint)
        return Primitive(created, _ARGUMENTS[kind])

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """Return the weight (F, C / groups, K, K) as the primitive wants it."""
        if self.shape.merged_groups() != self.shape.groups:
            weight = expanded(weight, self.shape.groups, self.shape.merged_groups())
        packed = aligned(self.num_bytes)
        self.reorder.run({onednn._SRC: np.ascontiguousarray(weight), onednn._DST: packed})
        return packed

    def unpack(self, gradient: np.ndarray) -> np.ndarray:
        """Return the gradient of the weight (F, C / groups, K, K)."""
        dims = _weight_dims(self.shape)
        plain = np.empty(dims, np.float32)
        self.reorder.run({onednn._SRC: gradient, onednn._DST: plain})
        plain = plain.reshape(self.shape.filters, *dims[-3:])
        if self.shape.merged_groups() != self.shape.groups:
            plain = reduced(plain, self.shape.groups, self.shape.merged_groups())
        return plain


compiled = functools.cache(Compiled)


def flops(shape: ConvShape) -> int:
    """Return the multiplications and additions of one image."""
    return 2 * math.prod(shape.output_size()) * math.prod(shape.weight_shape())
