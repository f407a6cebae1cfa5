"""What a training will need before it is paid for: memory a card by part, disk, checkpoints, hours.

    plan = plan_of(Wanted(2_000_000, 42_000_000, 'iresnet100', 'arcface', cards=8, memory=32))
    print('\\n'.join(lines(plan)))

Parameters are counted in the real network and head; activations are the outputs of all its cells for one face, which
the backward pass needs again, and the largest of them twice more for gradients under way. Weights and momentum are
float32, and the network runs in 16 bits where `float16` says so; on the CPU a large batch goes through in parts
(src/training/step.py). Not counted: communication buffers and the workspaces of operators, for which RESERVE of
the memory is kept free.
"""
import math
import time
from typing import Any, NamedTuple

import numpy as np

from src import device
from src.data.face_format import face_format
from src.data.pack import ENCODINGS
from src.zoo import ZOO

RESERVE = 0.1                    # of a card's memory
GIB = 2 ** 30
# real faces, encoded as prepare.py pack does: means of 1,000 pictures of LFW and celebrities, at the format's own side
JPEG_BYTES = {'grey': 6426 / 144 ** 2, 'colour': 4449 / 112 ** 2}              # a pixel
SHARD_FACES, SHARD_BYTES = 50_000, 2 ** 24 + 2 ** 25                           # header and the page of labels
FACE_BYTES, INDEX_BYTES, PAGE = 8, 80, 2 ** 25                                 # of a face, beside its own
LIST_BYTES = 120                 # of a training list in memory, a line: fitted to one with 5,049,824
# Python, MindSpore, the compiled step, its kernels and pools of memory: fitted to trainings of LightCNN-9
PROGRAM = int(1.15 * GIB)
COPIES = 7                       # of the weights, packed for the executor and for its threads: fitted to iresnet18
FUSED = ('LightCNN_9Layers', 'LightCNN_29Layers', 'LightCNN_29Layers_v2')      # on the CPU: src/cpu/fused_mfm.py
# published, images/s: (backbone, what, number of cards, images/s)
ANCHORS = (('LightCNN_9Layers', 'Ascend 910', 1, 1219), ('LightCNN_9Layers', 'Ascend 910', 8, 4876),
           ('LightCNN_9Layers', 'V100', 1, 870), ('LightCNN_9Layers', 'V100', 8, 5347),
           ('iresnet50', '8 GPUs, a fifth of the classes sampled', 8, 5900),
           ('iresnet100', 'RTX 4090', 1, 790))


class Wanted(NamedTuple):
    """What is asked for. memory: GiB a card. batch: images a card. options: of the backbone."""

    people: int
    images: int
    network: str
    head: str
    cards: int = 1
    memory: float = 32
    batch: int = 128
    epochs: int = 20
    target: str = 'Ascend'
    options: dict = {}


class Network(NamedTuple):
    """What was counted in a network and its head.

    weights, state: numbers that are trained, and others. is_cosine: whether the head normalises its class weight.
    maps, largest: numbers that an image's outputs of cells have, and the largest of them. per_class: trained
    numbers a person; head_rest: the other ones of the head. in_parts: whether a large batch goes through in parts.
    has_executor: whether src/cpu/training_graph.py carries the network out.
    """

    weights: int
    state: int
    maps: int
    largest: int
    per_class: int
    head_rest: int
    in_parts: bool
    is_cosine: bool
    has_executor: bool
    face_format: str
    image_size: int


