"""Procedurally generated faces: a data set that needs no download, in the file formats of the real one.

    python -m src.data.synthetic --out quickstart/data --people 100 --images 20

A person is a set of shapes and shades (head, jaw, eyes, brows, nose, mouth, hair, skin); a picture adds pose, light,
expression, an occlusion, blur and noise. The same seed gives the same bits. The LFW-like and BLUFR-like protocols are
over people that are never trained on. Numbers measured on these faces say that a pipeline works, nothing about people.
"""
import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor

import cv2
import numpy as np
from scipy.io import savemat
from tqdm import tqdm

from src.data.face_format import FACE_FORMATS, FaceFormat
from src.data.images import TEST_SIDE, TRAIN_SIDE, centre_crop, resize
from src.data.lists import write_image_list

_PERSON, _PICTURE, _PROTOCOL = 10, 11, 12
NUM_PAIRS = 3000                 # of each kind, in ten folds
NUM_TRIALS = 10
_EYE_ROW, _MOUTH_ROW = 48.0, 96.0


def person_traits(seed: int, person: int) -> np.ndarray:
    """Return the traits of one person, (24,) float64, standard normal."""
    return np.random.default_rng([seed, _PERSON, person]).standard_normal(24)


def draw_face(seed: int, person: int, picture: int) -> np.ndarray:
    """Return one aligned face, (144, 144) uint8, eyes at row 48, mouth at row 96."""
    traits = person_traits(seed, person)
    rng = np.random.default_rng([seed, _PICTURE, person, picture])
    shift = rng.standard_normal(16)
    image = _render(traits, shift)
    image = _light(image, rng)
    image = _occlude(image, rng)
    image = _blur(image, abs(rng.normal(0.0, 0.8)))
    image = image + rng.normal(0.0, rng.uniform(1, 8), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def faces_as_input(image_size: int, num_faces: int = 8, face: FaceFormat = FACE_FORMATS['lightcnn']) -> np.ndarray:
    """Return faces of different people as network input, (num_faces, C, image_size, image_size) float32."""
    faces = np.stack([resize(centre_crop(draw_face(1, person, 0), TEST_SIDE), image_size)
                      for person in range(num_faces)])
    return face.to_input(faces if face.num_channels == 1 else np.repeat(faces[..., None], 3, -1))


def _grid(shift):
    """Return pixel coordinates (x right of the eyes' middle, y down) after a small turn, zoom and move."""
    y, x = np.mgrid[:TRAIN_SIDE, :TRAIN_SIDE].astype(np.float64)
    x, y = x - TRAIN_SIDE / 2 - 1.5 * shift[0], y - _EYE_ROW - 1.5 * shift[1]
    angle, zoom = 0.05 * shift[2], 1 + 0.04 * shift[3]
    return (x * np.cos(angle) + y * np.sin(angle)) / zoom, (y * np.cos(angle) - x * np.sin(angle)) / zoom


def _ellipse(x, y, cx, cy, rx, ry, soft=1.5):
    """Return the coverage (0..1) of a soft-edged ellipse."""
    distance = (1 - np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)) * min(rx, ry)
    return 1 / (1 + np.exp(-np.clip(distance / soft, -30, 30)))


def _over(image, coverage, shade):
    return image + coverage * (shade - image)


