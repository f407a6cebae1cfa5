"""Text and files of a result: tables of 80 columns, JSON, operating points.

The rows, numbers and curves that differ between protocols belong to the protocol; see src/protocols.
"""
import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Optional

from src.data.lists import file_sha256, write_text


_A_TABLE = 3                     # models beside each other in 80 columns


class Scored(NamedTuple):
    """One protocol's outcome: shares and scores, the numbers in percent of --json, and the operating points."""

    protocol: Any                # a src.protocols.protocol.Protocol
    result: dict
    numbers: dict
    points: list


def operating_point(protocol: str, far: float, threshold: float, tpr: float, interval: Sequence,
                    num_impostors: int) -> dict:
    """Return a row of thresholds.json: shares in, TPR and interval in percent out."""
    return {'protocol': protocol, 'far': far, 'threshold': float(threshold), 'tpr': percent(tpr),
            'interval95': percents(interval), 'impostor_pairs': num_impostors}


def percent(share: float) -> Optional[float]:
    """Return 100 * share, None (JSON's null) for a number that could not be measured."""
    return None if math.isnan(share) else 100 * float(share)


def percents(interval: Iterable) -> list:
    """Return an interval in percent."""
    return [percent(share) for share in interval]


def show(value: Optional[float]) -> str:
    """Return a percentage as text of fixed width, '-' where it could not be measured."""
    return f"{'-':>9}" if value is None else f'{value:9.4f}'


def span(interval: Sequence) -> str:
    """Return an interval in percent as text of fixed width."""
    return f"{'-':>18}" if None in interval else f'{interval[0]:.2f} .. {interval[1]:.2f}'.rjust(18)


def table(scored: Scored) -> str:
    """Return a protocol's numbers, intervals and operating points as lines of at most 80 columns."""
    details = [line for _, lines in scored.protocol.details(scored.numbers) for line in lines]
    points = _point_lines(scored.points) if scored.points else []
    remarks = [line for remark in remarks_of(scored.numbers) for line in textwrap.wrap(remark, 80)]
    return '\n'.join(scored.protocol.lines(scored.numbers) + remarks + points + details)


def remarks_of(numbers: dict) -> list:
    """Return what is said of the embeddings and the training set, as sentences."""
    norm = numbers.get('norm')
    norms = [f"Embedding norms: mean {norm['mean']:.4f}, std {norm['std']:.4f}"] if norm else []
    return norms + [text for text in [training_set_text(numbers)] if text]


def training_set_text(numbers: dict) -> str:
    """Return what is known of a test set's people and pictures in the training set, '' where nobody looked."""
    held = numbers.get('training_set')
    if not held:
        return ''
    if held['people'] is None:
        return f"People and pictures of the test set in the training set: unknown ({held['reason']})."
    how = ', '.join(f'{held[key]} {words}' for key, words in (
        ('people_by_name', 'by name'), ('people_by_picture', 'by picture'), ('people_by_centre', 'by embedding'))
        if held[key] is not None)
    more = '' if held['complete'] else ' At least: the training began with weights whose training set is unknown.'
    note = f" {held['reason'][0].upper()}{held['reason'][1:]}." if held['reason'] else ''
    return (f"In the training set: {held['people']} of {held['num_people']} people ({how}), {held['pictures']} of "
            f"{held['num_pictures']} pictures of the test set.{more}{note}")


def point_rows(points: list) -> list:
    """Return (FAR, threshold, TPR, interval, impostor pairs) as text."""
    return [(f"{100 * p['far']:g}%", f"{p['threshold']:.6f}", show(p['tpr']).strip(), span(p['interval95']).strip(),
             str(p['impostor_pairs'])) for p in points]


def _point_lines(points: list) -> list:
    widths = (10, 12, 11, 20, 17)
    head = ('FAR', 'threshold', 'TPR, %', '95 % interval', 'impostor pairs')
    lines = ['Operating points: the same person if the cosine similarity >= threshold']
    return lines + [''.join(f'{cell:>{w}}' for cell, w in zip(row, widths)) for row in (head, *point_rows(points))]


