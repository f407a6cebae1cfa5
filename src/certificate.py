"""Is the training set clean of the test people? How many people and pictures of a test set are known to be in it.

    certify(runs.values(), cfg, source)          # numbers['training_set'] of each `Scored`

Known is what the fingerprint of the training set holds (src/data/fingerprint.py): of the checkpoint, or the file that
--fingerprint names. Without one the answer is "unknown": None.
"""
from collections.abc import Iterable
from typing import Any, Optional

import numpy as np
from easydict import EasyDict as edict

from src.data import fingerprint
from src.data.face_format import FACE_FORMATS
from src.data.lists import file_sha256


def certify(all_scored: Iterable, cfg: edict, source: Any, file: Optional[str] = None) -> None:
    """Put into the numbers of every `Scored` how many of its people and pictures are known to be trained on.

    source: the `sources.Source` of the features. file: a fingerprint that is to be believed, None for that of the
    network. Raises FileNotFoundError or ValueError for a `file` that is none.
    """
    network = source.network
    if file:
        held, reason = fingerprint.read(file), ''
    elif network is None:
        held, reason = None, 'the features come without a network; --fingerprint names its training set'
    else:
        held, reason = fingerprint.fingerprint_of(network.file)
    records: dict = {}
    for scored in all_scored:
        scored.numbers['training_set'] = _unknown(reason) if held is None else \
            _overlap(scored.protocol, cfg, held, source, records)


def _unknown(reason):
    return {'people': None, 'pictures': None, 'reason': reason}


def _overlap(kind, cfg, held, source, records):
    """Return the numbers of one protocol. records: {key: RECORD} of the pictures that were looked at before."""
    names, labels = kind.images(cfg)
    keys = [kind.key(name) for name in names]
    alignment = source.network.face_format.alignment if source.network else held.alignment
    face = next(face for face in FACE_FORMATS.values() if face.alignment == alignment)
    new = {key: picture for key, picture in zip(keys, kind.pictures(cfg)) if key not in records}
    records.update(zip(new, fingerprint.file_records(list(new.values()), face, cfg.num_workers)))
    same_network = len(held.centres) and source.network and source.network.file and \
        file_sha256(source.network.file) == held.weights
    features = source.of(kind)(names) if same_network else None
    labels = np.asarray(labels)
    found = fingerprint.overlap(held, np.array([records[key] for key in keys], fingerprint.RECORD), names, labels,
                                alignment, features=features)
    reason = '' if alignment == held.alignment else f"the training faces are aligned as '{held.alignment}', so " \
        'pictures are known by the bytes of their files only'
    return {'people': len(found['people']), 'pictures': len(found['pictures']), 'people_by_name': len(found['by_name']),
            'people_by_picture': len(found['by_picture']),
            'people_by_centre': len(found['by_centre']) if same_network else None,
            'num_people': len(np.unique(labels)), 'num_pictures': len(names), 'train_people': held.num_people,
            'train_pictures': held.num_pictures, 'complete': held.complete, 'reason': reason,
            'names': [names[row] for row in found['pictures'][:20]]}
