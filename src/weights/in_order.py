"""Weights of a graph whose names are lost: the layers of the file in order are those of the network in order.

Exporters fold BatchNorm into the convolution before it: a convolution with a bias where the network has none. The
network's BatchNorm then only adds that bias: scale and variance 1 (with eps), mean 0.
"""
from typing import Optional

import numpy as np
from mindspore import nn

from src.backbone import Backbone
from src.weights.names import original_names
from src.weights.state import Operation

_KINDS = {nn.Conv2d: 'conv', nn.BatchNorm2d: 'norm', nn.BatchNorm1d: 'norm', nn.PReLU: 'prelu', nn.Dense: 'linear'}


def count_unfolded(operations: list) -> int:
    """Return how many tensors the network of these layers has when nothing is folded."""
    return sum(4 if operation.kind == 'norm' else 5 if operation.kind == 'conv' and 'bias' in operation.arrays
               else len(operation.arrays) for operation in operations)


def state_in_order(operations: list, network: Backbone) -> Optional[dict]:
    """Return {original's name: array} for every parameter of a network, None where its layers are other ones.

    Only networks whose cells stand in the order in which they compute can be met: the MobileFaceNets and iresnets.
    """
    names = {id(parameter): name for name, parameter in original_names(network).items()}
    state, waiting, previous = {}, list(operations), None
    for cell in network.cells():
        for _, leaf in cell.cells_and_names():
            kind = _KINDS.get(type(leaf))
            if kind is None:
                continue
            arrays = _folded_norm(leaf, previous, waiting) if kind == 'norm' else None
            if arrays is None:
                if not waiting or waiting[0].kind != kind:
                    return None
                operation = waiting.pop(0)
                arrays = _taken(leaf, operation)
            previous = (leaf, operation) if kind in ('conv', 'linear') else None
            state.update(_named(leaf, arrays, names))
    return None if waiting or len(state) != len(names) else state


def _taken(leaf: nn.Cell, operation: Operation) -> dict:
    """Return the arrays that a layer of the file has for a cell."""
    arrays = dict(operation.arrays)
    if operation.kind == 'norm' and operation.eps != leaf.eps:
        arrays['running_var'] = arrays['running_var'] + np.float32(operation.eps - leaf.eps)
    return arrays


def _folded_norm(leaf: nn.Cell, previous: Optional[tuple], waiting: list) -> Optional[dict]:
    """Return the arrays of a BatchNorm that was folded into the layer before it; None where it was not."""
    if previous is None or 'bias' not in previous[1].arrays:
        return None
    before, operation = previous
    if before.has_bias and waiting and waiting[0].kind == 'norm':
        return None
    bias = np.zeros_like(operation.arrays['bias']) if before.has_bias else operation.arrays['bias']
    return {'weight': np.ones_like(bias), 'bias': bias, 'running_mean': np.zeros_like(bias),
            'running_var': np.full_like(bias, 1 - leaf.eps)}


def _named(leaf: nn.Cell, arrays: dict, names: dict) -> dict:
    """Return a cell's arrays by the original's names; a bias that the cell does not have is the next BatchNorm's."""
    found = {}
    for parameter in leaf.get_parameters(expand=False):
        name = names[id(parameter)]
        last = name.rpartition('.')[2]
        if last in arrays:
            found[name] = arrays[last]
    return found
