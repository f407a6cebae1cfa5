"""Image lists: LFW's two from the protocol file, or one of a folder of people to train on.

    python src/get_list.py --dataset_path faces [--check pairs.txt]        # image_list_for_lfw.txt, ..._for_blufr.txt
    python src/get_list.py train faces/train --min_images 5                # faces/train_list.txt

An existing list with the same content is not written again.
"""
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Optional

from easydict import EasyDict as edict

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from src import cli  # noqa: E402
from src.config import get_config  # noqa: E402
from src.data import lists, pairs  # noqa: E402
from src.data.images import EXTENSIONS  # noqa: E402

EXAMPLES = __doc__.split('\n\n')[1]
RESULT_FILE = 'mat_files/LightenedCNN_B_lfw.mat'          # of the network's authors, where the LFW order came from
_PREFIX = 10                                             # characters before '<person>/<name>' in it


def lfw_lists(cfg: edict, result_file: Optional[str] = None) -> dict:
    """Return {'lfw': (names, labels), 'blufr': ...} from blufr_lfw_config.mat, LFW's from result_file if given."""
    protocol = lists.load_blufr(cfg.blufr_config_mat_path)
    lfw = lists.load_lfw_order(result_file, _PREFIX) if result_file else lists.list_for_lfw(protocol)
    return {'lfw': lfw, 'blufr': lists.list_for_blufr(protocol)}


def check_pairs(names: Sequence, pairs_mat: str, pairs_txt: str) -> tuple:
    """Return (genuine, impostor) numbers of pairs that lfw_pairs.mat and LFW's pairs.txt share, all of them.

    ValueError names the first pair that differs.
    """
    found = lists.load_lfw_pairs(pairs_mat, len(names))
    stems = [os.path.splitext(os.path.basename(name))[0] for name in names]
    for kind, rows, wanted in zip(('positive', 'negative'), found, read_pairs_txt(pairs_txt)):
        if len(rows) != len(wanted):
            raise ValueError(f"{pairs_txt}: {len(wanted)} {kind} pairs, {pairs_mat} has {len(rows)}")
        for number, ((a, b), pair) in enumerate(zip(rows, wanted), 1):
            if (stems[a], stems[b]) != pair:
                raise ValueError(f"{pairs_txt}: {kind} pair {number} is {pair[0]}, {pair[1]}; the list gives "
                                 f"{stems[a]}, {stems[b]}")
    return len(found[0]), len(found[1])


def read_pairs_txt(file: str) -> tuple:
    """Return LFW's (positive, negative) pairs of 'Person_0001' names, in the file's order."""
    held = pairs.read_lfw(file)
    stems = [os.path.splitext(os.path.basename(name))[0] for name in held.names]
    return tuple([(stems[a], stems[b]) for a, b in held.rows[held.same == kind].tolist()] for kind in (True, False))


def train_list(root: str, min_images: int = 1) -> tuple:
    """Return (names, labels, number of dropped people) of a folder of people: sorted, labels 0..K-1."""
    if not os.path.isdir(root):
        raise FileNotFoundError(f"{root}: no such folder of people")
    names, labels, num_people, num_dropped = [], [], 0, 0
    for person in sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != '.'):
        pictures = sorted(n for n in os.listdir(os.path.join(root, person)) if n.lower().endswith(EXTENSIONS))
        if len(pictures) < min_images or not pictures:
            num_dropped += 1
            continue
        names += [f'{person}/{picture}' for picture in pictures]
        labels += [num_people] * len(pictures)
        num_people += 1
    if not names:
        raise ValueError(f"{root}: no person with {min_images} or more pictures; expected <person>/<picture>.jpg")
    unsafe = next((name for name in names if re.search(r'[\r\n]', name)), None)
    if unsafe:
        raise ValueError(f"{root}: the name {unsafe!r} holds a line break and cannot stand in a list")
    return names, labels, num_dropped


def write(file: str, names: Sequence, labels: Iterable) -> None:
    """Write a list unless the file has the same content already, and print which."""
    text = ''.join(f'{name} {label}\n' for name, label in zip(names, labels))
    same = os.path.isfile(file) and Path(file).read_bytes() == text.encode(errors='surrogateescape')
    if not same:
        lists.write_text(file, text)
    print(f"{file}: {len(names)} images of {len(set(map(int, labels)))} people{', unchanged' if same else ''}")


def main() -> None:
    flags = cli.parser(__doc__.splitlines()[0], EXAMPLES)
    flags.add_argument('job', nargs='*', metavar='train DIR', help='make a training list of a folder of people')
    flags.add_argument('--dataset_path', metavar='DIR', help='folder with mat_files/; the lists are written there')
    flags.add_argument('--out', metavar='PATH', help='folder of the two lists, or file of the training list')
    flags.add_argument('--check', metavar='pairs.txt', help="compare with LFW's own file")
    flags.add_argument('--min_images', type=int, default=1, help='drop people with fewer (default %(default)s)')
    args = flags.parse_args()
    if args.job:
        if len(args.job) != 2 or args.job[0] != 'train':
            raise ValueError(f"'{' '.join(args.job)}': expected nothing, or train DIR")
        names, labels, num_dropped = train_list(args.job[1], args.min_images)
        write(args.out or os.path.join(os.path.dirname(os.path.abspath(args.job[1])), 'train_list.txt'), names, labels)
        print(f"{num_dropped} people have fewer than {max(1, args.min_images)} pictures and are dropped")
        return
    cfg = get_config(dataset_path=args.dataset_path)
    result_file = os.path.join(args.dataset_path or '.', RESULT_FILE)
    found = lfw_lists(cfg, result_file if os.path.isfile(result_file) else None)
    if args.check:
        num = check_pairs(found['lfw'][0], cfg.lfw_pairs_mat_path, args.check)
        print(f"{args.check}: {num[0]} positive and {num[1]} negative pairs agree")
    for protocol, (names, labels) in found.items():
        write(os.path.join(args.out or args.dataset_path or '.', f'image_list_for_{protocol}.txt'), names, labels)


if __name__ == '__main__':
    cli.run(main)
