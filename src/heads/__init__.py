"""Every head by name. Adding one: a file in this folder with a `Head`, and a line in HEADS.

    head = build_head('cosface', 10575, 256, scale=64.0, margin=0.35)
    loss, hits = head(embedding, labels)                # (N, 256) float32, not normalised; (N,) int32
"""
from collections.abc import Mapping
from typing import Any, Optional

from src.heads.cosface import CosFace
from src.heads.head import Head
from src.heads.softmax import Softmax
from src.initializers import Init
from src.options import checked_options, entry

HEADS = {
    'softmax': Softmax,
    'cosface': CosFace,
}


def head_class(name: str) -> type:
    """Return the class of a head; ValueError lists the known names."""
    return entry('head', HEADS, name)


def head_options(name: str, given: Mapping) -> dict:
    """Return all options of a head, `given` ones checked; ValueError for what it does not take."""
    return checked_options(f'head {name}', head_class(name).OPTIONS, given)


def build_head(name: str, num_classes: int, embedding_size: int, *, init: Optional[Init] = None,
               **options: Any) -> Head:
    """Return the head `name`: loss, hits = head(embedding (N, D), labels (N,) int32); embeddings are not normalised.

    init: where initial weights come from; None: seed 1. Raises ValueError for an unknown name or option.
    """
    return head_class(name)(num_classes, embedding_size, init or Init('xavier', 1), head_options(name, options))
