"""Sets of pairs in files: insightface's .bin, the authors' folders with their pair lists, any list of pairs.

    python evaluate.py --protocol cfp_fp agedb_30 sets/calfw.bin my_pairs.csv --resume ckpt --dataset_path faces

A name of SETS is looked for in the data set's folder (setting sets_path): NAME.bin, or a folder NAME with the authors'
pair list in it. Pictures of a list are looked for under --root_path, beside the list and in the folders beside it.
"""
import glob
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Optional

import numpy as np
from easydict import EasyDict as edict
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from src.data.images import find_image, find_images
from src.data.lists import person_of
from src.data.pairs import Pairs, read_pairs
from src.data.pictures import AnyPicture, Held, pictures_of
from src.data.verification import read_bin
from src.protocols.pairs import PairProtocol, measure_pairs
from src.protocols.protocol import warn_of_duplicates

SETS = {'cfp_fp': 'CFP-FP', 'cfp_ff': 'CFP-FF', 'agedb_30': 'AgeDB-30', 'calfw': 'CALFW', 'cplfw': 'CPLFW',
        'vgg2_fp': 'VGG2-FP'}
EXTENSIONS = ('.bin', '.txt', '.csv', '.tsv')
_FOLDERS = {'cfp_fp': ('cfp', 'cfp-dataset', 'CFP'), 'cfp_ff': ('cfp', 'cfp-dataset', 'CFP'),
            'agedb_30': ('agedb', 'AgeDB', 'AgeDB-30'), 'vgg2_fp': ('vgg2', 'VGG2-FP', 'vggface2_fp')}
_AGREE = 0.99                    # share of the pairs whose answers must agree with names for them to tell people


def is_set(name: str) -> bool:
    """Whether `name` is a named set, or looks like the file or folder of one."""
    return name in SETS or name.lower().endswith(EXTENSIONS) or os.path.isdir(name)


class PairSet(PairProtocol):
    """Pairs of a .bin file, a pair list or a named set; the file is read when it is first asked for."""

    lists_lfw = False

    def __init__(self, name: str):
        self.name = name
        self.title = SETS.get(name) or os.path.splitext(os.path.basename(os.path.normpath(name)))[0] or name
        self._held: Optional[tuple] = None

    def images(self, cfg: edict) -> tuple:
        """Return (names, people (N,)): a picture of a .bin is named by its row."""
        return self._load(cfg)[0].names, self._load(cfg)[2]

    def pictures(self, cfg: edict) -> list:
        pairs, source, _ = self._load(cfg)
        return list(pictures_of(source)) if source else find_images(self._root(cfg), pairs.names)

    def picture(self, cfg: edict, name: str) -> Optional[AnyPicture]:
        _, source, _ = self._load(cfg)
        if source:
            return pictures_of(source)[int(name)]
        try:
            return find_image(self._root(cfg), name)
        except FileNotFoundError:
            return None

    def root(self, cfg: edict) -> str:
        return os.path.dirname(self._file(cfg)) if self._load(cfg)[1] else self._root(cfg)

    def measure(self, cfg: edict, features_of: Callable) -> dict:
        """Return the result of the pairs; folds are the list's own, else LFW's and insightface's rules."""
        pairs, source, people = self._load(cfg)
        features = features_of(pairs.names)
        result = measure_pairs(features, pairs.rows, pairs.same, folds=pairs.folds, grid_folds=pairs.folds,
                               names=pairs.names)
        if not source:
            warn_of_duplicates(features, pairs.names, people)
        known = not source and named_people(pairs.names, pairs.rows, pairs.same) is not None
        return {**result, 'people': people[result['pairs']], 'person': people, 'people_known': known}

    def _file(self, cfg):
        return find_set(self.name, cfg.sets_path) if self.name in SETS else self.name

    def _load(self, cfg):
        """Return (pairs, source of a .bin's pictures or None, people (N,))."""
        file = self._file(cfg)
        if self._held is None or self._held[0] != file:
            self._held = (file, *_read(file))
        return self._held[1:]

    def _root(self, cfg):
        pairs, _, _ = self._load(cfg)
        return folder_of_pictures(self._file(cfg), pairs.names, cfg)


