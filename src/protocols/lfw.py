"""LFW's 6,000 pairs, from lfw_pairs.mat (Huang et al., UMass TR 07-49)."""
from collections.abc import Callable
from typing import Any, Optional

import numpy as np
from easydict import EasyDict as edict

from src.data import lists
from src.data.images import find_images
from src.data.pairs import tenths
from src.device import Device
from src.protocols.listed import listed_images
from src.protocols.pairs import PairProtocol, measure_pairs, pair_numbers
from src.protocols.protocol import warn, warn_of_duplicates
from src.scoring import metrics


class Lfw(PairProtocol):
    """6,000 pairs of faces, half of them of one person."""

    name, title = 'lfw', 'LFW'

    def images(self, cfg: edict) -> tuple:
        """Return (names, labels) in the order that lfw_pairs.mat counts."""
        return listed_images(cfg.lfw_img_list, cfg.blufr_config_mat_path, lists.list_for_lfw)

    def measure(self, cfg: edict, features_of: Callable) -> dict:
        """Return the result of the pairs with 'people' (P, 2), genuine pairs first; folds as insightface's lfw.bin."""
        names, labels = self.images(cfg)
        pairs = lists.load_lfw_pairs(cfg.lfw_pairs_mat_path, len(names))
        features = features_of(names)
        rows, same = np.concatenate(pairs), np.arange(len(pairs[0]) + len(pairs[1])) < len(pairs[0])
        result = measure_pairs(features, rows, same, grid_folds=tenths(same), names=names)
        people = people_of_lfw(names, labels, pairs, cfg.lfw_img_list)
        warn_of_duplicates(features, names, people)
        return {**result, 'people': people[rows], 'person': people, 'people_known': True}


def people_of_lfw(names: list, labels: np.ndarray, pairs: tuple, file: str) -> np.ndarray:
    """Return a number per person (N,): the labels, or where they contradict the pairs the persons in the names.

    names, labels: of LFW's list. pairs: (genuine, impostor) rows (P, 2). file: of the list, for the warning.
    """
    share = np.mean(labels[pairs[0][:, 0]] != labels[pairs[0][:, 1]])
    if share <= 0.05:                                            # LFW's own errata are less than 1 %
        return labels
    warn(f"{file}: the two labels of {100 * share:.0f} % of the genuine pairs differ; the people of the intervals are "
         "taken from the file names instead")
    return np.unique([lists.person_of(name) for name in names], return_inverse=True)[1]


def threshold_for(far: float, result: dict) -> float:
    """Return the threshold of LFW's pairs at a FAR; ValueError if they cannot resolve it."""
    num = len(result['impostor'])
    if not 0 <= far <= 1:
        raise ValueError(f"--threshold_for {far:g} is not a false accept rate; expected 0 to 1, such as 0.001")
    _, threshold = metrics.tpr_at_far(result['genuine'], result['impostor'], far)
    if np.isnan(threshold):
        raise ValueError(f"--threshold_for {far:g}: {num} impostor pairs cannot resolve it; the smallest FAR above 0 "
                         f"that they can is {1 / num:.3g}")
    return threshold


def lfw_scorer(cfg: edict, device: Device) -> Callable:
    """Return a function backbone -> LFW numbers in percent that embeds only the images that pairs use.

    All ranks call it together: each embeds its share, so that none waits for another longer than a collective may.
    Lists, protocol and images are looked up now, so that a missing file is an error before the training starts.
    """
    from src.embedding import embed, network_of
    names, _ = LFW.images(cfg)
    pairs = lists.load_lfw_pairs(cfg.lfw_pairs_mat_path, len(names))
    used, compact = np.unique(np.concatenate(pairs), return_inverse=True)
    genuine, impostor = np.split(compact.reshape(-1, 2), [len(pairs[0])])
    paths = find_images(cfg.root_path, [names[row] for row in used])

    def score_backbone(backbone: Any, face_format: Optional[str] = None) -> dict:
        network = network_of(backbone, face_format or cfg.face_format)
        features = np.zeros((len(paths), backbone.embedding_size), np.float32)
        mine = slice(device.rank, None, device.rank_size)
        features[mine] = embed(network, paths[mine], num_workers=cfg.num_workers)
        if device.rank_size > 1:
            from mindspore import Tensor, ops
            features = ops.AllReduce()(Tensor(features)).asnumpy()
        return pair_numbers(metrics.lfw(features, genuine, impostor))
    return score_backbone


LFW = Lfw()
