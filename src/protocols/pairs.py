"""What every protocol of pairs shares: 100% - EER, TPR at FAR, AUC, 10-fold accuracy by two rules, intervals, curves.

Numbers are those of VLFeat's `vl_roc`; intervals come from a bootstrap over people. The 10-fold accuracy follows LFW's
rules (every score may be the threshold) and, beside it where it differs, insightface's verification.py (thresholds on a
grid of 0.01 over the squared distance).
"""
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Optional

import numpy as np
from easydict import EasyDict as edict

from src.data.groups import group_of_names, read_groups
from src.options import Option
from src.protocols.protocol import Protocol, warn
from src.scoring import curves, metrics, promise, uncertainty, verification
from src.scoring import groups as grouping
from src.scoring.group_table import group_lines, group_numbers
from src.scoring.all_with_all import MEMORY_MB, vectors
from src.scoring.report import Scored, all_numbers, operating_point, percent, percents, show, span

MAX_RESAMPLES = 20_000
NOISE = 0.2                      # percentage points
_INSIGHTFACE = 'insightface accuracy'


class PairProtocol(Protocol):
    """Pairs of faces, some of one person, the others of two."""

    OPTIONS: Mapping = {
        'groups': Option('', meaning="file of 'picture or person<TAB>group': TPR and FAR of each group"),
        'impostors': Option('all', ('all', 'listed'), meaning='impostor pairs of groups and of the promised FAR: all '
                            'pictures of two people, or the listed pairs (always where people are not known)'),
        'memory_mb': Option(MEMORY_MB, 64, 1 << 20, 'memory for blocks of scores'),
    }

    def measure(self, cfg: edict, features_of: Callable) -> dict:
        """Return `measure_pairs`' result with 'people' (P, 2), genuine pairs first."""
        raise NotImplementedError

    def score(self, cfg: edict, features_of: Callable) -> Scored:
        """Return the `Scored` of the pairs."""
        return self.finish(cfg, features_of, self.measure(cfg, features_of))

    def finish(self, cfg: edict, features_of: Callable, result: dict, **how: Any) -> Scored:
        """Return the `Scored` of what `measure` found, with the promised FAR and the groups. how: of `scored_pairs`.

        result: 'person' (N,) of each picture and 'people_known', if its pairs of two people are all known to be that.
        """
        result = {**result, 'picture_of': partial(self.picture, cfg)}
        scored = scored_pairs({**result, 'promise_pairs': self._promise_pairs(cfg, features_of, result)}, self, **how)
        grouped = self.groups(cfg)
        if grouped is not None:
            scored.numbers['groups'] = group_numbers(self._measure_groups(cfg, features_of, grouped, result))
        return scored

    def _promise_pairs(self, cfg, features_of, result):
        """Return all pairs of two people of the pictures; None for the listed ones."""
        if self._takes_listed(cfg, result) or 'person' not in result:
            return None
        thresholds = [threshold for _, threshold in result['tpr_at_far'].values() if not math.isnan(threshold)]
        names = self.images(cfg)[0]
        try:
            return promise.all_pairs(vectors(features_of(names), names), result['person'],
                                     min(thresholds, default=math.inf), memory_mb=self.options(cfg)['memory_mb'])
        except ValueError as error:
            warn(f"{self.title}: the promised FAR is that of the listed pairs ({error})")
            return None

    def _takes_listed(self, cfg, result):
        return self.options(cfg).get('impostors') != 'all' or not result.get('people_known')

    def groups(self, cfg: edict) -> Optional[grouping.Groups]:
        """Return the groups of the pictures, from --groups; None without."""
        file = self.options(cfg).get('groups')              # a subclass may have options of its own only
        return grouping.Groups(*group_of_names(read_groups(file), self.images(cfg)[0], file)) if file else None

    def _measure_groups(self, cfg, features_of, grouped, result):
        names, people = self.images(cfg)
        num_genuine = len(result['genuine'])
        listed = result['pairs'][num_genuine:] if self._takes_listed(cfg, result) else None
        return grouping.measure(vectors(features_of(names), names), np.asarray(result.get('person', people)), grouped,
                                result['pairs'][:num_genuine], impostor_pairs=listed,
                                memory_mb=self.options(cfg)['memory_mb'])

    def details(self, numbers: dict) -> list:
        """Return the FAR that can be promised, and the groups where there are any."""
        found = []
        if 'far_promise' in numbers:
            found.append(('Promised FAR', promise.promise_lines(numbers['far_promise'])))
        if 'groups' in numbers:
            found.append(('Groups', group_lines(numbers['groups'])))
        return found

    def lines(self, numbers: dict) -> list:
        title = f"{self.title}, {numbers['num_pairs']} pairs"
        lines = [f"{title:<28}{'percent':>9}{'95 % interval':>20}"] if len(title) < 28 else \
            [title[-80:], f"{'percent':>37}{'95 % interval':>20}"]
        lines += [f"  {name + ':':<26}{show(value)}  {span(interval)}  {note}".rstrip()
                  for name, value, interval, note in _rows(numbers)]
        return lines + textwrap.wrap(self.note(numbers), 80)

    def summary(self, numbers: dict) -> Iterator:
        return ((f'{self.title} {name}', value, interval) for name, value, interval, _ in _rows(numbers))

    def note(self, numbers: dict) -> str:
        """Return one sentence about which differences to another model mean nothing."""
        low, high = numbers['interval95']['eer100']
        if low is None:
            return 'Too few pairs for an interval.'
        half = (high - low) / 2
        noise = f'; a published difference of {NOISE:g} points is noise' if half > NOISE else ''
        return f'A 100%eer that differs by less than {half:.2f} points can be chance{noise}.'

    def figures(self, runs: dict) -> list:
        both = {label: scored for label, scored in runs.items()
                if len(scored.result['genuine']) and len(scored.result['impostor'])}
        roc = [(f'ROC, {self.title} pairs', curves.roc_figure(both, self.name))] if both else []
        return [*roc, (f'Scores, {self.title} pairs', curves.score_figure(runs, self.name))]

    def comparison(self, scored: Scored, other: Any) -> list:
        return self._compared(scored, other, uncertainty.NUM_RESAMPLES)

    def compared(self, scored: Scored, other: Scored, num_pairs: int) -> list:
        # p is no less than 2 / resamples: after the correction for all tests it must be able to fall below 1 %
        tests = num_pairs * (3 + len(scored.result['tpr_at_far']))
        return self._compared(scored, other, min(MAX_RESAMPLES, max(uncertainty.NUM_RESAMPLES, 200 * tests)))

    def _compared(self, scored: Scored, other: Any, num_resamples: int) -> list:
        scores = other.result if isinstance(other, Scored) else {k: np.array(v) for k, v in other['scores'].items()}
        result = scored.result
        fars = tuple(result['tpr_at_far'])
        rows = uncertainty.lfw_comparison((result['genuine'], result['impostor']),
                                          (scores['genuine'], scores['impostor']), result['people'], num_resamples,
                                          fars=fars)
        return [(name, *map(percent, rows[key][:3]), percents(rows[key][3]), rows[key][4])
                for key, name in statistic_names(fars).items()]

    def comparable(self, numbers: dict, wanted: dict) -> tuple:
        scores = numbers.get('scores')
        fits = isinstance(scores, dict) and all(all_numbers(scores.get(key), len(wanted['scores'][key]))
                                                for key in ('genuine', 'impostor'))
        return fits, f"the scores of {wanted['num_pairs']} pairs"


