"""The network that is trained: a backbone and the head on top, both with the initial weights of the run's seed."""
from typing import Any, Optional

from mindspore import nn, ops

from src.backbone import Backbone
from src.backbones import backbone_class, build_backbone
from src.data.face_format import face_format
from src.heads import build_head, head_class
from src.heads.head import Head
from src.initializers import Init


class TrainingNetwork(nn.Cell):
    """(images (N, C, S, S), labels (N,), noise (N, M)) -> (loss, sums over the rows).

    Sums, (4,) float32: top-1 hits, then what src/heads/watch.py names.
    """

    def __init__(self, backbone: Backbone, head: Head):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.last_layers = last_layers(self.backbone)
        self.takes_noise = backbone.noise_size > 0
        self.needs_whole_batch = backbone.batch_statistics or head.batch_statistics

    def construct(self, images, labels, noise):
        embedding = self.backbone(images, noise) if self.takes_noise else self.backbone(images)
        loss, hits = self.head(embedding, labels)
        watched = ops.stop_gradient(self.head.watched(embedding, labels))
        return loss, ops.concat((hits.reshape(1), watched))

    def parameter_group(self, name: str, cfg: Any) -> tuple:
        """Return (learning-rate multiple, weight decay) of the parameter `name`: its part's, times the settings'."""
        part, _, own = name.partition('.')
        lr_mult, decay = getattr(self, part).parameter_group(own, cfg)
        for kind in (part, *(['last'] if name in self.last_layers else [])):
            lr_mult, decay = lr_mult * cfg[f'{kind}_lr_mult'], decay * cfg[f'{kind}_wd_mult']
        return lr_mult, decay


def last_layers(backbone: Backbone) -> tuple:
    """Return the names of the weights that make the embedding: the last linear layer's and those after it."""
    weights = list(backbone.trainable_params())
    first = max((i for i, weight in enumerate(weights) if weight.ndim == 2), default=len(weights))
    return tuple(weight.name for weight in weights[first:])


def backbone_settings(cfg: Any) -> dict:
    """Return the options of the backbone that `cfg` asks for: its sizes, older settings, and backbone_options."""
    taken = backbone_class(cfg.network_type).flat_settings
    return {'image_size': cfg.image_size, 'channels': face_format(cfg.face_format).num_channels,
            **{option: cfg[key] for option, key in taken.items()}, **cfg.backbone_options}


def head_settings(cfg: Any, backbone: Backbone) -> dict:
    """Return the options of the head that `cfg` asks for: older settings, what the backbone suggests, head_options."""
    known = head_class(cfg.loss)
    suggested = {} if backbone.head_bias or 'bias' not in known.OPTIONS else {'bias': False}
    return {**suggested, **{option: cfg[key] for option, key in known.flat_settings.items()}, **cfg.head_options}


def training_network(cfg: Any, target: Optional[str] = None) -> TrainingNetwork:
    """Return the backbone and its head with the initial weights of `cfg.seed`. target: where it will run."""
    init = Init(cfg.init, cfg.seed, target)
    backbone = build_backbone(cfg.network_type, init=init, **backbone_settings(cfg))
    head = build_head(cfg.loss, cfg.num_classes, backbone.embedding_size, init=init, **head_settings(cfg, backbone))
    return TrainingNetwork(backbone, head)


def initial_backbone(cfg: Any, target: Optional[str] = None) -> Backbone:
    """Return the backbone with the weights that a training with `cfg` starts from."""
    init = Init(cfg.init, cfg.seed, target)
    return build_backbone(cfg.network_type, init=init, **backbone_settings(cfg)).set_train(False)
