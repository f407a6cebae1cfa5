"""IJB-B and IJB-C: 1:1 verification and 1:N identification of templates, pictures pooled by medium.

    python evaluate.py --protocol ijbc ijbc_1n --resume ckpt --root_path IJB_release --flip sum

The folder holds loose_crop and meta (src/data/ijb.py), or IJBB and IJBC that do. Crops are aligned by their five points
as they are read. Numbers are insightface's (TestMode N1 D1: pictures weigh by embedding length and detector score),
beside those by the rule of every other protocol here, and NIST's open-set rates of each gallery.
"""
import os
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Optional

import numpy as np
from easydict import EasyDict as edict

from src.data import ijb
from src.data.lists import check_relative
from src.data.pictures import AnyPicture, Picture
from src.options import Option
from src.protocols.protocol import Protocol, numbers_of, plain_comparison
from src.scoring import curves, identification, templates
from src.scoring.all_with_all import MEMORY_MB, vectors
from src.scoring.report import Scored, operating_point, percent, show

_GRID = np.logspace(-6, -1, 41)
_RANKS = np.arange(1, 21)
_UNKNOWN = (np.nan, np.nan)
_TITLES = {'ijbb': 'IJB-B', 'ijbc': 'IJB-C'}


class Templates(Protocol):
    """What 1:1 and 1:N share: the pictures, and how they are pooled to templates."""

    OPTIONS: Mapping = {
        'no_norm_weight': Option(False, meaning='pictures weigh the same whatever the length of their embedding'),
        'no_detector_weight': Option(False, meaning="pictures weigh the same whatever their detector's score"),
        'geometry': Option('arcface', ijb.GEOMETRIES, meaning='alignment that the network needs: of 112x112, or '
                           "LightCNN's 144 (train) and 128 (test); none: the pictures are aligned already"),
        'crops': Option('loose_crop', meaning='folder of the pictures, beside meta'),
        'memory_mb': Option(MEMORY_MB, 64, 1 << 20, 'memory for blocks of scores'),
    }
    paired_test = ''

    def __init__(self, dataset: str, kind: str = ''):
        self.dataset, self.name = dataset, dataset + kind
        self.title = f"{_TITLES[dataset]} {'1:N' if kind else '1:1'}"

    def folder(self, cfg: edict) -> str:
        """Return the folder that holds loose_crop and meta."""
        return ijb.find_ijb(cfg.root_path if cfg.get('root_given') else cfg.sets_path, self.dataset)

    def held(self, cfg: edict) -> ijb.IjbPictures:
        """Return the pictures; unchanged files are read once."""
        folder = self.folder(cfg)
        files = sorted(entry.path for entry in os.scandir(os.path.join(folder, 'meta')))
        return _read(folder, self.dataset, tuple((file, os.stat(file).st_mtime_ns) for file in files))

    def images(self, cfg: edict) -> tuple:
        """Return (names, templates (N,)) in the order of the files."""
        held = self.held(cfg)
        return held.names, held.templates

    def root(self, cfg: edict) -> str:
        crops = self.options(cfg)['crops']
        check_relative(crops, '--crops')
        return os.path.join(self.folder(cfg), crops)

    def pictures(self, cfg: edict) -> list:
        source = self._source(cfg)
        missing = [name for name in source.names if not os.path.isfile(os.path.join(source.path, name))]
        if missing:
            raise FileNotFoundError(f"{source.path}: {len(missing)} of {len(source)} listed crops are missing, such as "
                                    f"{missing[0]}")
        return [Picture(source, row) for row in range(len(source))]

    def picture(self, cfg: edict, name: str) -> Optional[AnyPicture]:
        source = self._source(cfg)
        return Picture(source, source.names.index(name)) if name in source.names else None

    def _source(self, cfg):
        held = self.held(cfg)
        return ijb.LooseCrops(self.root(cfg), held.names, held.points, self.options(cfg)['geometry'])

    def key(self, name: str) -> str:
        return f'{self.dataset}\n{name}'

    def pooled(self, cfg: edict, features_of: Callable) -> tuple:
        """Return (template ids (T,), pooled features (T, D))."""
        held, options = self.held(cfg), self.options(cfg)
        return templates.pool(features_of(held.names), held.templates, held.media, names=held.names,
                              detector_scores=None if options['no_detector_weight'] else held.scores,
                              by_length=not options['no_norm_weight'])

    def summary(self, numbers: dict) -> Iterator:
        return ((f'{self.title} {name}', value, (None, None)) for name, value in self._rows(numbers))

    def comparison(self, scored: Scored, other: Any) -> list:
        return plain_comparison(self._rows(scored.numbers), self._rows(numbers_of(other)))

    def comparable(self, numbers: dict, wanted: dict) -> tuple:
        try:
            return [name for name, _ in self._rows(numbers)] == [name for name, _ in self._rows(wanted)], self.title
        except (KeyError, TypeError, IndexError, AttributeError):
            return False, self.title

    def _rows(self, numbers: dict) -> list:
        """Return [(name, percent)], the rows of summary and comparison."""
        raise NotImplementedError


