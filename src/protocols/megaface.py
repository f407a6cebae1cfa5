"""MegaFace: FaceScrub's probes among up to a million distractors; rank 1 .. and TAR at FAR 1e-6.

    python evaluate.py --protocol megaface --resume ckpt --root_path megaface --flip sum

The folder holds the lists, aligned pictures and noise lists of insightface's test pack (src/data/megaface.py). Pictures
that the noise lists name are left out; with --noisy_probes centre they stay, as insightface's remove_noises.py has
them: each is replaced by the centre of its person, which makes it nearly always right.
"""
import os
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
from easydict import EasyDict as edict
from tqdm import tqdm

from src.data import megaface
from src.options import Option
from src.protocols.protocol import Protocol, numbers_of, plain_comparison
from src.scoring import curves
from src.scoring.all_with_all import MEMORY_MB, vectors
from src.scoring.identification import with_distractors
from src.scoring.report import Scored, operating_point, percent, percents, show, span
from src.scoring.uncertainty import person_shares

RANKS = (1, 5, 10, 100)


class MegaFaceProtocol(Protocol):
    """Every pair of pictures of a person: is the mate nearer to the probe than all distractors?"""

    name, title, lists_lfw = 'megaface', 'MegaFace', False
    OPTIONS: Mapping = {
        'distractors': Option(1_000_000, 1, 1 << 40, 'the first so many distractors of the list'),
        'keep_noise': Option(False, meaning='do not leave out what the noise lists name'),
        'noisy_probes': Option('drop', ('drop', 'centre'), meaning="probes of the noise list: left out, or replaced by "
                               "their person's centre as insightface does"),
        'memory_mb': Option(MEMORY_MB, 64, 1 << 20, 'memory for blocks of scores'),
    }
    paired_test = ''

    def sets(self, cfg: edict) -> megaface.MegaFace:
        """Return probes and distractors; unchanged lists are read once."""
        folder, options = self.root(cfg), self.options(cfg)
        state = tuple(sorted((entry.path, entry.stat().st_mtime_ns) for entry in os.scandir(folder) if entry.is_file()))
        return _read(folder, options['distractors'], not options['keep_noise'], state)

    def root(self, cfg: edict) -> str:
        inside = ('megaface', 'MegaFace', 'megaface_testpack_v1.0', '')
        places = [cfg.root_path] if cfg.get('root_given') else [os.path.join(cfg.sets_path, name) for name in inside]
        found = next((place for place in places if os.path.isdir(place)), None)
        if found is None:
            raise FileNotFoundError(f"{places[0]}: no such folder with MegaFace's lists (--root_path)")
        return found

    def images(self, cfg: edict) -> tuple:
        """Return (names, numbers of people (N,)): probes first, then distractors, which are nobody: -1."""
        sets = self.sets(cfg)
        people = np.unique(sets.people, return_inverse=True)[1]
        return [*sets.probes, *sets.distractors], np.append(people, np.full(len(sets.distractors), -1))

    def score(self, cfg: edict, features_of: Callable) -> Scored:
        """Return the `Scored` of all probes and distractors."""
        sets, options = self.sets(cfg), self.options(cfg)
        names, people = self.images(cfg)
        features, num = features_of(names), len(sets.probes)
        probes, people = features[:num], people[:num]
        if options['noisy_probes'] == 'centre' and sets.noisy_probes:
            probes, people = _with_centres(probes, sets)
        result = with_distractors(vectors(probes, names), people, vectors(features[num:], names[num:]), ranks=RANKS,
                                  memory_mb=options['memory_mb'],
                                  progress=partial(tqdm, desc='distractors', unit='block', disable=None, leave=False))
        return _scored(self, result, people, options, sets)

    def lines(self, numbers: dict) -> list:
        lines = [f"MegaFace, {numbers['num_distractors']} distractors, {numbers['num_probes']} probes of "
                 f"{numbers['num_people']} people", f"{'':<24}{'percent':>12}{'95 % interval':>20}"]
        lines += [f'  {name:<22}{show(value).strip():>12}{span(interval):>20}'
                  for name, value, interval in self._rows(numbers)]
        return [*lines, f"Noise: {numbers['noisy_probes']} probes ({numbers['options']['noisy_probes']}), "
                f"{numbers['noisy_distractors']} distractors left out"]

    def _rows(self, numbers: dict) -> Iterator:
        for r, value in numbers['rank'].items():
            yield f'rank {r}', value, numbers['interval95'][r]
        for far, value in numbers['tar_at_far'].items():
            yield f'TAR@FAR={far}', value, (None, None)

    def summary(self, numbers: dict) -> Iterator:
        return ((f'MegaFace {name}', value, interval) for name, value, interval in self._rows(numbers))

    def figures(self, runs: dict) -> list:
        return [('CMC, MegaFace', curves.line_figure(runs, 'cmc', 'identification rate, %', 'rank', of='megaface',
                                                     xscale='log'))]

    def comparison(self, scored: Scored, other: Any) -> list:
        return plain_comparison(self._rows(scored.numbers), self._rows(numbers_of(other)))

    def comparable(self, numbers: dict, wanted: dict) -> tuple:
        fits = all(isinstance(numbers.get(key), dict) and list(numbers[key]) == list(wanted[key])
                   for key in ('rank', 'tar_at_far', 'interval95'))
        return fits, 'the ranks and FARs of MegaFace'


@lru_cache(maxsize=1)
def _read(folder, distractors, noises, _state):
    return megaface.read_sets(folder, distractors=distractors, noises=noises)


def _with_centres(probes, sets):
    """Return (features, people): the noisy probes added as the sum of their person's clean pictures."""
    clean, noisy = np.array(sets.people), np.array(sets.noisy_people)
    noisy = noisy[np.isin(noisy, clean)]
    centres = {person: probes[clean == person].sum(0) for person in np.unique(noisy)}
    both = np.concatenate([probes, np.stack([centres[person] for person in noisy])]) if len(noisy) else probes
    return both, np.unique(np.concatenate([clean, noisy]), return_inverse=True)[1]


def _scored(protocol, result, people, options, sets):
    """Return the `Scored` of a result of `with_distractors`."""
    cmc_ranks = np.unique(np.logspace(0, np.log10(max(result['num_distractors'], 2)), 60).astype(np.int64))
    intervals = person_shares(people[result['probe']], [result['ranks'] <= r for r in RANKS])
    numbers = {'protocol': 'megaface', 'options': options, 'noisy_probes': len(sets.noisy_probes),
               'noisy_distractors': sets.num_noisy_distractors,
               **{key: result[key] for key in ('num_probes', 'num_people', 'num_distractors', 'num_genuine',
                                               'num_impostors')},
               'rank': {str(r): percent(share) for r, share in result['rank'].items()},
               'interval95': {str(r): percents(interval) for r, interval in zip(RANKS, intervals)},
               'tar_at_far': {f'{far:g}': percent(tar) for far, (tar, _) in result['tar_at_far'].items()}}
    points = [operating_point('megaface', far, threshold, tar, (np.nan, np.nan), result['num_impostors'])
              for far, (tar, threshold) in result['tar_at_far'].items() if not np.isnan(tar)]
    cmc = [float(np.mean(result['ranks'] <= r)) for r in cmc_ranks]
    return Scored(protocol, {'cmc': (cmc_ranks, cmc)}, numbers, points)


MEGAFACE = MegaFaceProtocol()
