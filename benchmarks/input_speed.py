"""The training input (read, crop, flip, scale, batch): packs and the folder beside the pipeline of existing scripts.

    python benchmarks/input_speed.py --root faces/train --list faces/train_list.txt

Claim: a raw pack gives 15 times or more the images per second of existing scripts, cv2 and PIL operations in a
GeneratorDataset, on the same images in the same run; a .rec file 0.9 times or more those of a pack of the same JPEGs.
Everything is read from the disk cache, 128x128 crops of 144x144, batch 128; one pass to warm up, then `--seconds` each.
--train STEPS shows the input's cost in a training on the CPU.
"""
import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from src.config import get_config  # noqa: E402
from src.data import lists  # noqa: E402
from src.data.pack import ENCODINGS, pack  # noqa: E402
from src.data.transcode import open_source, transcode  # noqa: E402
from src.dataset import TrainingBatches, open_faces, prefetch  # noqa: E402

BATCH = 128


def script_way(root, names, labels, workers):
    """Yield batches from a GeneratorDataset of cv2 pictures through PIL operations, one at a time."""
    import mindspore.dataset as ds
    from mindspore.dataset import transforms, vision
    from PIL import Image

    class Source:
        def __len__(self):
            return len(names)

        def __getitem__(self, row):
            face = cv2.resize(cv2.imread(os.path.join(root, names[row]), cv2.IMREAD_GRAYSCALE), (144, 144))
            return Image.fromarray(face), np.array(labels[row], np.int32)

    steps = transforms.Compose([vision.RandomCrop(128), vision.RandomHorizontalFlip(), vision.ToTensor()])
    dataset = ds.GeneratorDataset(Source(), ['image', 'label'], shuffle=True, num_parallel_workers=workers,
                                  python_multiprocessing=False)
    dataset = dataset.map(steps, 'image', num_parallel_workers=workers).batch(BATCH, drop_remainder=True)
    while True:
        yield from dataset.create_tuple_iterator(output_numpy=True, num_epochs=1)


def our_way(cfg):
    """Yield batches as train.py's loop gets them."""
    batches, step = TrainingBatches(open_faces(cfg), cfg), 0
    while True:
        yield from prefetch(batches.__getitem__, range(step, step + 100), cfg.num_workers)
        step += 100


def images_per_second(batches, seconds, warm_up):
    """Return images per second of an endless iterator after `warm_up` batches."""
    for _ in range(warm_up):
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        count += len(next(batches)[0])
    return count / (time.perf_counter() - start)


def training_loss(cfg, steps):
    """Return seconds a training step on ready batches and through the loop that train.py runs, in turn, medians."""
    from src import device
    from src.training.outputs import step_outputs
    from src.training.step import build_step
    step = build_step(cfg, device.set_up('CPU'))
    batches = TrainingBatches(open_faces(cfg), cfg)
    ready = *batches[0], np.float32(1e-4)
    loop, seconds = step_outputs(step, batches, lambda _: 1e-4, range(10**6), cfg), ([], [])
    for i in range(steps + 1):
        for times, run in zip(seconds, (lambda: step.run(*ready)[0].asnumpy(), lambda: next(loop))):
            start = time.perf_counter()
            run()
            if i:
                times.append(time.perf_counter() - start)
    return np.median(seconds[0]), np.median(seconds[1])


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument('--root', required=True)
    flags.add_argument('--list', required=True)
    flags.add_argument('--seconds', type=float, default=10, help='per contender (default %(default)s)')
    flags.add_argument('--train', type=int, default=0, metavar='STEPS', help='time so many training steps too')
    args = flags.parse_args()
    names, labels = lists.read_image_list(args.list)
    if len(names) < BATCH:
        sys.exit(f'error: {args.list}: {len(names)} images, expected at least one batch of {BATCH}')
    workers = len(os.sched_getaffinity(0))
    settings = [f'num_classes={labels.max() + 1}', f'batch_size={BATCH}', f'num_workers={workers}']
    once = len(names) // BATCH
    rows = {'existing scripts': images_per_second(script_way(args.root, names, labels, workers), args.seconds, once)}
    with tempfile.TemporaryDirectory() as folder:
        for encoding in ENCODINGS:
            metadata = pack(args.root, args.list, os.path.join(folder, encoding), encoding=encoding, num_shards=2)
            cfg = get_config(settings=[*settings, f'train_list={folder}/{encoding}.json', 'data_path=.'])
            size = sum(open_faces(cfg).pack.lengths) / metadata['num_images']
            rows[f'{encoding} pack, {size:.0f} bytes a face'] = images_per_second(our_way(cfg), args.seconds, once)
        transcode(open_source(f'{folder}/jpeg.json'), folder, 'rec')
        cfg = get_config(settings=[*settings, f'train_list={folder}/train.rec', 'cache_images_mb=0'])
        rows['train.rec, the same JPEGs'] = images_per_second(our_way(cfg), args.seconds, once)
    for title, cache in (('folder, every picture decoded', 0), ('folder, kept in memory', 1024)):
        cfg = get_config(settings=[*settings, f'cache_images_mb={cache}', f'data_path={os.path.abspath(args.root)}',
                                   f'train_list={os.path.abspath(args.list)}'])
        rows[title] = images_per_second(our_way(cfg), args.seconds, once)
    base = next(iter(rows.values()))
    print(f'{"training input, " + str(workers) + " threads":<40}{"images/s":>12}{"to scripts":>14}')
    for title, speed in rows.items():
        print(f'  {title:<38}{speed:>12.0f}{speed / base:>14.1f}')
    if args.train:
        cfg = get_config(settings=[*settings, 'batch_size=32', f'data_path={os.path.abspath(args.root)}',
                                   f'train_list={os.path.abspath(args.list)}'])
        ready, loop = training_loss(cfg, args.train)
        print(f'a training step of 32: {ready:.3f} s on ready batches, {loop:.3f} s from the folder, '
              f'{100 * (loop / ready - 1):+.1f} % for the input')


if __name__ == '__main__':
    main()
