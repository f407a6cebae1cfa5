"""Training batches by step number: the same (seed, step) gives the same batch, whatever ran before.

    faces = FaceFolder(cfg)
    images, labels, noise = TrainingBatches(faces, cfg)[step]    # (b, C, S, S) float32, (b,) int32, (b, M) float32

One epoch is one permutation of all images, drawn from (seed, epoch), or with faces_per_person=K as many batches of
people x K faces (src/data/people_and_faces.py). Crop, flip and the uniform noise of dropout come
from (seed, k) for the whole global batch, of which a rank takes its rows: N ranks of batch b see the same images as
one of batch N*b.
"""
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Union

import numpy as np
from easydict import EasyDict as edict
from tqdm import tqdm

from src.data.augment import AUGMENTS, put_low_quality, put_masks
from src.data.face_format import FaceFormat, check_formats, face_format
from src.data.images import check_alignment, find_image, in_colour, is_root, listed_faces, read_face, resize
from src.data.lists import check_train_labels, write_text
from src.data.low_quality import KINDS
from src.data.pack import Pack
from src.data.pictures import pictures_of
from src.data.recordio import open_records
from src.data.people_and_faces import PeopleAndFaces
from src.device import Device

EMBEDDING_SIZE = 256
_NAMES = 100_000                 # names that are hashed at once
# purpose of a random stream; 0 draws the initial weights, PeopleAndFaces has 3 and 4
_EPOCH, _STEP, _MASK, _QUALITY = 1, 2, 5, 6


class PackedFaces:
    """The faces of a pack (src/data/pack.py), as (R, R[, 3]) uint8 in the colour that the network takes."""

    def __init__(self, cfg: edict):
        self.pack, self.list_file, self.side = Pack(cfg.train_list), cfg.train_list, cfg.resize_size
        self.labels, self.face = self.pack.labels, face_format(cfg.face_format)
        if self.pack.num_people > cfg.num_classes:
            raise ValueError(f"{cfg.train_list}: holds {self.pack.num_people} people; num_classes is {cfg.num_classes}")
        check_formats(cfg.train_list, self.pack.face_format, self.face, cfg.assume_format)

    def __len__(self) -> int:
        return len(self.pack)

    def check(self, cfg: edict, out_dir: str, device: Device) -> int:
        """Refuse a damaged shard, each rank looking at its share; a verdict that still holds is not repeated."""
        key = hashlib.sha256(json.dumps([(os.path.abspath(self.list_file), device.rank_size)] + [
            [shard['file'], os.stat(os.path.join(self.pack.folder, shard['file'])).st_mtime_ns, shard['sha256']]
            for shard in self.pack.shards]).encode()).hexdigest()[:16]
        verdict = os.path.join(out_dir, f'pack_check_{key}.rank{device.rank}')
        if not os.path.exists(verdict):
            self.pack.verify(range(device.rank, len(self.pack.shards), device.rank_size), cfg.num_workers)
            write_text(verdict, 'the shards of this rank match their sha256\n')
        return 0

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the faces in `rows` as (n, R, R[, 3]) uint8."""
        faces = np.empty((len(rows), *face_shape(self.face, self.side)), np.uint8)
        for i, row in enumerate(rows):
            faces[i] = in_colour(resize(self.pack.face(row), self.side), self.pack.face_format.colour, self.face.colour)
        return faces


def face_shape(face: FaceFormat, side: int) -> tuple:
    """Return the shape of one face of a format: (side, side), or (side, side, 3) in colour."""
    return (side, side) if face.num_channels == 1 else (side, side, 3)


def open_faces(cfg: edict) -> Union[PackedFaces, 'FaceFolder']:
    """Return the training faces of cfg.train_list: a pack (.json), a .rec file, or a list under cfg.data_path."""
    return PackedFaces(cfg) if cfg.train_list.endswith('.json') else FaceFolder(cfg)


class FaceFolder:
    """The images of a training list, resized once to (R, R[, 3]) uint8 and kept in memory while they fit.

    They lie in a folder, or in a .rec file: one that is the list itself, or one that a list of its keys counts from.
    """

    def __init__(self, cfg: edict):
        self.list_file, self.side = cfg.train_list, cfg.resize_size
        self.root = cfg.train_list if cfg.train_list.endswith('.rec') else cfg.data_path
        self.face = face_format(cfg.face_format)
        if not is_root(self.root):
            raise FileNotFoundError(f"{self.root}: no such folder of training images (data_path)")
        names, labels = listed_faces(self.list_file)
        check_train_labels(labels, cfg.num_classes, self.list_file)
        self._check_format(names, cfg.assume_format)
        self.names, self.labels = names, labels.astype(np.int32)
        # pictures of a .rec that lists itself are read by their rows, without a look at their names
        self.pictures = pictures_of(open_records(self.root)) if self.root == self.list_file else None
        self.cache = None
        if len(names) * self.side ** 2 * self.face.num_channels <= cfg.cache_images_mb * 2 ** 20:
            self.cache = np.empty((len(names), *face_shape(self.face, self.side)), np.uint8)
            self.cached = np.zeros(len(names), bool)

    def _check_format(self, names: list, assumed: str) -> None:
        subset = names[::max(1, len(names) // 100)]              # enough to tell; all are checked before training
        paths = [path for path in (find_image(self.root, name) for name in subset) if path]
        check_alignment(self.root, paths, self.face, assumed)

    def __len__(self) -> int:
        return len(self.names)

    def check(self, cfg: edict, out_dir: str, device: Device) -> int:
        """Drop unreadable images and return their number, see `check_images`."""
        return check_images(self, cfg.num_workers, out_dir, cfg.max_bad_images, device.rank == 0)

    def drop(self, rows: Sequence) -> None:
        """Drop the images in `rows`."""
        if not len(rows):
            return
        kept = np.ones(len(self.names), bool)
        kept[rows] = False
        self.names = [name for name, keep in zip(self.names, kept) if keep]
        self.pictures = self.pictures and self.pictures.take(np.flatnonzero(kept))
        self.labels = self.labels[kept]
        if self.cache is not None:
            self.cache, self.cached = self.cache[:len(self.names)], np.zeros(len(self.names), bool)

    def load(self, row: int) -> np.ndarray:
        """Read image `row` as (R, R[, 3]) uint8. Raises FileNotFoundError or ValueError."""
        path = self.pictures[row] if self.pictures else find_image(self.root, self.names[row])
        if path is None:
            raise FileNotFoundError(f"{os.path.join(self.root, self.names[row])}: no such image")
        return resize(read_face(path, self.face.colour), self.side)

    def state(self) -> str:
        """Return what a verdict about the pictures depends on beside their names: where they lie, and since when."""
        stat = os.stat(self.root)
        since = '' if os.path.isdir(self.root) else f' {stat.st_size} {stat.st_mtime_ns}'
        return os.path.abspath(self.root) + since

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the images in `rows` as (n, R, R[, 3]) uint8."""
        if self.cache is None:
            return np.stack([self.load(row) for row in rows])
        for row in rows:
            if not self.cached[row]:
                self.cache[row] = self.load(row)
                self.cached[row] = True
        return self.cache[rows]


