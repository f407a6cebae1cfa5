"""RecordIO: files that MXNet wrote, the same bytes written again, parts, labels, indexes, and what is broken."""
import os
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import PROJECT

from src.data import recordio
from src.data.recordio_format import MAGIC, frame

RECORDS = PROJECT.parent / 'shared' / 'records'
MAGIC_BYTES = struct.pack('<I', MAGIC)
PICTURES = [bytes([i]) * (40 + i) for i in range(6)]
LABELS = [0, 0, 1, 1, 1, 2]


@pytest.fixture(scope='module')
def records():
    """The folder of files that MXNet wrote."""
    if not RECORDS.is_dir():
        pytest.skip(f"the files that MXNet wrote are not at {RECORDS}")
    return RECORDS


def written(folder, labels=LABELS, pictures=PICTURES, **kwargs):
    file = str(folder / 'a.rec')
    recordio.write_records(file, labels, pictures, **kwargs)
    return file


def walk(data):
    """Yield the payloads of a file, read in the plainest way."""
    place, parts = 0, []
    while place < len(data):
        magic, word = struct.unpack_from('<II', data, place)
        assert magic == MAGIC
        length = word & (1 << 29) - 1
        parts.append(data[place + 8:place + 8 + length])
        place += 8 + (length + 3) // 4 * 4
        if word >> 29 in (0, 3):
            yield MAGIC_BYTES.join(parts)
            parts = []


@pytest.mark.parametrize('name, num, people', [('train_scalar', 77, 20), ('plain', 77, 20), ('packimg', 20, 6)])
def test_files_that_mxnet_wrote(records, tmp_path, name, num, people):
    """Every picture and label as a plain walk finds them; written again they have the same bytes."""
    held = recordio.RecordFile(str(records / f'{name}.rec'))
    first = name == 'train_scalar'
    payloads = list(walk((records / f'{name}.rec').read_bytes()))[first:first + num]
    assert (len(held), held.num_people, held.labels.dtype) == (num, people, np.int32)
    assert [held.data(row) for row in range(num)] == [payload[24:] for payload in payloads]
    assert held.labels.tolist() == [int(struct.unpack_from('<f', payload, 4)[0]) for payload in payloads]
    assert held.names == [str(key) for key in range(first, first + num)]
    file = written(tmp_path, held.labels, [held.data(row) for row in range(num)], people=first, size=(112, 112))
    for suffix in ('.rec', '.idx'):
        assert (tmp_path / f'a{suffix}').read_bytes() == (records / f'{name}{suffix}').read_bytes()
    if first:
        assert (tmp_path / 'property').read_bytes() == (records / 'property').read_bytes()
        assert held.people.tolist()[:2] == [[1, 5], [5, 9]] and held.people[-1, 1] == num + 1
        assert recordio.read_property(str(records / 'property')) == (20, 112, 112)
    assert len(list(recordio.iterate_records(file))) == num + (1 + people if first else 0)


def test_the_list_beside_a_file(records, tmp_path):
    keys, labels, names = recordio.read_lst(str(records / 'plain.lst'))
    assert len(keys) == 77 and labels.shape == (77, 1) and names[1] == 'Aaron_Peirsol/Aaron_Peirsol_0002.jpg'
    assert labels[:, 0].tolist() == recordio.RecordFile(str(records / 'plain.rec')).labels.tolist()
    recordio.write_lst(str(tmp_path / 'a.lst'), keys, labels, names)
    assert (tmp_path / 'a.lst').read_bytes() == (records / 'plain.lst').read_bytes()


@pytest.mark.parametrize('payload', [
    b'', b'x', b'abcd', MAGIC_BYTES, MAGIC_BYTES * 3, b'abcd' + MAGIC_BYTES, b'ab' + MAGIC_BYTES + b'cd',
    MAGIC_BYTES + b'abcde' + MAGIC_BYTES, b'abcd' + MAGIC_BYTES + MAGIC_BYTES + b'xyz', MAGIC_BYTES[:3]])
