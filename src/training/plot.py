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


def plot_training(rows: list, file: str) -> None:
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
