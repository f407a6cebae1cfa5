"""What people look at: tables of 80 columns, the JSON of a result, operating points, plots."""
import json
import math
import textwrap
from typing import NamedTuple

import numpy as np

from src.data.lists import whole_file, write_text
from src.scoring import metrics, uncertainty

BLUFR_POINTS = (0.01, 0.001, 0.0001, 0.00001, 0.000001)          # FARs whose thresholds are listed
NOISE = 0.2                                                      # percentage points


class Scored(NamedTuple):
    """One protocol's outcome: shares and scores, the numbers in percent of --json, and the operating points."""

    protocol: str                # 'lfw' or 'blufr'
    result: dict                 # of `metrics.lfw` or `metrics.blufr`
    numbers: dict
    points: list


def lfw(result):
    """Return the `Scored` of an LFW result that has 'people' (P, 2); its intervals are a bootstrap over people."""
    intervals = uncertainty.lfw_intervals(result['genuine'], result['impostor'], result['people'])
    points = [_point('lfw', far, threshold, tpr, intervals[f'tpr@{far:g}'], len(result['impostor']))
              for far, (tpr, threshold) in result['tpr_at_far'].items() if not math.isnan(tpr)]
    numbers = lfw_json(result)
    numbers['interval95'] = {
        **{key: _percents(intervals[key]) for key in ('eer100', 'auc', 'accuracy_10fold')},
        'tpr_at_far': {f'{far:g}': _percents(intervals[f'tpr@{far:g}']) for far in metrics.LFW_FARS}}
    numbers['scores'] = {key: result[key].tolist() for key in ('genuine', 'impostor')}
    return Scored('lfw', result, numbers, points)


def blufr(result):
    """Return the `Scored` of a BLUFR result; its intervals are over the trials."""
    numbers = blufr_json(result)
    for key, shares in zip(('vr', 'dir'), metrics.blufr_reported(result)):
        numbers[key]['interval95'] = _percents(uncertainty.trial_interval(shares))
    num_impostors = int(np.mean(result['num_impostors']))
    points = []
    for far in BLUFR_POINTS:
        if far * num_impostors >= 1:
            at = np.argmin(np.abs(metrics.VR_FARS - far))
            shares = result['vr'][:, at]
            points.append(_point('blufr', far, np.mean(result['vr_thresholds'][:, at]), np.mean(shares),
                                 uncertainty.trial_interval(shares), num_impostors))
    return Scored('blufr', result, numbers, points)


def _point(protocol, far, threshold, tpr, interval, num_impostors):
    return {'protocol': protocol, 'far': far, 'threshold': float(threshold), 'tpr': percent(tpr),
            'interval95': _percents(interval), 'impostor_pairs': num_impostors}


def lfw_json(result):
    """Return LFW's numbers in percent, as written by --json; what the pairs cannot measure is null."""
    mean, stderr = result['accuracy_10fold']
    return {'protocol': 'lfw', 'num_pairs': len(result['genuine']) + len(result['impostor']),
            'eer100': percent(result['eer100']), 'auc': percent(result['auc']),
            'tpr_at_far': {f'{far:g}': percent(tpr) for far, (tpr, _) in result['tpr_at_far'].items()},
            'accuracy_10fold': {'mean': percent(mean), 'stderr': percent(stderr)}}


def blufr_json(result):
    """Return BLUFR's numbers in percent, as written by --json."""
    vr, dir_ = metrics.blufr_reported(result)
    return {'protocol': 'blufr',
            'vr': {'far': metrics.REPORT_VR_FAR, **_mean_json(vr)},
            'dir': {'far': metrics.REPORT_DIR_FAR, 'rank': metrics.REPORT_RANK, **_mean_json(dir_)},
            'trials': [{'vr': percent(v), 'dir': percent(d)} for v, d in zip(vr, dir_)]}


def _mean_json(shares):
    mean, lower = metrics.mean_and_lower(shares)
    return {'mean': percent(mean), 'mean_minus_std': percent(lower)}


