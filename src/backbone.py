"""What every backbone is: a Cell from faces to embeddings, with its options, its sizes and its parameter groups."""
from typing import Any, Optional

from mindspore import Tensor, nn

from src.options import Option

# options that every backbone takes; a family overrides the defaults in its own OPTIONS
COMMON_OPTIONS = {
    'image_size': Option(112, 16, 1024, 'side of the faces, in pixels'),
    'channels': Option(3, (1, 3), None, '1: grey, 3: colour'),
    'embedding_size': Option(512, 2, 8192, 'length of the embedding'),
}


class Backbone(nn.Cell):
    """(N, C, S, S) float32 -> (N, D) float32.

    construct(x, noise): x, the name of the input in exported files, is (N, C, S, S). noise (N, noise_size) float32,
    uniform in [0, 1), is what dropout, drop path and token masks are made of. It comes from (seed, step), so a resumed
    training draws the same; it is None for evaluation.
    """

    OPTIONS = COMMON_OPTIONS
    name = ''                    # in BACKBONES; `build_backbone` sets it
    noise_size = 0               # uniform numbers an image takes while training
    batch_statistics = False     # whether a training step sees the whole batch (BatchNorm): it cannot be split then
    head_bias = True             # whether a plain softmax on top has a bias
    flat_settings = {}           # {option: the older setting of src/settings.py that gives it}
    face_format = 'arcface'      # what its authors feed it, see src/data/face_format.py

    def __init__(self, options: dict):
        super().__init__()
        self.options = dict(options)
        self.image_size, self.channels = options['image_size'], options['channels']
        self.embedding_size = options['embedding_size']

    def parameter_group(self, name: str, cfg: Any) -> tuple:
        """Return (learning-rate multiple, weight decay) of the parameter `name` of this backbone."""
        decays = cfg.decay_norm_and_bias or name.rpartition('.')[2] not in ('gamma', 'beta', 'bias')
        return 1.0, cfg.weight_decay if decays else 0.0


def keep_mask(noise: Tensor, rate: float) -> Optional[Tensor]:
    """Return what dropout multiplies with: 0 with probability `rate`, else 1 / (1 - rate). noise: uniform in [0, 1)."""
    return (noise >= rate).astype(noise.dtype) / (1 - rate)
