"""Curves as SVG for the report page; its own style sheet colours and scales them."""
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from src.scoring import metrics

_INK = '#010203'                 # matplotlib's colour of text and axes; becomes the page's own text colour
COLOURS = ('#3b82f6', '#f97316', '#10b981', '#d946ef', '#ef4444', '#84cc16', '#06b6d4', '#a8a29e')
_STYLE = {
    'figure.constrained_layout.use': True, 'font.size': 10, 'font.family': 'sans-serif', 'svg.fonttype': 'none',
    'axes.grid': True, 'grid.color': '#808080', 'grid.alpha': 0.3, 'axes.spines.top': False, 'axes.spines.right': False,
    'text.color': _INK, 'axes.labelcolor': _INK, 'axes.edgecolor': _INK, 'xtick.color': _INK, 'ytick.color': _INK,
    'legend.frameon': False, 'svg.hashsalt': 'report', 'savefig.transparent': True,
}


def svg_figure(draw: Callable, ylabel: str, xlabel: str, *, of: str = '', **axis: Any) -> str:
    """Return an SVG that `draw(axes)` fills, coloured and scaled by the page. of: tells it from others of its axes."""
    import matplotlib
    from matplotlib.figure import Figure
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 3.3))
        axes = figure.subplots()
        draw(axes)
        axes.set(ylabel=ylabel, xlabel=xlabel, **axis)
        out = io.StringIO()
        figure.savefig(out, format='svg', metadata={'Date': None, 'Creator': None, 'Format': None, 'Type': None})
    svg = out.getvalue()
    svg = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', '', svg[svg.index('<svg'):], count=1)
    prefix = re.sub(r'\W+', '', ylabel + xlabel + of)                 # ids are the page's: no two figures share one
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf'\g<1>{prefix}-', svg)
    return svg.replace(_INK, 'currentColor')


def _lines(runs, draw, legend=None):
    def fill(axes):
        for (label, scored), colour in zip(runs.items(), COLOURS * len(runs)):
            draw(axes, scored.result, label, colour)
        if legend:
            legend(axes)
        elif len(runs) > 1:
            axes.legend()
    return fill


def roc_figure(runs: dict, of: str = '') -> str:
    """Return the ROC of pairs, false accept rate on a log axis, as SVG. of: the protocol's name."""
    def draw(axes, result, label, colour):
        far, tpr, _ = metrics.roc(result['genuine'], result['impostor'])
        axes.plot(far, 100 * tpr, label=label, color=colour, drawstyle='steps-post')
    num = max(len(scored.result['impostor']) for scored in runs.values())
    return svg_figure(_lines(runs, draw), 'true positive rate, %', 'false accept rate', xscale='log',
                      xlim=(0.9 / num, 1), ylim=(0, 101), of=of)


def line_figure(runs: dict, key: str, ylabel: str, xlabel: str, of: str = '', **axis: Any) -> str:
    """Return the curves (x, shares) that stand as `key` in each result as SVG, in percent. of: the protocol's name."""
    def draw(axes, result, label, colour):
        x, shares = result[key]
        axes.plot(x, 100 * np.asarray(shares), label=label, color=colour, marker='.' if len(x) < 8 else None)
    return svg_figure(_lines(runs, draw), ylabel, xlabel, of=of, ylim=(0, 101), **axis)


def score_figure(runs: dict, of: str = '') -> str:
    """Return histograms of genuine and impostor scores as SVG; the impostors' are outlines."""
    def draw(axes, result, label, colour):
        both = np.concatenate([result['genuine'], result['impostor']])
        bins = np.linspace(both.min(), both.max() + 1e-9, 51)
        many = f'{label}: ' if len(runs) > 1 else ''
        axes.hist(result['genuine'], bins, color=colour, alpha=0.45, label=f'{many}same person')
        axes.hist(result['impostor'], bins, color=colour, histtype='step', lw=1.4, label=f'{many}two people')

    columns = 2 if max(map(len, runs)) <= 12 or len(runs) == 1 else 1
    below = _lines(runs, draw, lambda axes: axes.figure.legend(loc='outside lower center', ncols=columns))
    return svg_figure(below, 'pairs', 'cosine similarity', of=of)


def _band(axes, x, shares, label, colour):
    """Draw the mean over trials and all that lies between the lowest and the highest trial."""
    axes.plot(x, 100 * shares.mean(0), label=label, color=colour)
    axes.fill_between(x, 100 * shares.min(0), 100 * shares.max(0), color=colour, alpha=0.25, lw=0)


def verification_figure(runs: dict) -> str:
    """Return BLUFR's verification rate over the FAR as SVG, with the spread over trials."""
    def draw(axes, result, label, colour):
        _band(axes, metrics.VR_FARS[1:], result['vr'][:, 1:], label, colour)
    return svg_figure(_lines(runs, draw), 'verification rate, %', 'false accept rate', xscale='log', xlim=(1e-7, 1),
                      ylim=(0, 101))


def cmc_figure(runs: dict) -> str:
    """Return BLUFR's cumulative match characteristic (closed set: every probe accepted) as SVG."""
    def draw(axes, result, label, colour):
        _band(axes, metrics.DIR_RANKS, result['dir'][:, :, -1], label, colour)
    def fill(axes):
        _lines(runs, draw)(axes)
        axes.set_xscale('log')
        axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ['1', '2', '5', '10', '20', '50', '100'])
    return svg_figure(fill, 'identification rate, %', 'rank', ylim=(0, 101))


def dir_figure(runs: dict) -> str:
    """Return BLUFR's detection and identification rate at rank 1 over the FAR as SVG."""
    rank_1 = list(metrics.DIR_RANKS).index(1)

    def draw(axes, result, label, colour):
        _band(axes, metrics.DIR_FARS[1:], result['dir'][:, rank_1, 1:], label, colour)
    return svg_figure(_lines(runs, draw), 'DIR at rank 1, %', 'false accept rate of unknown probes', xscale='log',
                   xlim=(1e-3, 1), ylim=(0, 101))


def tail_figure(counts: np.ndarray) -> str:
    """Return the images per person, most first, as SVG."""
    ranked = np.sort(counts)[::-1]
    return svg_figure(lambda axes: axes.plot(np.arange(1, len(ranked) + 1), ranked, color=COLOURS[0]), 'images',
                   'people, most images first', ylim=(0, None))
