"""card.json beside the checkpoints: what a training was made of, and the sha256 of its weights after its first steps.

    card = Card(ckpt_dir, cfg, recipe, device, Listed(faces), stage)
    with card:                                  # hashes the pictures in the background
        card.begin(first, faces, started_from)
        ...                                     # card.weights(done, step), card.checkpoint(file, done, step)

`python verify.py card.json --dataset_path faces` does the steps again (src/training/repeat.py). Costs: the pictures
are read once more, by one thread beside the training; the weights are hashed after the steps MARKS and with every
checkpoint, 0.07 s for 100 MB with the ranks waiting at those steps. Only rank 0 writes, whole files only. A run that
goes on keeps what is there.
"""
import hashlib
import json
import os
import platform
import sys
import threading
from pathlib import Path
from typing import Any, Optional

import numpy as np

from src.data import digests, lists
from src.data.digests import Listed, is_hex
from src.device import Device
from src.training import checkpoint
from src.training.fingerprints import list_id_of

FILE, FORMAT = 'card.json', 1
MARKS = (1, 2, 5, 10, 20)        # steps after which the weights are hashed; with sinks, those that a sink ends with
MAX_BYTES = 16 * 2 ** 20
MAX_STEPS = 10_000               # that a card may ask to be done again
_SRC = Path(__file__).resolve().parent.parent


def reaches_mark(done: int, before: int, num_steps: int) -> bool:
    """Whether the weights are hashed after `done` steps; `before`: those done one step, or one sink, earlier."""
    return done in MARKS or before < MARKS[-1] <= done or done == num_steps < MARKS[-1]


def weights_sha256(step: Any) -> str:
    """Return the sha256 over all parameters of the network by name: name, type, shape and bytes of each."""
    digest = hashlib.sha256()
    for parameter in sorted([*step.weights, *step.state], key=lambda p: p.name):
        array = parameter.asnumpy()
        digest.update(f'{parameter.name} {array.dtype} {array.shape}\n'.encode())
        digest.update(np.ascontiguousarray(array))               # where it lies: a class weight has gigabytes
    return digest.hexdigest()


def settings_sha256(settings: dict) -> str:
    """Return the sha256 of settings, written as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def code_sha256() -> str:
    """Return the sha256 of this program's own sources."""
    digest = hashlib.sha256()
    for file in sorted(_SRC.rglob('*.py')):
        digest.update(f'{file.relative_to(_SRC)}\n'.encode() + file.read_bytes())
    return digest.hexdigest()


def machine_of(device: Device) -> dict:
    """Return what the bits of a training may depend on beside the software: processor or card, and how many."""
    text = Path('/proc/cpuinfo').read_text(errors='replace') if os.path.exists('/proc/cpuinfo') else ''
    told = dict(line.split('\t', 1) for line in text.split('\n\n')[0].splitlines() if '\t' in line)
    flags = told.get('flags', told.get('Features', '')).split()
    isa = next((name for name in ('avx512f', 'avx2', 'avx', 'asimd') if name in flags), platform.machine())
    held = os.environ.get('ONEDNN_MAX_CPU_ISA')
    return {'target': device.target, 'processor': told.get('model name', '').strip(' :') or platform.machine(),
            'isa': f'{isa}, held to {held}' if held else isa, 'cores': len(os.sched_getaffinity(0)),
            'ranks': device.rank_size}


