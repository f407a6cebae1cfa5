"""Several models on the same images: which differences are more than chance, corrected for how many are looked at.

    for row in differences({'a.ckpt': {'lfw': scored}, 'b.onnx': {'lfw': other}}): print(row)

Every number of every protocol is tested for every two models (a paired test, see `Protocol.comparison`); the p values
are corrected together by Holm's rule (Scand. J. Statist. 6, 1979): among all differences that are called real, the
chance that even one of them is chance stays below 5 %.
"""
import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple, Optional

import numpy as np

from src.scoring.report import letter, show, span

LEVEL = 0.05


class Difference(NamedTuple):
    """One number of two models: percent; `p` of the paired test, `p_holm` corrected for all that were looked at."""

    protocol: str
    name: str
    models: tuple                # labels
    places: tuple                # of the models in the table
    values: tuple
    difference: Optional[float]
    interval: Sequence
    p: float
    p_holm: float

    @property
    def is_real(self) -> bool:
        """Whether it is more than chance after the correction."""
        return self.p_holm < LEVEL

    def as_json(self) -> dict:
        """Return the row as it stands in --json; null for what could not be measured."""
        shares = {key: None if math.isnan(value) else value for key, value in (('p', self.p), ('p_holm', self.p_holm))}
        return {'protocol': self.protocol, 'name': self.name, 'models': list(self.models), 'values': list(self.values),
                'difference': self.difference, 'interval95': list(self.interval), **shares}


def holm(p: np.ndarray) -> np.ndarray:
    """Return p values (M,) corrected by Holm's rule; nan, a test that could not be made, stays nan and counts none."""
    corrected = np.full(len(p), math.nan)
    measured = np.flatnonzero(~np.isnan(p))
    order = measured[np.argsort(p[measured], kind='stable')]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return corrected


def differences(runs: dict) -> list:
    """Return the `Difference`s of every two of `runs`, {label: {protocol name: Scored}}, in every number they share."""
    places, rows = {label: place for place, label in enumerate(runs)}, []
    pairs = list(combinations(runs, 2))
    for name in dict.fromkeys(name for run in runs.values() for name in run):
        for pair in pairs:
            if all(name in runs[label] for label in pair):
                this, other = (runs[label][name] for label in pair)
                rows += [(this.protocol.title, row[0], pair, tuple(places[label] for label in pair), row[1:3], *row[3:])
                         for row in this.protocol.compared(this, other, len(pairs))]
    corrected = holm(np.array([row[-1] for row in rows], np.float64))
    return [Difference(*row, float(p)) for row, p in zip(rows, corrected)]


def differences_table(rows: Sequence) -> str:
    """Return `differences` as lines of at most 80 columns."""
    lines, title = [], None
    for row in rows:
        if row.protocol != title:
            title = row.protocol
            lines += [f"{title[:22]:<24}{'models':>8}{'difference':>12}{'95 % interval':>18}{'p':>8}{'p Holm':>8}"]
        models = ' - '.join(map(letter, row.places))
        change = '-' if row.difference is None else f'{row.difference:+.4f}'
        lines.append(f'  {row.name[:22]:<22}{models:>8}{change:>12}{span(row.interval):>18}'
                     f'{_show_p(row.p)}{_show_p(row.p_holm)}{" *" if row.is_real else ""}')
    tested = sum(not math.isnan(row.p) for row in rows)
    return '\n'.join([*lines, f'* more than chance: p below {LEVEL:g} after Holm\'s correction for {tested} tests.'])


def _show_p(p):
    return f"{'-' if math.isnan(p) else f'{p:.4f}':>8}"


def differences_rows(rows: Sequence) -> list:
    """Return the rows of `differences` as text, for the report: with the two values, and whether it is real."""
    return [(row.protocol, row.name, ' - '.join(map(letter, row.places)), *(show(v).strip() for v in row.values),
             '-' if row.difference is None else f'{row.difference:+.4f}', span(row.interval).strip(),
             _show_p(row.p).strip(), _show_p(row.p_holm).strip(), row.is_real) for row in rows]
