"""The report: one HTML page that needs nothing but itself, for one run or several laid over each other.

Plots are SVG in the page, pictures data: URLs; `report.html.jinja` is the template. No scripts, no network.
"""
import base64
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Optional

import numpy as np
from jinja2 import Environment, FileSystemLoader, Template

from src.data.face_format import FACE_FORMATS
from src.data.images import ALIGNMENT_OF_SIDE, encode, find_image, read_face, training_face_for_test
from src.data.lists import write_text
from src.data.pictures import AnyPicture
from src.scoring import report
from src.scoring.curves import COLOURS, tail_figure
from src.scoring.differences import differences_rows

NUM_WORST = 24
_SHEET = 8                       # people and pictures a person on a contact sheet


def write_page(file: str, runs: dict, image_root: str, note: str = '', differences: Sequence = (), *,
               further: Sequence = ()) -> None:
    """Write the report of `runs`, {label: {protocol name: Scored}}; a run may lack a protocol.

    image_root: folder of the pictures; the page says so if they are missing. note: stands under the title.
    differences: between the runs, of src.scoring.differences. further: figures (title, SVG) of several protocols.
    """
    protocols = {scored.protocol.name: scored.protocol for run in runs.values() for scored in run.values()}
    by_protocol = {name: {label: run[name] for label, run in runs.items() if name in run} for name in protocols}
    figures = [figure for name, kind in protocols.items() for figure in kind.figures(by_protocol[name])]
    figures += further
    notes = [(label, text) for label, run in runs.items() for scored in run.values() for text in (
        scored.protocol.note(scored.numbers), _training_set(scored)) if text]
    details = [(', '.join([title, scored.protocol.title] + [label] * (len(runs) > 1)), lines)
               for label, run in runs.items() for scored in run.values()
               for title, lines in scored.protocol.details(scored.numbers)]
    write_text(file, _template('report.html.jinja').render(
        note=note, details=details, differences=differences_rows(differences),
        letters=list(map(report.letter, range(len(runs)))), labels=list(runs),
        colours=COLOURS, summary=summary_rows(runs), notes=notes,
        num_trials=next((len(scored.numbers['trials']) for run in runs.values() for scored in run.values()
                         if 'trials' in scored.numbers), 0),
        points={label: [row for scored in run.values() for row in _point_rows(scored)] for label, run in runs.items()},
        figures=figures, worst=_worst_of(runs, image_root), galleries=_galleries_of(runs),
        image_root=image_root) + '\n')


def _training_set(scored: report.Scored) -> str:
    text = report.training_set_text(scored.numbers)
    return text and f'{scored.protocol.title}: {text[0].lower()}{text[1:]}'


def _template(name: str) -> Template:
    return Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True,
                       lstrip_blocks=True).get_template(name)


def _point_rows(scored: report.Scored) -> list:
    return [(scored.protocol.title, *row) for row in report.point_rows(scored.points)]


def _worst_of(runs: dict, image_root: str) -> list:
    """Return [(run and set of pairs, `worst_pairs`)] of every run and every protocol that was scored on pairs."""
    found = [(label, scored.protocol.title, worst_pairs(scored.result, image_root)) for label, run in runs.items()
             for scored in run.values() if 'pairs' in scored.result]
    several = len({title for _, title, _ in found}) > 1
    return [(', '.join([title] * several + [label] * (len(runs) > 1)), pairs) for label, title, pairs in found]


def _galleries_of(runs: dict) -> list:
    """Return [(title, explanation, pairs)] of the further pairs that a protocol wants to be looked at."""
    return [(', '.join([title] + [label] * (len(runs) > 1)), text, [
        {'score': f'{score:.4f}', 'names': list(map(_short_name, pair)),
         'pictures': [_picture(scored.result['picture_of'](name)) for name in pair]} for score, *pair in rows])
        for label, run in runs.items() for scored in run.values()
        for title, text, rows in scored.result.get('galleries', ())]


