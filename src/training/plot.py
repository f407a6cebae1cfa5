"""The curves of a training, drawn from its log: training.png."""
from typing import Any

import numpy as np

from src.data.lists import whole_file


def _pyplot() -> Any:
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    pyplot.rcParams.update({'figure.constrained_layout.use': True, 'axes.grid': True, 'grid.alpha': 0.3,
                            'axes.spines.top': False, 'axes.spines.right': False, 'font.size': 9})
    return pyplot


def save_figure(figure: Any, file: str) -> None:
    """Write a figure as PNG, whole or not at all."""
    with whole_file(file) as out:
        figure.savefig(out, format='png', dpi=120)
    _pyplot().close(figure)


def panels_of(rows: list) -> list:
    """Return (label, values) of every curve that the log's rows of steps have; NaN where a row lacks one."""
    curves = [('loss', 'loss', 1), ('top-1, %', 'top1', 100), ('learning rate', 'lr', 1),
              ('target cosine', 'target_cosine', 1), ('hard negatives, %', 'hard_negatives', 100),
              ('embedding norm', 'embedding_norm', 1)]
    return [(label, [factor * row.get(key, np.nan) for row in rows]) for label, key, factor in curves
            if any(key in row for row in rows)]


def plot_training(rows: list, file: str) -> None:
    """Draw the curves of a train_log.jsonl over the epochs: loss, top-1, learning rate, LFW, what is watched."""
    steps = [row for row in rows if 'loss' in row]
    scores = [row for row in rows if 'eer100' in row]
    if not steps:
        return
    per_epoch = max(row['step'] / row['epoch'] for row in steps)          # at an epoch's last step both agree
    epochs = np.array([row['step'] for row in steps]) / per_epoch
    panels = [(label, epochs, values, '-') for label, values in panels_of(steps)]
    if scores:
        panels.insert(3, ('LFW 100%-EER, %', [row['epoch'] for row in scores], [row['eer100'] for row in scores], 'o-'))
    columns = 1 + (len(panels) > 4)
    height = -(-len(panels) // columns)
    figure, axes = _pyplot().subplots(height, columns, sharex=True, figsize=(2 + 5 * columns, 1.9 * height))
    axes = list(np.reshape(axes, (height, columns)).T.flat)                # down the first column, then the second
    for axis, (label, x, y, style) in zip(axes, panels):
        axis.plot(x, y, style, lw=1.2, ms=3)
        axis.set_ylabel(label)
    for axis in axes[len(panels):]:
        axis.set_visible(False)
    for last in {height, len(panels)}:
        axes[last - 1].set_xlabel('epoch')
        axes[last - 1].tick_params(labelbottom=True)
    figure.suptitle('Training', fontsize=10)
    save_figure(figure, file)
