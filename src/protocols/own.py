"""Your own pictures: ROOT/<person>/<picture>. Which threshold, at which error rates, and which folders are suspicious.

    python evaluate.py --protocol own --root photos --resume ckpt --report report
    python evaluate.py --protocol own --root photos --detect --pairs my_pairs.csv --resume ckpt

All genuine pairs and as many impostor pairs as --impostor_pairs says, drawn by the setting `seed` from all of them; or
the pairs of a list. Intervals come from a bootstrap over people, who stand in many pairs each.
"""
import math
import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Optional

import numpy as np
from easydict import EasyDict as edict

from src.data.detection import DETECTORS, DetectedFaces
from src.data.face_format import FaceFormat
from src.data.fingerprint import person_in
from src.data.images import find_images
from src.data.lists import MAX_JSON_BYTES
from src.data.pairs import read_pairs
from src.data.people import pairs_of, read_people
from src.data.pictures import AnyPicture, Picture
from src.options import Option
from src.protocols.pair_set import folder_of_pictures, people_of_pairs
from src.protocols.pairs import PairProtocol, far_name
from src.protocols.protocol import warn_of_duplicates
from src.scoring import metrics, people, thresholds
from src.scoring.report import Scored, percent, percents, show, span

LISTED = 50                      # suspicious folders in JSON and report; the table shows SHOWN
SHOWN = 5
MAX_SCORES = MAX_JSON_BYTES // 1000      # pairs whose scores still go into the JSON