class Card:
    """The card of one run; only rank 0 writes. Used as a context, it waits for the pictures' digests at the end."""

    def __init__(self, ckpt_dir: str, settings: dict, recipe: str, device: Device, listed: Listed,
                 stage: Optional[tuple] = None):
        self.file, self.listed, self.is_writer = os.path.join(ckpt_dir, FILE), listed, device.rank == 0
        self.is_same = True
        self._stop, self._thread, self._lock = threading.Event(), None, threading.Lock()
        if self.is_writer:
            settings = json.loads(json.dumps(settings))
            self.held = {'format': FORMAT, 'recipe': recipe, 'settings': settings,
                         'settings_sha256': settings_sha256(settings), 'seed': settings['seed'],
                         'stage': {'number': stage[0], 'of': stage[1]} if stage else None,
                         'versions': checkpoint.versions(), 'code': code_sha256(), 'machine': machine_of(device),
                         'started_from': None, 'data': None, 'steps': [], 'last_checkpoint': None, 'resumed': []}

    def begin(self, first: int, faces: Any, started_from: Optional[str]) -> None:
        """Write a new card, or, after `first` steps, go on with the one that is there; hash what is not hashed yet."""
        if not self.is_writer:
            return
        if first:
            self._go_on(first)
        elif started_from:
            self.held['started_from'] = {'file': os.path.basename(started_from),
                                         'sha256': lists.file_sha256(started_from)}
        self._add()
        if self.held['data'] is None:
            self._thread = threading.Thread(target=self._run, args=(faces,), name='card', daemon=True)
            self._thread.start()

    def _go_on(self, first):
        try:
            before = read_card(self.file)
        except (OSError, ValueError):                    # begun by an older version, or in another folder
            self.is_same = False
            return
        differs = [key for key in ('settings_sha256', 'versions', 'code', 'machine', 'recipe')
                   if before[key] != self.held[key]]
        self.is_same = not differs
        self.held = {**before, 'resumed': [*before['resumed'], {'step': first, 'differs': differs}][-100:]}

    def weights(self, done: int, step: Any) -> None:
        """Take in the weights after `done` steps; not of a run that goes on otherwise than it began."""
        known = {mark['step'] for mark in self.held['steps']} if self.is_writer else set()
        if self.is_writer and self.is_same and done > max(known, default=0):
            self._add(steps=[*self.held['steps'], {'step': done, 'weights': weights_sha256(step)}])

    def checkpoint(self, file: str, done: int, step: Any) -> None:
        """Take in a checkpoint that was saved after `done` steps."""
        if self.is_writer:
            metadata = lists.read_json(checkpoint.metadata_file(file))
            self._add(last_checkpoint={'file': os.path.basename(file), 'step': done, 'sha256': metadata['sha256'],
                                       'weights': weights_sha256(step)})

    def _add(self, **values):
        with self._lock:
            self.held.update(values)
            lists.write_text(self.file, json.dumps(self.held, indent=1) + '\n')

    def _run(self, faces):
        try:
            data = digests.digests(self.listed, self._stop.is_set)
            if data is not None:
                self._add(data={'list_sha256': list_id_of(faces), **data})
        except (OSError, ValueError) as error:
            print(f"warning: {self.file}: the pictures are not in it ({error})", file=sys.stderr, flush=True)

    def __enter__(self) -> 'Card':
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        """Wait for the pictures' digests, or leave off if the training was cut off: a run that goes on makes them."""
        if kind is not None:
            self._stop.set()
        if self._thread is not None:
            self._thread.join()


def read_card(file: str) -> dict:
    """Return a card after checking all of it. Raises FileNotFoundError, or ValueError for what is none."""
    if os.path.isfile(file) and os.path.getsize(file) > MAX_BYTES:
        raise ValueError(f"{file}: {os.path.getsize(file)} bytes, a card has at most {MAX_BYTES}")
    held = lists.read_json(file, f'no such card; a training writes {FILE} beside its checkpoints')
    try:
        _check(held)
        if held['data'] is not None:
            digests.check_digests(held['data'])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f'{error} is missing' if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{file}: not a reproduction card ({reason[:160]})") from None
    return held


def _check(held):
    """Raise ValueError, KeyError, TypeError or AttributeError unless `held` has the parts of a card."""
    if not isinstance(held, dict) or held['format'] != FORMAT:
        raise ValueError(f'expected a card of format {FORMAT}')
    kinds = {'recipe': str, 'settings': dict, 'versions': dict, 'machine': dict, 'steps': list, 'resumed': list,
             'seed': int, 'code': str, 'settings_sha256': str}
    wrong = [key for key, kind in kinds.items() if not isinstance(held[key], kind)]
    if wrong:
        raise ValueError(f'{wrong[0]} is of another kind')
    numbers, of = [0, *(mark['step'] for mark in held['steps'])], held['stage']
    good = all(type(a) is int and a < b <= MAX_STEPS for a, b in zip(numbers, numbers[1:])) and \
        all(is_hex(mark['weights'], 64) for mark in held['steps']) and \
        all(isinstance(text, str) for text in held['versions'].values()) and \
        type(held['machine']['ranks']) is int and isinstance(held['machine']['target'], str) and \
        (of is None or type(of['number']) is type(of['of']) is int and 1 <= of['number'] <= of['of'] <= 1000) and \
        (held['data'] is None or is_hex(held['data']['list_sha256'], 64))
    for key in ('started_from', 'last_checkpoint'):
        part = held[key]
        good = good and (part is None or is_hex(part['sha256'], 64) and is_plain(part['file']))
    if not good:
        raise ValueError('one of its parts is of another kind')


def is_plain(name: Any) -> bool:
    """Whether `name` is the name of a file without a folder."""
    return isinstance(name, str) and name == os.path.basename(name) and name not in ('', '.', '..') and '\0' not in name

