"""Are two pictures of one person, and who in a gallery is it? The code of recognise.py; features in, a verdict out.

    point = operating_point(read_thresholds('thresholds.json'), 0.001)
    verdict = compare_pictures(faces, 'a.jpg', 'b.jpg', point)
    people = nearest(faces, 'photo.jpg', 'photos', point)

thresholds.json is what evaluate.py writes: each point has a threshold, and the error rates that were measured at it.
"""
import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Optional

import numpy as np

from src.data import lists
from src.data.detection import DetectedFaces, aligned_png, detector_of, points_of
from src.data.images import check_alignment, decode
from src.data.people import read_people
from src.data.pictures import AnyPicture, Held, Picture
from src.embedding import Network, embed, embed_cached
from src.scoring.metrics import unit_rows

DIFFERENT, ERROR = 1, 2          # exit codes, as grep's; 0: the same person
MAX_POINTS = 10_000
_EQUAL = 0.9999                  # less alike than this are no two copies of a file


class Faces(NamedTuple):
    """A network, the detector for its photographs ('' for aligned faces), and the format that faces are said to have.

    Embeddings are kept by content where evaluation keeps them, so that a gallery is embedded once.
    """

    network: Network
    detector: str = ''
    assumed: str = ''
    workers: int = 2

    def photo(self, path: str) -> AnyPicture:
        """Return the aligned face of one picture. Raises FileNotFoundError, or ValueError if no face is found."""
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path}: no such picture")
        if not self.detector:
            check_alignment(os.path.dirname(path) or '.', [path], self.network.face_format, self.assumed)
            return path
        with open(path, 'rb') as file:
            image = decode(file.read(), 'BGR', path)
        try:
            face = aligned_png(image, points_of(detector_of(self.detector), image), self.network.face_format)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return Picture(Held(path, [face], [os.path.basename(path)]), 0)

    def gallery(self, root: str, names: Sequence) -> dict:
        """Return {name: its picture} of those in which there is a face."""
        if not self.detector:
            paths = [os.path.join(root, name) for name in names]
            check_alignment(root, paths, self.network.face_format, self.assumed)
            return dict(zip(names, paths))
        found = DetectedFaces(root, names, self.detector, workers=self.workers)
        found.face = self.network.face_format
        return {name: found.picture(name) for name in found.names}

    def embed(self, pictures: Sequence) -> np.ndarray:
        """Return unit features (N, D). ValueError names a picture that cannot be decoded or is no aligned face."""
        embed_new = partial(embed, self.network, batch_size=min(64, len(pictures)), num_workers=self.workers)
        kept = os.path.splitext(self.network.file)[0] + '.features.npz'
        features, _ = embed_cached(embed_new, self.network, pictures, kept)
        return unit_rows(features, list(map(str, pictures)))


def read_thresholds(file: str, network: Optional[Network] = None) -> list:
    """Return the points of a thresholds.json, checked. ValueError if it is none, or that of another network."""
    held = lists.read_json(file, 'no such thresholds; evaluate.py writes them')
    if isinstance(held, dict) and isinstance(held.get('models'), list):
        held = _model_of(held['models'], network, file)
    points = held.get('points') if isinstance(held, dict) else None
    if not isinstance(points, list) or not points or len(points) > MAX_POINTS or \
            held.get('accept') != 'cosine similarity >= threshold':
        raise ValueError(f"{file}: not the thresholds of an evaluation; evaluate.py --thresholds FILE writes them")
    for number, point in enumerate(points, 1):
        if not isinstance(point, dict) or not all(_is_number(point.get(key)) for key in ('far', 'threshold')) or \
                not 0 <= point['far'] <= 1 or not -1.001 <= point['threshold'] <= 1.001:
            raise ValueError(f"{file}: point {number} has no FAR from 0 to 1 and no threshold from -1 to 1")
    if network is not None:
        _check_network(held, network, file)
    return points


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9


def _model_of(models, network, file):
    """Return the entry of the network among those of several models."""
    digest = network and lists.file_sha256(network.file)
    found = [held for held in models if isinstance(held, dict) and digest in (None, held.get('weights_sha256'))]
    if not found or digest and len(found) > 1:
        raise ValueError(f"{file}: holds the thresholds of {len(models)} models, none of them this network")
    return found[0]


