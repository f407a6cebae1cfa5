"""insightface's .bin: real files, Python 2's, every protocol, and pickles that want to do something."""
import io
import os
import pickle
import struct

import cv2
import numpy as np
import pytest
from conftest import PROJECT

from src.data import verification
from src.data.images import decode

RECORDS = PROJECT.parent / 'shared' / 'records'
PICTURES = [b'\xff\xd8 picture %d' % i for i in range(6)]
SAME = [True, False, True]


@pytest.fixture(scope='module')
def records():
    """The folder of files that others wrote."""
    if not RECORDS.is_dir():
        pytest.skip(f"the files that insightface and MXNet wrote are not at {RECORDS}")
    return RECORDS


@pytest.mark.parametrize('name, num_pairs, num_same', [
    ('pairs_proto2', 40, 20), ('pairs_proto4', 40, 20), ('pairs_numpy', 40, 20), ('insightface_small_lfw', 10, 10)])
def test_files_that_others_wrote(records, tmp_path, name, num_pairs, num_same):
    pictures, same = verification.read_bin(str(records / f'{name}.bin'))
    assert len(pictures) == 2 * num_pairs and same.dtype == bool and (len(same), same.sum()) == (num_pairs, num_same)
    assert {decode(picture, 'RGB').shape for picture in pictures} == {(112, 112, 3)}
    trusted = pickle.loads((records / f'{name}.bin').read_bytes(), encoding='bytes')
    assert pictures == [bytes(np.asarray(bytearray(held) if isinstance(held, bytes) else held)) for held in trusted[0]]
    if 'proto' in name:
        verification.write_bin(str(tmp_path / 'a.bin'), pictures, same, protocol=int(name[-1]))
        assert (tmp_path / 'a.bin').read_bytes() == (records / f'{name}.bin').read_bytes()


def test_the_three_ways_hold_the_same(records):
    """The same pictures as a pickle of protocol 2, of protocol 4, and as NumPy arrays."""
    held = [verification.read_bin(str(records / f'pairs_{name}.bin')) for name in ('proto2', 'proto4', 'numpy')]
    assert held[0][0] == held[1][0] == held[2][0] and (held[0][1] == held[2][1]).all()


def read(tmp_path, data):
    (tmp_path / 'a.bin').write_bytes(data)
    return verification.read_bin(str(tmp_path / 'a.bin'))


@pytest.mark.parametrize('kind, protocol', [('bytearray', 5)] + [
    (kind, protocol) for kind in ('bytes', 'arrays', 'columns', 'numpy bools', 'bool array', 'ints')
    for protocol in (2, 3, 4, 5)])
def test_every_protocol_and_container(tmp_path, kind, protocol):
    arrays = [np.frombuffer(picture, np.uint8) for picture in PICTURES]
    pictures = {'bytearray': list(map(bytearray, PICTURES)), 'arrays': arrays,
                'columns': [array.reshape(-1, 1) for array in arrays]}.get(kind, PICTURES)
    same = {'numpy bools': list(np.array(SAME)), 'bool array': np.array(SAME), 'ints': [1, 0, 1]}.get(kind, SAME)
    found = read(tmp_path, pickle.dumps((pictures, same), protocol=protocol))
    assert found[0] == PICTURES and found[1].tolist() == SAME


def test_what_python_2_wrote(tmp_path):
    """Byte strings as cPickle writes them: short and long ones, and a NumPy array whose parts are byte strings."""
    short = b''.join(b'U' + bytes([len(picture)]) + picture for picture in PICTURES[:5])
    long = b'T' + struct.pack('<i', len(PICTURES[5])) + PICTURES[5]
    assert read(tmp_path, b'\x80\x02](' + short + long + b'e](\x88\x89\x88e\x86.')[0] == PICTURES
    state = (b'(K\x01K\x03\x85cnumpy\ndtype\n(U\x02b1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff'
             b'K\x00tb\x89U\x03\x01\x00\x01tb')
    array = b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR' + state
    assert read(tmp_path, b'\x80\x02](' + short + long + b'e' + array + b'\x86.')[1].tolist() == SAME


