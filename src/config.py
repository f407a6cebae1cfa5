"""Settings of a run: `lightcnn_cfg` and the recipes built on it.

    cfg = get_config("lightcnn9_celebrities", ["lr=0.02", "epochs=5"], dataset_path="/data/faces")

A recipe is a function that returns an edict; a variant calls another recipe and changes a few settings.
An unknown key, a value of the wrong type or out of range is a ValueError that lists the allowed ones.
"""
import copy
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

from easydict import EasyDict as edict

from src.data.augment import AUGMENTS
from src.data.face_format import FACE_FORMATS
from src.lr_generator import SCHEDULES, WARMUPS, numbers
from src.options import from_text

PROJECT_DIR = Path(__file__).resolve().parent.parent

lightcnn_cfg = edict({
    # network: a name of src/backbones; also called `backbone`. `backbone.NAME=VALUE` sets an option of its own
    'network_type': 'LightCNN_9Layers',
    'backbone_options': edict(),
    'num_classes': 79077,
    'dropout': 0.5,                  # on LightCNN's embedding, while training
    'init': 'xavier',                # LightCNN's initial weights; 'centred': zero-mean filters that keep the power
    # head: a name of src/heads; also called `head`. `head.NAME=VALUE` sets an option of its own
    'loss': 'softmax',
    'head_options': edict(),
    'cosface_scale': 24.0,           # CosFace's options under their older names
    'cosface_margin': 0.1,
    # optimisation, as published by the network's authors
    'epochs': 80,
    'batch_size': 128,               # per device
    'lr': 0.01,
    'lr_schedule': 'step',           # 'step': x lr_decay every lr_decay_epochs; others: see src/lr_generator.py
    'lr_decay': 0.457305051927326,
    'lr_decay_epochs': 10,
    'lr_steps': '',                  # 'multistep': x lr_decay at these steps, such as '120000,140000',
    'lr_epochs': '',                 # and at these epochs, such as '10,13,16'
    'lr_power': 1.0,                 # of 'poly'
    'lr_final': 0.0,                 # where 'cosine' and 'poly' end
    'warmup_steps': 0,
    'warmup': 'scaled',              # how they lead to the schedule: a name of WARMUPS in src/lr_generator.py
    'warmup_lr': 0.0,                # where 'linear' starts; the rate of 'constant'
    'scale_lr': False,               # lr x global batch / the recipe's batch, with a warm-up (arXiv:1706.02677)
    'clip_norm': 0.0,                # largest length of the whole gradient; 0: not clipped
    'momentum': 0.9,
    'weight_decay': 1e-4,
    'decay_norm_and_bias': True,     # whether normalisation and biases of other backbones than LightCNN decay
    'bias_lr_mult': 2.0,             # biases of LightCNN
    'bias_weight_decay': 0.0,
    'fc2_weight_lr_mult': 10.0,      # the classifier's weight
    'fc2_weight_decay': 1e-4,
    'fc2_bias_lr_mult': 20.0,        # and its bias
    'fc2_bias_weight_decay': 0.0,
    'seed': 1,
    # pictures: resized to resize_size, a random crop of image_size is trained on
    'face_format': 'lightcnn',       # of the network's input, a name of src/data/face_format.py
    'assume_format': '',             # of the pictures, overrides the one that their sizes imply
    'image_size': 128,
    'resize_size': 144,
    'augment': 'crop_flip',          # 'strong': turn, scale, light, blur and an erased patch as well
    'max_bad_images': 0.01,          # share of unreadable training images above which a run does not start
    'cache_images_mb': 1024,         # training sets up to this size stay in memory
    'num_workers': 2,                # threads that prepare batches
    # checkpoints and log
    'save_checkpoint_steps': 60000,
    'keep_checkpoint_max': 40,
    'log_steps': 100,
    'sink_size': 1,                  # steps per dataset sink on Ascend and GPU; 1: no sink
    'check_every': 1000,             # steps between checks that all ranks hold the same weights; 0: never
    'hang_seconds': 1800,            # without a step for so long (compiling counts) a run is given up; 0: never
    # files; a relative path is looked for under --dataset_path
    'data_path': 'train',
    'train_list': 'train_list.txt',
    'root_path': 'lfw/image',
    'lfw_img_list': 'image_list_for_lfw.txt',
    'lfw_pairs_mat_path': 'mat_files/lfw_pairs.mat',
    'blufr_img_list': 'image_list_for_blufr.txt',
    'blufr_config_mat_path': 'mat_files/blufr_lfw_config.mat',
})

