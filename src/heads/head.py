"""What every head is: a Cell from embeddings and labels to the loss and the number of top-1 hits.

    loss, hits = head(embedding, labels)               # (N, D), not normalised; (N,) int32
    head.set_ranks(rank, rank_size)                    # statistics are then those of the global batch
"""
from typing import Any

from mindspore import Parameter, Tensor, nn, ops
from mindspore import dtype as mstype

from src.heads.penalties import PENALTY_OPTIONS, Penalties
from src.heads.ranks import Ranks
from src.heads.watch import watched_classes
from src.initializers import Init

SHORTEST_HALF = 1e-3         # float16 rows shorter than this are not stretched to length 1: gradients would overflow


def norms(x: Tensor) -> Tensor:
    """Return the lengths (N, 1) float32 of the rows of x (N, D), at least 1e-6; of float16 rows, SHORTEST_HALF."""
    return _lengths(x.astype(mstype.float32), x.dtype == mstype.float16)


def _lengths(x: Tensor, is_half: bool) -> Tensor:
    power = (x * x).sum(1, keepdims=True)
    return ops.sqrt(ops.maximum(power, SHORTEST_HALF * SHORTEST_HALF) if is_half else power + 1e-12)


def unit(x: Tensor) -> Tensor:
    """Return the rows of x (N, D) at length 1, in float32; a zero row stays zero, and no gradient overflows."""
    is_half = x.dtype == mstype.float16
    x = x.astype(mstype.float32)
    return x / _lengths(x, is_half)


class Head(nn.Cell):
    """head(embedding (N, D), labels (N,) int32) -> (mean loss, number of top-1 hits), both float32 scalars.

    `weight` (C, D) holds a vector a class. What else a head remembers (a scale, a running mean) is a Parameter that
    takes no gradient, so that a checkpoint saves it. OPTIONS: {name: Option}. A subclass gives `logits`, or
    `loss_of_batch` where the loss is no cross-entropy.
    """

    OPTIONS = {}
    batch_statistics = False     # whether it looks at the batch as a whole: the batch cannot be split then
    flat_settings = {}           # {option: the older setting of src/settings.py that gives it}
    has_weight = True            # whether there is a vector a class, to which penalties can be added
    pairs_halves = False         # whether row i of a batch's first half and row i of the second are of one person

    def __init__(self, num_classes: int, embedding_size: int, init: Init, options: dict):
        super().__init__()
        self.num_classes, self.embedding_size, self.options = num_classes, embedding_size, dict(options)
        self.ranks = Ranks()
        self.penalties = None
        if self.has_weight:
            self.weight = Parameter(self.initial_weight(init), name='weight')
            if any(options.get(name, 0) for name in ('center', 'git', 'ring', 'magnitude')):
                self.penalties = Penalties(num_classes, embedding_size, init, options, self.ranks)
                self.batch_statistics = self.batch_statistics or self.penalties.batch_statistics

    def initial_weight(self, init: Init) -> Tensor:
        """Return the first class weight (C, D)."""
        return init(self.num_classes, self.embedding_size)

    def set_ranks(self, rank: int, rank_size: int) -> None:
        """Say which rank of how many this is, so that statistics are those of the batches of all ranks."""
        self.ranks.set(rank, rank_size)

    def parameter_group(self, name: str, cfg: Any) -> tuple:
        """Return (learning-rate multiple, weight decay) of the parameter `name` of this head."""
        if name.endswith('bias'):
            return cfg.fc2_bias_lr_mult, cfg.fc2_bias_weight_decay
        if name.endswith('weight'):
            return cfg.fc2_weight_lr_mult, cfg.fc2_weight_decay
        return 1.0, 0.0                          # margins, centres, radii: decay would pull them to zero

    def construct(self, embedding, labels):
        labels = labels.astype(mstype.int32)
        loss, hits = self.loss_of_batch(embedding, labels)
        if self.penalties is not None:
            loss = loss + self.penalties(embedding, labels)
        return loss, hits

    def watched(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Return the sums (3,) over the rows of what src/heads/watch.py names; the head's state stays as it is."""
        centers = self.weight.shape[0] // self.num_classes
        return watched_classes(embedding, labels.astype(mstype.int32), self.weight, self.num_classes, centers)

    def loss_of_batch(self, embedding: Tensor, labels: Tensor) -> tuple:
        """Return (loss, hits) without penalties."""
        return loss_and_hits(self.logits(embedding, labels), labels)


def option_table(head: type) -> dict:
    """Return all options of a head: its own, and those of the penalties that can be added to it."""
    return {**PENALTY_OPTIONS, **head.OPTIONS} if head.has_weight else dict(head.OPTIONS)


def picked(x: Tensor, labels: Tensor) -> Tensor:
    """Return the labels' column: (N, C), (N,) -> (N, 1)."""
    return ops.gather_elements(x, 1, labels.reshape(-1, 1))


def replaced(x: Tensor, labels: Tensor, new: Tensor) -> Tensor:
    """Return x (N, C) with `new` (N, 1) in the labels' column."""
    return ops.tensor_scatter_elements(x, labels.reshape(-1, 1), new, 1)


def spread(column: Tensor, columns: int) -> Tensor:
    """Return a column (N, 1) repeated, (N, columns): on the CPU, x > column takes 10 times as long as x > spread."""
    return ops.tile(column, (1, columns))


def loss_and_hits(logits: Tensor, labels: Tensor) -> tuple:
    """Return (mean cross-entropy, number of rows whose largest logit is the label's) of logits (N, C)."""
    logits = logits.astype(mstype.float32)
    return ops.cross_entropy(logits, labels), count_hits(logits, labels)


def accurate_loss_and_hits(logits: Tensor, labels: Tensor) -> tuple:
    """Return what `loss_and_hits` returns; a loss far below 1 keeps its digits, which 1 - p loses in float32.

    loss = softplus(l), l the logarithm of the sum over j != y of exp(z_j - z_y).
    """
    own = picked(logits, labels)
    others = replaced(logits, labels, ops.fill(mstype.float32, own.shape, -1e30))
    total = log_sum_exp(others) - own
    losses = ops.relu(total) + ops.log1p(ops.exp(-ops.abs(total)))          # (N, 1)
    return losses.mean(), count_hits(logits, labels)


def log_sum_exp(x: Tensor) -> Tensor:
    """Return the logarithm of the sum of exponentials over axis 1, (N, C) -> (N, 1)."""
    largest = x.argmax(1).astype(mstype.int32).reshape(-1, 1)
    # log_softmax is one operator; on the CPU, x - x.max(1) alone takes 4 times its time
    return ops.gather_elements(x, 1, largest) - ops.gather_elements(ops.log_softmax(x, 1), 1, largest)


def count_hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the number of rows of logits (N, C) whose largest is the label's, float32."""
    return (logits.argmax(1).astype(mstype.int32) == labels).astype(mstype.float32).sum()
