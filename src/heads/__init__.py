"""Every head by name. Adding one: a file in this folder with a `Head`, and a line in HEADS.

    head = build_head('cosface', 10575, 256, scale=64.0, margin=0.35)
    loss, hits = head(embedding, labels)                # (N, 256) float32, not normalised; (N,) int32
"""
from collections.abc import Mapping
from typing import Any, Optional

from src.heads.adaptive import AdaCos, AdaFace, MagFace
from src.heads.arcface import ArcFace, Combined, ExpFace, SubcenterArcFace
from src.heads.cosface import AdaMSoftmax, CosFace, NormFace
from src.heads.hard_negatives import (
    ArcNegFace,
    CircleLoss,
    CurricularFace,
    MVArcSoftmax,
    MVSoftmax,
    NPCFace,
    SVXSoftmax,
)
from src.heads.head import Head, option_table
from src.heads.lgm import LGM
from src.heads.pairs import MPS, Contrastive
from src.heads.softmax import CenterSoftmax, GitSoftmax, L2Softmax, RingSoftmax, Softmax
from src.heads.sphereface import SphereFace, SphereFaceR
from src.heads.triplet import Triplet
from src.heads.unified import UnifiedCosFace, UnifiedExpFace
from src.initializers import Init
from src.options import checked_options, entry

HEADS = {
    'softmax': Softmax,
    'l2_softmax': L2Softmax,
    'normface': NormFace,
    'cosface': CosFace,
    'arcface': ArcFace,
    'combined': Combined,
    'subcenter_arcface': SubcenterArcFace,
    'expface': ExpFace,
    'sphereface': SphereFace,
    'sphereface_r': SphereFaceR,
    'adam_softmax': AdaMSoftmax,
    'adacos': AdaCos,
    'adaface': AdaFace,
    'magface': MagFace,
    'mv_softmax': MVSoftmax,
    'mv_arc_softmax': MVArcSoftmax,
    'svx_softmax': SVXSoftmax,
    'arcnegface': ArcNegFace,
    'curricularface': CurricularFace,
    'npcface': NPCFace,
    'circle': CircleLoss,
    'unified_cosface': UnifiedCosFace,
    'unified_expface': UnifiedExpFace,
    'center': CenterSoftmax,
    'git': GitSoftmax,
    'ring': RingSoftmax,
    'lgm': LGM,
    'triplet': Triplet,
    'contrastive': Contrastive,
    'mps': MPS,
}

ALIASES = {                                  # {another name in the literature: the name here}
    'l2softmax': 'l2_softmax', 'norm_softmax': 'normface', 'nsoftmax': 'normface', 'coco': 'normface',
    'coco_loss': 'normface', 'naiveface': 'normface', 'am_softmax': 'cosface', 'cos_loss': 'cosface',
    'lmcl': 'cosface', 'arc_loss': 'arcface', 'arc_softmax': 'arcface', 'combined_margin': 'combined',
    'combined_margin_loss': 'combined', 'power_face': 'expface', 'a_softmax': 'sphereface',
    'sphereface_r_v2': 'sphereface_r', 'adam': 'adam_softmax',
    'adaptiveface': 'adam_softmax', 'mv_am_softmax': 'mv_softmax', 'mv_softmax_am': 'mv_softmax',
    'mv_am': 'mv_softmax', 'mv_softmax_arc': 'mv_arc_softmax', 'mv_arc': 'mv_arc_softmax', 'svx': 'svx_softmax',
    'svx_am': 'svx_softmax', 'sv_x_softmax': 'svx_softmax', 'arcneg': 'arcnegface', 'curricular': 'curricularface',
    'circle_loss': 'circle', 'npc': 'npcface', 'unified': 'unified_cosface', 'uniface': 'unified_cosface',
    'sub_center_arcface': 'subcenter_arcface', 'subcenter': 'subcenter_arcface', 'center_loss': 'center',
    'git_loss': 'git', 'ring_loss': 'ring', 'lgm_loss': 'lgm', 'triplet_loss': 'triplet',
    'contrastive_loss': 'contrastive', 'mps_loss': 'mps',
}


def plain(name: str) -> str:
    """Return a name in small letters, without what papers and repositories write between its parts."""
    return ''.join(letter for letter in name.lower() if letter.isalnum())


_PLAIN = {plain(name): known for name, known in [*ALIASES.items(), *((name, name) for name in HEADS)]}


def head_class(name: str) -> type:
    """Return the class of a head, also for AM-Softmax or CircleLoss; ValueError lists the known names."""
    return entry('head', HEADS, name if name in HEADS else _PLAIN.get(plain(name), name))


def head_options(name: str, given: Mapping) -> dict:
    """Return all options of a head, `given` ones checked; ValueError for what it does not take."""
    return checked_options(f'head {name}', option_table(head_class(name)), given)


def build_head(name: str, num_classes: int, embedding_size: int, *, init: Optional[Init] = None,
               **options: Any) -> Head:
    """Return the head `name`: loss, hits = head(embedding (N, D), labels (N,) int32); embeddings are not normalised.

    embedding: float32, float16 or bfloat16; labels: of any integer type, 0 to num_classes - 1. init: where initial
    weights come from; None: seed 1. Raises ValueError for an unknown name or option, or one that is out of range.
    """
    for what, size in (('num_classes', num_classes), ('embedding_size', embedding_size)):
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"head {name}: {what}={size!r}, expected a whole number of 1 or more")
    return head_class(name)(num_classes, embedding_size, init or Init('xavier', 1), head_options(name, options))