def percent(share):
    """Return 100 * share, None (JSON's null) for a number that could not be measured."""
    return None if math.isnan(share) else 100 * float(share)


def _percents(interval):
    return [percent(share) for share in interval]


def show(value):
    """Return a percentage as text of fixed width, '-' where it could not be measured."""
    return f"{'-':>9}" if value is None else f'{value:9.4f}'


def span(interval):
    """Return an interval in percent as text of fixed width."""
    return f"{'-':>18}" if None in interval else f'{interval[0]:.2f} .. {interval[1]:.2f}'.rjust(18)


def table(scored):
    """Return a protocol's numbers, intervals and operating points as lines of at most 80 columns."""
    lines = {'lfw': _lfw_lines, 'blufr': _blufr_lines}[scored.protocol](scored.numbers)
    return '\n'.join(lines + _point_lines(scored.points))


def lfw_rows(numbers):
    """Return (name, value, interval, note) of LFW's numbers; the names are the well-known port's."""
    accuracy, interval = numbers['accuracy_10fold'], numbers['interval95']
    rows = [('100%eer', numbers['eer100'], interval['eer100'], '')]
    for far, text in (('0.01', '1%'), ('0.001', '0.1%'), ('0', '0%')):
        rows.append((f'tpr@far={text}', numbers['tpr_at_far'][far], interval['tpr_at_far'][far], ''))
    stderr = '' if accuracy['stderr'] is None else f"std. error {accuracy['stderr']:.4f}"
    return rows + [('auc', numbers['auc'], interval['auc'], ''),
                   ('10-fold accuracy', accuracy['mean'], interval['accuracy_10fold'], stderr)]


def _lfw_lines(numbers):
    title = f"LFW, {numbers['num_pairs']} pairs"
    lines = [f"{title:<28}{'percent':>9}{'95 % interval':>20}"]
    lines += [f"  {name + ':':<26}{show(value)}  {span(interval)}  {note}".rstrip()
              for name, value, interval, note in lfw_rows(numbers)]
    return lines + textwrap.wrap(noise_note(numbers), 80)


def noise_note(numbers):
    """Return one sentence about which differences to another model mean nothing."""
    low, high = numbers['interval95']['eer100']
    if low is None:
        return 'Too few pairs for an interval.'
    half = (high - low) / 2
    noise = f'; a published difference of {NOISE:g} points is noise' if half > NOISE else ''
    return f'A 100%eer that differs by less than {half:.2f} points can be chance{noise}.'


def blufr_rows(numbers):
    """Return (name, VR, DIR) as text: a row per trial, then over all of them."""
    vr, dir_ = numbers['vr'], numbers['dir']
    rows = [(f'trial {i:2}', show(t['vr']), show(t['dir'])) for i, t in enumerate(numbers['trials'], 1)]
    rows += [('mean', show(vr['mean']), show(dir_['mean'])),
             ('95 % interval of the mean', span(vr['interval95']), span(dir_['interval95'])),
             ('mean - std', show(vr['mean_minus_std']), show(dir_['mean_minus_std']))]
    return rows


def _blufr_lines(numbers):
    lines = [f"{'BLUFR, percent':<28}{'VR@FAR=0.1%':>20}{'DIR@rank 1, FAR=1%':>22}"]
    lines += [f'  {name:<26}{vr:>20}{dir_:>22}' for name, vr, dir_ in blufr_rows(numbers)]
    reported = [show(numbers[key]['mean_minus_std']).strip() for key in ('vr', 'dir')]
    return lines + ['Verification:', f'    @ FAR = 0.1%: VR = {reported[0]}%', 'Open-set Identification:',
                    f'    @ Rank = 1, FAR = 1%: DIR = {reported[1]}%']