def _render(t, s):
    """Draw the person with traits `t` under pose and expression `s`."""
    x, y = _grid(s)
    yaw, pitch = 3.0 * s[4], 2.0 * s[5]                                 # features move over the head
    skin, hair = 150 + 28 * t[0], np.clip(70 + 45 * t[1], 10, 230)
    width, chin = 46 + 4 * t[2], 74 + 6 * t[3]
    image = np.full(x.shape, 110 + 40 * s[6])                           # background
    image = _over(image, _ellipse(x, y, 0, 8, width + 9 + 2 * t[4], 78 + 5 * t[5]), hair)
    image = _over(image, _ellipse(x, y, yaw / 2, 22, width, chin - 14), skin)
    image = _over(image, _ellipse(x, y, yaw / 2, 52, width * (0.72 + 0.07 * t[6]), chin - 40 + 3 * t[7]), skin)
    image = _over(image, _ellipse(x, y, yaw / 2 + 6 * t[8], -46 + 5 * t[9], width, 18 + 4 * t[9]), hair)    # hairline
    eye_x, eye_r, open_ = 20 + 2.2 * t[10], 7.5 + 1.2 * t[11], np.clip(0.5 + 0.1 * t[12] + 0.08 * s[7], 0.15, 0.9)
    iris = np.clip(60 + 35 * t[13], 5, 150)
    for side in (-1, 1):
        cx, cy = side * eye_x + yaw, pitch + 0.6 * side * t[14]
        image = _over(image, 0.5 * _ellipse(x, y, cx, cy, eye_r * 1.5, eye_r * 1.1, 3), skin - 50)   # eye socket
        image = _over(image, _ellipse(x, y, cx, cy, eye_r, eye_r * open_, 1), 225)
        image = _over(image, _ellipse(x, y, cx + 0.7 * s[8], cy, eye_r * 0.5, eye_r * min(open_, 0.5), 0.8), iris)
        brow_y = cy - 12 - 1.8 * t[15] - 1.2 * s[9] + 0.16 * t[16] * (side * x - eye_x)
        image = _over(image, 0.9 * _ellipse(x, y, cx, brow_y, 11 + 1.5 * t[17], 2.2 + 0.6 * t[18]), hair * 0.7)
    nose = 26 + 2.5 * t[19]
    image = _over(image, 0.35 * _ellipse(x, y, yaw * 1.4 + 4, nose / 2 + pitch, 3, nose / 2, 2), skin - 60)
    image = _over(image, 0.6 * _ellipse(x, y, yaw * 1.4, nose + pitch, 8 + 1.4 * t[20], 3.5 + 0.5 * t[20]), skin - 45)
    mouth_y = _MOUTH_ROW - _EYE_ROW + pitch
    curve = (0.5 * t[21] + 1.2 * s[10]) * ((x - yaw) / 14) ** 2
    lips = _ellipse(x, y + curve, yaw, mouth_y, 14 + 1.8 * t[22] + s[11], 3.6 + 0.8 * t[23] + 0.5 * abs(s[12]))
    image = _over(image, 0.8 * lips, skin - 60)
    image = _over(image, _ellipse(x, y + curve, yaw, mouth_y, 11, 0.4 + 1.3 * abs(s[12]), 0.7), 40)
    beard = np.clip(t[6] * t[1], 0, 1)
    return _over(image, 0.35 * beard * _ellipse(x, y, yaw / 2, 62, 30, 22, 6), hair)


def _light(image, rng):
    """Light from one side, brightness and contrast."""
    y, x = np.mgrid[:TRAIN_SIDE, :TRAIN_SIDE] / (TRAIN_SIDE - 1) - 0.5
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.7)
    shaded = image * (1 + strength * (x * np.cos(angle) + y * np.sin(angle)))
    return (shaded - 128) * np.exp(rng.normal(0, 0.15)) + 128 + rng.normal(0, 15)


def _occlude(image, rng):
    """Now and then a patch of one shade, or dark glasses' frames."""
    kind, shade = rng.random(), rng.uniform(0, 255)
    row, column = rng.integers(0, TRAIN_SIDE - 40, 2)
    height, width = rng.integers(15, 45, 2)
    if kind < 0.12:
        image[row:row + height, column:column + width] = shade
    elif kind < 0.22:
        y, x = np.mgrid[:TRAIN_SIDE, :TRAIN_SIDE] - np.array([_EYE_ROW, TRAIN_SIDE / 2])[:, None, None]
        for side in (-1, 1):
            outer, inner = _ellipse(x, y, side * 21, 1, 16, 12, 1), _ellipse(x, y, side * 21, 1, 13.5, 9.5, 1)
            image = _over(image, outer - inner, 30.0)
    return image


def _blur(image, sigma):
    if sigma < 0.3:
        return image
    offsets = np.arange(-4, 5)
    kernel = np.exp(-offsets ** 2 / (2 * sigma ** 2))
    kernel /= kernel.sum()
    for axis in (0, 1):
        padded = np.pad(image, [(4, 4) if a == axis else (0, 0) for a in (0, 1)], mode='edge')
        image = sum(k * np.take(padded, np.arange(TRAIN_SIDE) + i, axis) for i, k in enumerate(kernel))
    return image


def test_protocol(seed: int, people: int, images: int) -> tuple:
    """Return the names, labels (from 1), LFW-like pairs and BLUFR-like trials over `people` with `images` each.

    A name is '<person>_0001.jpg' as in the real protocol file; rows count from 1.
    """
    names = [f'Face_{p:04d}_{i:04d}.jpg' for p in range(1, people + 1) for i in range(1, images + 1)]
    labels = np.repeat(np.arange(1, people + 1), images)
    rng = np.random.default_rng([seed, _PROTOCOL])
    first, second = np.tril_indices(len(names), -1)
    same = labels[first] == labels[second]
    pairs = [_choose(rng, np.stack([first[m], second[m]]) + 1) for m in (same, ~same)]
    return names, labels, pairs, [_trial(rng, labels, people) for _ in range(NUM_TRIALS)]