def statistic_names(fars: Sequence) -> dict:
    """Return {statistic of src.scoring.uncertainty: its name in tables}."""
    return {'eer100': '100%eer', 'auc': 'auc', 'accuracy_10fold': '10-fold accuracy',
            **{f'tpr@{far:g}': far_name(far) for far in fars}}


def far_name(far: float) -> str:
    """Return the name of a TPR in tables, which scripts look for in logs: 'tpr@far=0.1%'."""
    return f'tpr@far={100 * far:g}%'


def measure_pairs(features: np.ndarray, rows: np.ndarray, same: np.ndarray, *, folds: Optional[np.ndarray] = None,
                  grid_folds: Optional[np.ndarray] = None, names: Optional[Sequence] = None) -> dict:
    """Return the shares and scores of pairs, genuine pairs first.

    features: (N, D). rows: (P, 2) int. same: (P,) bool. folds: (P,) of LFW's rule, None for the tenth of its kind that
    each pair lies in. grid_folds: (P,) of insightface's, None for ten runs of the order of `rows`. The dict: what
    `metrics.pair_statistics` gives, 'grid_accuracy' (mean, standard deviation), 'pairs' (P, 2), 'names'. Raises
    ValueError for a zero or non-finite feature.
    """
    unit = metrics.unit_rows(features, names)
    order = np.argsort(~same, kind='stable')
    scores = metrics.pair_scores(unit, rows[order])
    num_genuine = int(same.sum())
    result = metrics.pair_statistics(scores[:num_genuine], scores[num_genuine:],
                                     folds=None if folds is None else folds[order])
    distances = verification.squared_distances(unit, rows)
    grid = (math.nan, math.nan)
    if len(rows) >= metrics.NUM_FOLDS:
        grid = verification.grid_accuracy(distances, same, grid_folds)[:2]
    return {**result, 'grid_accuracy': grid, 'pairs': rows[order], 'names': names}