def point_rows(points):
    """Return (FAR, threshold, TPR, interval, impostor pairs) as text."""
    return [(f"{100 * p['far']:g}%", f"{p['threshold']:.6f}", show(p['tpr']).strip(), span(p['interval95']).strip(),
             str(p['impostor_pairs'])) for p in points]


def _point_lines(points):
    widths = (10, 12, 11, 20, 17)
    head = ('FAR', 'threshold', 'TPR, %', '95 % interval', 'impostor pairs')
    lines = ['Operating points: the same person if the cosine similarity >= threshold']
    return lines + [''.join(f'{cell:>{w}}' for cell, w in zip(row, widths)) for row in (head, *point_rows(points))]


def comparison_rows(scored, other):
    """Return (name, this, other, difference, interval, p) in percent of two models.

    other: a `Scored`, or the numbers of --json, of the same pairs (see `check_comparable`).
    """
    if scored.protocol == 'lfw':
        scores = other.result if isinstance(other, Scored) else {k: np.array(v) for k, v in other['scores'].items()}
        names = {'eer100': '100%eer', 'auc': 'auc', 'accuracy_10fold': '10-fold accuracy', 'tpr@0.01': 'tpr@far=1%',
                 'tpr@0.001': 'tpr@far=0.1%', 'tpr@0': 'tpr@far=0%'}
        result = scored.result
        rows = uncertainty.lfw_comparison((result['genuine'], result['impostor']),
                                          (scores['genuine'], scores['impostor']), result['people'])
    else:
        numbers = other.numbers if isinstance(other, Scored) else other
        names = {'vr': 'VR@FAR=0.1%, mean', 'dir': 'DIR@rank 1, FAR=1%, mean'}
        rows = {key: uncertainty.trial_comparison(*([trial[key] / 100 for trial in n['trials']]
                                                    for n in (scored.numbers, numbers))) for key in names}
    return [(name, *map(percent, rows[key][:3]), _percents(rows[key][3]), rows[key][4])
            for key, name in names.items()]


def comparison_table(scored, other, label):
    """Return two models side by side as lines of 80 columns, with a paired test, and what could be chance."""
    rows = comparison_rows(scored, other)
    lines = [f"{'against ' + label[:17]:<26}{'this':>8}{'other':>9}{'difference':>11}{'95 % interval':>18}{'p':>8}"]
    for name, this, that, difference, interval, p in rows:
        lines.append(f'  {name[:24]:<24}{show(this)[1:]}{show(that)}'
                     f"{'-' if difference is None else f'{difference:+.4f}':>11}{span(interval)}"
                     f"{'-' if math.isnan(p) else f'{p:.3f}':>8}")
    chance = [row[0] for row in rows if None in row[4] or row[4][0] <= 0 <= row[4][1]]
    test = 'bootstrap over people' if scored.protocol == 'lfw' else "t-test over trials"
    verdict = f'Paired {test}. Could be chance: {"; ".join(chance) or "none of these differences"}.'
    return '\n'.join(lines + textwrap.wrap(verdict, 80))


def check_comparable(file, numbers, scored):
    """Raise ValueError unless `numbers`, read from --compare `file`, are --json's of the same protocol and size."""
    wanted = scored.numbers
    if not isinstance(numbers, dict) or numbers.get('protocol') != scored.protocol:
        found = numbers.get('protocol') if isinstance(numbers, dict) else type(numbers).__name__
        raise ValueError(f"--compare {file}: holds {str(found)[:40]}, expected a result of {scored.protocol} (--json)")
    if scored.protocol == 'lfw':
        scores = numbers.get('scores')
        fits = isinstance(scores, dict) and all(_numbers(scores.get(key), len(wanted['scores'][key]))
                                                for key in ('genuine', 'impostor'))
        expected = f"the scores of {wanted['num_pairs']} pairs"
    else:
        trials = numbers.get('trials')
        fits = isinstance(trials, list) and all(isinstance(t, dict) for t in trials) and all(
            _numbers([t.get(key) for t in trials], len(wanted['trials'])) for key in ('vr', 'dir'))
        expected = f"{len(wanted['trials'])} trials"
    if not fits:
        raise ValueError(f"--compare {file}: does not hold {expected}; write it again with --json")


