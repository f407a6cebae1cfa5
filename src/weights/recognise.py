"""Which network a state dict is of, told by its names and shapes.

    network, state = recognise('model.pt', state_of(weights), weights.operations)

The number of tensors says which networks to compare first; names and shapes decide. Sizes (embedding, side of the
faces, channels) follow from the shapes.
"""
from collections.abc import Mapping
from typing import NamedTuple, Optional

from src.backbone import Backbone
from src.backbones import ALIASES, BACKBONES, backbone_class, build_backbone
from src.initializers import Init
from src.weights.in_order import count_unfolded, state_in_order
from src.weights.names import original_names
from src.weights.state import count_of, listed

# {network: how many tensors it reads}; one that is not listed is compared last
NUM_TENSORS = {
    'LightCNN_9Layers': 20, 'LightCNN_29Layers': 60, 'LightCNN_29Layers_v2': 60, 'lightcnn_v4': 52,
    'lightcnn29_facexzoo': 68, 'iresnet18': 156, 'iresnet34': 276, 'iresnet50': 396, 'iresnet100': 771,
    'iresnet200': 1506, 'resnet50_ir': 295, 'resnet50_irse': 343, 'resnet100_ir': 570, 'resnet100_irse': 668,
    'resnet152_ir': 581, 'resnet152_irse': 681, 'mobilefacenet': 283, 'mobilefacenet_h4': 283, 'mobilefacenet_y1': 284,
    'mobilefacenet_y2': 584, 'mbf': 283, 'mbf_large': 515, 'vit_t': 148, 'vit_s': 148, 'vit_b': 280, 'vit_l': 280,
    'vit_h': 544, 'swin_t': 177, 'swin_s': 333, 'ghostnet': 438, 'efficientnet_b0': 319, 'tf_nas_a': 340,
    'repvgg_a0': 298, 'repvgg_b0': 382, 'repvgg_b1': 382, 'hrnet_w18': 1634, 'resnest50': 404, 'attentionnet56': 539,
    'attentionnet92': 884, 'rexnet_1.0': 255, 'rexnet_1.0_se': 359,
}
_COMPARED = 6                        # networks that are built before the nearest one is reported
_LARGE = {'vit_l': 250_000_000, 'vit_h': 750_000_000}     # weights; such networks are not built for small files
_SMALL = 64_000_000                  # weights of a network that is built whatever the file says
# options that show in the names: {how a name ends: options}
_VARIANTS = {'.rbr_reparam.weight': {'deploy': True}}


class Difference(NamedTuple):
    """What keeps a state dict from being that of a network: names, and for shapes (name, found, expected)."""

    missing: list
    left_over: list
    shapes: list

    @property
    def total(self) -> int:
        """How many tensors do not fit."""
        return len(self.missing) + len(self.left_over) + len(self.shapes)

    def __str__(self) -> str:
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} missing ({listed(self.missing)})")
        if self.left_over:
            parts.append(f"{len(self.left_over)} left over ({listed(self.left_over)})")
        if self.shapes:
            text = ', '.join(f'{name}: {found}, expected {expected}' for name, found, expected in self.shapes[:3])
            parts.append(f"{len(self.shapes)} of another shape ({text})")
        return ', '.join(parts)


def difference(state: Mapping, network: Backbone) -> Difference:
    """Return what is missing in a state dict, what no parameter takes, and what has another shape."""
    expected = {name: tuple(parameter.shape) for name, parameter in original_names(network).items()}
    ignored = tuple(getattr(network, 'ignored', ()))
    return Difference(
        [name for name in expected if name not in state],
        [name for name in state if name not in expected and not (ignored and name.endswith(ignored))],
        [(name, state[name].shape, shape) for name, shape in expected.items()
         if name in state and state[name].shape != shape])


def recognise(file: str, state: Mapping, operations: Optional[list] = None, *, network: Optional[str] = None,
              init: Optional[Init] = None) -> tuple:
    """Return (network, {original's name: array}) for a state dict; the network has its initial weights.

    state: {original's name: array}. operations: the file's layers in order, for files whose names are lost. network:
    the name that it must be of (None: any). Raises ValueError with what is missing, left over or of another shape in
    the nearest network.
    """
    variant = next((options for end, options in _VARIANTS.items() if any(name.endswith(end) for name in state)), {})
    fits, misfits = [], []
    for name in [_known(network)] if network else _candidates(state, operations, variant):
        built, found, sizes = _fitted(name, state, operations, variant, init)
        apart = difference(found, built)
        if not apart.total:
            fits.append((sizes, built, found))
            if not sizes:
                break
        else:
            misfits.append((apart.total, name, apart))
    if fits:                             # the network of which the fewest sizes are unusual
        _, built, found = min(fits, key=lambda fit: fit[0])
        return built, {key: found[key] for key in original_names(built)}
    if not misfits:
        raise ValueError(f"{file}: of no known network")
    _, name, apart = min(misfits, key=lambda misfit: misfit[0])
    wanted = f"not the weights of a {name}" if network else f"of no known network; the nearest is {name}"
    raise ValueError(f"{file}: {wanted}: {apart}")