def check_images(faces: FaceFolder, num_workers: int, out_dir: str, max_bad: float, is_writer: bool = True) -> int:
    """Drop the unreadable images of `faces` and return their number; names and reasons go to bad_images.txt.

    Every image is decoded once; the verdict is kept in `out_dir`, so that the next start (or the next rank) reads it.
    Raises ValueError if more than the share `max_bad` is unreadable.
    """
    key = hashlib.sha256(faces.state().encode(errors='surrogateescape'))
    for start in range(0, len(faces), _NAMES):
        key.update('\n'.join(['', *faces.names[start:start + _NAMES]]).encode(errors='surrogateescape'))
    verdict_file = os.path.join(out_dir, f"image_check_{key.hexdigest()[:16]}.json")
    bad = _read_verdict(verdict_file, len(faces))
    if bad is None:
        bad = _decode_all(faces, num_workers)
        if is_writer:
            write_text(os.path.join(out_dir, 'bad_images.txt'), ''.join(f"{reason}\n" for _, reason in bad))
            if len(bad) <= max_bad * len(faces):
                write_text(verdict_file, json.dumps({'num_images': len(faces), 'bad': bad}))
    if len(bad) > max_bad * len(faces):
        raise ValueError(f"{len(bad)} of {len(faces)} training images cannot be read, more than max_bad_images="
                         f"{max_bad:g} allows; {os.path.join(out_dir, 'bad_images.txt')} names them, the first: "
                         f"{bad[0][1]}")
    faces.drop([row for row, _ in bad])
    return len(bad)


def _read_verdict(file: str, num_images: int) -> Any:
    try:
        with open(file, encoding='utf-8') as text:
            verdict = json.load(text)
        bad = [(int(row), str(reason)) for row, reason in verdict['bad']]
        return bad if verdict['num_images'] == num_images and all(0 <= r < num_images for r, _ in bad) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None                                                         # not checked yet


def _decode_all(faces, num_workers):
    def problem(row):
        try:
            faces.read(np.array([row]))
        except (OSError, ValueError) as error:
            return row, ' '.join(str(error).split())
        return None

    with ThreadPoolExecutor(num_workers) as pool:
        found = pool.map(problem, range(len(faces)))
        return [bad for bad in tqdm(found, 'checking images', len(faces), disable=None, leave=False) if bad]