CHOICES = {
    'init': ('xavier', 'centred'),
    'lr_schedule': tuple(SCHEDULES),
    'warmup': tuple(WARMUPS),
    'augment': tuple(AUGMENTS),
    'face_format': tuple(FACE_FORMATS),
    'assume_format': ('', *FACE_FORMATS),
}
# settings by the names that the literature uses, and the options of parts
OTHER_NAMES = {'backbone': 'network_type', 'head': 'loss'}
PART_OPTIONS = {'backbone': 'backbone_options', 'head': 'head_options'}
# key: (lowest, highest); every other number is 0 or more
RANGES = {
    'num_classes': (2, 10**8), 'epochs': (1, 10**6), 'batch_size': (1, 10**6), 'image_size': (16, 1024),
    'resize_size': (16, 1152), 'save_checkpoint_steps': (1, 10**9), 'keep_checkpoint_max': (1, 10**6),
    'log_steps': (1, 10**9), 'sink_size': (1, 10**6), 'num_workers': (1, 1024), 'lr_decay_epochs': (1, 10**6),
    'dropout': (0.0, 0.99), 'momentum': (0.0, 0.999999), 'lr_decay': (0.0, 1.0), 'max_bad_images': (0.0, 1.0),
    'cosface_scale': (1.0, 1000.0), 'seed': (0, 2**31 - 1),
}
PATH_KEYS = ('data_path', 'train_list', 'root_path', 'lfw_img_list', 'lfw_pairs_mat_path', 'blufr_img_list',
             'blufr_config_mat_path')


def lightcnn9_ms1m() -> edict:
    """LightCNN-9 on the cleaned MS-Celeb-1M list, exactly as its authors trained it.

    Result: LFW 100%-EER 98.70, BLUFR VR 96.80 and DIR 83.06 percent, published by others, not measured here.
    Cost: 80 epochs of 5 million faces; 4.2 to 4.4 s a step of 128 on two CPU cores, so take cards.
    Command: bash scripts/train_distribute_8p.sh hccl.json --dataset_path ms1m
    """
    return copy.deepcopy(lightcnn_cfg)


def lightcnn9_celebrities() -> edict:
    """LightCNN-9 for a few hundred people on two CPU cores: small faces, strong augmentation, cosine schedule.

    Result: LFW 100%-EER 83.00 (95 % interval 81.61 to 84.39), BLUFR VR 10.88 and DIR 3.85 percent, from 5,982 faces.
    Cost: 31 minutes on two CPU cores, 139 images/s.
    Command: DEVICE_TARGET=CPU bash scripts/train_standalone.sh 0 --recipe lightcnn9_celebrities --dataset_path faces
    """
    cfg = lightcnn9_ms1m()
    cfg.num_classes = 293
    cfg.image_size, cfg.resize_size = 48, 54
    cfg.init = 'centred'
    cfg.augment = 'strong'
    cfg.batch_size = 32
    cfg.lr, cfg.lr_schedule, cfg.warmup_steps, cfg.clip_norm = 0.02, 'cosine', 200, 3.0
    cfg.weight_decay = cfg.fc2_weight_decay = 5e-4
    cfg.fc2_weight_lr_mult = cfg.fc2_bias_lr_mult = 1.0
    cfg.dropout = 0.4
    cfg.epochs = 44
    cfg.save_checkpoint_steps = 500
    cfg.keep_checkpoint_max = 3
    cfg.log_steps = 50
    return cfg


def quickstart() -> edict:
    """The celebrities recipe on procedurally generated faces, small enough for a few minutes on two CPU cores.

    Result: LFW 100%-EER 90.43 to 90.83, BLUFR VR 12.8 to 17.0 percent, seen on two machines; nothing about people.
    Cost: 5 minutes on two CPU cores, installation and evaluation included.
    Command: bash scripts/quickstart.sh
    """
    cfg = lightcnn9_celebrities()
    cfg.num_classes = 100
    cfg.image_size, cfg.resize_size = 32, 36
    cfg.augment = 'crop_flip'        # the pictures vary enough already
    cfg.epochs = 10
    cfg.warmup_steps = 50
    cfg.save_checkpoint_steps = 100
    cfg.log_steps = 20
    return cfg