def _known(name: str) -> str:
    backbone_class(name)
    return ALIASES.get(name, name)


def _candidates(state: Mapping, operations: Optional[list], variant: Mapping) -> list:
    """Return the names of all networks that know the options `variant`, the nearest by number of tensors first."""
    def apart(name: str) -> float:
        ignored = tuple(getattr(BACKBONES[name], 'ignored', ()))
        held = sum(not (ignored and key.endswith(ignored)) for key in state)
        counts = [held] + ([count_unfolded(operations)] if operations else [])
        return min(abs(count - NUM_TENSORS[name]) for count in counts) if name in NUM_TENSORS else float('inf')
    numbers = sum(count_of(array.shape) for array in state.values())
    known = [name for name in BACKBONES if set(variant) <= set(BACKBONES[name].OPTIONS)
             and numbers >= _LARGE.get(name, 0) / 3]
    unlisted = [name for name in known if name not in NUM_TENSORS]
    nearest = sorted((name for name in known if name in NUM_TENSORS), key=apart)
    exact = [name for name in nearest if apart(name) == 0]
    return exact + unlisted + nearest[len(exact):max(_COMPARED, len(exact))]


def _fitted(name: str, state: Mapping, operations: Optional[list], variant: Mapping, init: Optional[Init]) -> tuple:
    """Return (network, state, number of unusual sizes) of the sizes that the shapes say, as far as they can."""
    built = build_backbone(name, init=init, **variant)
    found = _of_network(built, state, operations)
    if not difference(found, built).shapes:
        return built, found, 0
    options = _sizes(built, found)
    try:
        if not options or not _plausible(built, options, state):
            return built, found, 0
        built = build_backbone(name, init=init, **{**variant, **options})
    except ValueError:                   # sizes that it cannot have: the difference to the usual ones is told
        return built, found, 0
    return built, _of_network(built, state, operations), len(options)


def _plausible(network: Backbone, options: Mapping, state: Mapping) -> bool:
    """Return whether a network of these sizes is about as large as the state dict; one is not built in vain."""
    growth = max(1, (options.get('image_size', network.image_size) / network.image_size) ** 2) * max(
        1, options.get('embedding_size', network.embedding_size) / network.embedding_size)
    held = sum(count_of(array.shape) for array in state.values())
    return growth * sum(parameter.size for parameter in network.get_parameters()) < 4 * held + _SMALL


def _of_network(built: Backbone, state: Mapping, operations: Optional[list]) -> Mapping:
    """Return the state dict by the names of a network: the file's own, or by the order of its layers."""
    if operations is None or not difference(state, built).total:
        return state
    in_order = state_in_order(operations, built)
    return state if in_order is None else in_order


def _sizes(network: Backbone, state: Mapping) -> dict:
    """Return the options that make a network's shapes those of a state dict, told by the tensors that differ."""
    pairs = [(tuple(parameter.shape), state[name].shape) for name, parameter in original_names(network).items()
             if name in state and len(parameter.shape) == state[name].ndim and count_of(state[name].shape)]
    options = {}
    for usual, found in (pair for pair in pairs if len(pair[0]) == 4):
        if usual[1] == network.channels and found[1] != usual[1] and usual[1] in (1, 3):
            options['channels'] = found[1]
            break
    matrices = [pair for pair in pairs if len(pair[0]) == 2]
    if matrices:
        usual, found = matrices[-1]
        size = network.embedding_size * found[0] // usual[0]
        options.update({'embedding_size': size} if size != network.embedding_size else {})
    return {**options, **_side(network, pairs)}


def _side(network: Backbone, pairs: list) -> dict:
    """Return the side of the faces: inputs of a linear layer, tokens or the last kernel grow with it."""
    for usual, found in pairs:
        if len(usual) == 3 and usual[1] != found[1]:
            patch = network.image_size // round(usual[1] ** 0.5)
            return {'image_size': patch * round(found[1] ** 0.5)}
        if len(usual) == 2 and usual[1] != found[1]:
            return {'image_size': round(network.image_size * (found[1] / usual[1]) ** 0.5)}
        if len(usual) == 4 and usual[2:] != found[2:]:
            side = round(network.image_size * found[3] / usual[3])
            rows = round(network.image_size * found[2] / usual[3])
            return {'image_size': side, **({'image_height': rows} if rows != side else {})}
    return {}