def comparison_table(scored: Scored, other: Any, label: str) -> str:
    """Return two models side by side in 80 columns, with a paired test and the differences that could be chance."""
    rows = scored.protocol.comparison(scored, other)
    lines = [f"{'against ' + label[:17]:<26}{'this':>8}{'other':>9}{'difference':>11}{'95 % interval':>18}{'p':>8}"]
    for name, this, that, difference, interval, p in rows:
        lines.append(f'  {name[:24]:<24}{show(this)[1:]}{show(that)}'
                     f"{'-' if difference is None else f'{difference:+.4f}':>11}{span(interval)}"
                     f"{'-' if math.isnan(p) else f'{p:.3f}':>8}")
    if not scored.protocol.paired_test:
        return '\n'.join([*lines, 'No paired test: whether the differences are chance is not known.'])
    chance = [row[0] for row in rows if None in row[4] or row[4][0] <= 0 <= row[4][1]]
    verdict = (f'Paired {scored.protocol.paired_test}. Could be chance: '
               f'{"; ".join(chance) or "none of these differences"}.')
    return '\n'.join(lines + textwrap.wrap(verdict, 80))


def check_comparable(file: str, numbers: Any, scored: Scored) -> None:
    """Raise ValueError unless `numbers`, read from --compare `file`, are --json's of the same protocol and size."""
    name = scored.protocol.name
    if not isinstance(numbers, dict) or numbers.get('protocol') != name:
        found = numbers.get('protocol') if isinstance(numbers, dict) else type(numbers).__name__
        raise ValueError(f"--compare {file}: holds {str(found)[:40]}, expected a result of {name} (--json)")
    fits, expected = scored.protocol.comparable(numbers, scored.numbers)
    if not fits:
        raise ValueError(f"--compare {file}: does not hold {expected}; write it again with --json")


def all_numbers(values: Any, count: int) -> bool:
    """Whether `values` is a list of `count` finite numbers."""
    return isinstance(values, list) and len(values) == count and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def write_json(file: str, numbers: dict) -> None:
    """Write a result as JSON, whole or not at all; the scores of all pairs stand on one line."""
    scores = numbers.get('scores')
    text = json.dumps({k: v for k, v in numbers.items() if k != 'scores'}, indent=1, allow_nan=False)
    if scores:
        text = text[:-2] + ',\n "scores": ' + json.dumps(scores, allow_nan=False) + '\n}'
    write_text(file, text + '\n')


def write_thresholds(file: str, runs: dict, weights: Mapping = MappingProxyType({})) -> None:
    """Write the operating points of {model: its `Scored`s} as JSON: FAR as a share, TPR in percent.

    One model's stand in the file itself, those of several as a list, 'models'. weights: {model: file of its weights},
    whose sha256 says later which network the thresholds belong to.
    """
    models = [{'model': model, 'weights_sha256': file_sha256(weights[model]) if weights.get(model) else None,
               'accept': 'cosine similarity >= threshold', 'tpr_unit': 'percent',
               'points': [point for one in scored for point in one.points]} for model, scored in runs.items()]
    write_json(file, models[0] if len(models) == 1 else {'models': models})


def letter(place: int) -> str:
    """Return the short name of the model in a place of a table: A to Z, AA, AB ..."""
    return (letter(place // 26 - 1) if place > 25 else '') + chr(65 + place % 26)


def runs_table(runs: dict) -> str:
    """Return one table of several runs, {label: [Scored]}, in percent; more than three models go on below."""
    rows: dict = {}
    for label, all_scored in runs.items():
        for scored in all_scored:
            for name, value, _ in scored.protocol.summary(scored.numbers):
                rows.setdefault(name, {})[label] = value
    labels = list(runs)
    lines = [f'{letter(i)}: {label}'[:80] for i, label in enumerate(labels)]
    for start in range(0, len(labels), _A_TABLE):
        part = labels[start:start + _A_TABLE]
        lines += ['', f"{'percent':<41}" + ''.join(f'{letter(start + i) + " " + label[:10]:>13}'
                                                   for i, label in enumerate(part))]
        lines += [f'{_short(name, 41):<41}' + ''.join(f'{show(cells.get(label)):>13}' for label in part)
                  for name, cells in rows.items()]
    for place, all_scored in enumerate(runs.values()):
        for scored in all_scored:
            for remark in remarks_of(scored.numbers):
                lines += textwrap.wrap(f'{letter(place)}, {scored.protocol.title}: {remark}', 80)
    return '\n'.join(lines)


def _short(name, width):
    """Return a name in `width` columns: of a long one the beginning and the end."""
    half = width // 2
    return name if len(name) <= width else f'{name[:half]}~{name[-half:]}'