class Own(PairProtocol):
    """Folders of people, aligned faces or photographs."""

    name, title, lists_lfw = 'own', 'Own pictures', False
    OPTIONS = {
        **PairProtocol.OPTIONS,
        'pairs': Option('', None, None, 'score the pairs of this list (two paths and an answer) instead of all'),
        'impostor_pairs': Option(1_000_000, 1, 10**9, 'impostor pairs that are drawn, all if there are no more'),
        'detect': Option(False, None, None, 'find the faces of photographs and align them'),
        'detector': Option('mtcnn', None, None, f"{', '.join(DETECTORS)} or a YuNet model FILE.onnx, for --detect"),
    }

    def __init__(self):
        self._detected: Optional[tuple] = None

    def images(self, cfg: edict) -> tuple:
        """Return (names, people (N,)); pictures without a face that --detect can find are left out, and named."""
        names, labels, _, _ = self._listed(cfg)
        return names, labels

    def root(self, cfg: edict) -> str:
        file = self.options(cfg)['pairs']
        return folder_of_pictures(file, read_pairs(file).names, cfg) if file and not cfg.root_given else cfg.root_path

    def pictures(self, cfg: edict) -> list:
        names, source = self.images(cfg)[0], self._source(cfg)
        return [source.picture(name) for name in names] if source else super().pictures(cfg)

    def picture(self, cfg: edict, name: str) -> Optional[AnyPicture]:
        source = self._source(cfg)
        return source.picture(name) if source else super().picture(cfg, name)

    def check_faces(self, cfg: edict, pictures: Sequence, face: FaceFormat) -> None:
        """Align detected faces as `face` needs; of others check that they are."""
        if pictures and isinstance(pictures[0], Picture):
            pictures[0].source.face = face
        else:
            super().check_faces(cfg, pictures, face)

    def _source(self, cfg: edict) -> Optional[DetectedFaces]:
        """Return the detected faces of the folder, None without --detect."""
        options, root = self.options(cfg), self.root(cfg)
        if not options['detect']:
            return None
        asked = root, options['detector'], options['pairs']
        if self._detected is None or self._detected[0] != asked:
            names = read_pairs(options['pairs']).names if options['pairs'] else read_people(root)[0]
            find_images(root, names)
            self._detected = asked, DetectedFaces(root, names, options['detector'], workers=cfg.num_workers)
        return self._detected[1]

    def _listed(self, cfg):
        """Return (names, labels (N,), rows (P, 2) and same (P,) of the listed pairs, None without a list)."""
        file, source = self.options(cfg)['pairs'], self._source(cfg)
        if not file:
            names, labels, _ = read_people(self.root(cfg))
            kept = np.array([not source or name in source.points for name in names])
            return [name for name, keep in zip(names, kept) if keep], labels[kept], None, None
        pairs = read_pairs(file)
        labels = people_of_pairs(pairs.names, pairs.rows, pairs.same)
        order = np.argsort(labels, kind='stable')
        order = order[[not source or pairs.names[row] in source.points for row in order]]
        place = np.full(len(labels), -1)
        place[order] = np.arange(len(order))
        rows = place[pairs.rows]
        whole = (rows >= 0).all(1)
        if not len(set(pairs.same[whole])) == 2:
            raise ValueError(f"{file}: {whole.sum()} pairs can be scored; expected some of one person and some of two")
        return [pairs.names[row] for row in order], labels[order], rows[whole], pairs.same[whole]

    def measure(self, cfg: edict, features_of: Callable) -> dict:
        """Return the scores and shares of the pairs, and the suspicious folders."""
        names, labels, rows, same = self._listed(cfg)
        pairs = None if rows is not None else pairs_of(labels, self.options(cfg)['impostor_pairs'], cfg.seed)
        rows, same = (pairs.rows, pairs.same) if pairs else (rows, same)
        features = features_of(names)
        warn_of_duplicates(features, names, labels)
        unit = metrics.unit_rows(features, names)
        order = np.argsort(~same, kind='stable')
        rows, num = rows[order], int(same.sum())
        scores = metrics.pair_scores(unit, rows)
        result = _statistics(scores[:num], scores[num:])
        source = self._source(cfg)
        return {**result, 'pairs': rows, 'names': names, 'people': labels[rows], 'labels': labels,
                'person': labels, 'people_known': not self.options(cfg)['pairs'],
                'all': (pairs.all_genuine, pairs.all_impostors) if pairs else (num, len(rows) - num),
                'seed': cfg.seed, 'rejected': source.rejected if source else [], **_suspicious(unit, labels, result)}

    def score(self, cfg: edict, features_of: Callable) -> Scored:
        """Return the `Scored` of the pairs."""
        result = self.measure(cfg, features_of)
        scored = self.finish(cfg, features_of, result, num_resamples=thresholds.num_resamples(len(result['pairs'])))
        result = scored.result
        held = {far: point for far, point in result['tpr_at_far'].items() if not math.isnan(point[0])}
        intervals = thresholds.threshold_intervals(result['genuine'], result['impostor'], result['people'],
                                                   {far: threshold for far, (_, threshold) in held.items()})
        for point in scored.points:
            rows = intervals[point['far']]
            point.update(far_measured=percent(np.mean(result['impostor'] >= point['threshold'])),
                         far_interval95=percents(rows['far']), tpr_interval95=percents(rows['tpr']),
                         threshold_interval95=[None if math.isnan(x) else float(x) for x in rows['threshold']])
        numbers = {**scored.numbers, **own_numbers(result), 'thresholds': [
            {key: point[key] for key in ('far', 'threshold', 'threshold_interval95', 'far_measured', 'far_interval95',
                                         'tpr', 'tpr_interval95')} for point in scored.points]}
        if numbers['num_pairs'] > MAX_SCORES:
            del numbers['scores']
        return scored._replace(numbers=numbers, result={**scored.result, 'galleries': _galleries(result, numbers)})

    def lines(self, numbers: dict) -> list:
        kinds = numbers['pairs']
        lines = [f"Own pictures: {numbers['num_people']} people, {numbers['num_pictures']} pictures"
                 + (f", {len(numbers['rejected'])} more without a face" if numbers['rejected'] else '')]
        lines += [f"  {kind + ' pairs':<16}{held['used']:>12} of {held['all']}"
                  + (f", drawn by seed {numbers['seed']}" if held['used'] < held['all'] else '')
                  for kind, held in kinds.items()]
        lines.append(f"{'':<28}{'percent':>9}{'95 % interval':>20}")
        lines += [f"  {name + ':':<26}{show(value)}  {span(interval)}" for name, value, interval in _rows(numbers)]
        lines.append(f"  EER where the threshold is {numbers['eer_threshold']:.6f}")
        return lines + textwrap.wrap(self.note(numbers), 80)

    def details(self, numbers: dict) -> list:
        """Return the thresholds with their intervals, and the suspicious folders, beside those of all pairs."""
        return [('Thresholds and their errors among other people', _threshold_lines(numbers)),
                *super().details(numbers), ('Suspicious folders', _suspicious_lines(numbers))]

    def note(self, numbers: dict) -> str:
        """Return one sentence about whose numbers these are."""
        return (f"Intervals: over people, of whom {numbers['num_with_pairs']} have two pictures or more. An EER that "
                'lies in the interval of another network can be as good.')

    def summary(self, numbers: dict) -> Iterator:
        return ((f'Own {name}', value, interval) for name, value, interval in _rows(numbers))

    def comparable(self, numbers: dict, wanted: dict) -> tuple:
        if 'scores' not in wanted:
            return False, f"the scores of {wanted['num_pairs']} pairs, more than a JSON holds; compare with features"
        return super().comparable(numbers, wanted)


def _statistics(genuine, impostor):
    """Return what `metrics.pair_statistics` gives, without folds, and 'eer_threshold'."""
    far, tpr, threshold = metrics.roc(genuine, impostor)
    crossing = int(np.argmin(np.abs(far - (1 - tpr))))
    fars = [*metrics.LFW_FARS[:-1], *(x for x in metrics.SMALL_FARS if x * len(impostor) >= 1 - 1e-9), 0.0]
    area = float(np.sum((far[1:] - far[:-1]) * (tpr[1:] + tpr[:-1])) / 2)
    return {'genuine': genuine, 'impostor': impostor, 'eer100': 1 - metrics.equal_error_rate(far, tpr), 'auc': area,
            'eer_threshold': float(min(threshold[crossing], 1.0)), 'accuracy_10fold': (math.nan, math.nan),
            'tpr_at_far': {x: metrics.tpr_at_far(genuine, impostor, x) for x in fars}}