def scored_pairs(result: dict, protocol: Protocol, *, num_resamples: int = uncertainty.NUM_RESAMPLES) -> Scored:
    """Return the `Scored` of a result of `measure_pairs` that has 'people' (P, 2)."""
    fars = tuple(result['tpr_at_far'])
    intervals = uncertainty.lfw_intervals(result['genuine'], result['impostor'], result['people'], num_resamples,
                                          fars=fars)
    points = [operating_point(protocol.name, far, threshold, tpr, intervals[f'tpr@{far:g}'], len(result['impostor']))
              for far, (tpr, threshold) in result['tpr_at_far'].items() if not math.isnan(tpr)]
    numbers = pair_numbers(result, protocol.name)
    numbers['interval95'] = {
        **{key: percents(intervals[key]) for key in ('eer100', 'auc', 'accuracy_10fold')},
        'tpr_at_far': {f'{far:g}': percents(intervals[f'tpr@{far:g}']) for far in fars}}
    if result.get('people_known') and len(result['impostor']):
        pairs = result.get('promise_pairs') or promise.listed_pairs(result['impostor'],
                                                                    result['people'][len(result['genuine']):])
        numbers['far_promise'] = promise.promises(result['genuine'], result['impostor'], pairs, {
            far: threshold for far, (_, threshold) in result['tpr_at_far'].items()})
    numbers['scores'] = {key: result[key].tolist() for key in ('genuine', 'impostor')}
    return Scored(protocol, result, numbers, points)


def pair_numbers(result: dict, name: str = 'lfw') -> dict:
    """Return the numbers of pairs in percent, as written by --json; null for one that the pairs cannot measure."""
    mean, stderr = result['accuracy_10fold']
    numbers = {'protocol': name, 'num_pairs': len(result['genuine']) + len(result['impostor']),
               'eer100': percent(result['eer100']), 'auc': percent(result['auc']),
               'tpr_at_far': {f'{far:g}': percent(tpr) for far, (tpr, _) in result['tpr_at_far'].items()},
               'accuracy_10fold': {'mean': percent(mean), 'stderr': percent(stderr)}}
    if 'grid_accuracy' in result:
        mean, deviation = result['grid_accuracy']
        numbers['accuracy_insightface'] = {'mean': percent(mean), 'std': percent(deviation)}
    return numbers


def _rows(numbers: dict) -> list:
    """Return (name, value, interval, note) of the numbers; the names are those that scripts look for in logs.

    insightface's accuracy has a row where it differs from that by LFW's rules.
    """
    accuracy, interval = numbers['accuracy_10fold'], numbers['interval95']
    rows = [('100%eer', numbers['eer100'], interval['eer100'], '')]
    for far, value in numbers['tpr_at_far'].items():
        rows.append((far_name(float(far)), value, interval['tpr_at_far'][far], ''))
    stderr = '' if accuracy['stderr'] is None else f"std. error {accuracy['stderr']:.4f}"
    rows += [('auc', numbers['auc'], interval['auc'], ''),
             ('10-fold accuracy', accuracy['mean'], interval['accuracy_10fold'], stderr)]
    grid = numbers.get('accuracy_insightface')
    if grid and grid['mean'] is not None and show(grid['mean']) != show(accuracy['mean']):
        rows.append((_INSIGHTFACE, grid['mean'], (None, None), f"std {grid['std']:.4f}"))
    return rows