def test_a_payload_that_holds_the_magic(payload):
    """No part holds the magic on a 4-byte boundary, and the parts give the payload again."""
    framed = frame(payload)
    assert list(walk(framed)) == [payload] and len(framed) % 4 == 0
    aligned = [payload[i:i + 4] for i in range(0, len(payload), 4)].count(MAGIC_BYTES)
    assert [framed[i:i + 4] for i in range(0, len(framed), 4)].count(MAGIC_BYTES) == 1 + aligned


@pytest.mark.parametrize('people', [False, True])
@pytest.mark.parametrize('width', [0, 1, 3])
def test_parts_and_vectors_of_labels(tmp_path, people, width):
    """The magic may even stand in the labels."""
    pictures = [PICTURES[0], MAGIC_BYTES + PICTURES[1], PICTURES[2] + MAGIC_BYTES * 3, b'ab' + MAGIC_BYTES, MAGIC_BYTES,
                PICTURES[5]]
    labels = np.array(LABELS, np.float32)
    if width:
        labels = np.column_stack([labels] + [np.full(6, np.frombuffer(MAGIC_BYTES, '<f4')[0])] * (width - 1))
    file = written(tmp_path, labels, pictures, people=people)
    for index in (True, False):
        held = recordio.RecordFile(file)
        assert [held.data(row) for row in range(6)] == pictures and held.labels.tolist() == LABELS
        assert held.record(3).labels.shape == (max(width, 1),) and held.record(3).flag == width
        if index:
            os.remove(file.replace('.rec', '.idx'))


def test_keys_without_an_index(tmp_path):
    """The ids of the records where they differ, else their numbers."""
    for ids, keys in (([7, 3, 9], [7, 3, 9]), ([0, 0, 0], [0, 1, 2])):
        with recordio.RecordWriter(str(tmp_path / 'a.rec')) as out:
            for number, key in enumerate(ids):
                out.write(100 + number, recordio.pack(0, key, b'picture'))
        assert recordio.RecordFile(str(tmp_path / 'a.rec')).keys.tolist() == [100, 101, 102]
        os.remove(tmp_path / 'a.idx')
        assert recordio.RecordFile(str(tmp_path / 'a.rec')).keys.tolist() == keys


def test_an_index_in_another_order(tmp_path):
    file = written(tmp_path)
    lines = (tmp_path / 'a.idx').read_text().splitlines()
    (tmp_path / 'a.idx').write_text('\r\n'.join(lines[::-1]))
    held = recordio.RecordFile(file)
    assert held.keys.tolist() == list(range(6)) and held.data(2) == PICTURES[2]


@pytest.mark.parametrize('change', [
    lambda lines: lines[:-1], lambda lines: lines[1:], lambda lines: [], lambda lines: [*lines, '99\t4'],
    lambda lines: [*lines, f'99\t{10**17}'], lambda lines: [line.replace('\t', '\t1') for line in lines],
    lambda lines: ['0\t2', *lines[1:]]])
def test_a_stale_index_is_built_anew(tmp_path, capsys, change):
    file = written(tmp_path, people=True)
    index = tmp_path / 'a.idx'
    before = index.read_text()
    index.write_text('\n'.join(change(before.splitlines())))
    held = recordio.RecordFile(file)
    assert [held.data(row) for row in range(6)] == PICTURES and held.names == ['1', '2', '3', '4', '5', '6']
    assert 'does not fit' in capsys.readouterr().err
    recordio.write_index(str(index), held.record_keys, held.record_places)
    assert index.read_text() == before
    recordio.RecordFile(file)
    assert not capsys.readouterr().err