def _short_name(name: str) -> str:
    """Return a listed name without its extension, and without its folder where the file tells the person too."""
    stem, folder = os.path.splitext(os.path.basename(name))[0], os.path.basename(os.path.dirname(name))
    return stem if stem.startswith(folder) else f'{folder}/{stem}'


def summary_rows(runs: dict) -> list:
    """Return [(name, [(value, interval) or None of each run])] of every measured number, in percent as text."""
    rows: dict = {}
    for label, run in runs.items():
        for scored in run.values():
            for name, value, interval in scored.protocol.summary(scored.numbers):
                rows.setdefault(name, {})[label] = (report.show(value).strip(), report.span(interval).strip())
    return [(name, [cells.get(label) for label in runs]) for name, cells in rows.items()]


def worst_pairs(result: dict, image_root: str) -> dict:
    """Return {'accepts': impostor pairs of the highest scores, 'rejects': genuine pairs of the lowest}.

    A pair is a dict: score, names, pictures (data: URLs, None for a missing file). result: a 'picture_of' in it finds
    the picture of a name, else it is looked for under image_root.
    """
    picture_of = result.get('picture_of') or partial(find_image, image_root)
    num_genuine = len(result['genuine'])
    rejects = np.argsort(result['genuine'], kind='stable')[:NUM_WORST]
    accepts = np.argsort(-result['impostor'], kind='stable')[:NUM_WORST] + num_genuine
    scores = np.concatenate([result['genuine'], result['impostor']])

    def pair(i: int) -> dict:
        names = [result['names'][row] for row in result['pairs'][i]]
        return {'score': f'{scores[i]:.4f}', 'names': [os.path.splitext(os.path.basename(n))[0] for n in names],
                'pictures': [_picture(picture_of(name)) for name in names]}
    return {'accepts': [pair(i) for i in accepts], 'rejects': [pair(i) for i in rejects]}


def _picture(path: Optional[AnyPicture]) -> Optional[str]:
    """Return a picture as a data: URL, None if it is missing."""
    if path is None:
        return None
    try:
        face = _for_the_page(read_face(path, 'BGR'))
    except (OSError, ValueError):
        return None
    return 'data:image/jpeg;base64,' + base64.b64encode(encode(face, 'BGR', quality=80)).decode()


def _for_the_page(image: np.ndarray) -> np.ndarray:
    arcface = ALIGNMENT_OF_SIDE.get(image.shape[0]) == 'arcface'
    return training_face_for_test(image, FACE_FORMATS['facexzoo' if arcface else 'lightcnn_v4'])


def write_audit(file: str, audit: Any) -> None:
    """Write the page of an `audit.Audit`: numbers, the long tail, and contact sheets."""
    counts, classes = audit.people()
    order = [label for label in np.argsort(counts, kind='stable') if counts[label]]

    def people(labels):
        return [(int(label), int(counts[label]), [
            (audit.names[row], _picture(find_image(audit.root, audit.names[row])))
            for row in np.flatnonzero(audit.labels == label)[:_SHEET]]) for label in labels]
    kinds = {}
    for kind, row, other, score in audit.findings:
        kinds.setdefault(kind, []).append((row, other, score))
    suspicious = {kind: [{'score': score, 'names': [audit.names[row], other], 'pictures': [
        _picture(find_image(audit.root, name)) if name else None for name in (audit.names[row], other)]}
        for row, other, score in rows[:NUM_WORST]] for kind, rows in sorted(kinds.items())}
    sizes = Counter(f'{w}x{h}' for w, h in audit.looked.sizes.tolist() if w).most_common(8)
    write_text(file, _template('audit.html.jinja').render(
        list_file=audit.list_file, summary=audit.summary(), classes=classes, sizes=sizes, tail=tail_figure(counts),
        smallest=people(order[:_SHEET]), largest=people(order[::-1][:_SHEET]), suspicious=suspicious,
        totals={kind: len(rows) for kind, rows in kinds.items()}) + '\n')
