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
