"""Do the first steps of a training again, from its card: equal bit by bit, or what differs first.

    result = verify('ckpt/card.json', 'faces', device)
    result.difference            # None, or 'data: ...', 'settings: ...', 'versions: ...', 'step 5: ...'

A card comes from outside: all of it is checked before any of it is used, files are looked for under `dataset_path` and
beside the card only, and nothing of it is carried out.
"""
import os
import tempfile
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Optional

from easydict import EasyDict as edict

from src.config import RECIPES, check_config
from src.data import digests, lists
from src.data.digests import Listed
from src.dataset import open_faces
from src.device import Device
from src.settings import PATH_KEYS, lightcnn_cfg
from src.training import checkpoint
from src.training.fingerprints import list_id_of
from src.training.guards import StopSignals, Watchdog
from src.training.reproduction import code_sha256, machine_of, read_card, settings_sha256, weights_sha256
from src.training.stages import folder_of
from src.training.trainer import Stage, Training

# settings that say where files lie, how often something is written and how fast, and change no weight
_NO_MATTER = (*PATH_KEYS, 'num_workers', 'cache_images_mb', 'log_steps', 'progress_file', 'save_checkpoint_steps',
              'keep_checkpoint_max', 'check_every', 'hang_seconds', 'protocol_options', 'assume_format')


class Result(NamedTuple):
    """What came of it. difference: None, or one line. steps: those whose weights were equal. notes: lines."""

    difference: Optional[str]
    steps: list
    notes: list


class _Different(Exception):
    """The weights after a step are not those of the card."""


class _Compared:
    """In the place of a run's card: compares the weights with those of the card that is given."""

    def __init__(self, marks: list):
        self.expected, self.equal = {mark['step']: mark['weights'] for mark in marks}, []

    def weights(self, done: int, step: Any) -> None:
        """Raise _Different unless the weights after `done` steps are those of the card."""
        if done not in self.expected:
            return
        if weights_sha256(step) != self.expected[done]:
            last = f"they were still equal after step {self.equal[-1]}" if self.equal else \
                "it is the first that was compared"
            raise _Different(f"step {done}: the weights are not those of the card; {last}")
        self.equal.append(done)

    def checkpoint(self, *_: Any) -> None:
        """Nothing is saved."""


def verify(card_file: str, dataset_path: str, device: Device, *, finetune: Optional[str] = None,
           own: Optional[edict] = None) -> Result:
    """Repeat the steps that a card has the weights of.

    dataset_path: the folder with the pictures and their list. finetune: the weights that the training started from, if
    any. own: settings that should be those of the card. Raises ValueError or FileNotFoundError for a card that is none,
    or lacks what it takes: pictures, steps, as many ranks.
    """
    card = read_card(card_file)
    if card['data'] is None or not card['steps']:
        lacking = 'digests of the pictures' if card['steps'] else 'weights of a step'
        raise ValueError(f"{card_file}: holds no {lacking}: the training was stopped before they were made, or began "
                         "elsewhere")
    ranks = card['machine']['ranks']
    if ranks != device.rank_size:
        raise ValueError(f"{card_file}: is of {ranks} ranks, this is {device.rank_size}; start as many: msrun "
                         f"--worker_num={ranks} --local_worker_num={ranks} verify.py {card_file} --run_distribute ...")
    cfg = settings_of(card, dataset_path)
    notes = _notes(card, device)
    difference = _data_difference(card, cfg) or _settings_difference(card, own) or _versions_difference(card, device)
    if difference:
        return Result(difference, [], notes)
    start = _start(card, card_file, finetune)
    compared = _Compared(card['steps'])
    try:
        _repeat(card, cfg, device, start, compared)
    except _Different as error:
        return Result(str(error), compared.equal, notes)
    return Result(_checkpoint_difference(card, card_file, notes), compared.equal, notes)


def settings_of(card: dict, dataset_path: str) -> edict:
    """Return the checked settings of a card, with its files under `dataset_path`. Raises ValueError."""
    known = {key: value for key, value in card['settings'].items() if key in lightcnn_cfg}
    cfg = edict({**lightcnn_cfg, **known})
    check_config(cfg)
    if cfg.stages:
        raise ValueError('a card is of one stage; it has no stages')
    largest = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    if cfg.num_classes * 256 * 4 * 3 > largest:
        raise ValueError(f"num_classes={cfg.num_classes}: its class weight, momentum and gradient do not fit this "
                         f"machine's {largest / 2**30:.0f} GiB")
    if not os.path.isdir(dataset_path):
        raise FileNotFoundError(f"--dataset_path {dataset_path}: no such folder")
    for key in PATH_KEYS:
        cfg[key] = located(cfg[key], dataset_path)
    cfg.progress_file = ''                               # a card names no file that is written
    return cfg


