"""Softmax over a linear layer, and what other losses make of it.

Plain: as LightCNN's authors train (arXiv:1511.02683). L2-softmax: Ranjan et al., arXiv:1703.09507. The heads `center`,
`git` and `ring` are plain softmax with one of src/heads/penalties.py, as their papers have it.
"""
import numpy as np
from mindspore import Parameter, Tensor, ops

from src.heads.head import Head, unit
from src.initializers import Init
from src.options import Option

BIAS = Option(True, meaning='whether every class has a bias')


class Softmax(Head):
    """logits = x W' + b."""

    OPTIONS = {'bias': BIAS}

    def __init__(self, num_classes: int, embedding_size: int, init: Init, options: dict):
        super().__init__(num_classes, embedding_size, init, options)
        zeros = Tensor(np.zeros(num_classes, np.float32))
        self.bias = Parameter(zeros, name='bias') if options['bias'] else None
        self.matmul = ops.MatMul(transpose_b=True)

    def initial_weight(self, init: Init) -> Tensor:
        """Return the first class weight: embeddings of length 16 and unit weights would start a softmax far off."""
        return super().initial_weight(init) * (0.1 if init.name == 'centred' else 1.0)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return x weight' + b: (N, D) x (C, D)' -> (N, C)."""
        logits = self.matmul(x.astype(weight.dtype), weight)
        return logits if self.bias is None else logits + self.bias

    def logits(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return (N, C)."""
        return self.linear(embedding, self.weight)


class L2Softmax(Softmax):
    """logits = scale * x / |x| W' + b; `reading` gluon: the vector of logits is what gets the length `scale`."""

    OPTIONS = {
        'bias': BIAS,
        'scale': Option(16.0, 0.001, 1e4, 'the length that every embedding gets'),
        'reading': Option('paper', ('paper', 'gluon'), None, 'what gets that length: the embedding, or (gluon-face '
                          "as it stands) a row of logits"),
    }

    def logits(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return (N, C)."""
        scale = self.options['scale']
        if self.options['reading'] == 'gluon':
            return scale * unit(self.linear(embedding, self.weight))
        return self.linear(scale * unit(embedding), self.weight)


class CenterSoftmax(Softmax):
    """Plain softmax with center loss."""

    OPTIONS = {'bias': Option(False, meaning=BIAS.meaning), 'center': Option(0.01, 0.0, 1e6, 'weight of center loss')}


class GitSoftmax(CenterSoftmax):
    """Plain softmax with Git loss: center loss, and a push from the other centres of the batch."""

    OPTIONS = {**CenterSoftmax.OPTIONS, 'git': Option(0.5, 0.0, 1e6, "weight of Git loss's push")}


class RingSoftmax(Softmax):
    """Softmax over class vectors of length 1, with Ring loss."""

    OPTIONS = {
        'bias': Option(False, meaning=BIAS.meaning),
        'weight_norm': Option(True, meaning='whether class vectors are taken at length 1'),
        'ring': Option(0.01, 0.0, 1e6, 'weight of Ring loss'),
    }

    def logits(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return (N, C)."""
        return self.linear(embedding, unit(self.weight) if self.options['weight_norm'] else self.weight)
