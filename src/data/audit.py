"""Audit of a training list: unreadable, duplicate and mislabelled faces, and people who are in the test set too.

    python prepare.py audit --root faces/train --list faces/train_list.txt --report audit
    python prepare.py audit --root faces/train --list faces/train_list.txt --report audit --resume ckpt \\
        --against faces/image_list_for_lfw.txt --against_root faces/lfw/image
    python prepare.py audit --root faces/lfw/image --list faces/image_list_for_lfw.txt --report audit --against ckpt

Writes audit/audit.html to look at, audit/findings.tsv (kind, image, other image, score) and audit/clean_list.txt, the
list without those images; and audit/fingerprint.npz (src/data/fingerprint.py), by which --against finds the people and
pictures of one list in another without the pictures, as it does by the one beside a checkpoint. With a checkpoint a
face counts as mislabelled if another person's centre is nearer and its own (taken without it) not clearly nearer than
other people's: the first half of the semantic bootstrapping of LightCNN's authors (arXiv:1511.02683, section 3.4),
whose second half is to train again on the cleaned list.
"""
import argparse
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Optional

import cv2
import numpy as np
from tqdm import tqdm

from src.data import fingerprint, lists
from src.data.face_format import FACE_FORMATS, FaceFormat
from src.data.fingerprint import difference_hash
from src.data.images import LIGHTCNN, alignment_of, decode, find_image, list_id, listed_faces, root_of
from src.data.pictures import read_bytes

EXAMPLES = '\n'.join(__doc__.split('\n\n')[1].splitlines())
_HASH_BYTES = 32                 # of a difference hash
_BANDS = 8                       # near duplicates share at least one of its eight parts ...
_THUMB = 32
NEAR = 0.985                     # ... and correlate so much as 32x32 pictures
NOISE = 1.0                      # standard deviations, see `mislabelled`
_BLOCK = 2048


class Looked(NamedTuple):
    """Metadata of the decoded images of a list, one row an image."""

    sizes: np.ndarray            # (N, 2) int32, 0 where it cannot be read
    sha256: list                 # of the file's bytes, None where it cannot be read
    hashes: np.ndarray           # (N, 32) uint8
    thumbs: np.ndarray           # (N, 1024) float32, zero mean, unit length
    problems: dict               # row: reason
    records: np.ndarray          # (N,) fingerprint.RECORD


