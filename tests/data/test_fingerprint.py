"""Fingerprints of training sets: planted overlap is found, none is invented, broken files are one line."""
import shutil

import cv2
import numpy as np
import pytest
from conftest import script

from src.data import fingerprint, lists, pack
from src.data.face_format import face_format
from src.data.hamming import near

FACE = face_format('lightcnn')


def smooth(seed, side=144):
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (9, 9)).astype(np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)


def jpeg(image, quality):
    return cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


@pytest.fixture
def sets(tmp_path):
    """A training set of 8 people, and a test set of 6: the same file, two saved again, a person under another name."""
    people = ['Ann_Lee', 'Bo_Berg', 'Cid_Cruz', '0003', '0004', 'José_Díaz', 'Eve_Ek', 'Flo_Fox']
    lines = []
    for label, person in enumerate(people):
        for i in range(4):
            file = tmp_path / 'train' / person / f'{i}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), smooth(10 * label + i))
            lines.append(f'{person}/{i}.png {label}')
    (tmp_path / 'list.txt').write_text('\n'.join(lines) + '\n')
    new, test = 900, {}
    for person in ('Gus_Gray', 'Hal_Hill', 'Ida_Ito', '0003', 'jose diaz', 'Max_Moe'):
        for i in range(3):
            new += 1
            test[f'{person}/{i}'] = '.png', cv2.imencode('.png', smooth(new)[8:136, 8:136])[1].tobytes()
    test['Gus_Gray/0'] = '.png', (tmp_path / 'train' / '0004' / '2.png').read_bytes()      # the same file
    test['Hal_Hill/1'] = '.jpg', jpeg(smooth(21), 60)                    # Cid_Cruz, saved again, under another name
    test['Ida_Ito/2'] = '.jpg', jpeg(smooth(62)[8:136, 8:136], 80)       # Eve_Ek, the centre that is tested
    for name, (extension, data) in test.items():
        file = tmp_path / 'test' / f'{name}{extension}'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    names = [f'{name}{extension}' for name, (extension, _) in test.items()]
    lists.write_image_list(tmp_path / 'test.txt', names, np.repeat(np.arange(6), 3))
    return tmp_path


def overlap_of(sets, held):
    names, labels = lists.read_image_list(str(sets / 'test.txt'))
    records = fingerprint.file_records([str(sets / 'test' / name) for name in names], FACE)
    return names, fingerprint.overlap(held, records, names, labels, 'lightcnn')


def own(sets, drop=()):
    names, labels = lists.read_image_list(str(sets / 'list.txt'))
    kept = [i for i, name in enumerate(names) if name.split('/')[0] not in drop]
    return fingerprint.of_list(str(sets / 'train'), [names[i] for i in kept], labels[kept], FACE, list_id='x')


def test_planted_overlap_is_found_and_none_invented(sets):
    held = own(sets)
    assert (held.num_pictures, held.num_people, len(held.people)) == (32, 8, 6)       # two are numbers, no names
    fingerprint.write(sets / 'held.npz', held)
    names, found = overlap_of(sets, fingerprint.read(str(sets / 'held.npz')))
    assert [names[row] for row in found['pictures']] == ['Gus_Gray/0.png', 'Hal_Hill/1.jpg', 'Ida_Ito/2.jpg']
    assert found['by_picture'].tolist() == [0, 1, 2] and found['by_name'].tolist() == [4]
    assert found['people'].tolist() == [0, 1, 2, 4]                    # not 5, nor the number 0003
    _, found = overlap_of(sets, own(sets, drop=('0004', 'Cid_Cruz', 'Eve_Ek', 'José_Díaz')))
    assert not any(len(rows) for rows in found.values())


def test_names():
    same = [fingerprint.name_hash(name) for name in ('Ann_Lee', 'lee, ann', 'ANN LEE', 'Ánn-Lee', 'Ann_Lee_')]
    assert len(set(same)) == 1 and same[0]
    assert fingerprint.name_hash('Ann_B_Lee') not in (0, same[0])
    for number in ('0001', 'p04669', 'm.0107_f', 'n000012', 'person_12', 'id_00012', 'test_person_3', 'Madonna', ''):
        assert fingerprint.name_hash(number) == 0, number
    assert fingerprint.name_hash('王小明') and fingerprint.person_in('LFW/Ann_Lee/1.jpg') == 'Ann_Lee'
    assert fingerprint.person_in('Ann_Lee_0001.jpg') == 'Ann_Lee'


def test_blank_pictures_match_nothing():
    blank = fingerprint.record_of(b'a', np.full((128, 128), 7, np.uint8), FACE)
    held = fingerprint.of_records(np.array([blank]), [], 1, list_id='', alignment='lightcnn')
    other = fingerprint.record_of(b'b', np.full((128, 128), 9, np.uint8), FACE)
    assert not fingerprint.known_pictures(held, np.array([other]), 'lightcnn').any()
    assert fingerprint.known_pictures(held, np.array([blank]), 'lightcnn').all()      # the same bytes all the same
    assert len(held.pixels) == 0


def test_another_alignment_is_compared_by_bytes_only(sets):
    held = own(sets)._replace(alignment='arcface')
    names, found = overlap_of(sets, held)
    assert [names[row] for row in found['pictures']] == ['Gus_Gray/0.png']


