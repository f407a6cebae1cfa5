"""Groups as text and JSON: a result of `src.scoring.groups.measure` -> lines of 80 columns, numbers for --json."""
from typing import Optional

from src.scoring.report import percent


def group_numbers(result: dict) -> dict:
    """Return the result for --json: TPR and its intervals in percent, FAR as shares."""
    return {**result, 'points': [_point_numbers(point) for point in result['points']]}


def _point_numbers(point):
    by_group = [{**row, 'tpr': _percent(row['tpr']), 'tpr_interval95': [_percent(end) for end in row['tpr_interval95']]}
                for row in point['by_group']]
    return {**point, 'tpr': _percent(point['tpr']), 'by_group': by_group}


def _percent(share: Optional[float]) -> Optional[float]:
    return None if share is None else percent(share)


def group_lines(numbers: dict) -> list:
    """Return the numbers of `group_numbers` as lines of at most 80 columns."""
    lines = []
    if numbers['without_group']:
        lines.append(f"{numbers['without_group']} pictures are in no group")
    for point in numbers['points']:
        lines += [f"Groups at one threshold, {point['threshold']:.6f} (FAR {_share(point['far'])} of "
                  f"{point['impostor_pairs']} impostor pairs)",
                  f"{'group':<13}{'people':>7}{'TPR, %':>9}{'95 %':>15}{'FAR':>10}{'95 %':>18}{'at most':>8}"]
        for row, people in zip(point['by_group'], numbers['people']):
            tpr = '-' if row['tpr'] is None else f"{row['tpr']:.3f}"
            lines.append(f"{row['group'][:12]:<13}{people:>7}{tpr:>9}{_span(row['tpr_interval95']):>15}"
                         f"{_share(row['far']):>10}{_share_span(row['far_interval95']):>18}{_share(row['far_upper']):>8}")
        lines += [f"  {' and '.join(row['groups'])[:40]:<42}{'FAR ' + _share(row['far']):>12}"
                  f"{_share_span(row['far_interval95']):>18}" for row in point['between'] if row['far'] is not None]
        lines += [_ratio_line(name, point[key]) for name, key in (('FAR', 'far_ratio'), ('misses', 'miss_ratio'))
                  if point[key]]
    return lines or ['Groups: the impostor pairs cannot resolve a FAR of 1 %']


def _ratio_line(name, ratio):
    value = 'no limit' if ratio['ratio'] is None else f"{ratio['ratio']:.2f}"
    low, high = ratio['interval95']
    ends = '-' if low is None else f"{low:.2f} .. {'no limit' if high is None else f'{high:.2f}'}"
    chance = 'may be chance' if low is None or low <= 1 else 'beyond chance'
    return f"  {name}: {ratio['worst'][:12]} / {ratio['best'][:12]} {value} ({ends}), {chance}"[:80]


def _share(share):
    return '-' if share is None else f'{100 * share:.3g}%'


def _span(interval):
    return '-' if None in interval else f'{interval[0]:.1f} .. {interval[1]:.1f}'


def _share_span(interval):
    return '-' if None in interval else f'{100 * interval[0]:.2g} .. {100 * interval[1]:.2g}%'
