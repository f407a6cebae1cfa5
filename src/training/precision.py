"""Mixed precision of a card's training: the network in 16 bits, what needs more in float32.

    network = mixed_precision(training_network(cfg), 'bfloat16')         # a Cell with the same inputs and outputs
"""
import re
import sys
from typing import Any, Optional

import mindspore as ms
from mindspore import nn

from src.backbone import Backbone
from src.device import Device
from src.training.network import TrainingNetwork

DTYPES = {'float16': ms.float16, 'bfloat16': ms.bfloat16}
# the first generation, as CANN names it; its matrix unit takes float16 alone. Ascend910B1 to B4 are Atlas A2
FIRST_910 = re.compile(r'Ascend910(|A|B|Pro[AB]|Premium[AB])')
_WITH_WEIGHTS = (nn.Dense, nn.Conv2d)


def precision_of(cfg: Any, device: Device) -> str:
    """Return 'float16', 'bfloat16' or 'float32': what cfg.mixed_precision means on a device.

    Raises ValueError where the card has no bfloat16: of Ascends the first 910 has none, and MindSpore's operators for
    GPUs know none.
    """
    asked = cfg.mixed_precision
    if device.target == 'CPU':
        if asked in DTYPES:
            print(f"warning: mixed_precision={asked} is for cards; the CPU trains in float32", file=sys.stderr,
                  flush=True)
        return 'float32'
    if asked == 'bfloat16':
        refuse_without_bfloat16(device.target, card_name(device))
    return 'float16' if asked == 'auto' else asked


def refuse_without_bfloat16(target: str, name: Optional[str]) -> None:
    """Raise ValueError if a card of this name cannot compute in bfloat16 under MindSpore. name: None if not known."""
    advice = "take mixed_precision=float16"
    if target != 'Ascend':
        raise ValueError(f"mixed_precision=bfloat16: MindSpore has its operators for Ascend, not for {target}; "
                         f"{advice}")
    if name and (FIRST_910.fullmatch(name) or name.startswith('Ascend310')):
        raise ValueError(f"mixed_precision=bfloat16: an {name} computes in float16 and float32 only (Atlas A2 and "
                         f"later have bfloat16); {advice}")


def card_name(device: Device) -> Optional[str]:
    """Return the name of an Ascend, such as Ascend910A or Ascend910B2, or None where MindSpore does not tell it."""
    if device.target != 'Ascend':
        return None
    try:
        return ms.hal.get_device_name(device.device_id, 'Ascend')
    except (AttributeError, RuntimeError, ValueError):
        return None


def needs_loss_scale(precision: str, device: Device) -> bool:
    """Return whether gradients may underflow: in float16, which a first-generation 910 takes for float32 as well."""
    return precision == 'float16' or device.target == 'Ascend' and bool(FIRST_910.fullmatch(card_name(device) or ''))


def mixed_precision(network: TrainingNetwork, precision: str) -> nn.Cell:
    """Return the network in 16 bits (MindSpore's O2) but for normalisation, its last layer and its head.

    A head works with lengths, margins and scales: in float16 the square of 256 overflows and 1e-12 is zero. Its product
    with the class weights is a small share of the whole. SyncBatchNorm is one more than O2 spares.
    """
    if precision == 'float32':
        return network
    last = last_layers(network.backbone)
    spared = [*ms.amp.get_black_list(), nn.SyncBatchNorm]
    mixed = ms.amp.custom_mixed_precision(network, black_list=spared, dtype=DTYPES[precision])
    network.head.to_float(ms.float32)
    for cell in last:
        if isinstance(cell, _WITH_WEIGHTS):
            cell.to_float(ms.float32)
    for _, cell in network.backbone.cells_and_names():       # O2's wrappers round what comes out of a normalisation
        if any(getattr(cell, '_backbone', None) is norm for norm in last):
            cell.dtype = ms.float32
    return mixed


def last_layers(backbone: Backbone) -> list:
    """Return the last cell with weights that makes the embedding, and the cells behind it."""
    cells = [cell for _, cell in backbone.cells_and_names()]
    place = max((i for i, cell in enumerate(cells) if isinstance(cell, _WITH_WEIGHTS)), default=len(cells))
    return cells[place:]
