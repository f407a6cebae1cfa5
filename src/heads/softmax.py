"""Plain softmax: cross-entropy of a linear layer, as LightCNN's authors train (arXiv:1511.02683)."""
import numpy as np
from mindspore import Parameter, Tensor, ops

from src.heads.head import Head, loss_and_hits
from src.initializers import Init
from src.options import Option


class Softmax(Head):
    """logits = x W' + b."""

    OPTIONS = {'bias': Option(True, meaning='whether every class has a bias')}

    def __init__(self, num_classes: int, embedding_size: int, init: Init, options: dict):
        super().__init__(num_classes, embedding_size, init, options)
        zeros = Tensor(np.zeros(num_classes, np.float32))
        self.bias = Parameter(zeros, name='bias') if options['bias'] else None
        self.matmul = ops.MatMul(transpose_b=True)

    def initial_weight(self, init: Init) -> Tensor:
        """Return the first class weight: embeddings of length 16 and unit weights would start a softmax far off."""
        return super().initial_weight(init) * (0.1 if init.name == 'centred' else 1.0)

    def construct(self, embedding, labels):
        logits = self.matmul(embedding, self.weight)                        # (N, D) x (C, D)' -> (N, C)
        if self.bias is not None:
            logits = logits + self.bias
        return loss_and_hits(logits, labels)
