"""The fingerprint beside the checkpoints: made in the background while the network trains, found again by evaluation.

    with Maker(faces, 'ckpt') as maker:          # rank 0
        maker.begin(started_from)
        ...                                      # train; maker.link() goes into the metadata of every checkpoint

    held, reason = fingerprint.fingerprint_of('ckpt/best.ckpt')  # None and why, where nothing is known

A folder's pictures are read once more, by one thread: 0.2 ms of CPU each, so 5 million take a quarter of an hour of one
core and as long as the disk needs, beside a training of days. What has been hashed is kept in fingerprint.partial,
where a run that goes on goes on. A pack of prepare.py pack brings its fingerprint along.
"""
import hashlib
import os
import sys
import threading
from typing import Any, Optional

import numpy as np

from src.data import fingerprint, lists
from src.data.fingerprint import RECORD
from src.data.images import find_image, list_id
from src.data.pack import fingerprint_file

FILE, PARTIAL, BASE = 'fingerprint.npz', 'fingerprint.partial', 'fingerprint.base.npz'
_CHUNK = 2000                    # pictures that are written at once
_PATIENCE = 5                    # seconds of waiting that need no word


class Maker:
    """Makes the fingerprint of the training faces, with that of the weights that the training began with."""

    def __init__(self, faces: Any, ckpt_dir: str):
        self.faces, self.ckpt_dir = faces, ckpt_dir
        self.id = list_id_of(faces)
        self.ids, self.complete, self.base = [self.id], True, None
        self._stop, self._thread = threading.Event(), None

    def begin(self, started_from: Optional[str] = None, *, resumed: bool = False) -> None:
        """Start. started_from: the checkpoint whose weights were loaded, None for new ones."""
        if started_from is not None:
            self._take_base(started_from, resumed)
        if not self._is_made():
            self._thread = threading.Thread(target=self._run, name='fingerprint', daemon=True)
            self._thread.start()

    def _take_base(self, ckpt, resumed):
        link = fingerprint.link_in(ckpt)
        if resumed and link and link['ids'] == [self.id]:        # the same training: nothing came before it
            self.complete = link['complete']
            return
        kept = os.path.join(self.ckpt_dir, BASE)
        if resumed and os.path.isfile(kept):
            self.base = _read_or_none(kept)
        else:
            self.base = fingerprint.fingerprint_of(ckpt)[0]
            if self.base is not None:
                fingerprint.write(kept, self.base)
        self.complete = self.base is not None and self.base.complete
        self.ids = list(dict.fromkeys(self.ids + (self.base.ids if self.base else [])))

    def _is_made(self):
        held = _read_or_none(self._path(FILE))
        return held is not None and set(self.ids) <= set(held.ids) and held.complete == self.complete

    def _path(self, name):
        return os.path.join(self.ckpt_dir, name)

    def link(self) -> dict:
        """Return what the metadata of a checkpoint say about the fingerprint."""
        return {'file': FILE, 'ids': self.ids, 'complete': self.complete}

    def finish(self) -> None:
        """Wait until the fingerprint is written."""
        if self._thread is not None:
            self._thread.join(_PATIENCE)
            if self._thread.is_alive() and not self._stop.is_set():
                print(f"finishing {self._path(FILE)}: the pictures of the training set are still being hashed",
                      flush=True)
            self._thread.join()

    def __enter__(self) -> 'Maker':
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        """Wait for the end, or leave off and keep what is hashed if the training was cut off."""
        if kind is not None:
            self._stop.set()
        self.finish()

    def _run(self):
        try:
            own = self._from_pack() or self._from_pictures()
            if own is None:                                      # told to leave off
                return
            began_new = self.complete and self.base is None
            fingerprint.write(self._path(FILE), own if began_new else fingerprint.merged(own, self.base))
            for name in (PARTIAL, BASE):
                if os.path.exists(self._path(name)):
                    os.remove(self._path(name))
        except (OSError, ValueError) as error:
            print(f"warning: {self._path(FILE)}: no fingerprint of the training set is made ({error})",
                  file=sys.stderr, flush=True)

    def _from_pack(self):
        """Return the fingerprint that stands beside a pack, None without one."""
        file = fingerprint_file(self.faces.list_file)
        if not hasattr(self.faces, 'pack') or not os.path.isfile(file):
            return None
        held = fingerprint.read(file)
        return held if held.ids == [self.id] else None

    def _from_pictures(self):
        """Return the fingerprint of all pictures, hashed from where an earlier run left off; None if stopped."""
        count, header = len(self.faces), hashlib.sha256(f'{self.id} {len(self.faces)}'.encode()).digest()
        with open(self._path(PARTIAL), 'ab+') as partial:
            partial.seek(0)
            if partial.read(len(header)) != header:
                partial.truncate(0)
                partial.write(header)
            done = max(0, os.path.getsize(self._path(PARTIAL)) - len(header)) // RECORD.itemsize
            partial.truncate(len(header) + done * RECORD.itemsize)
            for start in range(done, count, _CHUNK):
                rows = range(start, min(start + _CHUNK, count))
                records = [self._record(row) for row in rows if not self._stop.is_set()]
                if self._stop.is_set():
                    return None
                partial.write(np.array(records, RECORD).tobytes())
                partial.flush()
        records = np.fromfile(self._path(PARTIAL), RECORD, offset=len(header))
        names = getattr(self.faces, 'names', [])
        people = dict.fromkeys(map(fingerprint.person_in, names))
        return fingerprint.of_records(records, people, len(np.unique(self.faces.labels)), list_id=self.id,
                                      alignment=self.faces.face.alignment)

    def _record(self, row):
        faces = self.faces
        if hasattr(faces, 'names'):
            picture = faces.pictures[row] if faces.pictures else find_image(faces.root, faces.names[row])
            return fingerprint.file_record(picture, faces.face)
        try:
            image = faces.pack.face(row)                         # at its full size, unlike a training face
        except (OSError, ValueError):
            return np.zeros((), RECORD)
        return fingerprint.record_of(None, image, faces.face, faces.pack.face_format.colour)


def list_id_of(faces: Any) -> str:
    """Return what tells a training set from others: the sha256 of its list."""
    if hasattr(faces, 'pack'):
        held = lists.read_json(faces.list_file).get('list_sha256')
        if isinstance(held, str):
            return held
    return list_id(faces.list_file)


def _read_or_none(file):
    try:
        return fingerprint.read(file)
    except (OSError, ValueError):
        return None