def located(path: str, folder: str) -> str:
    """Return the longest end of `path` that exists under `folder`; where none does, its last name there."""
    parts = [part for part in PurePosixPath(path).parts if part not in ('/', '..', '.')] or ['.']
    ends = [os.path.join(folder, *parts[start:]) for start in range(len(parts))]
    return next((end for end in ends if os.path.exists(end)), ends[-1])


def _data_difference(card: dict, cfg: edict) -> Optional[str]:
    faces = open_faces(cfg)
    listed, then = Listed(faces), card['data']
    if len(listed) != then['num_pictures']:
        return f"data: {len(listed)} pictures here, {then['num_pictures']} in the card"
    found = digests.first_difference(listed, digests.digests(listed), then)
    if found:
        return f"data: {found}: not the bytes, or not the label, of the card's"
    if list_id_of(faces) != then['list_sha256']:
        return f"data: the list {faces.list_file}: the same pictures in the same order, but other names"
    return None


def _settings_difference(card: dict, own: Optional[edict]) -> Optional[str]:
    settings = card['settings']
    if settings_sha256(settings) != card['settings_sha256'] or settings.get('seed') != card['seed']:
        return 'settings: they are not those that the card was written with (sha256)'
    unknown, missing = sorted(set(settings) - set(lightcnn_cfg)), sorted(set(lightcnn_cfg) - set(settings))
    if unknown or missing:
        return f"settings: the card {f'has {unknown[0]}, unknown here' if unknown else f'does not have {missing[0]}'}"
    if card['recipe'] not in RECIPES:
        return f"settings: the recipe {card['recipe'][:60]!r} of the card is not known here"
    changed = [key for key in lightcnn_cfg if own is not None and key not in _NO_MATTER and own[key] != settings[key]]
    if changed:
        return f"settings: {', '.join(f'{key} {settings[key]} in the card, {own[key]} here' for key in changed)}"
    return None


def _versions_difference(card: dict, device: Device) -> Optional[str]:
    now, then = checkpoint.versions(), card['versions']
    changed = [key for key in sorted({*now, *then}) if now.get(key) != then.get(key)]
    if changed:
        told = (f"{key[:40]} {str(then.get(key))[:40]} in the card, {now.get(key)} here" for key in changed)
        return f"versions: {', '.join(told)}"
    if card['machine']['target'] != device.target:
        return f"machine: {card['machine']['target'][:40]} in the card, {device.target} here"
    return None


def _notes(card: dict, device: Device) -> list:
    """Return what else is other than it was, which may change bits and need not."""
    now, then = machine_of(device), card['machine']
    notes = [f"{key}: {str(then.get(key))[:80]} in the card, {now[key]} here" for key in ('processor', 'isa', 'cores')
             if now[key] != then.get(key)]
    return notes + ['code: the sources of this program are not those of the card'] * (card['code'] != code_sha256())


def _start(card: dict, card_file: str, finetune: Optional[str]) -> Optional[str]:
    """Return the checkpoint that a training started from, None if it started with new weights."""
    start, stage = card['started_from'], card['stage']
    if start is None:
        return None
    file = finetune
    if not file and stage and stage['number'] > 1:
        above = os.path.dirname(os.path.dirname(os.path.abspath(card_file)))
        file = os.path.join(folder_of(above, stage['number'] - 1), start['file'])
    if not file or not os.path.isfile(file):
        raise FileNotFoundError(f"{file or card_file}: the training started from {start['file']}; give it as "
                                "--finetune")
    if lists.file_sha256(file) != start['sha256']:
        raise ValueError(f"{file}: not the weights that the training started from, of sha256 {start['sha256']}")
    return file


def _repeat(card: dict, cfg: edict, device: Device, start: Optional[str], compared: _Compared) -> None:
    """Take the steps of a card again, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix='verify-') as folder:
        of = card['stage']
        stage = Stage(of['number'], of['of'], start if of['number'] > 1 else None) if of else None
        training = Training(cfg, device, card['recipe'], folder, stage)
        training.begin(None, start if not (of and of['number'] > 1) else None)
        training.log.is_writer = training.saver.is_writer = False
        training.card, training.num_steps = compared, card['steps'][-1]['step']
        training.run(StopSignals(False), Watchdog(0, folder), None, 0)


def _checkpoint_difference(card: dict, card_file: str, notes: list) -> Optional[str]:
    """Return what is wrong with the last checkpoint, if it is beside the card; the same weights have one sha256."""
    last = card['last_checkpoint']
    file = os.path.join(os.path.dirname(os.path.abspath(card_file)), last['file']) if last else ''
    if not os.path.isfile(file):
        notes.append('checkpoint: the last one is not beside the card; it was not compared')
    elif lists.file_sha256(file) != last['sha256']:
        return f"checkpoint: {last['file']} beside the card is not the one that it was written with"
    return None