def _read(file):
    if not file.lower().endswith('.bin'):
        pairs = read_pairs(file)
        return pairs, None, people_of_pairs(pairs.names, pairs.rows, pairs.same)
    pictures, same = read_bin(file)
    names = [str(row) for row in range(len(pictures))]
    rows = np.arange(len(pictures)).reshape(-1, 2)
    digests = [hashlib.sha256(picture).digest() for picture in pictures]
    return Pairs(names, rows, same, None), Held(file, pictures, names), people_of_pairs(digests, rows, same)


def find_set(name: str, folder: str) -> str:
    """Return the .bin of a named set in `folder`, or its pair list. FileNotFoundError says what was looked for."""
    for place in (folder, os.path.join(folder, 'sets'), os.path.join(folder, name)):
        if os.path.isfile(os.path.join(place, f'{name}.bin')):
            return os.path.join(place, f'{name}.bin')
    for held in (name, *_FOLDERS.get(name, (name.upper(),))):
        for place in (os.path.join(folder, held), os.path.join(folder, 'sets', held)):
            found = _pair_list(name, place)
            if found:
                return found
    raise FileNotFoundError(f"{folder}: neither {name}.bin nor a folder {name} with its pair list (sets_path, or name "
                            "the file itself)")


def _pair_list(name, folder):
    if name.startswith('cfp'):
        split = os.path.join(folder, 'Protocol', 'Split', name[-2:].upper())
        return split if os.path.isdir(split) else None
    found = sorted(glob.glob(os.path.join(glob.escape(folder), '*pair*.[tc]*')))
    return next((file for file in found if file.lower().endswith(EXTENSIONS)), None)


def folder_of_pictures(file: str, names: Sequence, cfg: edict) -> str:
    """Return the folder that the names of a pair list are relative to: the first that holds the first picture.

    Looked at: --root_path, the list's folder and those above and in it, the data set's folders.
    """
    own = os.path.dirname(os.path.abspath(file))
    inside = sorted(entry.path for entry in os.scandir(own) if entry.is_dir())
    above = [os.path.normpath(os.path.join(file, *[os.pardir] * 3))] if os.path.isdir(file) else [os.path.dirname(own)]
    given = [cfg.root_path] if cfg.get('root_given') else []
    places = [*given, own, *inside, *above, cfg.root_path, cfg.sets_path]
    found = next((place for place in places if find_image(place, names[0])), None)
    if found is None:
        raise FileNotFoundError(f"{file}: its picture {names[0]} is in none of {own}, the {len(inside)} folders in it, "
                                f"{cfg.root_path} and {cfg.sets_path}; give --root_path")
    return found


def people_of_pairs(keys: Sequence, rows: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Return a number per person (N,) for pictures of pairs; intervals need to know whose pictures they are.

    Pictures of equal key are one, genuine pairs join pictures, and folders or LFW's names do where they agree with the
    answers.
    """
    key = _numbered(keys)
    edges = [np.stack([np.arange(len(keys)), key + len(keys)], 1), rows[same]]
    group = named_people(keys, rows, same)
    if group is not None:
        edges.append(np.stack([np.arange(len(keys)), group + 2 * len(keys)], 1))
    first, second = np.concatenate(edges).T
    size = 3 * len(keys)
    return connected_components(coo_matrix((np.ones(len(first)), (first, second)), (size, size)))[1][:len(keys)]


def named_people(keys: Sequence, rows: np.ndarray, same: np.ndarray) -> Optional[np.ndarray]:
    """Return a number (N,) per person where folders, or LFW's names, agree with the answers; None if they do not."""
    for person in (os.path.dirname, person_of) if isinstance(keys[0], str) else ():
        group = _numbered(map(person, keys))
        agree = (group[rows[:, 0]] == group[rows[:, 1]]) == same
        if same.any() and not same.all() and min(agree[same].mean(), agree[~same].mean()) >= _AGREE:
            return group
    return None


def _numbered(values):
    """Return a number (N,) for each value, equal where values are."""
    numbers: dict = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values])
