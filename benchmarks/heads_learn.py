"""Trains every head for the same steps on real faces and scores LFW: a proof that each one learns, no ranking.

    python benchmarks/heads_learn.py --dataset_path faces112 --out learn [--heads arcface,triplet] [--epochs 8]

faces112: colour faces in ArcFace alignment, train_list.txt and LFW (docs/results.md). The --people with the most faces
are trained on, LightCNN-9 at 32x32, one seed. Heads that OUT has a result of are not trained again. OUT/table.md holds
the table. Two cores take about 90 s a head. So few people and steps suit small scales and margins: a head that comes
last here may well win on millions of faces.
"""
import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
UNTRAINED = 'untrained'
SETTINGS = ('face_format=arcface', 'image_size=32', 'resize_size=36', 'save_checkpoint_steps=100000', 'log_steps=25')
OF_HEADS = {                         # beside the defaults: the batches that these heads compare
    'triplet': ['faces_per_person=4'], 'contrastive': ['faces_per_person=4'], 'mps': ['faces_per_person=2']}
COLUMNS = ('head', 'set beside the defaults', 'first loss', 'last loss', 'target cosine, first', 'last',
           'hard negatives, %, first', 'last', 'LFW 100%-EER', '95 % interval')


def write_list(folder, people, file):
    """Write the list of the faces of the `people` with the most faces, labels from 0."""
    lines = [line.rsplit(maxsplit=1) for line in (folder / 'train_list.txt').read_text().splitlines()]
    counts = Counter(label for _, label in lines)
    chosen = sorted(counts, key=lambda label: (-counts[label], int(label)))[:people]
    new = {label: i for i, label in enumerate(chosen)}
    file.write_text(''.join(f'{name} {new[label]}\n' for name, label in lines if label in new))
    return len(chosen)


def run(command, log):
    """Run a command of this project; its output goes to `log`, and to the terminal if it fails."""
    with open(log, 'w') as out:
        code = subprocess.run([sys.executable, *command], cwd=PROJECT, stdout=out, stderr=subprocess.STDOUT).returncode
    if code:
        raise RuntimeError(f"{command[0]} ended with code {code}: {log.read_text()[-2000:]}")


def learn(name, settings, arguments):
    """Train one head, score LFW, return what its row shows."""
    out, folder = arguments.out / name, str(arguments.dataset_path)
    out.mkdir(parents=True, exist_ok=True)
    common = ['--recipe', 'quickstart', '--dataset_path', folder, '--device_target', 'CPU', '--set', *settings]
    result, start = {'settings': settings}, time.time()
    source = ['--untrained']
    if name != UNTRAINED:
        head = [f'head={name}', *OF_HEADS.get(name, ())]
        run(['train.py', '--ckpt_path', str(out), *common, *head], out / 'train.txt')
        rows = [json.loads(line) for line in (out / 'train_log.jsonl').read_text().splitlines()]
        result.update(first=rows[0], last=rows[-1], seconds=time.time() - start)
        source = ['--resume', str(out)]
    run(['evaluate.py', '--protocol', 'lfw', *source, '--json', str(out / 'lfw.json'), '--no_cache', '--thresholds',
         str(out / 'thresholds.json'), *common], out / 'evaluate.txt')
    lfw = json.loads((out / 'lfw.json').read_text())
    return {**result, 'eer100': lfw['eer100'], 'interval': lfw['interval95']['eer100']}


def row(name, result):
    """Return the cells of a result."""
    low, high = result['interval']
    steps = [''] * 6
    if 'first' in result:
        first, last = result['first'], result['last']
        steps = [f"{first['loss']:.4g}", f"{last['loss']:.4g}", f"{first['target_cosine']:.3f}",
                 f"{last['target_cosine']:.3f}", f"{100 * first['hard_negatives']:.1f}",
                 f"{100 * last['hard_negatives']:.1f}"]
    further = ' '.join(f'`{text}`' for text in OF_HEADS.get(name, ()))
    return [f'`{name}`' if steps[0] else name, further, *steps, f"{result['eer100']:.2f}", f'{low:.2f} to {high:.2f}']


def table(results):
    """Return {head: result} as a table in Markdown."""
    lines = [COLUMNS, ['---'] * len(COLUMNS), *(row(name, result) for name, result in results.items())]
    return ''.join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main():
    from src.heads import HEADS
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument('--dataset_path', type=Path, required=True)
    flags.add_argument('--out', type=Path, required=True)
    flags.add_argument('--heads', default=','.join((UNTRAINED, *HEADS)), help='names; all by default')
    flags.add_argument('--people', type=int, default=300)
    flags.add_argument('--epochs', type=int, default=8)
    flags.add_argument('--set', nargs='+', default=[], metavar='KEY=VALUE', help='settings of all heads')
    arguments = flags.parse_args()
    arguments.out = arguments.out.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    listed = arguments.out / 'people.txt'
    people = write_list(arguments.dataset_path, arguments.people, listed)
    settings = [*SETTINGS, f'num_classes={people}', f'train_list={listed}', f'epochs={arguments.epochs}',
                *arguments.set]
    results = {}
    for name in arguments.heads.split(','):
        file = arguments.out / f'{name}.json'
        if not file.exists():
            file.write_text(json.dumps(learn(name, settings, arguments), indent=1))
        results[name] = json.loads(file.read_text())
        print(' | '.join(row(name, results[name])), flush=True)
        (arguments.out / 'table.md').write_text(table(results))


if __name__ == '__main__':
    main()
