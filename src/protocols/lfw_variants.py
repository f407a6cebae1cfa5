"""LFW's 6,000 pairs with other pictures: masked faces, and faces of a few pixels.

    python prepare.py masks --root faces/lfw/image --out masked/lfw/image
    python evaluate.py --protocol lfw lfw_masked lfw_both_masked --masked_root masked/lfw/image --resume ckpt \\
        --dataset_path faces
    python evaluate.py --protocol lfw --resolutions 16 24 32 --resume ckpt --dataset_path faces --report report

lfw_masked compares the first picture of a pair, as it is, with the second one masked; lfw_both_masked two masked ones.
lfw_16px scales the test face to 16x16 pixels (area averages) and back (bilinear) before it is embedded. Only pictures
of pairs are embedded. A feature is kept by what its picture holds, so that each variant has features of its own.
"""
import re
from collections.abc import Callable, Sequence
from typing import Any, Optional

import numpy as np
from easydict import EasyDict as edict

from src.data import lists
from src.data.face_format import FACE_FORMATS, FaceFormat
from src.data.images import centre_crop, check_alignment, encode, find_image, find_images, is_root, read_face, resize
from src.data.pairs import tenths
from src.data.pictures import AnyPicture, Picture, pictures_of
from src.options import Option
from src.protocols.lfw import Lfw, people_of_lfw
from src.protocols.pairs import measure_pairs
from src.scoring.curves import COLOURS, svg_figure
from src.scoring.report import show, span

LOWEST, HIGHEST = 4, 128         # pixels
_CROPPED = {face.train_side: face.test_side for face in FACE_FORMATS.values()}
_SMALL = re.compile(r'lfw_(\d{1,4})px$')