def _check_network(held, network, file):
    digest, name = held.get('weights_sha256'), os.path.basename(network.file)
    if isinstance(digest, str):
        if digest != lists.file_sha256(network.file):
            raise ValueError(f"{file}: measured with other weights ({str(held.get('model'))[:60]}) than {name}; "
                             "evaluate this network, or give a number with --threshold")
    elif held.get('model') != name:
        print(f"warning: {file}: measured with {str(held.get('model'))[:60]!r}; whether that is {name} is not known",
              file=sys.stderr, flush=True)


def operating_point(points: list, far: float, name: str = '') -> dict:
    """Return the point for a wanted FAR: the largest FAR not above it, of most impostor pairs.

    name: of the protocol that it must come from, '' for any. ValueError lists the FARs that there are.
    """
    fitting = [point for point in points if not name or point.get('protocol') == name]
    below = [point for point in fitting if point['far'] <= far * (1 + 1e-9)]
    if not below:
        known = ', '.join(f"{point['far']:g} ({str(point.get('protocol'))[:40]})" for point in fitting[:12])
        raise ValueError(f"--far {far:g}: no threshold was measured for it; FARs: {known or 'none of that protocol'}")
    return max(below, key=lambda point: (point['far'], _count(point)))


def _count(point):
    return point['impostor_pairs'] if _is_number(point.get('impostor_pairs')) else 0


def rates_text(point: dict) -> str:
    """Return what is known of a threshold's errors, in one or two sentences."""
    if 'far' not in point:
        return 'The error rates of this threshold are not known; --thresholds FILE tells those of measured ones.'
    far = point.get('far_measured') if _is_number(point.get('far_measured')) else 100 * point['far']
    text = f"Measured on {str(point.get('protocol'))[:40]}: of pairs of two people {far:.4g} % are accepted"
    text += _span(point.get('far_interval95'))
    if _is_number(point.get('tpr')):
        text += f", of pairs of one person {100 - point['tpr']:.4g} % are refused"
        text += _span(point.get('tpr_interval95') or point.get('interval95'), flipped=True)
    return text + (f"; {_count(point):g} pairs of two people." if _count(point) else '.')


def _span(interval, *, flipped=False):
    if not isinstance(interval, list) or len(interval) != 2 or not all(map(_is_number, interval)):
        return ''
    low, high = (100 - interval[1], 100 - interval[0]) if flipped else interval
    return f' (95 %: {max(low, 0):.4g} .. {high:.4g})'


def compare_pictures(faces: Faces, first: str, second: str, point: dict) -> dict:
    """Return {'pictures', 'similarity', 'same', 'threshold', 'rates'} of two pictures; point: has a 'threshold'."""
    unit = faces.embed([faces.photo(first), faces.photo(second)])
    similarity = float(unit[0] @ unit[1])
    return {'pictures': [first, second], 'similarity': similarity, **_verdict(similarity, point)}


def _verdict(similarity, point):
    if point is None:
        return {'same': None}
    return {'same': bool(similarity >= point['threshold']), 'threshold': point['threshold'],
            'rates': {key: value for key, value in point.items() if key != 'threshold'}}


def nearest(faces: Faces, photo: str, gallery: str, point: Optional[dict] = None, top: int = 5) -> dict:
    """Return the `top` people of a gallery, GALLERY/<person>/<picture>, by their most alike picture.

    'people': [{'person', 'similarity', 'mean', 'picture', 'pictures'}]; 'same': whether the first is accepted, None
    without a point; 'without_face': gallery pictures that were left out; 'identical': gallery files of the same bytes.
    """
    names, labels, people = read_people(gallery)
    probe, held = faces.photo(photo), faces.gallery(gallery, names)
    kept = np.array([name in held for name in names])
    unit = faces.embed([probe, *held.values()])
    names, labels, scores = [name for name in names if name in held], labels[kept], unit[1:] @ unit[0]
    rows = [_person(person, np.flatnonzero(labels == k), scores, names) for k, person in enumerate(people)
            if (labels == k).any()]
    rows = sorted(rows, key=lambda row: -row['similarity'])[:top]
    digest = lists.file_sha256(photo)
    identical = [names[row] for row in np.flatnonzero(scores > _EQUAL)
                 if lists.file_sha256(os.path.join(gallery, names[row])) == digest]
    return {'picture': photo, 'people': rows, 'gallery_people': len(people), 'gallery_pictures': len(names),
            'without_face': int((~kept).sum()), 'identical': identical, **_verdict(rows[0]['similarity'], point)}


def _person(person, rows, scores, names):
    best = rows[np.argmax(scores[rows])]
    return {'person': person, 'similarity': float(scores[best]), 'mean': float(scores[rows].mean()),
            'picture': names[best], 'pictures': len(rows)}