@lru_cache(maxsize=2)
def _read(folder, dataset, _files):
    return ijb.read_pictures(folder, dataset)


class OneToOne(Templates):
    """Listed pairs of templates: TAR at FAR 1e-6 .. 1e-1."""

    def score(self, cfg: edict, features_of: Callable) -> Scored:
        """Return the `Scored` of template_pair_label.txt."""
        ids, pooled = self.pooled(cfg, features_of)
        first, second, same = ijb.read_template_pairs(self.folder(cfg), self.dataset)
        scores = templates.pair_scores(ids, pooled, first, second, memory_mb=self.options(cfg)['memory_mb'],
                                       what=f'{self.dataset}_template_pair_label.txt')
        genuine, impostor = scores[same], scores[~same]
        result = templates.verification(genuine, impostor)
        grid = templates.verification(genuine, impostor, _GRID)['tar_at_far']
        roc = np.array([(far, tar) for far, (tar, _) in grid.items() if not np.isnan(tar)]).reshape(-1, 2).T
        points = [operating_point(self.name, far, threshold, tar, _UNKNOWN, len(impostor))
                  for far, (tar, threshold) in result['tar_at_far'].items() if not np.isnan(tar)]
        numbers = {'protocol': self.name, 'num_images': len(self.held(cfg).names), 'num_templates': len(ids),
                   'num_genuine': len(genuine), 'num_impostors': len(impostor), 'options': self.options(cfg),
                   'tar_at_far': {f'{far:g}': percent(tar) for far, (tar, _) in result['tar_at_far'].items()},
                   'tar_insightface': {f'{far:g}': percent(tar) for far, tar in result['tar_nearest'].items()}}
        return Scored(self, {**result, 'roc': roc}, numbers, points)

    def lines(self, numbers: dict) -> list:
        num_pairs = numbers['num_genuine'] + numbers['num_impostors']
        lines = [f"{self.title}, {num_pairs} pairs of {numbers['num_templates']} templates, {numbers['num_images']} "
                 'pictures', f"{'FAR':>10}{'TAR, %':>12}{'insightface, %':>17}"]
        lines += [f"{far:>10}{show(tar).strip():>12}{show(numbers['tar_insightface'][far]).strip():>17}"
                  for far, tar in numbers['tar_at_far'].items()]
        return [*lines, "insightface: at the point of the ROC whose FAR is nearest, as ijb_11.py prints"]

    def _rows(self, numbers: dict) -> list:
        return [(f'TAR@FAR={far}', tar) for far, tar in numbers['tar_at_far'].items()]

    def figures(self, runs: dict) -> list:
        return [(f'ROC, {self.title}', curves.line_figure(runs, 'roc', 'true accept rate, %', 'false accept rate',
                                                          of=self.name, xscale='log'))]


