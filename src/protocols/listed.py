"""The image lists of LFW and BLUFR: the user's list file, or derived from the protocol file if that is missing."""
import os
from collections.abc import Callable

import numpy as np

from src.data import lists


def listed_images(list_file: str, blufr_mat: str, derive: Callable) -> tuple:
    """Return (names, labels (N,)) of a list file, or derive(the BLUFR protocol) if it is missing."""
    if not os.path.exists(list_file):
        return _derived(derive, lists.load_blufr(blufr_mat))
    names, labels = lists.read_image_list(list_file)
    wrong = np.flatnonzero((labels < 0) | (labels > len(names)))
    if len(wrong):
        raise ValueError(f"{list_file}: label {labels[wrong[0]]} of {names[wrong[0]]} is not in 0..{len(names)} "
                         f"({len(wrong)} such labels); expected the number of a person")
    return names, labels


_DERIVED = {}                    # an evaluation asks several times: {derive: (protocol, names and labels)}


def _derived(derive: Callable, protocol: lists.Blufr) -> tuple:
    if _DERIVED.get(derive, (None,))[0] is not protocol:
        _DERIVED[derive] = protocol, derive(protocol)
    return _DERIVED[derive][1]
