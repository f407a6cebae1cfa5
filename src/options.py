"""Options that belong to a head or a backbone: each declares its own, with default, range and meaning.

    OPTIONS = {'margin': Option(0.35, 0.0, 1.0, 'margin of the true class')}
    options = checked_options('head cosface', OPTIONS, {'margin': 0.4})          # {'margin': 0.4}
"""
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Union


class Option(NamedTuple):
    """One option: its default, the lowest and highest value (or the choices), and its meaning."""

    default: Any
    low: Union[float, tuple, None] = None        # a tuple holds the choices
    high: Union[float, None] = None
    meaning: str = ''


def checked_options(owner: str, declared: Mapping, given: Mapping) -> dict:
    """Return every declared option's value: the given one, checked, or its default. ValueError names the range."""
    unknown = sorted(set(given) - set(declared))
    if unknown:
        raise ValueError(f"{owner} has no option '{unknown[0]}'; options: {', '.join(sorted(declared)) or 'none'}")
    return {name: _checked(f'{owner}, {name}', option, given[name]) if name in given else option.default
            for name, option in declared.items()}


def _checked(name: str, option: Option, value: Any) -> Any:
    kind = type(option.default)
    value = from_text(name, kind, value) if isinstance(value, str) and kind is not str else value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is not type(None) and type(value) is not kind:
        raise ValueError(f"{name}={value!r} should be of type {kind.__name__}")
    if isinstance(option.low, tuple):
        if value not in option.low:
            raise ValueError(f"{name}='{value}' is not one of {', '.join(map(str, option.low))}")
    elif kind in (int, float):
        low, high = (0 if option.low is None else option.low), (math.inf if option.high is None else option.high)
        if not low <= value <= high or math.isinf(value):
            raise ValueError(f"{name}={value} is out of range; allowed: {low} to {high}")
    return value


def from_text(name: str, kind: type, text: str) -> Any:
    """Return `text` as a value of type `kind`; ValueError names the option."""
    if kind is bool:
        if text.lower() not in ('true', 'false'):
            raise ValueError(f"{name}='{text}' is not true or false")
        return text.lower() == 'true'
    try:
        return kind(text)
    except (ValueError, TypeError):
        raise ValueError(f"{name}='{text}' is not {'an integer' if kind is int else 'a number'}") from None


def entry(kind: str, table: Mapping, name: str) -> Any:
    """Return table[name]; ValueError lists the known names. kind: 'head', 'backbone', ..."""
    if name not in table:
        raise ValueError(f"unknown {kind} '{name}'; {kind}s: {', '.join(table)}")
    return table[name]
