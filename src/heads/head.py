"""What every head is: a Cell from embeddings and labels to the loss and the number of top-1 hits."""
from typing import Any

from mindspore import Parameter, Tensor, nn, ops
from mindspore import dtype as mstype

from src.initializers import Init


def unit(x: Tensor) -> Tensor:
    """Return the rows of x (N, D) at length 1, in float32; a zero row stays zero."""
    x = x.astype(mstype.float32)
    return x / ops.sqrt((x * x).sum(1, keepdims=True) + 1e-12)


class Head(nn.Cell):
    """head(embedding (N, D), labels (N,) int32) -> (mean loss, number of top-1 hits), both float32 scalars.

    `weight` (C, D) holds a vector a class. What else a head remembers (a scale, a running mean) is a Parameter that
    takes no gradient, so that a checkpoint saves it. OPTIONS: {name: Option}.
    """

    OPTIONS = {}
    batch_statistics = False     # whether it looks at the batch as a whole: the batch cannot be split then
    flat_settings = {}           # {option: the older setting of src/config.py that gives it}

    def __init__(self, num_classes: int, embedding_size: int, init: Init, options: dict):
        super().__init__()
        self.num_classes, self.embedding_size, self.options = num_classes, embedding_size, dict(options)
        self.weight = Parameter(self.initial_weight(init), name='weight')

    def initial_weight(self, init: Init) -> Tensor:
        """Return the first class weight (C, D)."""
        return init(self.num_classes, self.embedding_size)

    def parameter_group(self, name: str, cfg: Any) -> tuple:
        """Return (learning-rate multiple, weight decay) of the parameter `name` of this head."""
        if name.endswith('bias'):
            return cfg.fc2_bias_lr_mult, cfg.fc2_bias_weight_decay
        return cfg.fc2_weight_lr_mult, cfg.fc2_weight_decay


def loss_and_hits(logits: Tensor, labels: Tensor) -> tuple:
    """Return (mean cross-entropy, number of rows whose largest logit is the label's) of logits (N, C)."""
    logits = logits.astype(mstype.float32)
    hits = (logits.argmax(1).astype(mstype.int32) == labels).astype(mstype.float32).sum()
    return ops.cross_entropy(logits, labels), hits