def count(wanted: Wanted) -> Network:
    """Build the network and its head for a handful of people, and count. Raises ValueError for an unknown name."""
    from src.backbones import build_backbone
    from src.heads import build_head, head_class
    from src.heads.cosine import CosineHead
    from src.initializers import Init
    backbone = build_backbone(wanted.network, init=Init('xavier', 1), **wanted.options)
    plain = {} if backbone.head_bias or 'bias' not in head_class(wanted.head).OPTIONS else {'bias': False}
    heads = [build_head(wanted.head, classes, backbone.embedding_size, init=Init('xavier', 1), **plain)
             for classes in (16, 32)]
    few, more = (sum(p.size for p in head.trainable_params()) for head in heads)
    state = sum(p.size for cell in (backbone, heads[0]) for p in cell.get_parameters() if not p.requires_grad)
    sizes = map_sizes(backbone)
    kept, has_executor = kept_on_cpu(wanted, backbone) if wanted.target == 'CPU' else (sum(sizes), False)
    return Network(sum(p.size for p in backbone.trainable_params()), state, kept, max(sizes),
                   (more - few) // 16, few - (more - few),
                   wanted.target == 'CPU' and not (backbone.batch_statistics or heads[0].batch_statistics),
                   isinstance(heads[0], CosineHead), has_executor, backbone.face_format, backbone.image_size)


def kept_on_cpu(wanted: Wanted, backbone: Any) -> tuple:
    """Return (how many float32 an image's maps are equal to that the CPU keeps, whether it has the executor).

    Those of LightCNN keep the larger of each pair, pooled, and a byte that says which one it was; the executor of
    src/cpu/training_graph.py never writes BatchNorm and activations.
    """
    from mindspore import nn

    from src.backbones import build_backbone
    from src.cpu.fast_path import FastPath
    from src.cpu.trace import ACTIVATIONS
    from src.initializers import Init
    fast = build_backbone(wanted.network, init=Init('xavier', 1, 'CPU'), **wanted.options)
    if isinstance(fast, FastPath):
        return sum(map_sizes(backbone, (nn.BatchNorm1d, nn.BatchNorm2d, nn.PReLU, *ACTIVATIONS.values()))), True
    return (int(1.25 * sum(map_sizes(fast))) if wanted.network in FUSED else sum(map_sizes(backbone))), False


def map_sizes(backbone: Any, without: tuple = ()) -> list:
    """Return how many numbers each output of a cell has for one image, each tensor once. without: kinds of cells."""
    from mindspore import Tensor
    seen, left_out = {}, {}

    def note(cell: Any, _: tuple, output: Any) -> None:
        for tensor in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(tensor, Tensor) and id(tensor) not in left_out:
                (left_out if isinstance(cell, without) else seen)[id(tensor)] = tensor
    hooks = [cell.register_forward_hook(note) for _, cell in backbone.cells_and_names()]
    shape = 1, backbone.channels, backbone.image_size, backbone.image_size
    with device.step_by_step():
        backbone.set_train()
        noise = [Tensor(np.zeros((1, backbone.noise_size), np.float32))] if backbone.noise_size else []
        backbone(Tensor(np.zeros(shape, np.float32)), *noise)
    for hook in hooks:
        hook.remove()
    return [tensor.size for tensor in seen.values()]


def class_numbers(wanted: Wanted, net: Network) -> int:
    """Return how many numbers the head trains."""
    return net.per_class * wanted.people + net.head_rest


def memory_parts(wanted: Wanted, net: Network, batch: int, *, half: bool, shared: bool = False) -> dict:
    """Return {part: bytes} of one card at `batch` images.

    half: the network in float16. shared: as if every card held its share of the classes and computed their logits for
    the images of all cards.
    """
    from src.training.step import num_parts
    classes = class_numbers(wanted, net)
    logits = batch * wanted.people
    if shared:
        classes = math.ceil(classes / wanted.cards)          # logits: cards x batch images, 1 / cards of the classes
    parts = num_parts(batch) if net.in_parts else 1
    images, width = batch // parts, 2 if half else 4
    found = {'network: weights, momentum, gradients': 12 * net.weights + 4 * net.state,
             'network: weights in 16 bits': 2 * net.weights if half else 0,
             'classes: weights, momentum, gradients': 12 * classes,
             'classes: normalised, and its gradient': 8 * classes if net.is_cosine else 0,
             'gradients summed over parts': 4 * (net.weights + classes) if parts > 1 else 0,
             'activations': width * images * (net.maps + 2 * net.largest),
             'logits and their gradients': (16 if net.is_cosine else 8) * logits // parts,
             'images': batch * net.image_size ** 2 * face_format(net.face_format).num_channels * 4}
    if wanted.target == 'CPU':
        found['largest gradient, twice, in the optimizer'] = 8 * classes
        found['copies of weights in the executor'] = 4 * COPIES * net.weights if net.has_executor else 0
        found['program'] = PROGRAM
        found['list of pictures'] = LIST_BYTES * wanted.images
    return {part: int(size) for part, size in found.items() if size}


