"""Margins on the cosine t between an embedding and its own class vector, in float32, with finite gradients everywhere.

The derivative of sqrt(1 - t^2) and of arccos is infinite at |t| = 1, where rounding takes a cosine now and then; here
it is bounded. Nothing here needs a head: tensors in, tensors out.
"""
import math
from typing import Union

from mindspore import Tensor, ops

CLOSEST = 1e-7                   # cosines come no closer to 1 than this before arccos: 0.03 degrees
HARD_REGIONS = ('linear', 'none', 'facexzoo', 'easy', 'clip')


def sine(t: Tensor) -> Tensor:
    """Return sqrt(1 - t^2), at least 1e-6; at |t| >= 1 its gradient is 0."""
    return ops.sqrt(ops.maximum((1.0 - t) * (1.0 + t), 1e-12))


def angle(t: Tensor, closest: float = CLOSEST) -> Tensor:
    """Return arccos of t kept within +-(1 - closest)."""
    return ops.acos(ops.clamp(t, closest - 1.0, 1.0 - closest))


def turned(t: Tensor, margin: Union[float, Tensor]) -> Tensor:
    """Return cos(arccos(t) + margin); margin: radians, a number or a tensor like t."""
    if isinstance(margin, float):
        return t * math.cos(margin) - sine(t) * math.sin(margin)
    return t * ops.cos(margin) - sine(t) * ops.sin(margin)


def turned_by_rule(t: Tensor, margin: Union[float, Tensor], rule: str = 'linear', lowered: float = 0.0) -> Tensor:
    """Return cos(arccos(t) + margin) with a `rule` for the hard region, where the angle would pass 180 degrees.

    linear: t - margin sin(margin) there, as the first insightface; none: the cosine rises again; facexzoo: t - lowered;
    easy: no margin for t <= 0; clip: the angle stops before 180 degrees, without gradient, as in AdaFace's repository.
    """
    if rule == 'clip':
        return ops.cos(ops.clamp(angle(t, 1e-4) + margin, 1e-4, math.pi - 1e-4))
    t = ops.clamp(t, -1.0, 1.0)
    moved = turned(t, margin)
    if rule == 'none':
        return moved
    if rule == 'easy':
        return ops.select(t > 0.0, moved, t)
    is_tensor = not isinstance(margin, float)
    lowest = -ops.cos(margin) if is_tensor else -math.cos(margin)
    if rule == 'linear':
        lowered = margin * (ops.sin(margin) if is_tensor else math.sin(margin))
    return ops.select(t > lowest, moved, t - lowered)


def widened(t: Tensor, exponent: float) -> Tensor:
    """Return cos(pi (theta / pi)^exponent): ExpFace's curve; exponents below 1 make angles larger."""
    return ops.cos(math.pi * ops.pow(angle(t) / math.pi, exponent))


def monotonic_cosine(t: Tensor, margin: float, taylor: bool = False) -> Tensor:
    """Return SphereFace's (-1)^k cos(margin theta) - 2k, k = floor(margin theta / pi), for theta = arccos t.

    taylor: cos by gluon-face's polynomial, whose last term is wrong, cut to -margin..1.
    """
    many = margin * angle(t)
    k = ops.stop_gradient(ops.floor(many / math.pi))
    sign = 1.0 - 2.0 * (k - 2.0 * ops.floor(k / 2.0))
    if not taylor:
        return sign * ops.cos(many) - 2.0 * k
    square = many * many
    fourth = square * square
    cosine = (1.0 - square / 2.0 + fourth / 24.0 - fourth * square / 720.0 + fourth * fourth / 40320.0
              - fourth * fourth * many / 362880.0)
    return ops.clamp(cosine, -margin, 1.0)


def straight_through(value: Tensor, source: Tensor) -> Tensor:
    """Return `value` with the derivative of `source`."""
    return source + ops.stop_gradient(value - source)