class TrainingBatches:
    """Random access to batches by global step, counted from 0 over all epochs.

    as_bytes: images are (b, C, S, S) uint8, a quarter of the bytes, which the step scales where it runs. in_halves:
    with cfg.faces_per_person=K, row i of a rank's batch and row i + b / K are of one person, else K rows in a row are;
    either way a rank has all K faces of its people.
    """

    def __init__(self, faces: Union[PackedFaces, FaceFolder], cfg: edict, rank: int = 0, rank_size: int = 1,
                 noise_size: int = EMBEDDING_SIZE, *, as_bytes: bool = False, in_halves: bool = False):
        self.faces, self.cfg, self.as_bytes, self.in_halves = faces, cfg, as_bytes, in_halves
        self.noise_size = max(1, noise_size)                       # MindSpore has no arrays of no numbers
        self.global_batch = cfg.batch_size * rank_size
        self.steps_per_epoch = len(faces) // self.global_batch     # the rest of an epoch's permutation is dropped
        if not self.steps_per_epoch:
            raise ValueError(f"{faces.list_file}: {len(faces)} images do not fill one global batch of "
                             f"{self.global_batch}; lower batch_size")
        self.permutation = lru_cache(2)(self._permutation)
        self.people = None
        self.mine = slice(rank * cfg.batch_size, (rank + 1) * cfg.batch_size)      # of the rows of a global batch
        if cfg.faces_per_person:
            self.people = PeopleAndFaces(faces.labels, cfg.faces_per_person, self.global_batch, cfg.seed)
            if in_halves:
                places = np.arange(self.global_batch).reshape(cfg.faces_per_person, rank_size, -1)
                self.mine = places[:, rank].reshape(-1)

    def __len__(self) -> int:
        return self.steps_per_epoch * self.cfg.epochs

    def _permutation(self, epoch):
        return np.random.default_rng([self.cfg.seed, _EPOCH, epoch]).permutation(len(self.faces)).astype(np.int32)

    def global_rows(self, step: int) -> np.ndarray:
        """Return the rows of the training set that the ranks together take in a step."""
        if self.people:
            rows = self.people.rows(step)                                   # (P, K)
            return (rows.T if self.in_halves else rows).reshape(-1)
        epoch, place = divmod(int(step), self.steps_per_epoch)
        return self.permutation(epoch)[place * self.global_batch:][:self.global_batch]

    def __getitem__(self, step: int) -> tuple:
        cfg, mine = self.cfg, self.mine
        rows = self.global_rows(step)[mine]
        rng = np.random.default_rng([cfg.seed, _STEP, int(step)])
        faces = self._augmented(self.faces.read(rows), step, rng)
        noise = rng.random((self.global_batch, self.noise_size), np.float32)[mine]
        images = planes(faces) if self.as_bytes else self.faces.face.to_input(faces)
        return images, self.faces.labels[rows], noise

    def _augmented(self, faces: np.ndarray, step: int, rng: np.random.Generator) -> np.ndarray:
        """Return this rank's faces with masks, augmented, of low quality, as the settings say.

        Masks and low quality draw numbers of their own: all others are what they are without.
        """
        cfg, format_, place = self.cfg, self.faces.face, (self.global_batch, self.mine)
        if cfg.mask:
            mask_rng = np.random.default_rng([cfg.seed, _MASK, int(step)])
            faces = put_masks(faces, cfg.mask, format_, mask_rng, *place)
        faces = AUGMENTS[cfg.augment](faces, cfg.image_size, rng, *place)
        if cfg.low_quality:
            strengths = {kind: cfg[f'low_quality_{kind}'] for kind in KINDS}
            quality_rng = np.random.default_rng([cfg.seed, _QUALITY, int(step)])
            faces = put_low_quality(faces, cfg.low_quality, strengths, format_, quality_rng, *place)
        return faces


def planes(faces: np.ndarray) -> np.ndarray:
    """Return faces (N, H, W) or (N, H, W, 3) as (N, C, H, W), values as they are."""
    return np.ascontiguousarray(faces.transpose(0, 3, 1, 2)) if faces.ndim == 4 else faces[:, None]


def prefetch(get: Callable, items: Iterable, num_workers: int) -> Iterator:
    """Yield get(item) for each of `items` in order, computed ahead by `num_workers` threads."""
    items, waiting = iter(items), deque()
    pool = ThreadPoolExecutor(num_workers)
    try:
        for item in items:
            waiting.append(pool.submit(get, item))
            if len(waiting) > 2 * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
