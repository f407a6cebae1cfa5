"""LFW's 6,000 pairs: 100% - EER, TPR at FAR, AUC and the 10-fold accuracy (Huang et al., UMass TR 07-49).

Numbers are those of VLFeat's `vl_roc`; intervals come from a bootstrap over people.
"""
import math
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, Optional

import numpy as np
from easydict import EasyDict as edict

from src.data import lists
from src.data.images import find_images
from src.device import Device
from src.protocols.listed import listed_images
from src.protocols.protocol import Protocol, warn, warn_of_duplicates
from src.scoring import curves, metrics, uncertainty
from src.scoring.report import Scored, all_numbers, operating_point, percent, percents, show, span

NOISE = 0.2                      # percentage points
_NAMES = {'eer100': '100%eer', 'auc': 'auc', 'accuracy_10fold': '10-fold accuracy', 'tpr@0.01': 'tpr@far=1%',
          'tpr@0.001': 'tpr@far=0.1%', 'tpr@0': 'tpr@far=0%'}


class Lfw(Protocol):
    """6,000 pairs of faces, half of them of one person."""

    name, title = 'lfw', 'LFW'

    def images(self, cfg: edict) -> tuple:
        """Return (names, labels) in the order that lfw_pairs.mat counts."""
        return listed_images(cfg.lfw_img_list, cfg.blufr_config_mat_path, lists.list_for_lfw)

    def score(self, cfg: edict, features_of: Callable) -> Scored:
        """Return the `Scored` of LFW's pairs."""
        return scored_pairs(self.measure(cfg, features_of))

    def measure(self, cfg: edict, features_of: Callable) -> dict:
        """Return `metrics.lfw`'s result with 'names', 'pairs' (P, 2) and 'people' (P, 2), genuine pairs first."""
        names, labels = self.images(cfg)
        pairs = lists.load_lfw_pairs(cfg.lfw_pairs_mat_path, len(names))
        features = features_of(names)
        result = metrics.lfw(features, *pairs, names=names)
        people = _people(names, labels, pairs, cfg.lfw_img_list)
        warn_of_duplicates(features, names, people)
        rows = np.concatenate(pairs)
        return {**result, 'names': names, 'pairs': rows, 'people': people[rows]}

    def lines(self, numbers: dict) -> list:
        title = f"LFW, {numbers['num_pairs']} pairs"
        lines = [f"{title:<28}{'percent':>9}{'95 % interval':>20}"]
        lines += [f"  {name + ':':<26}{show(value)}  {span(interval)}  {note}".rstrip()
                  for name, value, interval, note in _rows(numbers)]
        return lines + textwrap.wrap(self.note(numbers), 80)

    def summary(self, numbers: dict) -> Iterator:
        return ((f'LFW {name}', value, interval) for name, value, interval, _ in _rows(numbers))

    def note(self, numbers: dict) -> str:
        """Return one sentence about which differences to another model mean nothing."""
        low, high = numbers['interval95']['eer100']
        if low is None:
            return 'Too few pairs for an interval.'
        half = (high - low) / 2
        noise = f'; a published difference of {NOISE:g} points is noise' if half > NOISE else ''
        return f'A 100%eer that differs by less than {half:.2f} points can be chance{noise}.'

    def figures(self, runs: dict) -> list:
        return [('ROC, LFW pairs', curves.roc_figure(runs)), ('Scores, LFW pairs', curves.score_figure(runs))]

    def comparison(self, scored: Scored, other: Any) -> list:
        scores = other.result if isinstance(other, Scored) else {k: np.array(v) for k, v in other['scores'].items()}
        result = scored.result
        rows = uncertainty.lfw_comparison((result['genuine'], result['impostor']),
                                          (scores['genuine'], scores['impostor']), result['people'])
        return [(name, *map(percent, rows[key][:3]), percents(rows[key][3]), rows[key][4])
                for key, name in _NAMES.items()]

    def comparable(self, numbers: dict, wanted: dict) -> tuple:
        scores = numbers.get('scores')
        fits = isinstance(scores, dict) and all(all_numbers(scores.get(key), len(wanted['scores'][key]))
                                                for key in ('genuine', 'impostor'))
        return fits, f"the scores of {wanted['num_pairs']} pairs"


