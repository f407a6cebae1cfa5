"""Convolutions by oneDNN itself, from the library that MindSpore's CPU package brings: blocked maps, Winograd.

    forward = convolution((8, 48, 64, 64), (192, 48, 3, 3))       # shapes of x and weight
    forward.run(x, forward.pack(weight), y)       # x: (8, 48 / BLOCK, 64, 64, BLOCK), y: (8, 192 / BLOCK, ...)

MindSpore 2.8 hands over plain (N, C, H, W) maps, for which oneDNN has only its slowest kernels. With maps in blocks of
as many channels as a vector register holds, and 3x3 filters by Winograd's F(4x4, 3x3) (arXiv:1509.09308) where the
processor has AVX-512, the convolutions of a LightCNN-9 take half the time. Rounding errors stay near 2e-6 of the
largest value. Each runs in the thread that calls it, without the GIL.

The C API is that of oneDNN 2 (https://oneapi-src.github.io/oneDNN/v2.2/), which MindSpore 2.7 and 2.8 bring.
"""
import ctypes
import functools
import importlib.util
import math
import os
import threading
from pathlib import Path
from typing import Any, Optional

import numpy as np
from llvmlite import binding

_WIDEST = 16 if binding.get_host_cpu_features().get('avx512f') else 8      # float32 of a vector register
# DNNL_MAX_CPU_ISA holds oneDNN 2 to older instructions than the processor has
BLOCK = _WIDEST if os.environ.get('DNNL_MAX_CPU_ISA', 'ALL').upper().startswith(('ALL', 'DEFAULT', 'AVX512')) else 8
# Numba keeps compiled kernels by processor, not by BLOCK: those of another BLOCK would write out of bounds
KEEP_KERNELS = BLOCK == _WIDEST
ALIGNMENT = 64

# values of enums in dnnl_types.h
_CPU, _IN_ORDER, _F32, _BLOCKED, _ANY = 1, 1, 3, 2, 1
_FORWARD, _DIRECT, _WINOGRAD, _USER_SCRATCHPAD = 64, 1, 2, 1
_IMPLEMENTATION, _SRC_MD, _WEIGHTS_MD, _DIFF_WEIGHTS_MD = 8, 129, 131, 132
_DST_MD, _DIFF_DST_MD, _SCRATCHPAD_MD = 133, 134, 136
_SRC, _DST, _WEIGHTS, _SCRATCHPAD, _DIFF_DST, _DIFF_WEIGHTS = 1, 17, 33, 80, 145, 161

_Dims = ctypes.c_int64 * 12


class _MemoryDesc(ctypes.Structure):
    """dnnl_memory_desc_t; the fields after `inner_idxs` are not used."""

    _fields_ = [('ndims', ctypes.c_int), ('dims', _Dims), ('data_type', ctypes.c_int), ('padded_dims', _Dims),
                ('padded_offsets', _Dims), ('offset0', ctypes.c_int64), ('format_kind', ctypes.c_int),
                ('strides', _Dims), ('inner_nblks', ctypes.c_int), ('inner_blks', _Dims), ('inner_idxs', _Dims),
                ('rest', ctypes.c_char * 1024)]


class _Argument(ctypes.Structure):
    """dnnl_exec_arg_t."""

    _fields_ = [('index', ctypes.c_int), ('memory', ctypes.c_void_p)]


class _Library:
    """The loaded library, and its engine."""

    def __init__(self, path: Path):
        self.c = ctypes.CDLL(str(path))
        self.c.dnnl_primitive_desc_query_md.restype = ctypes.c_void_p
        self.c.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        self.engine = ctypes.c_void_p()
        self('dnnl_engine_create', ctypes.byref(self.engine), _CPU, ctypes.c_size_t(0))
        self.threads = threading.local()

    def __call__(self, name, *arguments):
        status = getattr(self.c, name)(*arguments)
        if status:
            raise RuntimeError(f"oneDNN: {name} returned {status}")

    def stream(self) -> ctypes.c_void_p:
        """Return this thread's stream; it works in this thread alone."""
        if not hasattr(self.threads, 'stream'):
            self.threads.stream = ctypes.c_void_p()
            self('dnnl_stream_create', ctypes.byref(self.threads.stream), self.engine, _IN_ORDER)
        return self.threads.stream


@functools.cache
def library() -> Optional[_Library]:
    """Return oneDNN 2, or None where this MindSpore has none of it."""
    mindspore = importlib.util.find_spec('mindspore')
    path = Path(mindspore.origin).parent / 'lib' / 'libdnnl.so.2' if mindspore else None
    return _Library(path) if path and path.exists() else None


