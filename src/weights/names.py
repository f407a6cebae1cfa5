"""Names of tensors: those of other people's files to those of the originals' state dicts, and of our parameters too.

A network's parameters are called as in the PyTorch original but for their last word (`blocks.torch_name`). LightCNN-9,
-29 and -29v2 keep the names of this project, and MXNet and ncnn have names of their own: the tables are here.
"""
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, Optional

import numpy as np

from src.backbone import Backbone
from src.backbones.blocks import torch_name
from src.weights.state import Weights

# what training puts before the names of a backbone, after `module.`
_PREFIXES = ('backbone.', 'feat_net.')
_HEADS = re.compile(r'head\.|fc2\.(weight|bias)$|fc7_(weight|bias)$')
_UNREAD = ('num_batches_tracked',)
_LAST = {'weight': 'weight', 'bias': 'bias', 'gamma': 'weight', 'beta': 'bias', 'moving_mean': 'running_mean',
         'moving_var': 'running_var'}
_MXNET = re.compile(r'(\w+?)_(weight|bias|gamma|beta|moving_mean|moving_var)$')
# insightface's symbols: fmobilefacenet, FaceX-Zoo's names; fresnet, arcface_torch's names
_MOBILEFACENET = (
    (r'conv_1_', 'conv1_'), (r'conv_2_dw_', 'conv2_dw_'), (r'conv_6sep_', 'conv_6_sep_'),
    (r'conv_6dw7_7_', 'conv_6_dw_'),
    (r'res_2_block(\d+)_', r'conv2_dw.model.\1_'), (r'res_(\d)_block(\d+)_', r'conv_\1.model.\2_'),
    (r'dconv_(\d+)_', r'conv_\1_'))
_UNITS = (('_conv_sep', '.conv'), ('_conv_dw', '.conv_dw'), ('_conv_proj', '.project'), ('_conv2d', '.conv'),
          ('_batchnorm', '.bn'), ('_relu', '.prelu'))
_FRESNET = {'conv0': 'conv1', 'bn0': 'bn1', 'relu0': 'prelu', 'bn1': 'bn2', 'pre_fc1': 'fc', 'fc1': 'features'}
_FRESNET_UNIT = {'relu1': 'prelu', 'conv1sc': 'downsample.0', 'sc': 'downsample.1'}
_FRESNET_EPS = 2e-5


class State(NamedTuple):
    """A backbone's tensors by the original's names, the eps to add by BatchNorm, and the tensors of a head."""

    tensors: dict
    eps: dict
    head: dict


def state_of(weights: Weights) -> State:
    """Return the tensors of a file by the names of the original's state dict."""
    named = without_prefix(weights.tensors)
    head = {name: array for name, array in named.items() if _HEADS.match(name)}
    named = {name: array for name, array in named.items() if name not in head and not name.endswith(_UNREAD)}
    if weights.form == 'ONNX':           # slopes are (C, 1, 1) there; numbers of shapes and axes are no weights
        named = {name: array.reshape(-1) if array.shape[1:] == (1, 1) else array for name, array in named.items()
                 if array.dtype == np.float32 and array.ndim}
    if weights.form not in ('MXNet', 'ncnn'):
        return State(named, {}, head)
    layer_name = _fresnet_layer if any(name.startswith('stage1_unit') for name in named) else _mobilefacenet_layer
    # the scale of the last BatchNorm is 1 in both symbols, whatever is stored
    fixed = weights.fixed or ('fc1_gamma',)
    tensors = {_mxnet_name(name, layer_name): np.ones_like(array) if name in fixed else array
               for name, array in named.items()}
    eps = {layer_name(name): value for name, value in weights.eps.items()}
    if not eps and layer_name is _fresnet_layer:
        eps = {name.rpartition('.')[0]: _FRESNET_EPS for name in tensors if name.endswith('running_var')}
    return State(tensors, eps, head)


def without_prefix(tensors: Mapping) -> dict:
    """Return tensors without what training put before their names; those of a head begin with `head.`."""
    if all(name.startswith('module.') for name in tensors):
        tensors = {name[len('module.'):]: array for name, array in tensors.items()}
    prefix = next((prefix for prefix in _PREFIXES if any(name.startswith(prefix) for name in tensors)), '')
    return {name[len(prefix):] if name.startswith(prefix) else name: array for name, array in tensors.items()}


def _mxnet_name(name: str, layer_name: Callable) -> str:
    match = _MXNET.fullmatch(name)
    if not match:
        return name
    layer, last = match.groups()
    if layer == 'fc1' and last == 'weight':              # the linear layer's, in files of 2018
        layer = 'pre_fc1'
    return f'{layer_name(layer)}.{_LAST[last]}'


def _mobilefacenet_layer(layer: str) -> str:
    if layer in ('pre_fc1', 'fc1'):
        return {'pre_fc1': 'linear', 'fc1': 'bn'}[layer]
    for pattern, replacement in _MOBILEFACENET:
        if re.match(pattern, layer):
            layer = re.sub('^' + pattern, replacement, layer)
            break
    for word, replacement in _UNITS:
        layer = layer.replace(word, replacement)
    return layer


def _fresnet_layer(layer: str) -> str:
    match = re.fullmatch(r'stage(\d)_unit(\d+)_(\w+)', layer)
    if not match:
        return _FRESNET.get(layer, layer)
    stage, unit, part = match.groups()
    return f'layer{stage}.{int(unit) - 1}.{_FRESNET_UNIT.get(part, part)}'


def original_names(network: Backbone) -> dict:
    """Return {name in the original's state dict: parameter} of a backbone."""
    rename = _lightcnn_renamer(network)
    return {rename(parameter.name) if rename else torch_name(parameter.name): parameter
            for parameter in network.get_parameters()}


def _lightcnn_renamer(network: Backbone) -> Optional[Callable]:
    """Return the function from a parameter's name to that of LightCNN's authors; None for other networks."""
    if network.name == 'LightCNN_9Layers':
        return lambda name: name.replace('fc.layer.', 'fc1.filter.').replace('.layer.', '.filter.')
    if network.name not in ('LightCNN_29Layers', 'LightCNN_29Layers_v2'):
        return None
    places = _lightcnn29_places(network.num_blocks)

    def rename(name: str) -> str:
        part, index, *rest = name.split('.')
        renamed = '.'.join([places[int(index)], *rest]) if part == 'features' else name
        return renamed.replace('.layer.', '.filter.')
    return rename


def _lightcnn29_places(num_blocks: tuple) -> dict:
    """Return {index in `features`: the author's name}: a stem and a pooling, then blocks, a group, maybe a pooling."""
    places, index = {0: 'conv1'}, 2
    for stage, count in enumerate(num_blocks, 1):
        places.update({index + i: f'block{stage}.{i}' for i in range(count)})
        places[index + count] = f'group{stage}'
        index += count + (1 if stage == 3 else 2)
    return places