test_protocol.__test__ = False


def _choose(rng, pairs):
    if pairs.shape[1] < NUM_PAIRS:
        raise ValueError(f"{pairs.shape[1]} pairs, {NUM_PAIRS} are needed: raise --test_people or --test_images")
    return pairs[:, rng.choice(pairs.shape[1], NUM_PAIRS, replace=False)].astype(np.uint16)


def _trial(rng, labels, people):
    """Half of the people train; of the others half have one picture in the gallery, all their other ones are probes."""
    order = rng.permutation(people) + 1
    train = np.flatnonzero(np.isin(labels, order[:people // 2]))
    test = np.flatnonzero(~np.isin(labels, order[:people // 2]))
    known = order[people // 2:people // 2 + people // 4]
    gallery = np.array([rng.choice(np.flatnonzero(labels == person)) for person in known])
    probe = np.setdiff1d(test, gallery)
    return [rows + 1 for rows in (train, test, gallery, probe)]


def _save_protocol(out, names, labels, pairs, trials):
    folder = os.path.join(out, 'mat_files')
    os.makedirs(folder, exist_ok=True)
    savemat(os.path.join(folder, 'lfw_pairs.mat'), {'pos_pair': pairs[0], 'neg_pair': pairs[1]})
    columns = {key: _cells([rows.reshape(-1, 1).astype(np.float64) for rows in sets])
               for key, sets in zip(('trainIndex', 'testIndex', 'galIndex', 'probIndex'), zip(*trials))}
    savemat(os.path.join(folder, 'blufr_lfw_config.mat'),
            {'imageList': _cells(names), 'labels': labels.reshape(-1, 1).astype(np.float64), **columns})


def _cells(values):
    cells = np.empty((len(values), 1), object)
    cells[:, 0] = values
    return cells


def _write_person(job):
    """Draw one person's pictures that do not exist yet."""
    seed, person, paths, side = job
    for picture, path in enumerate(paths):
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            temporary = f'{path[:-4]}.tmp.png'
            cv2.imwrite(temporary, centre_crop(draw_face(seed, person, picture), side))
            os.replace(temporary, path)


def write_dataset(out: str, people: int = 100, images: int = 20, test_people: int = 80, test_images: int = 12,
                  seed: int = 1) -> None:
    """Write train/, train_list.txt, lfw/image/ and mat_files/ under `out`; existing pictures are kept."""
    train = [[f'{p:04d}/{i:04d}.png' for i in range(images)] for p in range(people)]
    names, labels, pairs, trials = test_protocol(seed, test_people, test_images)
    stems = [name[:-4] for name in names]
    jobs = [(seed, p, [os.path.join(out, 'train', n) for n in row], TRAIN_SIDE) for p, row in enumerate(train)]
    jobs += [(seed, people + p, [os.path.join(out, 'lfw', 'image', s.rpartition('_')[0], s + '.png')
                                 for s in stems[p * test_images:(p + 1) * test_images]], TEST_SIDE)
             for p in range(test_people)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for _ in tqdm(pool.map(_write_person, jobs), 'drawing', len(jobs), unit='person', disable=None):
            pass
    _save_protocol(out, names, labels, pairs, trials)
    write_image_list(os.path.join(out, 'train_list.txt'), sum(train, []), np.repeat(np.arange(people), images))


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument('--out', required=True, metavar='DIR', help='folder to write')
    flags.add_argument('--people', type=int, default=100, help='people to train on (default %(default)s)')
    flags.add_argument('--images', type=int, default=20, help='pictures of each (default %(default)s)')
    flags.add_argument('--test_people', type=int, default=80, help='people of the protocols (default %(default)s)')
    flags.add_argument('--test_images', type=int, default=12, help='pictures of each (default %(default)s)')
    flags.add_argument('--seed', type=int, default=1)
    args = flags.parse_args()
    try:
        write_dataset(args.out, args.people, args.images, args.test_people, args.test_images, args.seed)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{args.people} synthetic people to train on and {args.test_people} to test on, under {args.out}")


if __name__ == '__main__':
    main()