def look(root: str, names: Sequence, workers: int = 2, face: FaceFormat = LIGHTCNN) -> Looked:
    """Decode every image once and return `Looked`. face: a format of the pictures' alignment."""
    looked = Looked(np.zeros((len(names), 2), np.int32), [None] * len(names),
                    np.zeros((len(names), _HASH_BYTES), np.uint8),
                    np.zeros((len(names), _THUMB * _THUMB), np.float32), {}, np.zeros(len(names), fingerprint.RECORD))

    def one(row):
        try:
            path = find_image(root, names[row])
            if path is None:
                raise FileNotFoundError('no such image')
            data = read_bytes(path)
            image = decode(data, name=str(path))
            looked.sha256[row] = hashlib.sha256(data).hexdigest()
            looked.records[row] = fingerprint.record_of(data, image, face)
            looked.sizes[row] = image.shape[::-1]
            looked.hashes[row] = difference_hash(image)
            looked.thumbs[row] = thumbnail(image)
        except (OSError, ValueError) as error:
            looked.problems[row] = ' '.join(str(error).split())

    with ThreadPoolExecutor(workers) as pool:
        list(tqdm(pool.map(one, range(len(names))), 'checking images', len(names), disable=None, leave=False))
    return looked


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Return a 32 x 32 picture as a vector of zero mean and unit length; zero for an even one."""
    small = cv2.resize(image, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    length = np.linalg.norm(small)
    return small / length if length > 1 else np.zeros_like(small)


def same_files(sha256: Sequence) -> list:
    """Return pairs (first, other) of rows with the same bytes."""
    first, pairs = {}, []
    for row, digest in enumerate(sha256):
        if digest is not None and first.setdefault(digest, row) != row:
            pairs.append((first[digest], row))
    return pairs


def near_duplicates(hashes: np.ndarray, thumbs: np.ndarray, rows: np.ndarray) -> list:
    """Return (first, other, correlation) of rows that look alike; each row is given with its first twin only.

    Rows that share one of eight parts of their hash are compared as thumbnails: near-linear in the number of rows.
    """
    twins = {}
    for band in np.split(hashes, _BANDS, axis=1):
        keys = np.ascontiguousarray(band[rows]).view(np.uint32).ravel()
        order = np.argsort(keys, kind='stable')
        groups = np.split(rows[order], np.flatnonzero(np.diff(keys[order])) + 1)
        for group in groups:
            for start in range(0, len(group) if len(group) > 1 else 0, _BLOCK):       # a huge group: in slices
                part = np.sort(group[start:start + _BLOCK])
                alike = thumbs[part] @ thumbs[part].T
                for i, j in np.argwhere(np.tril(alike, -1) > NEAR):
                    if part[i] not in twins or twins[part[i]][0] > part[j]:
                        twins[part[i]] = (int(part[j]), float(alike[i, j]))
    return [(first, int(row), score) for row, (first, score) in sorted(twins.items())]


def _unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def centres_of(features: np.ndarray, labels: np.ndarray) -> tuple:
    """Return (unit features (N, D), sums of each person's (K, D), counts (K,))."""
    unit = _unit(features)
    sums = np.zeros((labels.max() + 1, features.shape[1]))
    np.add.at(sums, labels, unit)
    return unit, sums, np.bincount(labels)


def mislabelled(features: np.ndarray, labels: np.ndarray, threshold: float) -> list:
    """Return [(row, nearest other label, z)] of faces that stand out among their person's, worst first.

    features: (N, D), labels: (N,). z: by how many standard deviations a face is nearer to its own person's centre
    (taken without it) than to other people's. Below `threshold`, and nearer to another person, is a finding; someone
    with one face has no centre.
    """
    unit, sums, counts = centres_of(features, labels)
    centres, people = _unit(sums[counts > 0]), np.flatnonzero(counts)
    own = (unit * _unit(sums[labels] - unit)).sum(1)
    found = []
    for start in range(0, len(unit) if len(people) > 2 else 0, _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(unit)))
        scores = unit[rows] @ centres.T                          # (n, K)
        scores[people == labels[rows, None]] = np.nan
        z = (own[rows] - np.nanmean(scores, 1)) / np.maximum(np.nanstd(scores, 1), 1e-12)
        other, highest = np.nanargmax(scores, 1), np.nanmax(scores, 1)
        for i in np.flatnonzero((z < threshold) & (highest > own[rows]) & (counts[labels[rows]] > 1)):
            found.append((start + int(i), int(people[other[i]]), float(z[i])))
    return sorted(found, key=lambda row: row[2])


def same_people(features: np.ndarray, labels: np.ndarray, other_features: np.ndarray, other_labels: np.ndarray,
                threshold: float) -> list:
    """Return [(label, other label, cosine of the centres)] of people in both sets, most alike first."""
    (_, sums, counts), (_, other_sums, other_counts) = (centres_of(f, n) for f, n in
                                                        ((features, labels), (other_features, other_labels)))
    scores = _unit(sums) @ _unit(other_sums).T
    scores[counts == 0], scores[:, other_counts == 0] = -1, -1
    pairs = [(int(a), int(b), float(scores[a, b])) for a, b in np.argwhere(scores > threshold)]
    return sorted(pairs, key=lambda pair: -pair[2])


def people_table(labels: np.ndarray, num_people: int) -> tuple:
    """Return (counts (K,), [(images, number of people)] in classes of 1, 2-4, 5-9, ...)."""
    counts = np.bincount(labels, minlength=num_people)
    bounds = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 10**9]
    names = ['0', '1', '2-4', '5-9', '10-19', '20-49', '50-99', '100-199', '200-499', '500 and more']
    return counts, [(name, int(((counts >= low) & (counts < high)).sum()))
                    for name, low, high in zip(names, bounds, bounds[1:])]


