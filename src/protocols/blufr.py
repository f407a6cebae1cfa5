"""BLUFR on LFW: verification over all pairs and open-set identification, 10 trials (Liao et al., IJCB 2014).

Numbers are those of the authors' toolkit; intervals are Student's t over the trials, which share people.
"""
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from easydict import EasyDict as edict
from tqdm import tqdm

from src.data import lists
from src.protocols.listed import listed_images
from src.protocols.protocol import Protocol, warn_of_duplicates
from src.scoring import curves, metrics, uncertainty
from src.scoring.report import Scored, all_numbers, operating_point, percent, percents, show, span

POINTS = (0.01, 0.001, 0.0001, 0.00001, 0.000001)                # FARs whose thresholds are listed
_NAMES = {'vr': 'VR@FAR=0.1%', 'dir': 'DIR@rank 1, FAR=1%'}


class BlufrProtocol(Protocol):
    """Verification rate and detection and identification rate over 10 trials."""

    name, title = 'blufr', 'BLUFR'
    paired_test = 't-test over trials'

    def images(self, cfg: edict) -> tuple:
        """Return (names, labels) in the order that blufr_lfw_config.mat counts."""
        return listed_images(cfg.blufr_img_list, cfg.blufr_config_mat_path, lists.list_for_blufr)

    def score(self, cfg: edict, features_of: Callable) -> Scored:
        """Return the `Scored` of all trials."""
        progress = partial(tqdm, desc='trials', unit='trial', disable=None, leave=False)
        return scored_trials(self.measure(cfg, features_of, progress))

    def measure(self, cfg: edict, features_of: Callable, progress: Callable = iter) -> dict:
        """Return `metrics.blufr`'s result."""
        protocol = lists.load_blufr(cfg.blufr_config_mat_path)
        names, _ = self.images(cfg)
        _check_order(names, protocol, cfg)
        features = features_of(names)
        result = metrics.blufr(features, protocol, names, progress)
        warn_of_duplicates(features, names, protocol.labels)
        return result

    def lines(self, numbers: dict) -> list:
        lines = [f"{'BLUFR, percent':<28}{'VR@FAR=0.1%':>20}{'DIR@rank 1, FAR=1%':>22}"]
        lines += [f'  {name:<26}{vr:>20}{dir_:>22}' for name, vr, dir_ in _rows(numbers)]
        reported = [show(numbers[key]['mean_minus_std']).strip() for key in ('vr', 'dir')]
        return lines + ['Verification:', f'    @ FAR = 0.1%: VR = {reported[0]}%', 'Open-set Identification:',
                        f'    @ Rank = 1, FAR = 1%: DIR = {reported[1]}%']

    def summary(self, numbers: dict) -> Iterator:
        for key, name in _NAMES.items():
            yield f'BLUFR {name}, mean', numbers[key]['mean'], numbers[key]['interval95']
            yield f'BLUFR {name}, mean - std', numbers[key]['mean_minus_std'], [None, None]

    def figures(self, runs: dict) -> list:
        return [('Verification, BLUFR', curves.verification_figure(runs)), ('CMC, BLUFR', curves.cmc_figure(runs)),
                ('Open-set identification, BLUFR', curves.dir_figure(runs))]

    def comparison(self, scored: Scored, other: Any) -> list:
        numbers = other.numbers if isinstance(other, Scored) else other
        rows = {key: uncertainty.trial_comparison(*([trial[key] / 100 for trial in n['trials']]
                                                    for n in (scored.numbers, numbers))) for key in _NAMES}
        return [(f'{name}, mean', *map(percent, rows[key][:3]), percents(rows[key][3]), rows[key][4])
                for key, name in _NAMES.items()]

    def comparable(self, numbers: dict, wanted: dict) -> tuple:
        trials = numbers.get('trials')
        fits = isinstance(trials, list) and all(isinstance(t, dict) for t in trials) and all(
            all_numbers([t.get(key) for t in trials], len(wanted['trials'])) for key in ('vr', 'dir'))
        return fits, f"{len(wanted['trials'])} trials"


def _check_order(names: list, protocol: lists.Blufr, cfg: edict) -> None:
    """Raise ValueError unless the image list has the protocol's own order."""
    if len(names) != len(protocol.names):
        raise ValueError(f"{cfg.blufr_img_list}: lists {len(names)} images, {cfg.blufr_config_mat_path} "
                         f"{len(protocol.names)}")
    own, _ = lists.list_for_blufr(protocol)
    differs = next((i for i, (a, b) in enumerate(zip(names, own)) if os.path.splitext(a)[0] != os.path.splitext(b)[0]),
                   None)
    if differs is not None:
        raise ValueError(f"{cfg.blufr_img_list}: image {differs + 1} is {names[differs]}, in "
                         f"{cfg.blufr_config_mat_path} it is {own[differs]}; the order must be the same")


def scored_trials(result: dict) -> Scored:
    """Return the `Scored` of a result of `metrics.blufr`."""
    numbers = trial_numbers(result)
    for key, shares in zip(('vr', 'dir'), metrics.blufr_reported(result)):
        numbers[key]['interval95'] = percents(uncertainty.trial_interval(shares))
    num_impostors = int(np.mean(result['num_impostors']))
    points = []
    for far in POINTS:
        if far * num_impostors >= 1:
            at = np.argmin(np.abs(metrics.VR_FARS - far))
            shares = result['vr'][:, at]
            points.append(operating_point('blufr', far, np.mean(result['vr_thresholds'][:, at]), np.mean(shares),
                                          uncertainty.trial_interval(shares), num_impostors))
    return Scored(BLUFR, result, numbers, points)


def trial_numbers(result: dict) -> dict:
    """Return BLUFR's numbers in percent, as written by --json."""
    vr, dir_ = metrics.blufr_reported(result)
    return {'protocol': 'blufr',
            'vr': {'far': metrics.REPORT_VR_FAR, **_mean_numbers(vr)},
            'dir': {'far': metrics.REPORT_DIR_FAR, 'rank': metrics.REPORT_RANK, **_mean_numbers(dir_)},
            'trials': [{'vr': percent(v), 'dir': percent(d)} for v, d in zip(vr, dir_)]}


def _mean_numbers(shares: np.ndarray) -> dict:
    mean, lower = metrics.mean_and_lower(shares)
    return {'mean': percent(mean), 'mean_minus_std': percent(lower)}


def _rows(numbers: dict) -> list:
    """Return (name, VR, DIR) as text: a row per trial, then over all of them."""
    vr, dir_ = numbers['vr'], numbers['dir']
    rows = [(f'trial {i:2}', show(t['vr']), show(t['dir'])) for i, t in enumerate(numbers['trials'], 1)]
    rows += [('mean', show(vr['mean']), show(dir_['mean'])),
             ('95 % interval of the mean', span(vr['interval95']), span(dir_['interval95'])),
             ('mean - std', show(vr['mean_minus_std']), show(dir_['mean_minus_std']))]
    return rows


BLUFR = BlufrProtocol()