class Calls:
    """An object whose pickle calls something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def dumped(value, protocol=4):
    return pickle.dumps(value, protocol)


GOOD = dumped((PICTURES, SAME))
FLAG = '/tmp/lightcnn-a-pickle-ran'
BROKEN = {
    'runs a command': dumped((PICTURES, [Calls(os.system, f'touch {FLAG}')])),
    'runs a command, protocol 2': dumped((PICTURES, [Calls(os.system, f'touch {FLAG}')]), 2),
    'evaluates': dumped((PICTURES, [Calls(eval, f"open('{FLAG}', 'w')")])),
    'opens a file': dumped((PICTURES, [Calls(open, FLAG, 'w')])),
    'imports': dumped((PICTURES, [Calls(__import__, 'antigravity')])),
    'getattr': dumped((PICTURES, [Calls(getattr, 'x', 'join')])),
    'a class': dumped((PICTURES, [io.BytesIO])), 'a function': dumped((PICTURES, [np.load])),
    'numpy.load': dumped((PICTURES, [Calls(np.load, FLAG)])),
    'protocol 0': dumped((PICTURES, SAME), 0), 'protocol 1': dumped((PICTURES, SAME), 1),
    'a dict': dumped({'bins': PICTURES, 'issame': SAME}), 'a set': dumped((set(PICTURES), SAME)),
    'an instance': b'\x80\x02(ios\nsystem\n.', 'an object': b'\x80\x02cos\nsystem\n(U\x02ls\x81.',
    'persistent id': b'\x80\x02Pabc\n.', 'extension': b'\x80\x02\x82\x01.',
    'numbers': dumped((1, 2)), 'one': dumped((PICTURES,)), 'three': dumped((PICTURES, SAME, SAME)),
    'none': dumped(None),
    'no pairs': dumped(([], [])), 'odd': dumped((PICTURES[:5], SAME)), 'fewer answers': dumped((PICTURES, SAME[:2])),
    'text pictures': dumped((['a'] * 6, SAME)), 'number pictures': dumped(([1] * 6, SAME)),
    'lists as pictures': dumped(([PICTURES] * 6, SAME)), 'text answers': dumped((PICTURES, ['1'] * 3)),
    'answers of 2': dumped((PICTURES, [1, 2, 0])), 'no answers': dumped((PICTURES, [None] * 3)),
    'decoded pictures': dumped(([np.zeros((4, 4, 3), np.uint8)] * 6, SAME)),
    'float pictures': dumped(([np.zeros(9)] * 6, SAME)), 'wide pictures': dumped(([np.zeros(9, np.int32)] * 6, SAME)),
    'objects': dumped(([np.array([b'x', None], object)] * 6, SAME)),
    'fields': dumped(([np.zeros(2, [('a', 'u1')])] * 6, SAME)), 'dates': dumped(([np.zeros(2, 'M8[s]')] * 6, SAME)),
    'huge shape': dumped(([np.zeros(9, np.uint8)] * 6, SAME)).replace(b'K\x09\x85', b'J\xff\xff\xff\x7f\x85'),
    'huge shape without data': b'\x80\x02]cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n'
                               b'J\xff\xff\xff\x7f\x85U\x01btRa]\x88a\x86.',
    'an array called': b'\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.',
    'bytes of a number': b'\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.',
    'another codec': b'\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.',
    'huge memo': b'\x80\x02]r\xff\xff\xff\x7f.', 'memo of nothing': b'\x80\x02h\x05.',
    'huge bytes': b'\x80\x04\x8e' + struct.pack('<Q', 1 << 60) + b'x.',
    'huge frame': b'\x80\x04\x95' + b'\xff' * 8 + b'.',
    'negative string': b'\x80\x02T\xff\xff\xff\xff.', 'stack underflow': b'\x80\x02\x86.', 'no stop': GOOD[:-1],
    'empty': b'', 'cut': GOOD[:len(GOOD) // 2], 'text': b'these are not pictures', 'zeros': bytes(100),
    'a picture': cv2.imencode('.jpg', np.zeros((8, 8), np.uint8))[1].tobytes(), 'protocol 9': b'\x80\x09' + GOOD[2:],
    'deep': b'\x80\x02' + b'](' * 100_000 + b'e' * 100_000 + b'.', 'a zip': b'PK\x03\x04' + bytes(50),
    'state of a function': b'\x80\x02c_codecs\nencode\n(K\x01K\x02tb.',
    'state of a class': b'\x80\x02cnumpy\ndtype\n)b.',
}


@pytest.mark.parametrize('kind', BROKEN)
def test_a_broken_set_is_one_line_and_runs_nothing(tmp_path, kind):
    with pytest.raises(ValueError, match='a.bin: ') as error:
        read(tmp_path, BROKEN[kind])
    assert '\n' not in str(error.value) and len(str(error.value)) < 400
    assert not os.path.exists(FLAG)


@pytest.mark.parametrize('seed', range(10))
def test_random_damage_never_does_more_than_an_error(tmp_path, seed):
    generator = np.random.default_rng(seed)
    array = dumped(([np.frombuffer(picture, np.uint8) for picture in PICTURES], np.array(SAME)), 2 + seed % 4)
    for _ in range(100):
        changed = np.frombuffer(array, np.uint8).copy()
        places = generator.integers(0, len(changed), generator.integers(1, 6))
        changed[places] = generator.integers(0, 256, len(places))
        try:
            pictures, same = read(tmp_path, changed.tobytes())
        except ValueError as error:
            assert '\n' not in str(error)
            continue
        assert len(pictures) == 2 * len(same) and all(isinstance(picture, bytes) for picture in pictures)


def test_a_file_that_is_not_there_or_does_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such .bin'):
        verification.read_bin(str(tmp_path / 'none.bin'))
    with pytest.raises(ValueError, match='two pictures a pair'):
        verification.write_bin(str(tmp_path / 'a.bin'), PICTURES, [True])
    assert not list(tmp_path.iterdir())