class Audit:
    """The findings about one list, gathered step by step. A finding is (kind, row, other name, score)."""

    def __init__(self, root: str, list_file: str, workers: int = 2):
        self.root, self.list_file = root, list_file
        self.names, self.labels = listed_faces(list_file)
        if self.labels.min() < 0:
            raise ValueError(f"{list_file}: label {self.labels.min()} is below 0")
        self.face = _format_of(root, self.names)
        self.looked = look(root, self.names, workers, self.face)
        self.centres, self.weights = np.zeros((0, 0), np.float16), ''
        self.readable = np.array([row for row in range(len(self.names)) if row not in self.looked.problems], np.int64)
        self.findings = [('unreadable', row, '', reason) for row, reason in sorted(self.looked.problems.items())]
        self._duplicates()

    def _add(self, kind, row, other, score):
        self.findings.append((kind, int(row), other, f'{score:.4f}'))

    def _duplicates(self):
        exact = same_files(self.looked.sha256)
        near = near_duplicates(self.looked.hashes, self.looked.thumbs, self.readable)
        known = {row for _, row in exact}
        near = [pair for pair in near if pair[1] not in known]
        for precision, pairs in (('exact', [(*pair, 1.0) for pair in exact]), ('near', near)):
            for first, row, score in pairs:
                people = 'one person' if self.labels[first] == self.labels[row] else 'two people'
                self._add(f'{precision} duplicate, {people}', row, self.names[first], score)

    def against(self, root: str, list_file: str, workers: int = 2) -> None:
        """Find images of another list, such as the test set's, that are in this one too."""
        names, _ = listed_faces(list_file)
        other = look(root, names, workers)
        hashes = np.concatenate([other.hashes, self.looked.hashes])
        thumbs = np.concatenate([other.thumbs, self.looked.thumbs])
        rows = np.array([r for r in range(len(names)) if r not in other.problems] + list(self.readable + len(names)))
        for first, row, score in near_duplicates(hashes, thumbs, rows):
            if first < len(names) <= row:
                self._add('image of the other list', row - len(names), names[first], score)

    def against_fingerprint(self, file: str, features: Optional[np.ndarray] = None, same_person: float = 0.9) -> None:
        """Find images and people of a fingerprint in this list. features: (len(readable), D), to compare centres."""
        held, rows = fingerprint.read(file), self.readable
        features = features if held.weights == self.weights else None
        found = fingerprint.overlap(held, self.looked.records[rows], [self.names[row] for row in rows],
                                    self.labels[rows], self.face.alignment, features=features, same_person=same_person)
        for row in rows[found['pictures']]:
            self._add('image of the fingerprint', row, '', 1.0)
        for key, how in (('by_name', 'name'), ('by_picture', 'picture'), ('by_centre', 'centre')):
            for label in found[key]:
                self._add(f'person of the fingerprint, by {how}', np.flatnonzero(self.labels == label)[0], '', 1.0)

    def as_fingerprint(self) -> fingerprint.Fingerprint:
        """Return the fingerprint of this list."""
        held = fingerprint.of_records(self.looked.records, map(fingerprint.person_in, self.names),
                                      len(np.unique(self.labels)), list_id=list_id(self.list_file),
                                      alignment=self.face.alignment)
        return held._replace(centres=self.centres, weights=self.weights)

    def find_label_noise(self, features: np.ndarray, threshold: float = NOISE) -> None:
        """Find faces that stand out among their person's. features: (len(readable), D)."""
        first = {label: self.names[row] for row, label in zip(self.readable[::-1], self.labels[self.readable][::-1])}
        for place, other, z in mislabelled(features, self.labels[self.readable], threshold):
            self._add('looks like another person', self.readable[place], first[other], z)

    def find_people(self, features: np.ndarray, other_features: np.ndarray, other_names: Sequence,
                    other_labels: np.ndarray, threshold: float) -> None:
        """Find people of the other list in this one; all their images are findings."""
        first = {label: name for name, label in zip(other_names[::-1], other_labels[::-1])}
        for label, other, score in same_people(features, self.labels[self.readable], other_features, other_labels,
                                               threshold):
            self._add('person of the other list', np.flatnonzero(self.labels == label)[0], first[other], score)

    def clean_list(self) -> tuple:
        """Return (names, labels) without the findings; labels 0..K-1 anew. A duplicate's first image stays.

        A person of the other list goes with all images.
        """
        gone = {row for kind, row, *_ in self.findings if not kind.startswith('person of')}
        people = {self.labels[row] for kind, row, *_ in self.findings if kind.startswith('person of')}
        kept = [row for row in range(len(self.names)) if row not in gone and self.labels[row] not in people]
        labels = np.unique(self.labels[kept], return_inverse=True)[1] if kept else []
        return [self.names[row] for row in kept], labels

    def people(self) -> tuple:
        """Return `people_table` of the list."""
        return people_table(self.labels, self.labels.max() + 1)

    def summary(self) -> list:
        """Return [(description, number)] about the list and every kind of finding."""
        counts, _ = self.people()
        rows = [('images', len(self.names)), ('people', int((counts > 0).sum())),
                ('people without an image (label gaps)', int((counts == 0).sum())),
                ('images of a person, smallest / median / largest',
                 f'{counts[counts > 0].min()} / {np.median(counts[counts > 0]):g} / {counts.max()}')]
        return rows + sorted(Counter(kind for kind, *_ in self.findings).items())

    def write(self, out: str) -> None:
        """Write findings.tsv, clean_list.txt, fingerprint.npz and audit.html into a folder."""
        os.makedirs(out, exist_ok=True)
        fingerprint.write(os.path.join(out, 'fingerprint.npz'), self.as_fingerprint())
        lists.write_text(os.path.join(out, 'findings.tsv'), ''.join(
            f'{kind}\t{self.names[row]}\t{other}\t{score}\n' for kind, row, other, score in self.findings))
        lists.write_image_list(os.path.join(out, 'clean_list.txt'), *self.clean_list())
        from src.scoring.page import write_audit
        write_audit(os.path.join(out, 'audit.html'), self)