def test_kernel_against_numpy():
    rng = np.random.default_rng(1)
    train = rng.integers(0, 256, (9000, 32)).astype(np.uint8)
    test = train[rng.choice(9000, 200)].copy()
    for row, number in enumerate(rng.integers(0, 30, 200)):
        for bit in rng.choice(256, number, replace=False):
            test[row, bit // 8] ^= 1 << bit % 8
    distance = np.array([np.unpackbits(train ^ row, axis=1).sum(1).min() for row in test])
    found = near(test.view(np.uint64), train.view(np.uint64), np.uint64(12))
    assert np.array_equal(found, distance <= 12) and 20 < found.sum() < 180


def test_centres_find_people_under_other_names(sets):
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((8, 64))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    held = own(sets)._replace(centres=centres.astype(np.float16), people=np.zeros(0, np.uint64))
    names, labels = lists.read_image_list(str(sets / 'test.txt'))
    features = rng.standard_normal((18, 64))
    features[labels == 5] = 3 * centres[6] + 0.05 * rng.standard_normal((3, 64))
    found = fingerprint.overlap(held, np.zeros(18, fingerprint.RECORD), names, labels, 'lightcnn', features=features)
    assert found['by_centre'].tolist() == [5] and found['people'].tolist() == [5]


def test_merged():
    rng = np.random.default_rng(3)
    records = np.zeros(6, fingerprint.RECORD)
    records['file'] = np.arange(1, 7)
    records['pixels'] = rng.integers(0, 256, (6, 32))
    first = fingerprint.of_records(records[:4], ['Ann Lee'], 2, list_id='a', alignment='lightcnn')
    second = fingerprint.of_records(records[2:], ['Bo Berg'], 3, list_id='b', alignment='lightcnn')
    both = fingerprint.merged(second, first)
    assert both.files.tolist() == [1, 2, 3, 4, 5, 6] and len(both.pixels) == 6 and len(both.people) == 2
    assert both.ids == ['b', 'a'] and both.complete and both.num_people == 5
    assert not fingerprint.merged(second, None).complete
    assert fingerprint.merged(first, both) is both                     # it holds that set already


def test_a_pack_brings_its_fingerprint(sets):
    pack.pack(str(sets / 'train'), str(sets / 'list.txt'), str(sets / 'p' / 'faces'), encoding='jpeg', num_shards=3,
              workers=1)
    held = fingerprint.read(str(sets / 'p' / 'faces.fingerprint.npz'))
    whole = own(sets)
    assert held.ids == [lists.file_sha256(str(sets / 'list.txt'))]
    for name in ('files', 'pixels', 'people'):
        assert np.array_equal(getattr(held, name), getattr(whole, name)), name
    assert (held.num_pictures, held.num_people) == (32, 8)
    assert sorted(f.name for f in (sets / 'p').iterdir() if 'shard' in f.name) == []


def test_broken_files_are_one_line(sets, tmp_path):
    file = tmp_path / 'f.npz'
    good = own(sets)
    fingerprint.write(file, good)
    data = file.read_bytes()
    spoiled = [b'', b'nothing', data[:len(data) // 2], data[:300] + b'x' * 50 + data[350:]]
    for number, bad in enumerate(spoiled):
        file.write_bytes(bad)
        with pytest.raises(ValueError, match='not a readable fingerprint') as error:
            fingerprint.read(str(file))
        assert '\n' not in str(error.value), number
    with np.load(_written(tmp_path, good)) as arrays:
        held = dict(arrays)
    for name, value in (('format', np.array(2)), ('files', np.zeros(3)), ('pixels', np.zeros((2, 31), np.uint8)),
                        ('counts', np.array([-1, 1])), ('centres', np.full((1, 2), np.nan, np.float16)),
                        ('ids', np.array([b'a'])), ('complete', np.array([1])), ('people', None)):
        wrong = {key: held[key] if key != name else value for key in held if key != name or value is not None}
        np.savez(file, **wrong)
        with pytest.raises(ValueError, match='not a readable fingerprint'):
            fingerprint.read(str(file))
    np.savez_compressed(file, **{**held, 'files': np.zeros(1 << 20, np.uint64)})
    with pytest.raises(ValueError, match='compressed'):
        fingerprint.read(str(file))
    with pytest.raises(FileNotFoundError, match='no such fingerprint'):
        fingerprint.read(str(tmp_path / 'absent.npz'))


def _written(folder, held):
    fingerprint.write(folder / 'good.npz', held)
    return folder / 'good.npz'


def test_audit_makes_and_checks_it(sets):
    done = script('prepare.py', 'audit', '--root', sets / 'train', '--list', sets / 'list.txt', '--report', sets / 'a')
    assert done.returncode == 0, done.stderr
    (sets / 'ckpt').mkdir()
    shutil.copy(sets / 'a' / 'fingerprint.npz', sets / 'ckpt' / 'fingerprint.npz')
    done = script('prepare.py', 'audit', '--root', sets / 'test', '--list', sets / 'test.txt', '--report', sets / 'b',
                  '--against', sets / 'ckpt')
    assert done.returncode == 0, done.stderr
    findings = {tuple(line.split('\t')[:2]) for line in (sets / 'b' / 'findings.tsv').read_text().splitlines()}
    assert findings == {
        *(('image of the fingerprint', name) for name in ('Gus_Gray/0.png', 'Hal_Hill/1.jpg', 'Ida_Ito/2.jpg')),
        *(('person of the fingerprint, by picture', f'{name}.png') for name in ('Gus_Gray/0', 'Hal_Hill/0',
                                                                              'Ida_Ito/0')),
        ('person of the fingerprint, by name', 'jose diaz/0.png')}
    names, _ = lists.read_image_list(str(sets / 'b' / 'clean_list.txt'))
    assert {name.split('/')[0] for name in names} == {'0003', 'Max_Moe'}
    (sets / 'ckpt' / 'fingerprint.npz').write_bytes(b'x')
    done = script('prepare.py', 'audit', '--root', sets / 'test', '--list', sets / 'test.txt', '--report', sets / 'b',
                  '--against', sets / 'ckpt')
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'not a readable fingerprint' in done.stderr
