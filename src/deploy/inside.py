"""What a deployed network can do by itself, besides embedding: scale pixels, add the mirror image, normalise.

    cell = Deployed(backbone, face, Inside(normalise=True, flip=True))
    features = expected(backbone, faces, face, inside)             # the same, computed without that cell
"""
from dataclasses import dataclass

import numpy as np
from mindspore import Tensor, nn, ops

from src.backbone import Backbone
from src.backbones.repvgg import RepVGG, merged
from src.data.face_format import FaceFormat

_SHORTEST = 1e-12


@dataclass(frozen=True)
class Inside:
    """normalise: embeddings of length 1. flip: the sum of a face's and its mirror image's. scaling: pixels go in."""

    normalise: bool = False
    flip: bool = False
    scaling: bool = False


class Deployed(nn.Cell):
    """(N, C, S, S) float32 -> (N, D) float32, with what `inside` asks for. RepVGG's branches are merged."""

    def __init__(self, network: Backbone, face: FaceFormat, inside: Inside):
        super().__init__(auto_prefix=False)
        self.network = merged(network) if isinstance(network, RepVGG) and not network.deploy else network
        self.channels, self.image_size = network.channels, network.image_size
        self.embedding_size, self.name = network.embedding_size, network.name
        self.scaling, self.flip, self.normalise = inside.scaling, inside.flip, inside.normalise
        self.mean, self.scale = face.mean, face.scale
        self.reverse = ops.ReverseV2(axis=[3])
        self.set_train(False)

    def construct(self, x):
        if self.scaling:
            x = (x - self.mean) / self.scale
        features = self.network(x)
        if self.flip:
            features = features + self.network(self.reverse(x))
        if self.normalise:
            squares = (features * features).sum(1, keepdims=True)                  # (N, D) -> (N, 1)
            features = features / ops.maximum(ops.sqrt(squares), _SHORTEST)
        return features


def expected(network: Backbone, faces: np.ndarray, inside: Inside) -> np.ndarray:
    """Return the features (n, D) that a file must give for faces (n, C, S, S), scaled as the network takes them."""
    features = network(Tensor(faces)).asnumpy()
    if inside.flip:
        features = features + network(Tensor(np.ascontiguousarray(faces[..., ::-1]))).asnumpy()
    if inside.normalise:
        features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), _SHORTEST)
    return features


def fed(faces: np.ndarray, face: FaceFormat, inside: Inside) -> np.ndarray:
    """Return faces as the file takes them: pixels where it scales them itself."""
    return np.rint(faces * np.float32(face.scale) + np.float32(face.mean)) if inside.scaling else faces
