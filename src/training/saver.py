"""The checkpoints of a run: writing, keeping and loading them, and starting from those of others.

    saver = Saver(ckpt_dir, cfg, recipe, step, batches, rates, is_writer=True)
    saver.save(done)
    done, ckpt = saver.restore('ckpt')
"""
import os
from typing import Optional

from easydict import EasyDict as edict
from mindspore import Parameter, Tensor

from src.data.face_format import check_formats, face_format
from src.dataset import TrainingBatches
from src.lr_generator import Rates
from src.training import checkpoint
from src.training.step import TrainStep
from src.weights import EXTENSIONS
from src.weights.importing import import_weights

SCALE = ('loss_scale', 'loss_scale_steps')       # saved where there is a loss scale: on cards, not on the CPU
MHLR = ('schedule.mhlr',)                        # saved where the schedule remembers losses


class Saver:
    """Writes, keeps and loads the checkpoints of one run; only rank 0 writes."""

    def __init__(self, ckpt_dir: str, cfg: edict, recipe: str, step: TrainStep, batches: TrainingBatches,
                 rates: Rates, is_writer: bool, further: Optional[dict] = None):
        self.ckpt_dir, self.cfg, self.recipe, self.is_writer = ckpt_dir, cfg, recipe, is_writer
        self.step, self.batches, self.rates = step, batches, rates
        self.further, self.fingerprint = further or {}, None         # what else the metadata say

    def save(self, done: int, name: Optional[str] = None) -> Optional[str]:
        """Save after `done` steps, as lightcnn-<epoch>_<step in epoch>.ckpt unless a name is given; return the file."""
        if not self.is_writer:
            return None
        per_epoch = self.batches.steps_per_epoch
        epoch = 1 + (done - 1) // per_epoch
        numbered = f'lightcnn-{epoch}_{1 + (done - 1) % per_epoch}.ckpt'
        file = os.path.join(self.ckpt_dir, name or numbered)
        checkpoint.save(file, self._parameters(), self._metadata(done))
        checkpoint.remove_old(self.ckpt_dir, self.cfg.keep_checkpoint_max)
        return file

    def _parameters(self) -> dict:
        state = {p.name: p for p in [*self.step.weights, *self.step.moments, *self.step.state]}
        if self.step.scaler is not None:
            state.update(zip(SCALE, (self.step.scaler.scale_value, self.step.scaler.counter)))
        if self.rates.mhlr is not None:
            state[MHLR[0]] = Parameter(Tensor(self.rates.mhlr.state), name=MHLR[0], requires_grad=False)
        return state

    def _metadata(self, done: int) -> dict:
        cfg, face = self.cfg, face_format(self.cfg.face_format)
        network = self.step.backbone
        return {'format': 1, 'recipe': self.recipe, **self.further, 'network_type': network.name,
                'backbone_options': network.options, 'head': cfg.loss, 'head_options': self.step.head.options,
                'num_classes': cfg.num_classes, 'step': done, 'epoch': done / self.batches.steps_per_epoch,
                'num_images': len(self.batches.faces),
                'global_batch': self.batches.global_batch, 'settings': dict(cfg), 'versions': checkpoint.versions(),
                'face_format': face.as_metadata(), 'fingerprint': self.fingerprint,
                'input': {'shape': ['N', face.num_channels, cfg.image_size, cfg.image_size], 'dtype': 'float32',
                          'values': face.values, 'face': f'{face.alignment} alignment, the centre '
                          f'{face.test_side}x{face.test_side}, area-resized to image_size'}}

    def restore(self, path: str) -> tuple:
        """Load the newest checkpoint that `path` means; return (number of steps it has done, its file).

        One that the CPU wrote has no loss scale: a card then starts with the first one, and finds its own. One of
        another schedule knows no losses: MHLR then starts with those to come.
        """
        ckpt = checkpoint.newest(path, with_metadata=True)
        metadata = checkpoint.read_metadata(ckpt)
        if metadata is None or 'step' not in metadata:
            raise ValueError(f"{ckpt}: {checkpoint.metadata_file(ckpt)} does not tell the step, so it cannot be "
                             "resumed")
        self._check(ckpt, metadata)
        loaded, wanted = checkpoint.load_parameters(ckpt), self._parameters()
        for optional in (SCALE, MHLR):
            if not any(name in loaded for name in optional):
                wanted = {name: parameter for name, parameter in wanted.items() if name not in optional}
        wrong = [n for n, p in wanted.items() if n not in loaded or loaded[n].shape != p.shape]
        if wrong:
            raise ValueError(f"{ckpt}: {len(wrong)} parameters are missing or of another shape, such as {wrong[0]}")
        for name, parameter in wanted.items():
            parameter.set_data(loaded[name])
        if self.rates.mhlr is not None:
            state = wanted[MHLR[0]].asnumpy() if MHLR[0] in wanted else self.rates.mhlr.state
            self.rates.start(metadata['step'], state)
        return metadata['step'], ckpt

    def _check(self, ckpt: str, metadata: dict) -> None:
        now = self._metadata(0)
        for key in ('network_type', 'num_classes', 'num_images', 'global_batch'):
            if metadata.get(key) != now[key]:
                raise ValueError(f"{ckpt}: was trained with {key} {metadata.get(key)}, this run has {now[key]}")
        settings, optimizer = metadata.get('settings'), self.cfg.optimizer
        before = settings.get('optimizer', 'sgd') if isinstance(settings, dict) else 'sgd'
        if (before == 'adamw') != (optimizer == 'adamw'):                 # the other two remember the same
            raise ValueError(f"{ckpt}: was trained with optimizer {before}, this run has {optimizer}, which remembers "
                             "other things; start from its network with --finetune")


def load_for_finetuning(step: TrainStep, cfg: edict, path: str) -> str:
    """Take the embedding network's weights from a checkpoint or a weight file of others; the classifier stays new.

    Return the file.
    """
    ckpt, wanted = checkpoint.newest(path), step.backbone
    if ckpt.endswith((*EXTENSIONS, '.onnx')):
        network = import_weights(ckpt, network=wanted.name).backbone
    else:
        network = checkpoint.load_backbone(ckpt, wanted.name)
    if network.face_format != cfg.face_format:
        check_formats(ckpt, face_format(network.face_format), face_format(cfg.face_format), cfg.assume_format)
    for what in ('image_size', 'channels', 'embedding_size'):
        if getattr(network, what) != getattr(wanted, what):
            raise ValueError(f"--finetune {ckpt}: has {what} {getattr(network, what)}, this run has "
                             f"{getattr(wanted, what)}")
    for old, new in zip(network.get_parameters(), wanted.get_parameters()):
        new.set_data(old)
    return ckpt


def load_head(step: TrainStep, path: str) -> None:
    """Take over the class weight from a checkpoint, and what else of the head has the same name and shape there."""
    loaded = checkpoint.load_parameters(path)
    for parameter in step.head.get_parameters():
        found = loaded.get(parameter.name)
        if found is not None and found.shape == parameter.shape:
            parameter.set_data(found)
        elif parameter.name == 'head.weight':
            raise ValueError(f"{path}: its class weight is {'not there' if found is None else found.shape}, that of "
                             f"this stage {parameter.shape}; carry_head=false starts with a new one")