def largest_batch(wanted: Wanted, net: Network, *, half: bool, shared: bool = False) -> int:
    """Return the largest batch a card, a multiple of 8, that leaves RESERVE of its memory free; 0 if none does."""
    usable = (1 - RESERVE) * wanted.memory * GIB

    def fits(batch):
        return sum(memory_parts(wanted, net, batch, half=half, shared=shared).values()) <= usable
    return max((batch for batch in range(8, 4097, 8) if fits(batch)), default=0)


def pack_bytes(images: int, face_bytes: float) -> int:
    """Return the bytes of a pack of so many faces of `face_bytes` each, in shards of SHARD_FACES and their indexes."""
    shards = max(1, images // SHARD_FACES)
    pages = max(PAGE, images / shards * (face_bytes + FACE_BYTES))
    return int(shards * (SHARD_BYTES + pages - (PAGE if pages == PAGE else 0)) + images * INDEX_BYTES)


def disk(wanted: Wanted, net: Network) -> dict:
    """Return {encoding: bytes} of the training set as a pack."""
    face = face_format(net.face_format)
    pixels, channels = face.train_side ** 2, face.num_channels
    sizes = {'raw': pixels * channels, 'jpeg': pixels * JPEG_BYTES['grey' if channels == 1 else 'colour']}
    return {encoding: pack_bytes(wanted.images, sizes[encoding]) for encoding in ENCODINGS}


def checkpoint_bytes(wanted: Wanted, net: Network) -> int:
    """Return the bytes of a checkpoint: weights, momentum and the rest in float32."""
    return 4 * (2 * (net.weights + class_numbers(wanted, net)) + net.state)


def hours(wanted: Wanted, images_per_second: float) -> float:
    """Return the hours that all epochs take."""
    return wanted.images * wanted.epochs / images_per_second / 3600


def anchored(wanted: Wanted) -> list:
    """Return [(what was published, images/s for this network, hours)], by multiply-adds and, of one card, by cards."""
    macs = ZOO[wanted.network].macs if wanted.network in ZOO else 0
    rows = []
    for name, where, cards, rate in ANCHORS if macs else ():
        if cards == 1 or cards == wanted.cards:
            here = rate * ZOO[name].macs / macs * (wanted.cards if cards == 1 else 1)
            scaled = f', times {wanted.cards} cards' if cards == 1 and wanted.cards > 1 else ''
            rows.append((f'{name} on {where}: {rate} images/s{scaled}', here, hours(wanted, here)))
    return rows


def measure(wanted: Wanted, net: Network, *, steps: int = 4, classes: tuple = (1000, 9000)) -> tuple:
    """Return (seconds of a step of wanted.batch images here, images/s), the class weight's part scaled to all people.

    Two trainings of a few steps on random pictures, with so many classes each; what else a step does is the same.
    """
    low, high = (min(number, wanted.people) for number in classes)
    total = step_seconds(wanted, net, low, steps)
    if high > low:
        slope = (step_seconds(wanted, net, high, steps) - total) / (high - low)
        total += max(0.0, slope) * (wanted.people - low)
    return total, wanted.batch / total


def step_seconds(wanted: Wanted, net: Network, classes: int, steps: int) -> float:
    """Return the median seconds of a training step with so many classes on this machine, the first one left out."""
    from src.config import get_config
    from src.training.dry_run import example_batch
    from src.training.step import build_step
    machine = device.set_up(wanted.target)
    face, side = net.face_format, net.image_size
    cfg = get_config('lightcnn9_ms1m', [
        f'backbone={wanted.network}', f'head={wanted.head}', f'num_classes={max(2, classes)}', f'image_size={side}',
        f'batch_size={wanted.batch}', f'resize_size={side}', f'face_format={face}',
        *(f'backbone.{key}={value}' for key, value in wanted.options.items() if key not in ('image_size', 'channels'))])
    step = build_step(cfg, machine)
    images, labels, noise, rate = example_batch(cfg, step.backbone.channels, step.backbone.noise_size)
    images = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        step.run(images, labels, noise, rate)[0].asnumpy()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))