class LfwVariant(Lfw):
    """LFW's pairs; `folders` go before the names of the first and second pictures of pairs, '' for the picture itself.

    `images` lists the pictures of pairs only: those of the first places in LFW's order, then the others.
    """

    folders = ('', '')

    def images(self, cfg: edict) -> tuple:
        """Return (names with their folder, labels (N,))."""
        return self._load(cfg)[:2]

    def _load(self, cfg):
        """Return (names, labels (N,), their rows (N,) in LFW's list, the rows (P, 2) of pairs, genuine ones first)."""
        listed, labels = super().images(cfg)
        pairs = lists.load_lfw_pairs(cfg.lfw_pairs_mat_path, len(listed))
        known = list(dict.fromkeys(self.folders))
        places = np.concatenate(pairs) + [len(listed) * known.index(folder) for folder in self.folders]
        used, compact = np.unique(places, return_inverse=True)
        rows = used % len(listed)
        names = [known[place // len(listed)] + listed[row] for place, row in zip(used.tolist(), rows.tolist())]
        return names, labels[rows], rows, compact.reshape(-1, 2)

    def measure(self, cfg: edict, features_of: Callable) -> dict:
        """Return the result of the pairs with 'people' (P, 2), genuine pairs first; folds as LFW's."""
        listed, labels = super().images(cfg)
        names, _, listed_rows, rows = self._load(cfg)
        pairs = lists.load_lfw_pairs(cfg.lfw_pairs_mat_path, len(listed))
        people = people_of_lfw(listed, labels, pairs, cfg.lfw_img_list)[listed_rows]
        same = np.arange(len(rows)) < len(pairs[0])
        result = measure_pairs(features_of(names), rows, same, grid_folds=tenths(same), names=names)
        return {**result, 'people': people[rows], 'person': people, 'people_known': True}

    def key(self, name: str) -> str:
        folder, listed = self._parts(name)
        return folder + super().key(listed)

    def _parts(self, name):
        """Return (folder, listed name) of a name."""
        return next(((folder, name[len(folder):]) for folder in self.folders if folder and name.startswith(folder)),
                    ('', name))


class MaskedLfw(LfwVariant):
    """LFW's pairs with the second picture masked, or both; masked faces lie in --masked_root."""

    OPTIONS = {**Lfw.OPTIONS, 'masked_root': Option('', meaning='folder of the masked faces (prepare.py masks), named '
                                                    'as LFW\'s')}
    _FOLDER = 'masked/'

    def __init__(self, both: bool):
        self.folders = (self._FOLDER, self._FOLDER) if both else ('', self._FOLDER)
        self.name, self.title = ('lfw_both_masked', 'LFW both masked') if both else ('lfw_masked', 'LFW masked')

    def pictures(self, cfg: edict) -> list:
        names = self.images(cfg)[0]
        held = {folder: iter(find_images(root, [listed for f, listed in map(self._parts, names) if f == folder]))
                for folder, root in self._roots(cfg).items()}
        return [next(held[self._parts(name)[0]]) for name in names]

    def picture(self, cfg: edict, name: str) -> Optional[AnyPicture]:
        folder, listed = self._parts(name)
        return find_image(self._roots(cfg)[folder], listed)

    def check_faces(self, cfg: edict, pictures: Sequence, face: FaceFormat) -> None:
        """Raise ValueError if the faces, masked or not, are aligned in another way than `face` needs."""
        parts = [self._parts(name)[0] for name in self.images(cfg)[0]]
        for folder, root in self._roots(cfg).items():
            held = [picture for part, picture in zip(parts, self.pictures(cfg)) if part == folder]
            check_alignment(root, held, face, cfg.assume_format)

    def _roots(self, cfg):
        """Return {folder: where its pictures lie}."""
        masked = self.options(cfg)['masked_root']
        if not is_root(masked):
            raise FileNotFoundError(f"{masked or '--masked_root is not given'}: no such folder of masked faces; "
                                    "prepare.py masks writes them")
        return {folder: masked if folder else cfg.root_path for folder in self.folders}

    def _takes_listed(self, cfg, result):
        # all pictures with all would be masked with masked and plain with plain as well: another question
        return len(set(self.folders)) > 1 or super()._takes_listed(cfg, result)


class SmallLfw(LfwVariant):
    """LFW's pairs of faces with so many pixels a side."""

    def __init__(self, side: int):
        if not LOWEST <= side <= HIGHEST:
            raise ValueError(f"a resolution of {side} pixels is out of range; allowed: {LOWEST} to {HIGHEST}")
        self.side, self.folders = side, (f'{side}px/',) * 2
        self.name, self.title = f'lfw_{side}px', f'LFW {side} px'

    def pictures(self, cfg: edict) -> list:
        names = [self._parts(name)[1] for name in self.images(cfg)[0]]
        return list(pictures_of(Small(find_images(cfg.root_path, names), self.side)))

    def picture(self, cfg: edict, name: str) -> Optional[AnyPicture]:
        path = find_image(cfg.root_path, self._parts(name)[1])
        return None if path is None else Picture(Small([path], self.side), 0)


class Small:
    """Pictures as a source (src/data/pictures.py) of the same test faces after they had `side` pixels a side."""

    def __init__(self, pictures: Sequence, side: int):
        self.pictures, self.side = pictures, side
        self.path, self.names = f'{side} pixels', pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def data(self, row: int) -> bytes:
        """Return test face `row`, blurred, as the bytes of a PNG. Raises FileNotFoundError or ValueError."""
        image = read_face(self.pictures[row], 'BGR')
        test_side = _CROPPED.get(image.shape[0]) if image.shape[0] == image.shape[1] else None
        image = centre_crop(image, test_side) if test_side else image
        if (image == image[..., :1]).all():
            image = np.ascontiguousarray(image[..., 0])
        return encode(resize(resize(image, self.side), image.shape[0]), 'BGR', '.png')


def small_lfw(name: str) -> Optional[SmallLfw]:
    """Return the protocol that a name such as lfw_16px means, None for another name."""
    found = _SMALL.match(name)
    return SmallLfw(int(found.group(1))) if found else None


def resolution_names(resolutions: Sequence) -> list:
    """Return the names of the protocols of --resolutions, each once, small ones first."""
    return [SmallLfw(side).name for side in sorted(set(resolutions))]


def by_resolution(run: dict) -> list:
    """Return [(side or None for the pictures themselves, numbers)] of {name: Scored}, small ones first; [] without."""
    small = sorted(((scored.protocol.side, scored.numbers) for scored in run.values()
                    if isinstance(scored.protocol, SmallLfw)), key=lambda row: row[0])
    whole: Any = [(None, run['lfw'].numbers)] if 'lfw' in run else []
    return small + whole if small else []


def resolution_lines(run: dict) -> list:
    """Return a table of {name: Scored} by resolution, a row each; [] without --resolutions."""
    rows = by_resolution(run)
    lines = [f"{'LFW by resolution':<20}{'100%eer':>9}{'95 % interval':>19}{'tpr@far=0.1%':>15}{'95 % interval':>17}"]
    for side, numbers in rows:
        interval, far = numbers['interval95'], '0.001'
        name = f'{side} pixels' if side else 'as they are'
        lines.append(f"  {name:<18}{show(numbers['eer100'])} {span(interval['eer100'])}"
                     f"{show(numbers['tpr_at_far'].get(far)):>15}{span(interval['tpr_at_far'].get(far, (None,)))[1:]}")
    return lines if rows else []


def resolution_figure(runs: dict) -> list:
    """Return [(title, SVG)] of the 100%-EER over the resolution of {label: {name: Scored}}, [] without --resolutions.

    Bars are 95 % intervals, a dotted line the pictures as they are.
    """
    held = {label: by_resolution(run) for label, run in runs.items() if by_resolution(run)}
    sides = sorted({side for rows in held.values() for side, _ in rows if side})

    def draw(axes: Any) -> None:
        for (label, rows), colour in zip(held.items(), COLOURS * len(held)):
            points = [(side, numbers['eer100'], numbers['interval95']['eer100']) for side, numbers in rows if side]
            x, y, spans = zip(*points)
            bars = [[0 if None in ends else abs(value - ends[i]) for value, ends in zip(y, spans)] for i in (0, 1)]
            axes.errorbar(x, y, bars, label=label, color=colour, marker='o', capsize=3)
            for _, numbers in (row for row in rows if row[0] is None):
                axes.axhline(numbers['eer100'], color=colour, linestyle=':')
        axes.set_xticks(sides, map(str, sides))
        axes.minorticks_off()
        if len(held) > 1:
            axes.legend()
    return [('LFW by resolution', svg_figure(draw, '100%-EER, %', 'pixels a side', of='resolutions', xscale='log'))
            ] if held else []


LFW_MASKED, LFW_BOTH_MASKED = MaskedLfw(both=False), MaskedLfw(both=True)