def _format_of(root: str, names: Sequence) -> FaceFormat:
    """Return a face format of the alignment of listed pictures, LightCNN's if nothing tells."""
    subset = [path for name in names[::max(1, len(names) // 100)] if (path := find_image(root, name))]
    alignment = alignment_of(root, subset)
    return next((face for face in FACE_FORMATS.values() if face.alignment == alignment), LIGHTCNN)


def add_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags of `prepare.py audit`."""
    flags.add_argument('--root', metavar='DIR', help='folder that the list counts from')
    flags.add_argument('--list', required=True, metavar='FILE', help="'path label' list; or a .rec file")
    flags.add_argument('--report', required=True, metavar='DIR')
    flags.add_argument('--against', metavar='FILE', help='another list or .rec, such as the test set\'s; '
                       'or a fingerprint: a .npz, or the folder of checkpoints that it lies in')
    flags.add_argument('--against_root', metavar='DIR', help='folder that it counts from (default: --root)')
    flags.add_argument('--resume', metavar='CKPT', help='find label noise, and people of --against, with this network')
    flags.add_argument('--noise', type=float, default=NOISE, help='standard deviations that a face must be nearer to '
                       'its own person than to others; raise it to find more, and more wrongly (default %(default)s)')
    flags.add_argument('--same_person', type=float, default=0.9, help='cosine of two centres above which two people '
                       'are one (default %(default)s)')
    flags.add_argument('--device_target', default='auto')
    flags.add_argument('--workers', type=int, default=len(os.sched_getaffinity(0)))


def _fingerprint_in(path: Optional[str]) -> str:
    """Return the fingerprint file that --against means, '' if it is a list."""
    if path and os.path.isdir(path):
        path = os.path.join(path, 'fingerprint.npz')
    return path if path and path.endswith('.npz') else ''


def run(args: argparse.Namespace, embed_list: Optional[Callable] = None, weights: str = '') -> None:
    """Run `prepare.py audit`. With --resume: embed_list, (root, names) -> features (N, D), and its weights' sha256."""
    root = root_of(args.root, args.list)
    audit = Audit(root, args.list, max(1, args.workers))
    if not len(audit.readable):
        raise ValueError(f"{args.list}: not one of {len(audit.names)} images can be read under {root}; the first: "
                         f"{audit.looked.problems[0]}")
    held, features = _fingerprint_in(args.against), None
    other_root = root_of(args.against_root or (None if (args.against or '').endswith('.rec') else root), args.against)
    if args.against and not held:
        audit.against(other_root, args.against, max(1, args.workers))
    if embed_list:
        features = embed_list(root, [audit.names[row] for row in audit.readable])
        audit.find_label_noise(features, args.noise)
        audit.centres, audit.weights = fingerprint.centres_of(features, audit.labels[audit.readable])[0], weights
        if args.against and not held:
            names, labels = listed_faces(args.against)
            kept = [i for i, name in enumerate(names) if find_image(other_root, name)]
            names, labels = [names[i] for i in kept], labels[kept]
            audit.find_people(features, embed_list(other_root, names), names, labels, args.same_person)
    if held:
        audit.against_fingerprint(held, features, args.same_person)
    audit.write(args.report)
    for description, number in audit.summary():
        print(f'{description:<52}{number:>16}')
    print(f"{args.report}: audit.html, findings.tsv, clean_list.txt ({len(audit.clean_list()[0])} images)")