def shown(size: float) -> str:
    """Return bytes as GiB or MiB."""
    return f'{size / GIB:.2f} GiB' if size >= 0.1 * GIB else f'{size / 2**20:.1f} MiB'


def memory_lines(wanted: Wanted, net: Network) -> list:
    """Return the table of memory: a line a part, a column for each number format and way to hold the classes."""
    kinds = [(False, False)] if wanted.target == 'CPU' else [(True, False), (False, False)]
    if wanted.cards > 1:
        kinds += [(half, True) for half, _ in kinds]
    columns = [memory_parts(wanted, net, wanted.batch, half=half, shared=shared) for half, shared in kinds]
    heads = [('float16' if half else 'float32') + (', shared' if shared else '') for half, shared in kinds]
    rows = [('', heads)]
    for part in dict.fromkeys(part for column in columns for part in column):
        rows.append((part, [shown(column[part]) if part in column else '-' for column in columns]))
    rows.append(('sum', [shown(sum(column.values())) for column in columns]))
    batches = [largest_batch(wanted, net, half=half, shared=shared) for half, shared in kinds]
    rows.append((f'largest batch in {wanted.memory:g} GiB', [str(batch) if batch else 'none' for batch in batches]))
    return [f'{name:<40}' + ''.join(f'{cell:>17}' for cell in cells) for name, cells in rows]


def lines(wanted: Wanted, net: Network, measured: tuple = ()) -> list:
    """Return the plan for people."""
    classes = class_numbers(wanted, net)
    found = [f"{wanted.network} with {wanted.head}: {net.weights / 1e6:.3f} million weights, {classes / 1e6:.1f} "
             f"million for {wanted.people} people; {net.maps / 1e6:.2f} million numbers of activations an image",
             f"memory a card at batch {wanted.batch}:", *memory_lines(wanted, net)]
    if wanted.cards > 1:
        found.append(f"shared: as if the classes were divided among the {wanted.cards} cards; train.py holds all of "
                     "them on each")
    found += [f"disk, pack of {wanted.images} faces as {encoding}: {size / 1e9:.1f} GB"
              for encoding, size in disk(wanted, net).items()]
    found.append(f"disk, a checkpoint: {checkpoint_bytes(wanted, net) / 1e9:.2f} GB")
    epochs = f'{wanted.epochs} epochs'
    if measured:
        seconds, rate = measured
        found.append(f"time, measured on this {wanted.target}: {seconds:.2f} s a step of {wanted.batch}, {rate:.1f} "
                     f"images/s; {hours(wanted, rate * wanted.cards):.1f} h for {epochs} on {wanted.cards} such")
    for what, rate, needed in anchored(wanted):
        found.append(f"time, by multiply-adds from {what}: {rate:.0f} images/s, {needed:.1f} h for {epochs}")
    if anchored(wanted) and not measured:
        found.append("others published these; the classes' share of a step is theirs, not yours: --measure counts it")
    return found
