"""The report: one HTML page that needs nothing but itself, for one run or several laid over each other.

Plots are SVG in the page, pictures data: URLs; `report.html.jinja` is the template. No scripts, no network.
"""
import base64
import io
import os
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader

from src.data.images import find_image, read_grey, training_face_for_test
from src.data.lists import write_text
from src.scoring import metrics, report

NUM_WORST = 24
_SHEET = 8                       # people and pictures a person on a contact sheet
_INK = '#010203'                 # what matplotlib draws text and axes with; becomes the page's own text colour
_COLOURS = ('#3b82f6', '#f97316', '#10b981', '#d946ef', '#ef4444', '#84cc16', '#06b6d4', '#a8a29e')
_STYLE = {
    'figure.constrained_layout.use': True, 'font.size': 10, 'font.family': 'sans-serif', 'svg.fonttype': 'none',
    'axes.grid': True, 'grid.color': '#808080', 'grid.alpha': 0.3, 'axes.spines.top': False, 'axes.spines.right': False,
    'text.color': _INK, 'axes.labelcolor': _INK, 'axes.edgecolor': _INK, 'xtick.color': _INK, 'ytick.color': _INK,
    'legend.frameon': False, 'svg.hashsalt': 'report', 'savefig.transparent': True,
}


def write_page(file, runs, image_root, note=''):
    """Write the report of `runs`, {label: {'lfw': Scored, 'blufr': Scored}} where either protocol may be missing.

    image_root: folder of the LFW pictures; the page says so where they are not there. note: stands under the title.
    """
    lfw = {label: scored['lfw'] for label, scored in runs.items() if 'lfw' in scored}
    blufr = {label: scored['blufr'] for label, scored in runs.items() if 'blufr' in scored}
    figures = []
    if lfw:
        figures += [('ROC, LFW pairs', roc_figure(lfw)), ('Scores, LFW pairs', score_figure(lfw))]
    if blufr:
        figures += [('Verification, BLUFR', verification_figure(blufr)), ('CMC, BLUFR', cmc_figure(blufr)),
                    ('Open-set identification, BLUFR', dir_figure(blufr))]
    first = next(iter(lfw), None)
    write_text(file, _template('report.html.jinja').render(
        note=note, labels=list(runs), colours=_COLOURS, summary=summary_rows(runs), num_trials=_num_trials(blufr),
        noise={label: report.noise_note(scored.numbers) for label, scored in lfw.items()},
        points={label: [row for one in scored.values() for row in _point_rows(one)] for label, scored in runs.items()},
        figures=figures, first=first, worst=worst_pairs(lfw[first].result, image_root) if first else None,
        image_root=image_root) + '\n')


def _template(name):
    return Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True,
                       lstrip_blocks=True).get_template(name)


def _num_trials(blufr):
    return next((len(scored.numbers['trials']) for scored in blufr.values()), 0)


def _point_rows(scored):
    return [({'lfw': 'LFW', 'blufr': 'BLUFR'}[scored.protocol], *row) for row in report.point_rows(scored.points)]


def summary_rows(runs):
    """Return [(name, [(value, interval) or None of each run])] of what any run measured, in percent as text."""
    rows = {}
    for label, scored in runs.items():
        for name, value, interval in _summary(scored):
            rows.setdefault(name, {})[label] = (report.show(value).strip(), report.span(interval).strip())
    return [(name, [cells.get(label) for label in runs]) for name, cells in rows.items()]


def _summary(scored):
    if 'lfw' in scored:
        yield from ((f'LFW {name}', value, interval) for name, value, interval, _ in
                    report.lfw_rows(scored['lfw'].numbers))
    if 'blufr' in scored:
        for key, name in (('vr', 'VR@FAR=0.1%'), ('dir', 'DIR@rank 1, FAR=1%')):
            numbers = scored['blufr'].numbers[key]
            yield f'BLUFR {name}, mean', numbers['mean'], numbers['interval95']
            yield f'BLUFR {name}, mean - std', numbers['mean_minus_std'], [None, None]


def _figure(draw, ylabel, xlabel, **axis):
    """Return an SVG that `draw(axes)` fills, coloured and scaled by the page."""
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
    prefix = re.sub(r'\W+', '', ylabel + xlabel)                 # ids are the page's: no two figures share one
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf'\g<1>{prefix}-', svg)
    return svg.replace(_INK, 'currentColor')


def _lines(runs, draw, legend=None):
    def fill(axes):
        for (label, scored), colour in zip(runs.items(), _COLOURS * len(runs)):
            draw(axes, scored.result, label, colour)
        if legend:
            legend(axes)
        elif len(runs) > 1:
            axes.legend()
    return fill


def roc_figure(lfw):
    """Return the ROC of LFW's pairs, false accept rate on a log axis, as SVG."""
    def draw(axes, result, label, colour):
        far, tpr, _ = metrics.roc(result['genuine'], result['impostor'])
        axes.plot(far, 100 * tpr, label=label, color=colour, drawstyle='steps-post')
    num = max(len(scored.result['impostor']) for scored in lfw.values())
    return _figure(_lines(lfw, draw), 'true positive rate, %', 'false accept rate', xscale='log', xlim=(0.9 / num, 1),
                   ylim=(0, 101))