@functools.cache
def is_available() -> bool:
    """Whether this machine has oneDNN 2 and its fast kernels for BLOCK channels."""
    try:
        smallest = library() and convolution((1, BLOCK, 8, 8), (BLOCK, BLOCK, 3, 3))
    except (AttributeError, OSError, RuntimeError):      # another API, a part of it missing, another kind of processor
        return False
    return bool(smallest) and 'jit' in smallest.primitive.implementation


def scratch(name: str, shape: tuple, dtype: Any = np.float32) -> np.ndarray:
    """Return this thread's array of that name, aligned and not initialised."""
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    held = library().threads.__dict__.setdefault('scratch', {})
    if name not in held or len(held[name]) < num_bytes:
        held[name] = aligned(num_bytes)
    return held[name][:num_bytes].view(dtype).reshape(shape)


def aligned(num_bytes: int) -> np.ndarray:
    """Return a new array of bytes whose address is a multiple of ALIGNMENT."""
    array = np.empty(num_bytes + ALIGNMENT, np.uint8)
    start = -array.ctypes.data % ALIGNMENT
    return array[start:start + num_bytes]


def blocked(num: int, channels: int, height: int, width: int) -> tuple:
    """Return the shape in which `num` images of `channels` maps travel; pictures, grey or colour, stay plain."""
    if channels < BLOCK:
        return num, 1, height, width
    return num, channels // BLOCK, height, width, BLOCK


def _maps(num, channels, height, width):
    desc = _plain(num, channels, height, width)
    if channels >= BLOCK:
        desc.strides[:4] = [channels * height * width, height * width * BLOCK, width * BLOCK, BLOCK]
        desc.inner_nblks, desc.inner_blks[0], desc.inner_idxs[0] = 1, BLOCK, 1
    return desc


def _plain(*dims):
    desc = _MemoryDesc()
    strides = [math.prod(dims[i + 1:]) for i in range(len(dims))]
    library()('dnnl_memory_desc_init_by_strides', ctypes.byref(desc), len(dims), _Dims(*dims), _F32, _Dims(*strides))
    return desc


def _any(*dims):
    desc = _MemoryDesc()
    library()('dnnl_memory_desc_init_by_tag', ctypes.byref(desc), len(dims), _Dims(*dims), _F32, _ANY)
    return desc


def _attributes():
    """Return attributes by which a primitive takes its scratchpad from us: threads may then share it."""
    attributes = ctypes.c_void_p()
    library()('dnnl_primitive_attr_create', ctypes.byref(attributes))
    library()('dnnl_primitive_attr_set_scratchpad_mode', attributes, _USER_SCRATCHPAD)
    return attributes


class _Primitive:
    """A compiled operation."""

    def __init__(self, created: ctypes.c_void_p, arguments: dict):
        """created: a primitive descriptor; arguments: {argument: the query for its memory descriptor}."""
        dnnl = library()
        self.descs = {key: ctypes.c_void_p(dnnl.c.dnnl_primitive_desc_query_md(created, query, 0))
                      for key, query in {**arguments, _SCRATCHPAD: _SCRATCHPAD_MD}.items()}
        self.num_bytes = {key: dnnl.c.dnnl_memory_desc_get_size(desc) for key, desc in self.descs.items()}
        self.primitive, name = ctypes.c_void_p(), ctypes.c_char_p()
        dnnl('dnnl_primitive_create', ctypes.byref(self.primitive), created)
        dnnl('dnnl_primitive_desc_query', created, _IMPLEMENTATION, 0, ctypes.byref(name))
        self.implementation = name.value.decode()

    def run(self, arrays: dict) -> None:
        """Compute in place. arrays: {argument: contiguous array of as many bytes as its descriptor asks for}."""
        arrays = {**arrays, _SCRATCHPAD: scratch('onednn', (self.num_bytes[_SCRATCHPAD],), np.uint8)}
        memories = {key: self._memory(key, array) for key, array in arrays.items()}
        passed = (_Argument * len(memories))(*(_Argument(key, memory) for key, memory in memories.items()))
        try:
            library()('dnnl_primitive_execute', self.primitive, library().stream(), len(passed), passed)
            library()('dnnl_stream_wait', library().stream())
        finally:
            for memory in memories.values():
                library()('dnnl_memory_destroy', memory)

    def _memory(self, key, array):
        assert array.flags.c_contiguous and array.nbytes == self.num_bytes[key], (key, array.shape, self.num_bytes[key])
        memory = ctypes.c_void_p()
        library()('dnnl_memory_create', ctypes.byref(memory), self.descs[key], library().engine,
                  ctypes.c_void_p(array.ctypes.data))
        return memory


def _reorder(source, target):
    """Return the primitive that copies from one layout into another; both are pointers to descriptors."""
    created = ctypes.c_void_p()
    library()('dnnl_reorder_primitive_desc_create', ctypes.byref(created), source, library().engine, target,
              library().engine, _attributes())
    return _Primitive(created, {_SRC: _SRC_MD, _DST: _DST_MD})


