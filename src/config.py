"""Settings of a run: a recipe of src/recipes, what --set changes in it, and the checks of src/settings.py.

    cfg = get_config("lightcnn9_celebrities", ["lr=0.02", "epochs=5"], dataset_path="/data/faces")
    stages = stage_configs(cfg)                  # [cfg], or the settings of every stage

An unknown key, a value of the wrong type or out of range is a ValueError that lists the allowed ones.
"""
import copy
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

from easydict import EasyDict as edict

from src.lr_generator import numbers
from src.options import from_text
from src.recipes import RECIPES
from src.settings import CHOICES, OTHER_NAMES, PART_OPTIONS, PATH_KEYS, RANGES, lightcnn_cfg

PROJECT_DIR = Path(__file__).resolve().parent.parent


def get_config(recipe: str = 'lightcnn9_ms1m', settings: Iterable = (), dataset_path: Optional[str] = None) -> edict:
    """Return the checked settings of `recipe` after the `key=value` strings in `settings`.

    Relative paths are joined to `dataset_path`; a missing protocol file or list is taken from the
    project's own folder where it has one. Raises ValueError for anything that is not allowed.
    """
    if recipe not in RECIPES:
        raise ValueError(f"unknown recipe '{recipe}'; recipes: {', '.join(RECIPES)}")
    cfg = RECIPES[recipe]()
    for setting in settings:
        _set(cfg, setting)
    check_config(cfg)
    for key in PATH_KEYS:
        cfg[key] = _locate(key, cfg[key], dataset_path)
    return cfg


def _set(cfg: edict, setting: str) -> None:
    """Take in one key=value, which counts for every stage, whatever the recipe's stages say; stageN.key=value for one.

    `epochs` takes the place of a number of steps.
    """
    key, separator, text = setting.partition('=')
    if not separator:
        raise ValueError(f"--set takes key=value, got '{setting}'")
    place, others = cfg, cfg.stages
    if re.match(r'stage\d+\.', key):
        stage, _, key = key.partition('.')
        if not 1 <= int(stage[5:]) <= len(cfg.stages):
            raise ValueError(f"'{setting}': the recipe has {len(cfg.stages) or 'no'} stages")
        place, others = cfg.stages[int(stage[5:]) - 1], []
    part, dot, option = key.partition('.')
    if dot and part in PART_OPTIONS:
        place.setdefault(PART_OPTIONS[part], edict())[option] = text
        _drop([stage[PART_OPTIONS[part]] for stage in others if PART_OPTIONS[part] in stage], option)
        return
    key = OTHER_NAMES.get(key, key)
    if key not in cfg or key in (*PART_OPTIONS.values(), 'stages'):
        raise ValueError(f"unknown setting '{key}'; settings: {', '.join(sorted(cfg))}")
    place[key] = from_text(key, type(lightcnn_cfg[key]), text)
    _drop(others, key)
    if key == 'epochs':
        place.num_steps = 0
        _drop(others, 'num_steps')


def _drop(dicts: list, key: str) -> None:
    for changes in dicts:
        changes.pop(key, None)


def stage_configs(cfg: edict) -> list:
    """Return the checked settings of every stage in their order; [cfg] for a training without stages."""
    if not cfg.stages:
        return [cfg]
    configs = []
    for number, changes in enumerate(cfg.stages, 1):
        stage = copy.deepcopy(cfg)
        stage.stages = []
        for key, value in changes.items():
            stage[key] = edict({**stage[key], **value}) if key in PART_OPTIONS.values() and key in stage else value
        try:
            check_config(stage)
        except ValueError as error:
            raise ValueError(f"stage {number}: {error}") from None
        configs.append(stage)
    return configs


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
    if cfg.faces_per_person == 1 or cfg.faces_per_person and cfg.batch_size % cfg.faces_per_person:
        raise ValueError(f"faces_per_person={cfg.faces_per_person}: should be 0, or 2 or more and divide batch_size="
                         f"{cfg.batch_size}")
    for key in ('lr_steps', 'lr_epochs'):
        numbers(cfg[key])
    if cfg.lr_schedule == 'mhlr' and cfg.sink_size > 1:
        raise ValueError(f"sink_size={cfg.sink_size}: lr_schedule=mhlr needs the loss of every step; use sink_size=1")
    if cfg.stages:
        stage_configs(cfg)
    else:
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
    if kind in (edict, list):
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
    if key not in ('data_path', 'train_list', 'root_path', 'sets_path') and not os.path.exists(joined) and own.exists():
        return str(own)
    return joined
