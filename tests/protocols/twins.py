"""Synthetic twins of IJB and MegaFace: small sets in the formats of the real files, with pictures if asked for."""
import json

import cv2
import numpy as np

POINTS = np.array([[40, 50], [80, 50], [60, 75], [45, 95], [75, 95]], float)


def write_picture(path, rng, size=(120, 144)):
    """Write a picture of that width and height: of IJB a loose crop."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.resize(rng.integers(0, 256, (12, 10, 3), np.uint8), size))


def write_ijb(root, name='ijbc', *, seed=0, subjects=12, unknown=5, pictures=False):
    """Write ROOT/NAME.upper() and return (folder, rows, pairs, templates); a row is (template, medium, subject, score).

    Each subject has a gallery template (odd ones in the second gallery) and two probe templates; `unknown` more are
    probes only. Returns also the listed pairs and {template: (subject, role)}.
    """
    rng = np.random.default_rng(seed)
    folder = root / name.upper()
    meta = folder / 'meta'
    meta.mkdir(parents=True)
    rows, number = [], 0
    templates = {}                                       # template: (subject, role)
    for subject in range(subjects + unknown):
        for role in ('gallery', 'probe', 'probe') if subject < subjects else ('probe',):
            number += int(rng.integers(1, 9))
            templates[number] = subject, role
            for _ in range(int(rng.integers(1, 7))):
                rows.append((number, int(rng.integers(100, 104)), subject, float(np.round(rng.uniform(0.2, 1), 4))))
    names = [f'{i}.jpg' for i in range(1, len(rows) + 1)]
    points = POINTS + rng.normal(0, 1, (len(rows), 5, 2)).round(3)
    (meta / f'{name}_face_tid_mid.txt').write_text(''.join(f'{n} {t} {m}\n' for n, (t, m, _, _) in zip(names, rows)))
    (meta / f'{name}_name_5pts_score.txt').write_text(''.join(
        f"{n} {' '.join(f'{v:.3f}' for v in p.ravel())} {row[3]}\n" for n, p, row in zip(names, points, rows)))
    ids = list(templates)
    pairs = [(a, b, int(templates[a][0] == templates[b][0])) for i, a in enumerate(ids) for b in ids[i + 1:]]
    (meta / f'{name}_template_pair_label.txt').write_text(''.join(f'{a} {b} {s}\n' for a, b, s in pairs))
    letter = 'G' if name == 'ijbc' else 'S'
    for half in (0, 1):
        _write_subjects(meta / f'{name}_1N_gallery_{letter}{half + 1}.csv', [
            (t, s) for t, (s, role) in templates.items() if role == 'gallery' and s % 2 == half])
    _write_subjects(meta / f'{name}_1N_probe_mixed.csv', [(t, s) for t, (s, role) in templates.items()
                                                          if role == 'probe'])
    if pictures:
        for picture in names:
            write_picture(folder / 'loose_crop' / picture, rng)
    return folder, rows, pairs, templates


def _write_subjects(file, rows):
    file.write_text('TEMPLATE_ID,SUBJECT_ID,FILENAME\n' + ''.join(
        f'{t},{s},img/{t}_{i}.jpg\n' for t, s in rows for i in range(2)))          # as NIST: a line a picture


def write_megaface(root, *, seed=0, people=6, each=5, distractors=80, devkit=False, pictures=False):
    """Write facescrub_lst, megaface_lst and noise lists, or the devkit's JSON; return (probes, distractors)."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True)
    probes = [f'Person_{p}/Person_{p}_{100 + i}.png' for p in range(people) for i in range(each)]
    others = [f'{i % 7}/{i}@N00/{i}_0.jpg' for i in range(distractors)]
    if devkit:
        (root / 'templatelists').mkdir()
        (root / 'templatelists' / 'facescrub_features_list.json').write_text(json.dumps(
            {'path': probes, 'id': [name.split('/')[0] for name in probes]}))
        for size in (10, distractors):
            (root / 'templatelists' / f'megaface_features_list.json_{size}_1').write_text(json.dumps(
                {'path': others[:size], 'id': list(range(size))}))
    else:
        (root / 'facescrub_lst').write_text(''.join(f'./data/facescrub_images/{name}\n' for name in probes))
        (root / 'megaface_lst').write_text(''.join(f'./data/megaface_images/{name}\n' for name in others))
    (root / 'facescrub_noises.txt').write_text('# noisy\nPerson_0_101.png\nPerson_3_104.png\n')
    (root / 'megaface_noises.txt').write_text(f'# noisy\n12\t{others[3]}\n{others[9]}\n')
    if pictures:
        for kind, names in (('facescrub', probes), ('megaface', others)):
            for name in names:
                write_picture(root / f'{kind}_images' / name, rng, (128, 128))
    return probes, others


def write_rfw(root, *, seed=0, people=12, each=5, pairs=30, pictures=False, txts=False):
    """Write the four sets with their lists: `pairs` genuine and as many impostor pairs each, in ten folds."""
    rng = np.random.default_rng(seed)
    for name in ('African', 'Asian', 'Caucasian', 'Indian'):
        folder = root / 'txts' / name if txts else root / name
        (root / 'data' / name if txts else root / name).mkdir(parents=True)
        folder.mkdir(parents=True, exist_ok=True)
        lines = []
        for fold in range(10):
            for _ in range(pairs // 10):
                a, b = rng.choice(each, 2, replace=False) + 1
                lines.append((fold, 0, f'm.{name[:2]}{rng.integers(people)}\t{a}\t{b}\n'))
                p, q = rng.choice(people, 2, replace=False)
                lines.append((fold, 1, f'm.{name[:2]}{p}\t{rng.integers(1, each + 1)}\tm.{name[:2]}{q}\t'
                              f'{rng.integers(1, each + 1)}\n'))
        (folder / f'{name}_pairs.txt').write_text(''.join(line for *_, line in sorted(lines, key=lambda row: row[:2])))
        for person in range(people if pictures else 0):
            for i in range(1, each + 1):
                picture = f'm.{name[:2]}{person}'
                write_picture((root / 'data' if txts else root) / name / picture / f'{picture}_{i:04d}.jpg', rng,
                              (128, 128))


def features_of_people(people, seed=0, size=32, noise=1.0, length=None):
    """Return features (N, size) float32 in which people can be told apart; people -1 are all different."""
    rng = np.random.default_rng(seed)
    people = np.asarray(people)
    centres = rng.standard_normal((max(people.max(), 0) + 1, size))
    features = np.where(people[:, None] < 0, rng.standard_normal((len(people), size)), centres[people])
    features = features + noise * rng.standard_normal((len(people), size))
    return (features * rng.uniform(0.5, 2, (len(people), 1))).astype(np.float32)