def _numbers(values, count):
    return isinstance(values, list) and len(values) == count and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def write_json(file, numbers):
    """Write a result as JSON, whole or not at all; the scores of all pairs stand on one line."""
    scores = numbers.get('scores')
    text = json.dumps({k: v for k, v in numbers.items() if k != 'scores'}, indent=1, allow_nan=False)
    if scores:
        text = text[:-2] + ',\n "scores": ' + json.dumps(scores, allow_nan=False) + '\n}'
    write_text(file, text + '\n')


def write_thresholds(file, model, scored):
    """Write the operating points of `scored`, an iterable of `Scored`, as JSON: FAR as a share, TPR in percent."""
    write_json(file, {'model': model, 'accept': 'cosine similarity >= threshold', 'tpr_unit': 'percent',
                      'points': [point for one in scored for point in one.points]})


def _pyplot():
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    pyplot.rcParams.update({'figure.constrained_layout.use': True, 'axes.grid': True, 'grid.alpha': 0.3,
                            'axes.spines.top': False, 'axes.spines.right': False, 'font.size': 9})
    return pyplot


def save_figure(figure, file):
    """Write a figure as PNG, whole or not at all."""
    with whole_file(file) as out:
        figure.savefig(out, format='png', dpi=120)
    _pyplot().close(figure)


def plot_training(rows, file):
    """Draw loss, top-1, learning rate and, if it was measured, LFW over the epochs of a train_log.jsonl."""
    steps = [row for row in rows if 'loss' in row]
    scores = [row for row in rows if 'eer100' in row]
    if not steps:
        return
    per_epoch = max(row['step'] / row['epoch'] for row in steps)          # at an epoch's last step both agree
    epochs = np.array([row['step'] for row in steps]) / per_epoch
    panels = [('loss', [row['loss'] for row in steps]), ('top-1, %', [100 * row['top1'] for row in steps]),
              ('learning rate', [row['lr'] for row in steps])]
    num_panels = len(panels) + bool(scores)
    figure, axes = _pyplot().subplots(num_panels, 1, sharex=True, figsize=(7, 1.9 * num_panels))
    for axis, (label, values) in zip(axes, panels):
        axis.plot(epochs, values, lw=1.2)
        axis.set_ylabel(label)
    if scores:
        axes[-1].plot([row['epoch'] for row in scores], [row['eer100'] for row in scores], 'o-', ms=3)
        axes[-1].set_ylabel('LFW 100%-EER, %')
    axes[0].set_title('Training')
    axes[-1].set_xlabel('epoch')
    save_figure(figure, file)


def runs_table(runs):
    """Return one table of several runs: {label: (lfw numbers, blufr numbers)} in percent."""
    rows = [('LFW 100%-EER', lambda lfw, blufr: lfw['eer100'])]
    for far, text in (('0.01', '1%'), ('0.001', '0.1%'), ('0', '0')):
        rows.append((f'LFW TPR@FAR={text}', lambda lfw, blufr, far=far: lfw['tpr_at_far'][far]))
    rows.append(('LFW 10-fold accuracy', lambda lfw, blufr: lfw['accuracy_10fold']['mean']))
    for name, key in (('VR@FAR=0.1%', 'vr'), ('DIR@rank 1, FAR=1%', 'dir')):
        for text, part in (('mean', 'mean'), ('mean - std', 'mean_minus_std')):
            rows.append((f'BLUFR {name}, {text}', lambda lfw, blufr, key=key, part=part: blufr[key][part]))
    lines = [f"{'percent':<38}" + ''.join(f'{label[:12]:>13}' for label in runs)]
    lines += [f'{name:<38}' + ''.join(f'{show(get(*numbers)):>13}' for numbers in runs.values()) for name, get in rows]
    return '\n'.join(lines)
