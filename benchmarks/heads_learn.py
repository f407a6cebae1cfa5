"""Trains every head for the same steps on real faces and scores LFW: a proof that each one learns, no ranking.

    python benchmarks/heads_learn.py --dataset_path faces112 --out learn [--heads arcface,triplet] [--epochs 2]

faces112: colour faces in ArcFace alignment, train_list.txt and LFW (docs/results.md). The --people with the most faces
are trained on at 32x32; the network is that of docs/extend.md with BatchNorm at its end, so that a head takes a minute
on two cores. Heads that OUT has a result of are not trained again; OUT/table.md holds the table. A head that comes last
here, with a few hundred people and steps, may well be the best one on millions of faces.
"""
import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
UNTRAINED = 'untrained'
SETTINGS = ('backbone=plainnet', 'backbone.embedding_size=256', 'face_format=arcface', 'image_size=32',
            'resize_size=36', 'batch_size=32', 'lr=0.05', 'warmup_steps=50', 'weight_decay=0.0005',
            'save_checkpoint_steps=100000', 'log_steps=25')
OF_HEADS = {                         # beside the defaults
    'cosface': ['head.scale=64', 'head.margin=0.35'], 'triplet': ['faces_per_person=4'],
    'contrastive': ['faces_per_person=4'], 'mps': ['faces_per_person=2']}
COLUMNS = ('head', 'set for it', 'loss, first', 'last', 'target cosine, first', 'last', 'hard negatives, %, first',
           'last', 'embedding norm, last', 'LFW 100%-EER', '95 % interval')


def register_plainnet():
    """Add the network to the backbones."""
    from mindspore import nn

    from src.backbone import COMMON_OPTIONS, Backbone
    from src.backbones import BACKBONES
    from src.backbones.blocks import batch_norm, batch_norm_1d, conv, halved, linear, prelu

    class PlainNet(Backbone):
        """Four 3x3 convolutions of stride 2, a linear layer, BatchNorm: (N, 3, S, S) -> (N, D)."""

        OPTIONS = COMMON_OPTIONS
        batch_statistics = True

        def __init__(self, init, options):
            super().__init__(options)
            maps, layers = self.channels, []
            for width in (32, 64, 128, 256):
                layers += [conv(init, maps, width, 3, 2), batch_norm(width), prelu(width)]
                maps = width
            self.body = nn.SequentialCell(layers)
            self.fc = linear(init, maps * halved(self.image_size, 4) ** 2, self.embedding_size)
            self.norm = batch_norm_1d(self.embedding_size)          # keeps lengths, as the networks of margin losses do

        def construct(self, x, noise=None):
            x = self.body(x)                            # (N, 3, S, S) -> (N, 256, S / 16, S / 16)
            return self.norm(self.fc(x.reshape(x.shape[0], -1)))
    BACKBONES['plainnet'] = PlainNet


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
        from src.embedding import network_of
        from src.protocols import protocol
        from src.training.network import initial_backbone
        self.cfg, self.protocol = cfg, protocol('lfw')
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


def learn(name, cfg, device, lfw, out):
    """Train one head, score LFW, return what its row shows."""
    from src.training import trainer
    from src.training.network import initial_backbone
    if name == UNTRAINED:
        return lfw(initial_backbone(cfg, 'CPU'))
    start = time.time()
    trainer.train(cfg, device, 'quickstart', str(out), evaluate=lfw, eval_every=cfg.epochs)
    rows = [json.loads(line) for line in (out / 'train_log.jsonl').read_text().splitlines()]
    steps, (score,) = ([row for row in rows if key in row] for key in ('loss', 'eer100'))
    return {'first': steps[0], 'last': steps[-1], 'seconds': time.time() - start, **score}


def row(name, result):
    """Return the cells of a result."""
    cells, (low, high) = [''] * 7, result['interval']
    if 'first' in result:
        first, last = result['first'], result['last']
        cells = [f"{first['loss']:.4g}", f"{last['loss']:.4g}"]
        cells += [f"{line['target_cosine']:.3f}" for line in (first, last)]
        cells += [f"{100 * line['hard_negatives']:.1f}" for line in (first, last)] + [f"{last['embedding_norm']:.3g}"]
    further = ' '.join(f'`{text}`' for text in OF_HEADS.get(name, ()))
    return [name if name == UNTRAINED else f'`{name}`', further, *cells, f"{result['eer100']:.2f}",
            f'{low:.2f} to {high:.2f}']


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
    flags.add_argument('--people', type=int, default=300)
    flags.add_argument('--epochs', type=int, default=2)
    flags.add_argument('--set', nargs='+', default=[], metavar='KEY=VALUE', help='settings of all heads')
    arguments = flags.parse_args()
    device, out, results = set_up('CPU'), arguments.out.resolve(), {}
    from src.config import get_config
    register_plainnet()
    out.mkdir(parents=True, exist_ok=True)
    write_list(arguments.dataset_path, arguments.people, out / 'people.txt')
    settings = [*SETTINGS, f'num_classes={arguments.people}', f"train_list={out / 'people.txt'}",
                f'epochs={arguments.epochs}', *arguments.set]
    lfw = LFW(get_config('quickstart', settings, str(arguments.dataset_path)))
    for name in arguments.heads.split(','):
        file = out / f'{name}.json'
        if not file.exists():
            further = [] if name == UNTRAINED else [f'head={name}', *OF_HEADS.get(name, ())]
            cfg = get_config('quickstart', settings + further, str(arguments.dataset_path))
            file.write_text(json.dumps(learn(name, cfg, device, lfw, out / name)))
        results[name] = json.loads(file.read_text())
        print(' | '.join(row(name, results[name])), flush=True)
        (out / 'table.md').write_text(table(results))


if __name__ == '__main__':
    main()