def score_figure(lfw):
    """Return histograms of genuine and impostor scores as SVG; the impostors' are outlines."""
    def draw(axes, result, label, colour):
        both = np.concatenate([result['genuine'], result['impostor']])
        bins = np.linspace(both.min(), both.max() + 1e-9, 51)
        many = f'{label}: ' if len(lfw) > 1 else ''
        axes.hist(result['genuine'], bins, color=colour, alpha=0.45, label=f'{many}same person')
        axes.hist(result['impostor'], bins, color=colour, histtype='step', lw=1.4, label=f'{many}two people')

    below = _lines(lfw, draw, lambda axes: axes.figure.legend(loc='outside lower center', ncols=2))
    return _figure(below, 'pairs', 'cosine similarity')


def _band(axes, x, shares, label, colour):
    """Draw the mean over trials and all that lies between the lowest and the highest trial."""
    axes.plot(x, 100 * shares.mean(0), label=label, color=colour)
    axes.fill_between(x, 100 * shares.min(0), 100 * shares.max(0), color=colour, alpha=0.25, lw=0)


def verification_figure(blufr):
    """Return BLUFR's verification rate over the FAR as SVG, with the spread over trials."""
    def draw(axes, result, label, colour):
        _band(axes, metrics.VR_FARS[1:], result['vr'][:, 1:], label, colour)
    return _figure(_lines(blufr, draw), 'verification rate, %', 'false accept rate', xscale='log', xlim=(1e-7, 1),
                   ylim=(0, 101))


def cmc_figure(blufr):
    """Return BLUFR's cumulative match characteristic (closed set: every probe accepted) as SVG."""
    def draw(axes, result, label, colour):
        _band(axes, metrics.DIR_RANKS, result['dir'][:, :, -1], label, colour)
    def fill(axes):
        _lines(blufr, draw)(axes)
        axes.set_xscale('log')
        axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ['1', '2', '5', '10', '20', '50', '100'])
    return _figure(fill, 'identification rate, %', 'rank', ylim=(0, 101))


def dir_figure(blufr):
    """Return BLUFR's detection and identification rate at rank 1 over the FAR as SVG."""
    rank_1 = list(metrics.DIR_RANKS).index(1)

    def draw(axes, result, label, colour):
        _band(axes, metrics.DIR_FARS[1:], result['dir'][:, rank_1, 1:], label, colour)
    return _figure(_lines(blufr, draw), 'DIR at rank 1, %', 'false accept rate of unknown probes', xscale='log',
                   xlim=(1e-3, 1), ylim=(0, 101))


def worst_pairs(result, image_root):
    """Return {'accepts': impostor pairs of the highest scores, 'rejects': genuine pairs of the lowest}.

    A pair is a dict: score, names, pictures (data: URLs, None where the file is not there).
    """
    num_genuine = len(result['genuine'])
    rejects = np.argsort(result['genuine'], kind='stable')[:NUM_WORST]
    accepts = np.argsort(-result['impostor'], kind='stable')[:NUM_WORST] + num_genuine
    scores = np.concatenate([result['genuine'], result['impostor']])

    def pair(i):
        names = [result['names'][row] for row in result['pairs'][i]]
        return {'score': f'{scores[i]:.4f}', 'names': [os.path.splitext(os.path.basename(n))[0] for n in names],
                'pictures': [_picture(image_root, name) for name in names]}
    return {'accepts': [pair(i) for i in accepts], 'rejects': [pair(i) for i in rejects]}


def _picture(root, name):
    path = find_image(root, name)
    if path is None:
        return None
    try:
        face = training_face_for_test(read_grey(path), name=path)
    except (OSError, ValueError):
        return None
    jpeg = cv2.imencode('.jpg', face, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return 'data:image/jpeg;base64,' + base64.b64encode(jpeg).decode()


def write_audit(file, audit):
    """Write the page of an `audit.Audit`: numbers, the long tail, and contact sheets."""
    counts, classes = audit.people()
    order = [label for label in np.argsort(counts, kind='stable') if counts[label]]

    def people(labels):
        return [(int(label), int(counts[label]), [
            (audit.names[row], _picture(audit.root, audit.names[row]))
            for row in np.flatnonzero(audit.labels == label)[:_SHEET]]) for label in labels]
    kinds = {}
    for kind, row, other, score in audit.findings:
        kinds.setdefault(kind, []).append((row, other, score))
    suspicious = {kind: [{'score': score, 'names': [audit.names[row], other], 'pictures': [
        _picture(audit.root, audit.names[row]), other and _picture(audit.root, other)]}
        for row, other, score in rows[:NUM_WORST]] for kind, rows in sorted(kinds.items())}
    sizes = Counter(f'{w}x{h}' for w, h in audit.looked.sizes.tolist() if w).most_common(8)
    write_text(file, _template('audit.html.jinja').render(
        list_file=audit.list_file, summary=audit.summary(), classes=classes, sizes=sizes, tail=tail_figure(counts),
        smallest=people(order[:_SHEET]), largest=people(order[::-1][:_SHEET]), suspicious=suspicious,
        totals={kind: len(rows) for kind, rows in kinds.items()}) + '\n')


def tail_figure(counts):
    """Return the images per person, most first, as SVG."""
    ranked = np.sort(counts)[::-1]
    return _figure(lambda axes: axes.plot(np.arange(1, len(ranked) + 1), ranked, color=_COLOURS[0]), 'images',
                   'people, most images first', ylim=(0, None))