def scored_pairs(result: dict) -> Scored:
    """Return the `Scored` of a result of `metrics.lfw` that has 'people' (P, 2)."""
    intervals = uncertainty.lfw_intervals(result['genuine'], result['impostor'], result['people'])
    points = [operating_point('lfw', far, threshold, tpr, intervals[f'tpr@{far:g}'], len(result['impostor']))
              for far, (tpr, threshold) in result['tpr_at_far'].items() if not math.isnan(tpr)]
    numbers = pair_numbers(result)
    numbers['interval95'] = {
        **{key: percents(intervals[key]) for key in ('eer100', 'auc', 'accuracy_10fold')},
        'tpr_at_far': {f'{far:g}': percents(intervals[f'tpr@{far:g}']) for far in metrics.LFW_FARS}}
    numbers['scores'] = {key: result[key].tolist() for key in ('genuine', 'impostor')}
    return Scored(LFW, result, numbers, points)


def pair_numbers(result: dict) -> dict:
    """Return LFW's numbers in percent, as written by --json; null for a number that the pairs cannot measure."""
    mean, stderr = result['accuracy_10fold']
    return {'protocol': 'lfw', 'num_pairs': len(result['genuine']) + len(result['impostor']),
            'eer100': percent(result['eer100']), 'auc': percent(result['auc']),
            'tpr_at_far': {f'{far:g}': percent(tpr) for far, (tpr, _) in result['tpr_at_far'].items()},
            'accuracy_10fold': {'mean': percent(mean), 'stderr': percent(stderr)}}


def _rows(numbers: dict) -> list:
    """Return (name, value, interval, note) of LFW's numbers; the names are those that scripts look for in logs."""
    accuracy, interval = numbers['accuracy_10fold'], numbers['interval95']
    rows = [('100%eer', numbers['eer100'], interval['eer100'], '')]
    for far, text in (('0.01', '1%'), ('0.001', '0.1%'), ('0', '0%')):
        rows.append((f'tpr@far={text}', numbers['tpr_at_far'][far], interval['tpr_at_far'][far], ''))
    stderr = '' if accuracy['stderr'] is None else f"std. error {accuracy['stderr']:.4f}"
    return rows + [('auc', numbers['auc'], interval['auc'], ''),
                   ('10-fold accuracy', accuracy['mean'], interval['accuracy_10fold'], stderr)]


def _people(names: list, labels: np.ndarray, pairs: tuple, file: str) -> np.ndarray:
    """Return a number per person (N,): the labels, or where they contradict the pairs the persons in the names."""
    share = np.mean(labels[pairs[0][:, 0]] != labels[pairs[0][:, 1]])
    if share <= 0.05:                                            # LFW's own errata are less than 1 %
        return labels
    warn(f"{file}: the two labels of {100 * share:.0f} % of the genuine pairs differ; the people of the intervals are "
         "taken from the file names instead")
    return np.unique([lists.person_of(name) for name in names], return_inverse=True)[1]


def threshold_for(far: float, result: dict) -> float:
    """Return the threshold of LFW's pairs at a FAR; ValueError if they cannot resolve it."""
    num = len(result['impostor'])
    if not 0 <= far <= 1:
        raise ValueError(f"--threshold_for {far:g} is not a false accept rate; expected 0 to 1, such as 0.001")
    _, threshold = metrics.tpr_at_far(result['genuine'], result['impostor'], far)
    if np.isnan(threshold):
        raise ValueError(f"--threshold_for {far:g}: {num} impostor pairs cannot resolve it; the smallest FAR above 0 "
                         f"that they can is {1 / num:.3g}")
    return threshold


def lfw_scorer(cfg: edict, device: Device) -> Callable:
    """Return a function backbone -> LFW numbers in percent that embeds only the images that pairs use.

    All ranks call it together: each embeds its share, so that none waits for another longer than a collective may.
    Lists, protocol and images are looked up now, so that a missing file is an error before the training starts.
    """
    from src.embedding import embed, network_of
    names, _ = LFW.images(cfg)
    pairs = lists.load_lfw_pairs(cfg.lfw_pairs_mat_path, len(names))
    used, compact = np.unique(np.concatenate(pairs), return_inverse=True)
    genuine, impostor = np.split(compact.reshape(-1, 2), [len(pairs[0])])
    paths = find_images(cfg.root_path, [names[row] for row in used])

    def score_backbone(backbone: Any, face_format: Optional[str] = None) -> dict:
        network = network_of(backbone, face_format or cfg.face_format)
        features = np.zeros((len(paths), backbone.embedding_size), np.float32)
        mine = slice(device.rank, None, device.rank_size)
        features[mine] = embed(network, paths[mine], num_workers=cfg.num_workers)
        if device.rank_size > 1:
            from mindspore import Tensor, ops
            features = ops.AllReduce()(Tensor(features)).asnumpy()
        return pair_numbers(metrics.lfw(features, genuine, impostor))
    return score_backbone


LFW = Lfw()
