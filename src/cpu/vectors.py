"""Vectors of BLOCK float32, and of as many float64, for Numba kernels that keep them in registers.

    @njit
    def scaled(x, factor, out):                     # x, out: flat arrays of whole blocks, factor: (BLOCK,)
        f = load(factor, 0)
        for i in range(0, len(x), BLOCK):
            store(out, i, multiply(load(x, i), f))

Numba's own loops over a block check at run time whether arrays overlap, and keep sums in memory: 3 to 10 times slower.
"""
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from src.cpu.onednn import BLOCK

_SINGLE, _DOUBLE = ir.VectorType(ir.FloatType(), BLOCK), ir.VectorType(ir.DoubleType(), BLOCK)
_WHOLE = ir.VectorType(ir.IntType(32), BLOCK)


class _Vector(types.Type):
    """A Numba type that is one LLVM vector."""

    def __init__(self, name: str, kind: Any, scalar: Any):
        super().__init__(name=f'{name}x{BLOCK}')
        self.kind, self.scalar = kind, scalar


class _Single(_Vector):
    """BLOCK float32."""


class _Double(_Vector):
    """BLOCK float64."""


SINGLE, DOUBLE = _Single('single', _SINGLE, types.float32), _Double('double', _DOUBLE, types.float64)


@register_model(_Single)
@register_model(_Double)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any):
        super().__init__(manager, kind, kind.kind)


def _place(context, builder, array_type, array, index, kind):
    """Return the pointer to a vector in a flat array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def _of_array(array):
    """Return the vector type that an array's elements make."""
    return SINGLE if array.dtype == types.float32 else DOUBLE


@intrinsic
def load(_: Any, array: Any, index: Any) -> Any:
    """The vector at array[index:index + BLOCK], array: flat, float32 or float64."""
    result = _of_array(array)

    def generate(context, builder, signature, args):
        return builder.load(_place(context, builder, signature.args[0], *args, result.kind),
                            align=4 if result is SINGLE else 8)
    return result(array, types.intp), generate


@intrinsic
def store(_: Any, array: Any, index: Any, vector: Any) -> Any:
    """array[index:index + BLOCK] = vector."""
    def generate(context, builder, signature, args):
        builder.store(args[2], _place(context, builder, signature.args[0], *args[:2], vector.kind),
                      align=4 if vector is SINGLE else 8)
        return context.get_dummy_value()
    return types.void(array, types.intp, vector), generate


@intrinsic
def splat(_: Any, value: Any) -> Any:
    """A vector of BLOCK times the float32 `value`."""
    def generate(context, builder, signature, args):
        single = builder.insert_element(ir.Constant(_SINGLE, ir.Undefined), args[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(single, ir.Constant(_SINGLE, ir.Undefined), ir.Constant(_WHOLE, [0] * BLOCK))
    return SINGLE(types.float32), generate


def _binary(generate_operation, description):
    def operation(_, a, b):
        def generate(context, builder, signature, args):
            return generate_operation(builder, *args)
        return a(a, b), generate
    operation.__doc__ = description
    return intrinsic(operation)


add = _binary(lambda builder, a, b: builder.fadd(a, b), "a + b.")
subtract = _binary(lambda builder, a, b: builder.fsub(a, b), "a - b.")
multiply = _binary(lambda builder, a, b: builder.fmul(a, b), "a * b.")
divide = _binary(lambda builder, a, b: builder.fdiv(a, b), "a / b.")
# NaN in `a` stays: the comparison is then false, and the second operand of the selection is `a`
larger = _binary(lambda builder, a, b: builder.select(builder.fcmp_ordered('<', a, b), b, a), "The larger.")
smaller = _binary(lambda builder, a, b: builder.select(builder.fcmp_ordered('>', a, b), b, a), "The smaller.")


@intrinsic
def multiply_add(_: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    def generate(context, builder, signature, args):
        kind = args[0].type
        name = f'llvm.fma.v{BLOCK}f{32 if a is SINGLE else 64}'
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
        return builder.call(function, args)
    return a(a, b, c), generate


@intrinsic
def where_positive(_: Any, z: Any, a: Any, b: Any) -> Any:
    """a where z > 0, else b."""
    def generate(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered('>', args[0], ir.Constant(_SINGLE, [0.0] * BLOCK)), args[1], args[2])
    return SINGLE(z, a, b), generate


@intrinsic
def as_double(_: Any, a: Any) -> Any:
    """The same numbers in float64."""
    def generate(context, builder, signature, args):
        return builder.fpext(args[0], _DOUBLE)
    return DOUBLE(a), generate


@intrinsic
def nearest(_: Any, a: Any) -> Any:
    """The nearest whole numbers, as float32."""
    def generate(context, builder, signature, args):
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_SINGLE, [_SINGLE]),
                                                  f'llvm.rint.v{BLOCK}f32')
        return builder.call(function, args)
    return SINGLE(a), generate


@intrinsic
def power_of_two(_: Any, a: Any) -> Any:
    """2 ** a for whole numbers from -126 to 127."""
    def generate(context, builder, signature, args):
        exponent = builder.add(builder.fptosi(args[0], _WHOLE), ir.Constant(_WHOLE, [127] * BLOCK))
        return builder.bitcast(builder.shl(exponent, ir.Constant(_WHOLE, [23] * BLOCK)), _SINGLE)
    return SINGLE(a), generate