RECIPES = {f.__name__: f for f in (lightcnn9_ms1m, lightcnn9_celebrities, quickstart)}


def get_config(recipe: str = 'lightcnn9_ms1m', settings: Iterable = (), dataset_path: Optional[str] = None) -> edict:
    """Return the checked settings of `recipe` after the `key=value` strings in `settings`.

    Relative paths are joined to `dataset_path`; a missing protocol file or list is taken from the
    project's own folder where it has one. Raises ValueError for anything that is not allowed.
    """
    if recipe not in RECIPES:
        raise ValueError(f"unknown recipe '{recipe}'; recipes: {', '.join(RECIPES)}")
    cfg = RECIPES[recipe]()
    for setting in settings:
        key, separator, text = setting.partition('=')
        if not separator:
            raise ValueError(f"--set takes key=value, got '{setting}'")
        part, dot, option = key.partition('.')
        if dot and part in PART_OPTIONS:
            cfg[PART_OPTIONS[part]][option] = text
            continue
        key = OTHER_NAMES.get(key, key)
        if key not in cfg or key in PART_OPTIONS.values():
            raise ValueError(f"unknown setting '{key}'; settings: {', '.join(sorted(cfg))}")
        cfg[key] = from_text(key, type(lightcnn_cfg[key]), text)
    check_config(cfg)
    for key in PATH_KEYS:
        cfg[key] = _locate(key, cfg[key], dataset_path)
    return cfg


def check_config(cfg: edict) -> None:
    """Raise ValueError if `cfg` has an unknown or missing key, a wrong type, or a value out of range."""
    unknown, missing = sorted(set(cfg) - set(lightcnn_cfg)), sorted(set(lightcnn_cfg) - set(cfg))
    if unknown:
        raise ValueError(f"unknown setting '{unknown[0]}'; settings: {', '.join(sorted(lightcnn_cfg))}")
    if missing:
        raise ValueError(f"setting '{missing[0]}' is missing")
    for key, default in lightcnn_cfg.items():
        _check_value(key, cfg[key], type(default))
    if cfg.resize_size < cfg.image_size:
        raise ValueError(f"resize_size={cfg.resize_size} is smaller than the crop image_size={cfg.image_size}")
    for key in ('lr_steps', 'lr_epochs'):
        numbers(cfg[key])
    _check_parts(cfg)


def _check_parts(cfg: edict) -> None:
    """Raise ValueError for an unknown backbone or head, or an option that it does not take.

    Most evaluations have the default parts without options; they are not worth loading MindSpore for.
    """
    if cfg.network_type.startswith('LightCNN_') and cfg.image_size % 16:
        raise ValueError(f"image_size={cfg.image_size} cannot be halved four times; use a multiple of 16")
    if cfg.backbone_options or cfg.network_type != lightcnn_cfg.network_type:
        from src.backbones import backbone_options
        checked = backbone_options(cfg.network_type, cfg.backbone_options)
        cfg.backbone_options = edict({key: checked[key] for key in cfg.backbone_options})
    if cfg.head_options or cfg.loss not in ('softmax', 'cosface'):
        from src.heads import head_options
        checked = head_options(cfg.loss, cfg.head_options)
        cfg.head_options = edict({key: checked[key] for key in cfg.head_options})


def _check_value(key, value, kind):
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise ValueError(f"{key}={value!r} should be of type {kind.__name__}")
    if kind is edict:
        return
    if key in CHOICES and value not in CHOICES[key]:
        raise ValueError(f"{key}='{value}' is not one of {', '.join(CHOICES[key])}")
    if kind is not str:
        low, high = RANGES.get(key, (0, float('inf')))
        if not low <= value <= high or value == float('inf'):
            raise ValueError(f"{key}={value} is out of range; allowed: {low} to {high}")


def _locate(key, path, dataset_path):
    """Join `path` to the data set's folder, or to the project's where only that one has the file."""
    if os.path.isabs(path):
        return path
    joined = os.path.join(dataset_path, path) if dataset_path else path
    own = PROJECT_DIR / path
    if key not in ('data_path', 'train_list', 'root_path') and not os.path.exists(joined) and own.exists():
        return str(own)
    return joined