def _y_shape(x_shape, weight_shape):
    return x_shape[0], weight_shape[0], *x_shape[2:]


def _describe(init, algorithm, x_shape, weight_shape, *options, layout=_maps, hint=None):
    """Return the primitive descriptor of a convolution, stride 1, padded to the same size."""
    x, y = layout(*x_shape), layout(*_y_shape(x_shape, weight_shape))
    operation, created, padding = ctypes.create_string_buffer(1 << 14), ctypes.c_void_p(), weight_shape[2] // 2
    library()(init, operation, *options, algorithm, ctypes.byref(x), ctypes.byref(_any(*weight_shape)), None,
              ctypes.byref(y), _Dims(1, 1), _Dims(padding, padding), _Dims(padding, padding))
    library()('dnnl_primitive_desc_create', ctypes.byref(created), operation, _attributes(), library().engine, hint)
    return created


def _describe_forward(algorithm, x_shape, weight_shape, layout=_maps):
    return _describe('dnnl_convolution_forward_desc_init', algorithm, x_shape, weight_shape, _FORWARD, layout=layout)


class Convolution:
    """(N, C, H, W) -> (N, F, H, W), both blocked, for a weight of (F, C, K, K)."""

    def __init__(self, x_shape: tuple, weight_shape: tuple):
        try:
            created = _describe_forward(_WINOGRAD, x_shape, weight_shape)
        except RuntimeError:                             # not for this size of filter, or not on this processor
            created = _describe_forward(_DIRECT, x_shape, weight_shape)
        self.primitive = _Primitive(created, {_SRC: _SRC_MD, _WEIGHTS: _WEIGHTS_MD, _DST: _DST_MD})
        self.reorder = _reorder(ctypes.byref(_plain(*weight_shape)), self.primitive.descs[_WEIGHTS])

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """Return the weight as `run` wants it."""
        packed = aligned(self.primitive.num_bytes[_WEIGHTS])
        self.reorder.run({_SRC: np.ascontiguousarray(weight), _DST: packed})
        return packed

    def run(self, x: np.ndarray, packed: np.ndarray, y: np.ndarray) -> None:
        """Write the convolution of x into y; packed: the weight from `pack`."""
        self.primitive.run({_SRC: x, _WEIGHTS: packed, _DST: y})


class WeightGradient:
    """Inputs (N, C, H, W) and gradient of outputs (N, F, H, W), blocked -> gradient of the (F, C, K, K) weight."""

    def __init__(self, x_shape: tuple, weight_shape: tuple):
        self.shape, self.unblock = weight_shape, None
        self.primitive = self._compiled(x_shape, weight_shape, _maps)
        if 'jit' not in self.primitive.implementation:   # AVX2 has none for pictures, and loops would take minutes
            self.primitive = self._compiled(x_shape, weight_shape, _plain)
            self.unblock = [_reorder(ctypes.byref(_maps(*shape)), ctypes.byref(_plain(*shape)))
                            for shape in (x_shape, _y_shape(x_shape, weight_shape))]
        self.reorder = _reorder(self.primitive.descs[_DIFF_WEIGHTS], ctypes.byref(_plain(*weight_shape)))

    @staticmethod
    def _compiled(x_shape, weight_shape, layout):
        created = _describe('dnnl_convolution_backward_weights_desc_init', _DIRECT, x_shape, weight_shape,
                            layout=layout, hint=_describe_forward(_DIRECT, x_shape, weight_shape, layout))
        return _Primitive(created, {_SRC: _SRC_MD, _DIFF_WEIGHTS: _DIFF_WEIGHTS_MD, _DIFF_DST: _DIFF_DST_MD})

    def run(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """Return the gradient of the weight (F, C, K, K)."""
        if self.unblock:
            plain = scratch('plain x', x.shape), scratch('plain dy', dy.shape)
            for reorder, blocked_maps, plain_maps in zip(self.unblock, (x, dy), plain):
                reorder.run({_SRC: blocked_maps, _DST: plain_maps})
            x, dy = plain
        packed = scratch('packed', (self.primitive.num_bytes[_DIFF_WEIGHTS],), np.uint8)
        self.primitive.run({_SRC: x, _DIFF_DST: dy, _DIFF_WEIGHTS: packed})
        grad = np.empty(self.shape, np.float32)
        self.reorder.run({_SRC: packed, _DST: grad})
        return grad


convolution = functools.cache(Convolution)               # compiled once for every shape
weight_gradient = functools.cache(WeightGradient)


def transposed(weight: np.ndarray) -> np.ndarray:
    """Return the weight with which a convolution turns gradients of its outputs into those of its inputs."""
    return weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
