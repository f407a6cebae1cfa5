"""What tells losses apart, by the same definition for every head: target cosine, hard negatives, embedding norm.

    sums = head.watched(embedding, labels)             # (N, D), (N,) -> (3,) float32: sums over the rows

A margin loss of 20 says little; these say whether the network learns. All come before margins, scales and biases:

target_cosine:  the cosine of an embedding with the vector of its own class.
hard_negatives: the share of other classes whose cosine is larger than that. Of more than SAMPLED classes, every k-th
                is looked at, k the least that leaves no more than SAMPLED.
embedding_norm: the length of an embedding.

A head without class vectors compares embeddings: see `watched_pairs`.
"""
from mindspore import Tensor, ops
from mindspore import dtype as mstype

SAMPLED = 1024               # classes: the product with them costs a 77th of that with 79,077


def lengths(x: Tensor) -> Tensor:
    """Return the lengths (N, 1) of rows (N, D) float32."""
    return ops.sqrt((x * x).sum(1, keepdims=True))


def scaled_to_one(x: Tensor) -> Tensor:
    """Return rows (N, D) at length 1, in float32; a zero row stays zero."""
    x = x.astype(mstype.float32)
    return x / ops.maximum(lengths(x), 1e-12)


def stride_of(num_classes: int) -> int:
    """Return k: every k-th class is looked at."""
    return -(-num_classes // SAMPLED)


def nearest_center(x: Tensor, vectors: Tensor, centers: int) -> Tensor:
    """Return the largest cosine with the `centers` vectors of each class: (N, D), (S * centers, D) -> (N, S)."""
    cosine = ops.matmul(x, vectors.T)
    return cosine if centers == 1 else ops.amax(cosine.reshape(x.shape[0], -1, centers), 2)


def watched_classes(embedding: Tensor, labels: Tensor, weight: Tensor, num_classes: int, centers: int) -> Tensor:
    """Return the sums (3,) over rows for a head with class vectors, weight (C * centers, D)."""
    x, classes = embedding.astype(mstype.float32), weight.reshape(num_classes, -1)          # (C, centers * D)
    units = scaled_to_one(x)
    own = scaled_to_one(classes[labels].reshape(-1, x.shape[1])).reshape(x.shape[0], centers, -1)
    own = ops.amax((own * units.expand_dims(1)).sum(2), 1, True)                             # (N, 1)
    stride = stride_of(num_classes)
    others = nearest_center(units, scaled_to_one(classes[::stride].reshape(-1, x.shape[1])), centers)       # (N, S)
    place = stride * ops.arange(others.shape[1]).astype(mstype.int32)
    is_other = (place.reshape(1, -1) != labels.reshape(-1, 1)).astype(mstype.float32)
    hard = (others > own).astype(mstype.float32) * is_other
    share = hard.sum(1) / ops.maximum(is_other.sum(1), 1.0)
    return ops.stack((own.sum(), share.sum(), lengths(x).sum()))


def watched_pairs(embedding: Tensor, every: Tensor, labels: Tensor, every_label: Tensor) -> Tensor:
    """Return the sums (3,) over rows (N, D) for a head that compares samples; `every`: those of all ranks, (B, D).

    Target cosine: the mean of the genuine pairs of the batch, 0 if it has none. Hard negatives: the share of impostor
    pairs with a larger cosine. Both are those of all ranks, N times.
    """
    x = scaled_to_one(every)
    cosine = ops.matmul(x, x.T)
    same = (every_label.reshape(-1, 1) == every_label.reshape(1, -1)).astype(mstype.float32)
    genuine = same * (1.0 - ops.eye(same.shape[0], same.shape[0], mstype.float32))
    mean = (cosine * genuine).sum() / ops.maximum(genuine.sum(), 1.0)
    hard = (cosine > mean).astype(mstype.float32) * (1.0 - same)
    share = hard.sum() / ops.maximum((1.0 - same).sum(), 1.0)
    rows = embedding.shape[0]
    return ops.stack((rows * mean, rows * share, lengths(embedding.astype(mstype.float32)).sum()))