def pair_lines(result: dict) -> list:
    """Return the verdict about two pictures as lines."""
    verdict = 'the same person' if result['same'] else 'two people'
    sign = '>=' if result['same'] else '<'
    return [f"{verdict}: similarity {result['similarity']:.6f} {sign} {result['threshold']:.6f}",
            *textwrap.wrap(rates_text(result['rates']), 80)]


def gallery_lines(result: dict) -> list:
    """Return the nearest people as lines of at most 80 columns."""
    lines = [f"{'person':<34}{'most alike':>12}{'mean':>10}{'pictures':>10}"]
    lines += [f"{row['person'][:33]:<34}{row['similarity']:>12.6f}{row['mean']:>10.4f}{row['pictures']:>10}"
              for row in result['people']]
    lines += [f"the same file: {name}" for name in result['identical'][:3]]
    if result['same'] is None:
        return lines
    first = result['people'][0]
    sign, verdict = ('>=', first['person']) if result['same'] else ('<', 'nobody of the gallery')
    lines.append(f"{verdict}: {first['similarity']:.6f} {sign} {result['threshold']:.6f}")
    lines += textwrap.wrap(rates_text(result['rates']), 80)
    if 'far' in result['rates']:
        far = min(1.0, result['rates']['far'] * result['gallery_pictures'])
        lines.append(f"A stranger is compared with {result['gallery_pictures']} pictures: accepted in up to "
                     f"{100 * far:.4g} % of cases.")
    return lines


def add_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags of recognise.py."""
    flags.add_argument('pictures', nargs='+', metavar='PICTURE', help='two, or one with --gallery')
    flags.add_argument('--resume', '--ckpt_file', required=True, metavar='CKPT', dest='ckpt', help='checkpoint, its '
                       "folder, an .onnx file, or others' weights")
    flags.add_argument('--gallery', metavar='DIR', help='DIR/<person>/<picture>: who is nearest?')
    source = flags.add_mutually_exclusive_group()
    source.add_argument('--thresholds', metavar='FILE', help='thresholds.json of evaluate.py')
    source.add_argument('--threshold', type=float, metavar='COSINE', help='a threshold whose error rates you know')
    flags.add_argument('--far', type=float, default=0.001, help='false accept rate whose threshold of --thresholds is '
                       'taken (default %(default)s)')
    flags.add_argument('--of', default='', metavar='PROTOCOL', help='that measured it (default: with most pairs)')
    flags.add_argument('--top', type=int, default=5, help='people to list (default %(default)s)')
    flags.add_argument('--detect', action='store_true', help='photographs: find and align the faces')
    flags.add_argument('--detector', default='mtcnn', help='mtcnn, haar or a YuNet model FILE.onnx')
    flags.add_argument('--json', metavar='FILE', help="write the result as JSON, '-' to print it instead")


def check_flags(args: argparse.Namespace) -> None:
    """Raise ValueError or FileNotFoundError for flags that do not fit, before a network is loaded."""
    wanted = 1 if args.gallery else 2
    if len(args.pictures) != wanted:
        raise ValueError(f"{len(args.pictures)} pictures are named, expected {wanted}; --gallery takes one")
    if not args.gallery and args.thresholds is None and args.threshold is None:
        raise ValueError('a verdict needs --thresholds FILE, which evaluate.py writes, or --threshold COSINE')
    if args.json and args.json != '-' and not args.json.endswith('.json'):
        raise ValueError(f"--json {args.json}: expected a name that ends with .json, or -")
    if args.top < 1:
        raise ValueError(f"--top {args.top} is not 1 or more")
    if args.detect:
        detector_of(args.detector)
    absent = next((path for path in args.pictures if not os.path.isfile(path)), None)
    if absent:
        raise FileNotFoundError(f"{absent}: no such picture")
    if args.gallery:
        read_people(args.gallery)
    chosen_point(args)


def chosen_point(args: argparse.Namespace, network: Optional[Network] = None) -> Optional[dict]:
    """Return the operating point that the flags ask for, None without one. ValueError for a value out of range.

    network: what the thresholds must belong to, None for any.
    """
    if not 0 <= args.far <= 1:
        raise ValueError(f"--far {args.far:g} is not a false accept rate; expected 0 to 1, such as 0.001")
    if args.threshold is not None:
        if not -1 <= args.threshold <= 1:
            raise ValueError(f"--threshold {args.threshold:g} is not a cosine; expected -1 to 1")
        return {'threshold': args.threshold}
    return operating_point(read_thresholds(args.thresholds, network), args.far, args.of) if args.thresholds else None