def _suspicious(unit, labels, result):
    """Return the folders that look like two people and those that look like one, with the scores that say so.

    Two groups of a folder are two people if they are less alike than the threshold of equal errors; two folders are
    one if they are more alike than nine in ten genuine pairs, and than that threshold.
    """
    apart = result['eer_threshold']
    alike = max(apart, float(np.quantile(result['genuine'], 0.1)))
    return {'apart': apart, 'alike': alike, 'two': people.two_in_one(unit, labels, apart),
            'one': people.one_in_two(unit, labels, alike),
            'planted': people.found_of_planted(unit, labels, apart)}


def own_numbers(result: dict) -> dict:
    """Return the numbers of own pictures that other sets of pairs do not have, as written by --json."""
    names, labels = result['names'], result['person']
    first = dict(zip(labels[::-1].tolist(), (person_in(name) for name in names[::-1])))
    two = [{'person': first[split.label], 'score': split.score, 'smaller': [names[row] for row in split.smaller[:10]],
            'sizes': [len(split.smaller), len(split.larger)]} for split in result['two']]
    one = [{'people': [first[a], first[b]], 'score': score} for a, b, score in result['one']]
    used = len(result['genuine']), len(result['impostor'])
    return {'num_people': len(first), 'num_pictures': len(names),
            'num_with_pairs': int((np.unique(labels, return_counts=True)[1] > 1).sum()), 'seed': result['seed'],
            'pairs': {kind: {'used': used[i], 'all': result['all'][i]} for i, kind in enumerate(('genuine',
                                                                                                 'impostor'))},
            'eer': percent(1 - result['eer100']), 'eer_threshold': result['eer_threshold'],
            'rejected': [list(row) for row in result['rejected']],
            'looks_like_two': {'below': result['apart'], 'num': len(two), 'people': two[:LISTED],
                               'found_of_planted': percent(result['planted'])},
            'looks_like_one': {'from': result['alike'], 'num': len(one), 'people': one[:LISTED]}}


def _rows(numbers: dict) -> list:
    """Return (name, value, interval) of the numbers."""
    interval = numbers['interval95']
    low, high = interval['eer100']
    eer = (None, None) if low is None else (100 - high, 100 - low)
    rows = [('EER', numbers['eer'], eer), ('100%eer', numbers['eer100'], interval['eer100'])]
    rows += [(far_name(float(far)), value, interval['tpr_at_far'][far]) for far, value in numbers['tpr_at_far'].items()]
    return rows + [('auc', numbers['auc'], interval['auc'])]


def _threshold_lines(numbers):
    lines = [f"{'FAR wanted':>10}{'threshold':>11}{'95 % interval':>19}{'FAR measured, %':>17}{'95 % interval':>23}"]
    for row in numbers['thresholds']:
        low, high = row['threshold_interval95']
        between = '-' if low is None else f'{low:.4f} .. {high:.4f}'
        low, high = row['far_interval95']
        of_far = '-' if low is None else f'{low:.3g} .. {high:.3g}'
        lines.append(f"{100 * row['far']:>9g}%{row['threshold']:>11.6f}{between:>19}{row['far_measured']:>17.4g}"
                     f"{of_far:>23}")
    return lines


def _suspicious_lines(numbers):
    two, one = numbers['looks_like_two'], numbers['looks_like_one']
    lines = [f"Folders that look like two people (groups less alike than {two['below']:.3f}): {two['num']}"]
    lines += [f"  {row['score']:6.3f}  {row['person'][:34]:<34} {row['sizes'][0]} of {sum(row['sizes'])}: "
              f"{os.path.basename(row['smaller'][0])[-26:]}"[:80] for row in two['people'][:SHOWN]]
    if two['found_of_planted'] is not None:
        lines.append(f"  (of two folders merged on purpose it finds {two['found_of_planted']:.0f} %)")
    lines.append(f"Two folders that look like one person (from {one['from']:.3f} on): {one['num']}")
    return lines + [f"  {row['score']:6.3f}  {row['people'][0][:34]:<34} {row['people'][1][:34]}"
                    for row in one['people'][:SHOWN]]


def _galleries(result, numbers):
    """Return [(title, explanation, [(score, name, other name)])] for the report."""
    names, labels = result['names'], result['person']
    first = dict(zip(labels[::-1].tolist(), names[::-1]))
    two = [(split.score, names[split.smaller[0]], names[split.larger[0]]) for split in result['two'][:LISTED]]
    one = [(score, first[a], first[b]) for a, b, score in result['one'][:LISTED]]
    found, planted = numbers['looks_like_two'], numbers['looks_like_two']['found_of_planted']
    quality = '' if planted is None else f' Of two folders merged on purpose this finds {planted:.0f} %.'
    return [(f"Folders that look like two people: {found['num']}", 'A picture of each group, and how alike the groups '
             f"are: less than {found['below']:.3f}.{quality}", two),
            (f"Two folders that look like one person: {numbers['looks_like_one']['num']}", 'Their first pictures, and '
             f"how alike the folders are: {result['alike']:.3f} or more.", one)]


OWN = Own()