def test_many_threads(tmp_path):
    pictures = [struct.pack('<I', i) * (i % 50 + 1) for i in range(500)]
    held = recordio.RecordFile(written(tmp_path, np.arange(500) // 5, pictures))
    rows = np.random.default_rng(1).permutation(np.arange(500).repeat(20)).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(held.data, rows)) == [pictures[row] for row in rows]


def test_a_file_that_shrinks_in_use(tmp_path):
    """A picture that is gone is an error, not the death of the process that a memory map would be."""
    file = written(tmp_path)
    held = recordio.RecordFile(file)
    os.truncate(file, 100)
    with pytest.raises(OSError, match='cut off while it was in use'):
        held.data(5)


@pytest.mark.parametrize('labels, people, message', [
    ([0, 2], True, 'ascend from 0'), ([1, 0], True, 'ascend from 0'), ([1, 1], True, 'ascend from 0'),
    ([0, -1], False, 'whole number'), ([0, 0.5], False, 'whole number'), ([0, float('nan')], False, 'whole number'),
    ([0], False, 'another number of pictures'), ([0, 0, 0], False, 'another number of pictures')])
def test_what_cannot_be_written(tmp_path, labels, people, message):
    with pytest.raises(ValueError, match=message):
        written(tmp_path, labels, PICTURES[:2], people=people)
    assert not list(tmp_path.iterdir())


def word(place, value):
    """A change of a file: 4 bytes at `place`."""
    return lambda data: data[:place] + struct.pack('<I', value) + data[place + 4:]


# of a file in insightface's layout: record 0 takes bytes 0..39, record 1 (40 bytes of picture) 40..111
BROKEN = {
    'empty': (lambda data: b'', 'expected a RecordIO file'), 'short': (lambda data: data[:7], 'expected a RecordIO'),
    'text': (lambda data: b'not a record file at all', 'record 0 at byte 0'),
    'zeros': (lambda data: bytes(400), 'record 0 at byte 0'),
    'ones': (lambda data: b'\xff' * 400, 'record 0 at byte 0'), 'magic': (word(0, MAGIC + 1), 'record 0 at byte 0'),
    'second magic': (word(40, 0), 'record 1 at byte 40'),
    'huge length': (word(4, (1 << 29) - 1), 'record 0 at byte 0'), 'length past the end': (word(44, 4000), 'record 1'),
    'length 0': (word(44, 0), 'not a whole|record 2'), 'length one less': (word(44, 60), 'at byte 108'),
    'length one more': (word(44, 68), 'at byte 116'), 'length short of a header': (word(4, 20), 'at byte 28'),
    'flag 1': (word(44, 1 << 29 | 64), 'record 1 at byte 40'),
    'flag 2': (word(44, 2 << 29 | 64), 'record 1 at byte 40'),
    'flag 3': (word(44, 3 << 29 | 64), 'record 1 at byte 40'), 'flag 7': (word(44, 7 << 29 | 64), 'record 1 at byte'),
    'cut in a header': (lambda data: data[:-36], 'not a whole'),
    'cut in a picture': (lambda data: data[:90], 'record 1'), 'cut by a byte': (lambda data: data[:-1], 'not a whole'),
    'cut after a person': (lambda data: data[:-40], 'cut off'),
    'cut after a picture': (lambda data: data[:112], 'cut off'),
    'cut after the header': (lambda data: data[:40], 'cut'),
    'without its header': (lambda data: data[40:], 'holds no picture'),
    'a byte more': (lambda data: data + b'\0', 'record 10'),
    'zeros more': (lambda data: data + bytes(64), 'record 10'), 'many labels': (word(48, 1 << 31), 'its header needs'),
    'all labels': (word(48, 0xffffffff), 'its header needs'),
    'as many labels as bytes': (word(48, 11), 'its header needs'),
    'a vector that is none': (word(120, 1), 'the label'), 'label half': (word(52, 0x3f000000), 'has the label 0.5'),
    'label nan': (word(52, 0x7fc00000), 'has the label nan'),
    'label infinite': (word(52, 0x7f800000), 'has the label inf'),
    'label -1': (word(52, 0xbf800000), 'has the label -1'),
    'label 2e9': (word(52, 0x4eee6b28), 'has the label 2e\\+09'), 'pictures said': (word(32, 0x42c80000), 'cut off'),
    'pictures nan': (word(32, 0x7fc00000), 'cut off'), 'records said': (word(36, 0x42c80000), 'cut off'),
    'person from 0': (lambda data: data[:-8] + struct.pack('<ff', 0, 7), 'outside 1..6'),
    'person past the end': (lambda data: data[:-8] + struct.pack('<ff', 6, 9), 'outside 1..6'),
    'person backwards': (lambda data: data[:-8] + struct.pack('<ff', 6, 2), 'outside 1..6'),
    'person nan': (lambda data: data[:-8] + struct.pack('<ff', 6, float('nan')), 'outside 1..6'),
}


@pytest.mark.parametrize('with_index', [True, False])
@pytest.mark.parametrize('kind', BROKEN)
def test_a_broken_file_is_one_line(tmp_path, kind, with_index):
    change, message = BROKEN[kind]
    file = written(tmp_path, people=True)
    data = (tmp_path / 'a.rec').read_bytes()
    assert len(data) % 4 == 0 and change(data) != data
    with open(file, 'wb') as out:
        out.write(change(data))
    if not with_index:
        os.remove(tmp_path / 'a.idx')
    with pytest.raises(ValueError, match=message) as error:
        recordio.RecordFile(file)
    assert '\n' not in str(error.value) and str(error.value).startswith(file)


@pytest.mark.parametrize('text', ['a\t0\n', '0 0\n', '0\t0\t0\n', '0\n', '-1\t0\n', '0\t-8\n', '0\t1e3\n',
                                  '0\t0\n0\t0\n', f'0\t{10**19}\n', '\0\0\0\0', '0\t\u0663\n', '0\t0 1\t40\n'])
def test_a_broken_index_is_one_line(tmp_path, text):
    file = written(tmp_path)
    (tmp_path / 'a.idx').write_text(text)
    with pytest.raises(ValueError, match='index is built anew') as error:
        recordio.RecordFile(file)
    assert '\n' not in str(error.value) and 'a.idx' in str(error.value)


@pytest.mark.parametrize('text', ['', '\n', '0\ta.jpg', '0\tx\ta.jpg', 'x\t0\ta.jpg', '0\t0\t', '0\t0\t../a.jpg',
                                  '0\t0\t/etc/a.jpg', '0\t0\ta.jpg\n1\t0\t0\tb.jpg'])
def test_a_broken_list_is_one_line(tmp_path, text):
    (tmp_path / 'a.lst').write_text(text)
    with pytest.raises(ValueError, match='a.lst') as error:
        recordio.read_lst(str(tmp_path / 'a.lst'))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('text', ['', '20', '20,112', 'a,112,112', '20,112,112,3', '0,112,112', '-1,112,112',
                                  f'{10**30},112,112'])
def test_a_broken_property_is_one_line(tmp_path, text):
    (tmp_path / 'property').write_text(text)
    with pytest.raises(ValueError, match='people,height,width') as error:
        recordio.read_property(str(tmp_path / 'property'))
    assert '\n' not in str(error.value)


def test_files_that_are_not_there(tmp_path):
    for read in (recordio.RecordFile, recordio.read_index, recordio.read_lst, recordio.read_property):
        with pytest.raises(FileNotFoundError, match='no such'):
            read(str(tmp_path / 'none.rec'))


@pytest.mark.parametrize('seed', range(20))
def test_random_damage_never_does_more_than_an_error(tmp_path, seed):
    """Any bytes changed: one line, or pictures that can all be read."""
    generator = np.random.default_rng(seed)
    file = written(tmp_path, people=bool(seed % 2))
    data = np.frombuffer((tmp_path / 'a.rec').read_bytes(), np.uint8)
    for _ in range(50):
        changed = data.copy()
        places = generator.integers(0, len(data), generator.integers(1, 8))
        changed[places] = generator.integers(0, 256, len(places))
        with open(file, 'wb') as out:
            out.write(changed[:generator.integers(0, len(data)) if generator.random() < 0.2 else len(data)].tobytes())
        try:
            held = recordio.RecordFile(file)
        except ValueError as error:
            assert '\n' not in str(error)
            continue
        assert all(len(held.data(row)) <= len(data) for row in range(len(held)))
