"""Trains every head for the same steps on real faces and scores LFW: a proof that each one learns, no ranking.

    python benchmarks/heads_learn.py --dataset_path faces112 --out learn [--heads arcface,triplet] [--steps 400]

faces112: colour faces in ArcFace alignment, train_list.txt and LFW (docs/results.md). The --people with the most faces
are trained on at 24x24, with a network of two linear layers: seconds a head. --set backbone=... takes any other one.
Heads that OUT has a result of are not trained again; OUT/table.md holds the table. A head that comes last here, with a
few hundred people and steps, may well be the best one on millions of faces.
"""
import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
UNTRAINED, RATE = 'untrained', 0.02
SETTINGS = ('backbone=two_layers', 'backbone.embedding_size=128', 'face_format=arcface', 'image_size=24',
            'resize_size=26', 'batch_size=64', 'clip_norm=0')
OF_HEADS = {                         # beside the defaults: what few people and steps need, and batches of pairs
    'normface': 'scale=16', 'cosface': 'scale=16 margin=0.1', 'arcface': 'scale=16 margin=0.2',
    'combined': 'scale=16 m2=0.1 m3=0.05', 'subcenter_arcface': 'scale=16 margin=0.2', 'expface': 'scale=16 margin=0.9',
    'sphereface_r': 'scale=16', 'adam_softmax': 'scale=16 pressure=1', 'adaface': 'scale=16 margin=0.1',
    'magface': 'scale=16 low_margin=0.1 high_margin=0.3 magnitude=1', 'mv_softmax': 'scale=16 margin=0.1',
    'mv_arc_softmax': 'scale=16 margin=0.1', 'svx_softmax': 'scale=16 m3=0.1', 'arcnegface': 'scale=16 margin=0.2',
    'curricularface': 'scale=16 margin=0.2', 'npcface': 'scale=16 m0=0.1 m1=0.1 npc_shift=0.05', 'circle': 'scale=32',
    'unified_cosface': 'scale=16 margin=0.1', 'unified_expface': 'scale=16 margin=0.9',
    'triplet': 'faces_per_person=4', 'contrastive': 'faces_per_person=4', 'mps': 'faces_per_person=2'}
COLUMNS = ('head', 'set for it', 'loss, first', 'last', 'target cosine, first', 'last', 'hard negatives, %, first',
           'last', 'embedding norm, last', 'LFW 100%-EER', '95 % interval')


def register_two_layers():
    """Add the network to the backbones."""
    from mindspore import ops

    from src.backbone import COMMON_OPTIONS, Backbone
    from src.backbones import BACKBONES
    from src.backbones.blocks import batch_norm_1d, linear

    class TwoLayers(Backbone):
        """Two linear layers with BatchNorm: (N, 3, S, S) -> (N, D)."""

        OPTIONS = COMMON_OPTIONS
        batch_statistics = True

        def __init__(self, init, options):
            super().__init__(options)
            self.first = linear(init, self.channels * self.image_size ** 2, 512)
            self.second = linear(init, 512, self.embedding_size)
            self.norm, self.last_norm = batch_norm_1d(512), batch_norm_1d(self.embedding_size)

        def construct(self, x, noise=None):
            x = ops.relu(self.norm(self.first(x.reshape(x.shape[0], -1))))
            return self.last_norm(self.second(x))
    BACKBONES['two_layers'] = TwoLayers


def settings_of(name):
    """Return what is set for a head, as settings."""
    return [text if text.startswith('faces') else f'head.{text}' for text in OF_HEADS.get(name, '').split()]


def write_list(folder, people, file):
    """Write the list of the faces of the `people` with the most faces, labels from 0; return how many faces."""
    lines = [line.rsplit(maxsplit=1) for line in (folder / 'train_list.txt').read_text().splitlines()]
    counts = Counter(label for _, label in lines)
    chosen = sorted(counts, key=lambda label: (-counts[label], int(label)))[:people]
    new = {label: i for i, label in enumerate(chosen)}
    kept = [f'{name} {new[label]}\n' for name, label in lines if label in new]
    file.write_text(''.join(kept))
    return len(kept)