class OneToMany(Templates):
    """Probes against two galleries: rank 1, 5, 10 and TPIR at FPIR 1 % and 10 %."""

    def __init__(self, dataset: str):
        super().__init__(dataset, '_1n')

    def score(self, cfg: edict, features_of: Callable) -> Scored:
        """Return the `Scored` of each gallery, and of both at once as insightface does."""
        folder = self.folder(cfg)
        ids, pooled = self.pooled(cfg, features_of)
        files = ijb.gallery_files(folder, self.dataset)
        probe_file = os.path.join(folder, 'meta', f'{self.dataset}_1N_probe_mixed.csv')
        sides = [_side(ids, pooled, file) for file in (*files, probe_file)]
        galleries = [*sides[:2], tuple(np.concatenate(both) for both in zip(*sides[:2]))]
        probes, people = sides[2]
        found = [identification.one_to_many(vectors(probes), vectors(features), people, subjects,
                                            memory_mb=self.options(cfg)['memory_mb'])
                 for features, subjects in galleries]
        numbers = {'protocol': self.name, 'num_probes': len(people), 'options': self.options(cfg),
                   'galleries': [os.path.basename(file).rpartition('_')[2][:-4] for file in files],
                   **{key: [one[key] for one in found] for key in ('num_gallery', 'num_mated')},
                   'rank': {str(r): _columns([one['rank'][r] for one in found]) for r in identification.RANKS},
                   'tpir': {f'{x:g}': _columns([one['tpir'][x][0] for one in found]) for x in identification.FPIRS},
                   'tpir_insightface': {f'{x:g}': percent(found[2]['tpir_pairs'][x][0]) for x in identification.FPIRS}}
        cmc = [np.mean(found[2]['ranks'] <= r) if len(found[2]['ranks']) else np.nan for r in _RANKS]
        return Scored(self, {'cmc': (_RANKS, cmc)}, numbers, [])

    def lines(self, numbers: dict) -> list:
        names = [f'{name} ({num})' for name, num in zip((*numbers['galleries'], 'both'), numbers['num_gallery'])]
        lines = [f"{self.title}, {numbers['num_probes']} probes, percent",
                 f"{'':<22}{names[0]:>14}{names[1]:>14}{'mean':>14}{names[2]:>14}"]
        for name, columns in self._table(numbers):
            lines.append(f"  {name:<20}" + ''.join(f'{show(value).strip():>14}' for value in columns))
        return [*lines, "TPIR: mates accepted while that share of probes without one has a false accept",
                "insightface: the threshold is the (share x probes)-th of all impostor scores"]

    def _table(self, numbers):
        for r, columns in numbers['rank'].items():
            yield f'rank {r}', columns
        for x, columns in numbers['tpir'].items():
            yield f'TPIR@FPIR={100 * float(x):g}%', columns
        for x, value in numbers['tpir_insightface'].items():
            yield f'insightface @{100 * float(x):g}%', [None, None, None, value]

    def _rows(self, numbers: dict) -> list:
        return [(name, columns[3] if columns[2] is None else columns[2]) for name, columns in self._table(numbers)]

    def figures(self, runs: dict) -> list:
        return [(f'CMC, {self.title}, both galleries', curves.line_figure(runs, 'cmc', 'identification rate, %', 'rank',
                                                                          of=self.name, xticks=[1, 5, 10, 15, 20]))]


def _side(ids, pooled, file):
    """Return (features (T, D), subjects (T,)) of a gallery or probe file."""
    wanted, subjects = ijb.read_subjects(file)
    return pooled[templates.rows_of(ids, wanted, file)], subjects


def _columns(shares):
    """Return percentages of both galleries, their mean, and both at once."""
    first, second, both = shares
    return [percent(share) for share in (first, second, (first + second) / 2, both)]


IJBB, IJBC = OneToOne('ijbb'), OneToOne('ijbc')
IJBB_1N, IJBC_1N = OneToMany('ijbb'), OneToMany('ijbc')
