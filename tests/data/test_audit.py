"""Planted faults are found: doubles, unreadable files, swapped labels, people of the test set; the page is whole."""
import shutil

import cv2
import numpy as np
import pytest
from conftest import script
from html_page import Page

from src.data import audit, lists


def smooth(seed, side=144):
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (9, 9)).astype(np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def spoiled(tmp_path):
    """Eight people of six different pictures, a list, and one fault of each kind."""
    lines = []
    for person in range(8):
        (tmp_path / 'train' / f'p{person}').mkdir(parents=True)
        for i in range(6):
            cv2.imwrite(str(tmp_path / 'train' / f'p{person}' / f'{i}.png'), smooth(10 * person + i))
            lines.append(f'p{person}/{i}.png {person}')
    train = tmp_path / 'train'
    shutil.copy(train / 'p0' / '0.png', train / 'p0' / '5.png')                         # the same file, one person
    shutil.copy(train / 'p1' / '0.png', train / 'p2' / '5.png')                         # and two people
    poor = cv2.imdecode(cv2.imencode('.jpg', smooth(30), [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 0)
    cv2.imwrite(str(train / 'p3' / '5.png'), poor)                                      # saved again as a poor JPEG
    (train / 'p4' / '5.png').write_bytes(b'nothing')
    lines.append('p7/9.png 9')                                                          # label 8 has no image
    (tmp_path / 'list.txt').write_text('\n'.join(lines) + '\n')
    return tmp_path


def test_faults_without_a_network(spoiled):
    done = script('prepare.py', 'audit', '--root', spoiled / 'train', '--list', spoiled / 'list.txt', '--report',
                  spoiled / 'out')
    assert done.returncode == 0, done.stderr
    findings = [line.split('\t') for line in (spoiled / 'out' / 'findings.tsv').read_text().splitlines()]
    assert {(kind, name, other) for kind, name, other, _ in findings} == {
        ('unreadable', 'p4/5.png', ''), ('unreadable', 'p7/9.png', ''),
        ('exact duplicate, one person', 'p0/5.png', 'p0/0.png'),
        ('exact duplicate, two people', 'p2/5.png', 'p1/0.png'),
        ('near duplicate, one person', 'p3/5.png', 'p3/0.png')}
    assert all(len(line) <= 80 for line in done.stdout.splitlines()[:-1])
    assert 'people without an image (label gaps)' in done.stdout
    names, labels = lists.read_image_list(str(spoiled / 'out' / 'clean_list.txt'))
    assert len(names) == 44 and not {'p0/5.png', 'p2/5.png', 'p3/5.png', 'p4/5.png'} & set(names)
    lists.check_train_labels(labels, 8, 'clean')
    text = (spoiled / 'out' / 'audit.html').read_text()
    page = Page(text)
    assert all(value.startswith(('data:', '#')) for value in page.refers) and page.pictures > 60
    assert 'exact duplicate, two people: 1' in text and 'The largest people' in text


def test_pictures_of_the_test_set_are_found(spoiled):
    (spoiled / 'test').mkdir()
    shutil.copy(spoiled / 'train' / 'p5' / '1.png', spoiled / 'test' / 'x.png')
    cv2.imwrite(str(spoiled / 'test' / 'y.png'), smooth(999))
    (spoiled / 'test.txt').write_text('x.png 1\ny.png 2\n')
    found = audit.Audit(str(spoiled / 'train'), str(spoiled / 'list.txt'))
    found.against(str(spoiled / 'test'), str(spoiled / 'test.txt'))
    pictures = [(found.names[row], other) for kind, row, other, _ in found.findings if kind.startswith('image of')]
    assert pictures == [('p5/1.png', 'x.png')]


def drawn_features(num_people=40, images=12, noise=1.2, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_people), images)
    centres = rng.standard_normal((num_people, 32))
    return centres[labels] + noise * rng.standard_normal((len(labels), 32)), labels, centres


def test_swapped_labels_are_found():
    """5 % of the labels swapped: nearly all of them come out, and little else; without a swap next to nothing does."""
    features, labels, _ = drawn_features()
    assert len(audit.mislabelled(features, labels, audit.NOISE)) <= 2
    rng = np.random.default_rng(1)
    planted = rng.choice(len(labels), len(labels) // 20, replace=False)
    spoiled = labels.copy()
    spoiled[planted] = (labels[planted] + rng.integers(1, 40, len(planted))) % 40
    found = audit.mislabelled(features, spoiled, audit.NOISE)
    rows = {row for row, _, _ in found}
    assert len(rows & set(planted)) >= 0.8 * len(planted) and len(rows & set(planted)) >= 0.9 * len(rows)
    right = [other == labels[row] for row, other, _ in found if row in planted]
    assert np.mean(right) > 0.9 and [z for *_, z in found] == sorted(z for *_, z in found)


def test_people_of_the_test_set_are_found():
    features, labels, centres = drawn_features(noise=0.5)
    rng = np.random.default_rng(2)
    others = np.concatenate([centres[[3, 17]], rng.standard_normal((10, 32))])
    other_labels = np.repeat(np.arange(12), 5)
    other_features = others[other_labels] + 0.5 * rng.standard_normal((60, 32))
    found = audit.same_people(features, labels, other_features, other_labels, 0.8)
    assert {(ours, theirs) for ours, theirs, _ in found} == {(3, 0), (17, 1)}


def test_with_a_checkpoint(synthetic, trained, tmp_path):
    done = script('prepare.py', 'audit', '--root', synthetic / 'train', '--list', synthetic / 'train_list.txt',
                  '--report', tmp_path, '--resume', trained, '--against', synthetic / 'train_list.txt',
                  '--device_target', 'CPU')
    assert done.returncode == 0, done.stderr
    kinds = [line.split('\t')[0] for line in (tmp_path / 'findings.tsv').read_text().splitlines()]
    assert kinds.count('person of the other list') >= 6 and kinds.count('image of the other list') == 48
    assert (tmp_path / 'clean_list.txt').read_text() == ''


def test_what_cannot_be_audited_is_one_line(spoiled):
    (spoiled / 'none.txt').write_text('a.png 0\n')
    run = ['prepare.py', 'audit', '--report', spoiled / 'out', '--root']
    for arguments, message in (
            ([spoiled / 'absent', '--list', spoiled / 'list.txt'], 'no such image folder'),
            ([spoiled / 'train', '--list', spoiled / 'none.txt'], 'not one of 1 images can be read')):
        done = script(*run, *arguments)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count('\n') == 1, done.stderr