class LFW:
    """backbone -> the numbers of LFW.

    Faces of its pairs are read once, and one compiled network takes the weights of all heads. Features of other faces,
    which no pair needs, are random.
    """

    def __init__(self, cfg):
        from src.data.images import face_for_test, find_images, read_face
        from src.data.lists import load_lfw_pairs
        from src.dataset import FaceFolder
        from src.embedding import network_of
        from src.protocols import protocol
        from src.training.network import initial_backbone
        self.cfg, self.protocol, self.training_faces = cfg, protocol('lfw'), FaceFolder(cfg)
        self.backbone = initial_backbone(cfg, 'CPU')
        self.network = network_of(self.backbone, cfg.face_format)
        face, names = self.network.face_format, self.protocol.images(cfg)[0]
        self.rows = np.unique(np.concatenate(load_lfw_pairs(cfg.lfw_pairs_mat_path, len(names))))
        paths = find_images(cfg.root_path, [names[row] for row in self.rows])
        self.faces = np.stack([face_for_test(read_face(path, face.colour), face, cfg.image_size) for path in paths])
        self.features = np.random.default_rng(1).standard_normal((len(names), self.backbone.embedding_size))

    def __call__(self, backbone):
        for old, new in zip(backbone.get_parameters(), self.backbone.get_parameters()):
            new.set_data(old)
        face, num = self.network.face_format, len(self.faces)
        padded = np.concatenate([self.faces, self.faces[:-num % 256]])
        batches = [self.network(face.to_input(padded[i:i + 256])) for i in range(0, num, 256)]
        self.features[self.rows] = np.concatenate(batches)[:num]
        numbers = self.protocol.score(self.cfg, lambda names: self.features.astype(np.float32)).numbers
        return {'eer100': numbers['eer100'], 'interval': numbers['interval95']['eer100']}


def learn(name, cfg, device, lfw, num_steps):
    """Train one head, score LFW, return what its row shows: means over the first and the last tenth of the steps."""
    from src.dataset import TrainingBatches
    from src.training.network import initial_backbone
    from src.training.step import build_step
    if name == UNTRAINED:
        return lfw(initial_backbone(cfg, 'CPU'))
    start, rows, step = time.time(), [], build_step(cfg, device)
    batches = TrainingBatches(lfw.training_faces, cfg, in_halves=step.head.pairs_halves)
    for k in range(num_steps):
        loss, counts, _ = step.run(*batches[k], np.float32(RATE * min(1, (k + 1) / 25) * (1 - k / num_steps)))
        rows.append([float(loss.asnumpy()), *(counts.asnumpy()[1:] / cfg.batch_size)])
    step.set_train(False)
    first, last = np.mean(rows[:num_steps // 10], 0).tolist(), np.mean(rows[-(num_steps // 10):], 0).tolist()
    return {'first': first, 'last': last, 'seconds': time.time() - start, **lfw(step.backbone)}


def row(name, result):
    """Return the cells of a result."""
    cells, (low, high) = [''] * 7, result['interval']
    if 'first' in result:
        first, last = result['first'], result['last']
        cells = [f'{first[0]:.4g}', f'{last[0]:.4g}', f'{first[1]:.3f}', f'{last[1]:.3f}']
        cells += [f'{100 * first[2]:.1f}', f'{100 * last[2]:.1f}', f'{last[3]:.3g}']
    further = OF_HEADS.get(name)
    return [name if name == UNTRAINED else f'`{name}`', f'`{further}`' if further else '', *cells,
            f"{result['eer100']:.2f}", f'{low:.2f} to {high:.2f}']


def table(results):
    """Return {head: result} as a table in Markdown."""
    lines = [COLUMNS, ['---'] * len(COLUMNS), *(row(name, result) for name, result in results.items())]
    return ''.join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main():
    from src.device import set_up
    from src.heads import HEADS
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument('--dataset_path', type=Path, required=True)
    flags.add_argument('--out', type=Path, required=True)
    flags.add_argument('--heads', default=','.join((UNTRAINED, *HEADS)), help='names; all by default')
    flags.add_argument('--people', type=int, default=200)
    flags.add_argument('--steps', type=int, default=400)
    flags.add_argument('--set', nargs='+', default=[], metavar='KEY=VALUE', help='settings of all heads')
    arguments = flags.parse_args()
    device, out, results = set_up('CPU'), arguments.out.resolve(), {}
    from src.config import get_config
    register_two_layers()
    out.mkdir(parents=True, exist_ok=True)
    write_list(arguments.dataset_path, arguments.people, out / 'people.txt')
    settings = [*SETTINGS, f'num_classes={arguments.people}', f"train_list={out / 'people.txt'}",
                *arguments.set]
    lfw = LFW(get_config('quickstart', settings, str(arguments.dataset_path)))
    for name in arguments.heads.split(','):
        file = out / f'{name}.json'
        if not file.exists():
            further = [] if name == UNTRAINED else [f'head={name}', *settings_of(name)]
            cfg = get_config('quickstart', settings + further, str(arguments.dataset_path))
            file.write_text(json.dumps(learn(name, cfg, device, lfw, arguments.steps)))
        results[name] = json.loads(file.read_text())
        print(' | '.join(row(name, results[name])), flush=True)
        (out / 'table.md').write_text(table(results))


if __name__ == '__main__':
    main()
