"""What people look at: tables of 80 columns, the JSON of a result, plots."""
import json
import math
import os

import numpy as np

from src import metrics
from src.lists import write_text


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


def show(value):
    """Return a percentage as text of fixed width, '-' where it could not be measured."""
    return f"{'-':>9}" if value is None else f'{value:9.4f}'


def lfw_table(numbers):
    """Return LFW's numbers as lines: the ones that scripts of the well-known port look for, then accuracy."""
    tpr = numbers['tpr_at_far']
    accuracy = numbers['accuracy_10fold']
    return '\n'.join([
        f"LFW, {numbers['num_pairs']} pairs                        percent",
        f"  100%eer:                         {show(numbers['eer100'])}",
        f"  tpr@far=1%:                      {show(tpr['0.01'])}",
        f"  tpr@far=0.1%:                    {show(tpr['0.001'])}",
        f"  tpr@far=0:                       {show(tpr['0'])}",
        f"  auc:                             {show(numbers['auc'])}",
        f"  10-fold accuracy:                {show(accuracy['mean'])}  +-{show(accuracy['stderr']).lstrip()}"])


def blufr_table(numbers):
    """Return BLUFR's numbers as lines, per trial and over all."""
    lines = ["BLUFR, percent                     VR@FAR=0.1%    DIR@rank 1, FAR=1%"]
    for i, trial in enumerate(numbers['trials'], 1):
        lines.append(f"  trial {i:2}                          {show(trial['vr'])}             {show(trial['dir'])}")
    for label, key in (('mean', 'mean'), ('mean - std', 'mean_minus_std')):
        lines.append(f"  {label:<12}                      {show(numbers['vr'][key])}             "
                     f"{show(numbers['dir'][key])}")
    return '\n'.join(lines)


def write_json(file, numbers):
    """Write a result as JSON, whole or not at all."""
    write_text(file, json.dumps(numbers, indent=1, allow_nan=False) + '\n')


def _pyplot():
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    pyplot.rcParams.update({'figure.constrained_layout.use': True, 'axes.grid': True, 'grid.alpha': 0.3,
                            'axes.spines.top': False, 'axes.spines.right': False, 'font.size': 9})
    return pyplot


def save_figure(figure, file):
    """Write a figure as PNG, whole or not at all."""
    temporary = f"{file}.{os.getpid()}.tmp"
    figure.savefig(temporary, format='png', dpi=120)
    _pyplot().close(figure)
    os.replace(temporary, file)


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


def plot_scores(runs, file):
    """Draw LFW's ROC and BLUFR's verification and identification curves of several runs.

    runs: {label: (lfw result, blufr result)} of `metrics.lfw` and `metrics.blufr`.
    """
    figure, (roc_axis, vr_axis, dir_axis) = _pyplot().subplots(1, 3, figsize=(11, 3.6))
    for label, (lfw, blufr) in runs.items():
        far, tpr, _ = metrics.roc(lfw['genuine'], lfw['impostor'])
        roc_axis.plot(far, 100 * tpr, label=label, drawstyle='steps-post')
        _curve(vr_axis, metrics.VR_FARS, blufr['vr'], label)
        _curve(dir_axis, metrics.DIR_FARS, blufr['dir'][:, list(metrics.DIR_RANKS).index(metrics.REPORT_RANK)], label)
    titles = ('LFW pairs: TPR, %', 'BLUFR: verification rate, %', 'BLUFR: DIR at rank 1, %')
    for axis, title, lowest in zip((roc_axis, vr_axis, dir_axis), titles, (1e-3, 1e-5, 1e-3)):
        axis.set(xscale='log', xlim=(lowest, 1), ylim=(0, 101), title=title, xlabel='false accept rate')
    roc_axis.legend(loc='lower right')
    save_figure(figure, file)


def _curve(axis, fars, shares, label):
    """Draw the mean over trials with a band of one standard deviation."""
    mean, std = 100 * shares.mean(0), 100 * shares.std(0, ddof=1)
    axis.plot(fars, mean, label=label)
    axis.fill_between(fars, mean - std, mean + std, alpha=0.2)


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
