"""MegaFace and FaceScrub: which pictures are probes, which distractors, and which of them are noise.

    sets = read_sets('megaface')         # facescrub_lst, megaface_lst, their folders *_images, and *_noises.txt

A list has one path a line (insightface's test pack: facescrub_lst, megaface_lst), or is the devkit's JSON with 'path'
and, for FaceScrub, 'id' (facescrub_features_list.json, megaface_features_list.json_1000000_1). The folder of a
FaceScrub picture is its person. Noise lists are insightface's: names of FaceScrub pictures, paths of MegaFace pictures.
"""
import glob
import os
from typing import NamedTuple, Optional

from src.data.lists import check_relative, read_json

MAX_BYTES = 1 << 31
_PARTS = {'facescrub': 2, 'megaface': 3}     # last parts of a path that tell a picture: person/file, a/b/file


class MegaFace(NamedTuple):
    """Names relative to the folder, without noise; the people of the probes; and the names of noisy probes."""

    probes: list
    people: list
    distractors: list
    noisy_probes: list
    noisy_people: list
    num_noisy_distractors: int


def read_sets(folder: str, *, distractors: Optional[int] = None, noises: bool = True) -> MegaFace:
    """Return the sets in `folder`. distractors: the first so many of the list; noises: leave out what is noise.

    Raises FileNotFoundError for a missing list, ValueError for one that is broken.
    """
    probe_file, distractor_file = (_list_file(folder, kind) for kind in ('facescrub', 'megaface'))
    probes, people = _names(probe_file, folder, 'facescrub')
    others, _ = _names(distractor_file, folder, 'megaface')
    noisy = _noises(os.path.join(folder, 'facescrub_noises.txt')) if noises else set()
    noisy_others = _noises(os.path.join(folder, 'megaface_noises.txt')) if noises else set()
    kept = [os.path.basename(name) not in noisy for name in probes]
    clean = [name for name in others if '/'.join(name.split('/')[-3:]) not in noisy_others]
    if not any(kept) or not clean:
        raise ValueError(f"{folder}: {sum(kept)} probes and {len(clean)} distractors are left without noise, expected "
                         "both")
    return MegaFace([name for name, keep in zip(probes, kept) if keep],
                    [person for person, keep in zip(people, kept) if keep], clean[:distractors],
                    [name for name, keep in zip(probes, kept) if not keep],
                    [person for person, keep in zip(people, kept) if not keep], len(others) - len(clean))


def _list_file(folder, kind):
    """Return the list of 'facescrub' or 'megaface' pictures: insightface's, or the devkit's JSON (the largest)."""
    plain = os.path.join(folder, f'{kind}_lst')
    if os.path.isfile(plain):
        return plain
    places = [os.path.join(glob.escape(folder), place, f'{kind}_features_list.json*') for place in
              ('', 'templatelists', os.path.join('devkit', 'templatelists'))]
    found = [file for place in places for file in sorted(glob.glob(place))]
    if not found:
        raise FileNotFoundError(f"{folder}: neither {kind}_lst nor {kind}_features_list.json in it")
    return max(found, key=os.path.getsize)


def _names(file, folder, kind):
    """Return (names relative to the folder, people) of a list."""
    paths, ids = _paths(file)
    if not paths:
        raise ValueError(f"{file}: no picture is listed")
    names, people = [], []
    for number, path in enumerate(paths, 1):
        parts = [part for part in path.replace('\\', '/').split('/') if part not in ('', '.')][-_PARTS[kind]:]
        name = '/'.join(parts)
        if len(parts) < 2:
            raise ValueError(f"{file}, picture {number}: expected a path with a folder, found '{path[:60]}'")
        check_relative(name, f'{file}, picture {number}')
        names.append(name)
        people.append(ids[number - 1] if ids else parts[-2])
    if len(set(names)) < len(names):
        raise ValueError(f"{file}: lists {len(names) - len(set(names))} pictures twice")
    pictures = os.path.join(folder, f'{kind}_images')
    prefix = f'{kind}_images' if os.path.isdir(pictures) or not os.path.isdir(os.path.join(folder, kind)) else kind
    return [f'{prefix}/{name}' for name in names], people


def _paths(file):
    """Return (paths, ids or None) of a text list or the devkit's JSON."""
    if os.path.getsize(file) > MAX_BYTES:
        raise ValueError(f"{file}: {os.path.getsize(file)} bytes, expected at most {MAX_BYTES}")
    with open(file, encoding='utf-8-sig', errors='surrogateescape') as text:
        if not text.read(64).lstrip().startswith('{'):
            text.seek(0)
            return [line.strip() for line in text if line.strip()], None
    held = read_json(file)
    paths, ids = (held.get(key) if isinstance(held, dict) else None for key in ('path', 'id'))
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise ValueError(f"{file}: expected JSON with a list 'path' of pictures")
    if ids is not None and (not isinstance(ids, list) or len(ids) != len(paths) or 'facescrub' not in file):
        ids = None
    return paths, ids and [str(person) for person in ids]


def _noises(file):
    """Return the pictures of a noise list; lines of '#' are remarks, a second column after a tab is the picture."""
    if not os.path.isfile(file):
        return set()
    with open(file, encoding='utf-8-sig', errors='surrogateescape') as lines:
        rows = [line.strip().split('\t') for line in lines if line.strip() and not line.startswith('#')]
    return {row[1] if len(row) > 1 else row[0] for row in rows}
