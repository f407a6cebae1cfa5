"""RFW (Racial Faces in the Wild): four sets of pairs, and how far apart they are at one threshold for everybody.

    python evaluate.py --protocol rfw --resume ckpt --root_path RFW

The folder holds African, Asian, Caucasian and Indian with the pictures of each person in a folder, and the lists
GROUP_pairs.txt beside them, in GROUP or in txts/GROUP. Each set has its own 10-fold accuracy, as its authors measure;
TPR and FAR of each set, and FAR between sets, are those of src/scoring/groups.py. Source: Wang et al., ICCV 2019.
"""
import os
from collections.abc import Callable
from typing import Optional

import numpy as np
from easydict import EasyDict as edict

from src.data.pairs import Pairs, read_pairs
from src.protocols.pairs import PairProtocol, measure_pairs
from src.scoring import groups as grouping
from src.scoring import metrics
from src.scoring.report import Scored, percent, show

GROUPS = ('African', 'Asian', 'Caucasian', 'Indian')
_FOLDERS = ('', 'RFW', 'rfw', 'RFW_crop')
_DATA = ('', 'data', os.path.join('images', 'test', 'data'), os.path.join('test', 'data'))


class Rfw(PairProtocol):
    """All pairs of the four sets, and each set by itself."""

    name, title, lists_lfw = 'rfw', 'RFW', False

    def __init__(self):
        self._held: Optional[tuple] = None

    def images(self, cfg: edict) -> tuple:
        """Return (names, people (N,)): 'African/m.0ab/m.0ab_0001.jpg'."""
        pairs, _ = self._load(cfg)
        return pairs.names, np.unique([os.path.dirname(name) for name in pairs.names], return_inverse=True)[1]

    def root(self, cfg: edict) -> str:
        """Return the folder in which African, Asian, Caucasian and Indian are."""
        base = cfg.root_path if cfg.get('root_given') else cfg.sets_path
        places = [os.path.normpath(os.path.join(base, name, data)) for name in _FOLDERS for data in _DATA]
        found = next((place for place in places if all(os.path.isdir(os.path.join(place, g)) for g in GROUPS)), None)
        if found is None:
            raise FileNotFoundError(f"{base}: no folder with {', '.join(GROUPS)} in it (--root_path)")
        return found

    def groups(self, cfg: edict) -> grouping.Groups:
        """Return the four sets as groups; --groups divides the people in another way."""
        given = super().groups(cfg)
        of_row = [GROUPS.index(name.split('/')[0]) for name in self.images(cfg)[0]]
        return given or grouping.Groups(GROUPS, np.array(of_row, np.int64))

    def measure(self, cfg: edict, features_of: Callable) -> dict:
        """Return the result of all pairs, with the 'sets' of each group's."""
        pairs, of_pair = self._load(cfg)
        _, people = self.images(cfg)
        features = features_of(pairs.names)
        result = measure_pairs(features, pairs.rows, pairs.same, folds=pairs.folds, grid_folds=pairs.folds,
                               names=pairs.names)
        sets = {name: _set_numbers(features, pairs, of_pair == g) for g, name in enumerate(GROUPS)}
        return {**result, 'people': people[result['pairs']], 'person': people, 'people_known': True, 'sets': sets}

    def score(self, cfg: edict, features_of: Callable) -> Scored:
        """Return the `Scored` of all pairs; its numbers have those of each set."""
        scored = super().score(cfg, features_of)
        scored.numbers['sets'] = scored.result['sets']
        return scored

    def lines(self, numbers: dict) -> list:
        lines = super().lines(numbers)
        lines.append(f"{'set':<14}{'pairs':>8}{'10-fold accuracy':>20}{'std. error':>13}{'100%eer':>12}")
        return lines + [f"{name:<14}{one['num_pairs']:>8}{show(one['accuracy_10fold']['mean']):>20}"
                        f"{show(one['accuracy_10fold']['stderr']):>13}{show(one['eer100']):>12}"
                        for name, one in numbers['sets'].items()]

    def _load(self, cfg):
        """Return (pairs of all sets, the group (P,) of each); unchanged lists are read once."""
        root = self.root(cfg)
        files = [_list_file(root, name) for name in GROUPS]
        state = [(file, os.stat(file).st_mtime_ns) for file in files]
        if self._held is None or self._held[0] != state:
            self._held = (state, *_joined([read_pairs(file) for file in files], files))
        return self._held[1:]


def _list_file(root, name):
    places = (name, '.', os.path.join('..', 'txts', name), os.path.join('..', 'txts'), os.path.join('txts', name))
    files = [os.path.normpath(os.path.join(root, place, f'{name}_pairs.txt')) for place in places]
    found = next((file for file in files if os.path.isfile(file)), None)
    if found is None:
        raise FileNotFoundError(f"{files[0]}: no such list of pairs, nor in ../txts/{name}")
    return found


def _joined(lists, files):
    """Return (pairs of all lists as one, the list (P,) of each pair)."""
    names, rows, folds = [], [], []
    for name, pairs, file in zip(GROUPS, lists, files):
        if pairs.folds is None:
            raise ValueError(f"{file}: {len(pairs.same)} pairs, expected ten folds of genuine and impostor pairs")
        rows.append(pairs.rows + len(names))
        folds.append(pairs.folds)
        names += [f'{name}/{picture}' for picture in pairs.names]
    of_pair = np.repeat(np.arange(len(lists)), [len(pairs.same) for pairs in lists])
    same = np.concatenate([pairs.same for pairs in lists])
    return Pairs(names, np.concatenate(rows), same, np.concatenate(folds)), of_pair


def _set_numbers(features, pairs, inside):
    """Return the numbers of one set's pairs, in percent."""
    unit = metrics.unit_rows(features, pairs.names)
    rows, same, folds = pairs.rows[inside], pairs.same[inside], pairs.folds[inside]
    scores = metrics.pair_scores(unit, rows)
    order = np.argsort(~same, kind='stable')
    found = metrics.pair_statistics(scores[same], scores[~same], folds=folds[order])
    mean, stderr = found['accuracy_10fold']
    return {'num_pairs': len(rows), 'eer100': percent(found['eer100']),
            'accuracy_10fold': {'mean': percent(mean), 'stderr': percent(stderr)}}


RFW = Rfw()
