"""Hostile .rec, .idx, .lst, .bin, lists of pairs and .onnx files through the commands: one line, exit 2, nothing run.

Every file is given to the command that reads it. Nothing may be executed, nothing written outside the test's folder.
"""
import os
import pickle
import struct
import sys

import cv2
import numpy as np
import pytest

from src import cli

FLAG = '/tmp/lightcnn-a-hostile-set-ran'
FACE = cv2.imencode('.png', np.random.default_rng(0).integers(0, 256, (144, 144), np.uint8))[1].tobytes()
SMALL = cv2.imencode('.png', np.zeros((8, 8), np.uint8))[1].tobytes()


class Calls:
    """An object whose pickle calls something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def bomb(data=FACE):
    """Return a PNG whose header promises 60,000 x 60,000 pixels."""
    import zlib
    header = b'IHDR' + struct.pack('>II', 60000, 60000) + data[24:29]
    return data[:12] + header + struct.pack('>I', zlib.crc32(header)) + data[33:]


def bin_of(pictures, same=(True,)):
    return pickle.dumps((list(pictures), list(same)), 4)


BINS = {
    'a command': pickle.dumps(([FACE, FACE], [Calls(os.system, f'touch {FLAG}')]), 2),
    'a command in a picture': bin_of([Calls(os.system, f'touch {FLAG}'), FACE]),
    'eval': bin_of([Calls(eval, f"open('{FLAG}', 'w')"), FACE]), 'open': bin_of([Calls(open, FLAG, 'w'), FACE]),
    'numpy.load': bin_of([Calls(np.load, FLAG), FACE]), 'an import': bin_of([Calls(__import__, 'antigravity'), FACE]),
    'empty': b'', 'cut off': bin_of([FACE, FACE])[:-9], 'text': b'no pictures\n', 'a picture': FACE,
    'no pair': bin_of([], []), 'three pictures': bin_of([FACE] * 3), 'an answer of 2': bin_of([FACE, FACE], [2]),
    'numbers': bin_of([1, 2]), 'a huge memo': b'\x80\x02]r\xff\xff\xff\x7f.',
    'huge bytes': b'\x80\x04\x8e' + struct.pack('<Q', 1 << 60) + b'x.',
    'huge array': pickle.dumps(([np.zeros(9, np.uint8)] * 2, [True])).replace(b'K\x09\x85', b'J\xff\xff\xff\x7f\x85'),
    'no picture in it': bin_of([FACE, b'no picture']), 'a cut picture': bin_of([FACE, FACE[:400]]),
    'pictures of 8x8': bin_of([SMALL, SMALL]), 'a picture without bytes': bin_of([b'', FACE]),
    'a picture bomb': bin_of([FACE, bomb()]),
}
LISTS = {
    'empty.csv': '', 'only_a_header.csv': 'a,b,same\n', 'outside.csv': '../../etc/passwd,b.png,1\n',
    'absolute.csv': '/etc/passwd,b.png,1\n', 'nul.csv': 'a\0.png,b.png,1\n', 'no_answer.csv': 'a.png,b.png,maybe\n',
    'two_columns.csv': 'a.png,b.png\n', 'quotes.csv': '"a.png,b.png,1\n', 'uneven.csv': 'a.png,b.png,1\nc.png,1\n',
    'long.csv': 'a' * 70000 + ',b.png,1\n', 'missing.csv': 'not.png,there.png,1\n', 'binary.tsv': '\x01\x02\x03\n',
    'lfw.txt': '10\t300\nA\t1\t2\n', 'lfw_numbers.txt': '1\nA\tx\t2\n', 'odd.txt': 'a.png 1\n',
    'answers.txt': 'a.png 1\nb.png 0\n', 'outside.txt': '../a.png 1\nb.png 1\n', 'huge.txt': '10\t' + '9' * 40 + '\n',
    'formula.csv': '=cmd|calc,b.png,2\n',
}


def framed(payload, flag=0, length=None):
    size = len(payload) if length is None else length
    return struct.pack('<II', 0xced7230a, flag << 29 | size) + payload + bytes(-len(payload) % 4)


def picture(label=0.0, flag=0, data=FACE, labels=b''):
    return struct.pack('<IfQQ', flag, label, 0, 0) + labels + data


GOOD = framed(picture()) + framed(picture(1.0))
RECORDS = {
    'empty': b'', 'four bytes': b'\x0a\x23\xd7\xce', 'text': b'no records\n' * 9, 'cut off': GOOD[:-60],
    'another magic': b'\0\0\0\0' + GOOD[4:], 'a huge length': framed(picture(), length=(1 << 29) - 1) + GOOD,
    'a middle without a beginning': framed(picture(), 2), 'a beginning without an end': framed(picture(), 1),
    'no header': framed(b'abc') + GOOD, 'a billion labels': framed(picture(flag=0x40000000)) + GOOD,
    'label nan': framed(picture(float('nan'))) + GOOD, 'label -1': framed(picture(-1.0)) + GOOD,
    'label 1e30': framed(picture(1e30)) + GOOD, 'label 0.5': framed(picture(0.5)) + GOOD,
    'a gap': framed(picture(7.0)) + GOOD, 'a header that lies': framed(picture(
        flag=2, data=b'', labels=struct.pack('<ff', 1e9, 2e9))) + GOOD,
    'a header last': GOOD + framed(picture(flag=2, data=b'', labels=struct.pack('<ff', 1, 2))),
    'no pictures': framed(picture(data=b'no picture')) + framed(picture(1.0, data=b'none')),
}
INDICES = {
    'text': 'no index', 'negative': '0\t-8\n', 'key twice': '0\t0\n0\t0\n', 'three columns': '0\t0\t0\n',
    'a float': '0\t1e3\n', 'huge numbers': '9' * 40 + '\t0\n', 'blanks': '0 0\n', 'binary': '\x00\x01\x02',
}


def one_line(capsys, monkeypatch, tmp_path, command, *arguments):
    """Run a command; assert that it ends with exit code 2 and one line, and nothing was run or written outside."""
    (tmp_path / 'work').mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / 'work')
    monkeypatch.setattr(sys, 'argv', [f'{command.__name__}.py', *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.run(command.main)
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith(('error: ', 'Traceback'))]
    assert ended.value.code == 2 and len(lines) == 1 and lines[0].startswith('error: '), error
    assert len(lines[0]) < 600 and not os.path.exists(FLAG) and not os.listdir(tmp_path / 'work')


@pytest.fixture
def judge(capsys, monkeypatch, tmp_path):
    """Give a set of pairs to evaluate.py with an untrained network."""
    import evaluate

    def run(file):
        one_line(capsys, monkeypatch, tmp_path, evaluate, '--protocol', file, '--untrained', '--recipe', 'quickstart',
                 '--set', 'image_size=16', 'resize_size=18', '--device_target', 'CPU', '--dataset_path', tmp_path)
    return run


@pytest.mark.parametrize('kind', BINS)
def test_bins(judge, tmp_path, kind):
    (tmp_path / 'a.bin').write_bytes(BINS[kind])
    judge(tmp_path / 'a.bin')


@pytest.mark.parametrize('name', LISTS)
def test_lists(judge, tmp_path, name):
    (tmp_path / name).write_text(LISTS[name])
    for picture_name in ('a.png', 'b.png'):
        (tmp_path / picture_name).write_bytes(SMALL)
    judge(tmp_path / name)


def readers():
    """Return the commands that read a .rec file, with the arguments that end in its name."""
    import prepare
    import train
    from src import convert
    return [(train, ['--device_target', 'CPU', '--recipe', 'quickstart', '--ckpt_path', '../ckpt', '--set',
                     'num_classes=2', 'image_size=16', 'resize_size=18', 'batch_size=2', 'epochs=1'], 'train_list={}'),
            (prepare, ['pack', '--out', '../packs/a', '--workers', '1', '--list'], '{}'),
            (prepare, ['audit', '--report', '../audit', '--list'], '{}'),
            (convert, ['--to', 'folder', '--output_dir', '../converted', '--file_path'], '{}')]


@pytest.mark.parametrize('kind', RECORDS)
def test_records(capsys, monkeypatch, tmp_path, kind):
    """Training and auditing; what only they look at (labels with gaps, pictures) is none of convert.py's business."""
    (tmp_path / 'a.rec').write_bytes(RECORDS[kind])
    chosen = readers()[:1] if kind in ('a gap', 'no pictures') else [readers()[0], *readers()[2:]]
    for command, arguments, last in chosen:
        one_line(capsys, monkeypatch, tmp_path, command, *arguments, last.format(tmp_path / 'a.rec'))


@pytest.mark.parametrize('kind', INDICES)
def test_indices(capsys, monkeypatch, tmp_path, kind):
    (tmp_path / 'a.rec').write_bytes(GOOD)
    (tmp_path / 'a.idx').write_text(INDICES[kind])
    for command, arguments, last in readers():
        one_line(capsys, monkeypatch, tmp_path, command, *arguments, last.format(tmp_path / 'a.rec'))


def onnx_files():
    """Return {kind: the bytes of an ONNX file that is no network of faces}."""
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    from onnx import TensorProto, helper

    def model(nodes, shape=('N', 3, 112, 112), kind=TensorProto.FLOAT, more=(), held=()):
        inputs = [helper.make_tensor_value_info('face', kind, shape), *more]
        graph = helper.make_graph(nodes, 'g', inputs, [helper.make_tensor_value_info('y', kind, None)], list(held))
        built = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)])
        built.ir_version = 8
        return built.SerializeToString()
    flat = helper.make_node('Flatten', ['face'], ['y'])
    outside = helper.make_tensor('w', TensorProto.FLOAT, [4], [0, 0, 0, 0])
    outside.ClearField('float_data')
    outside.data_location = TensorProto.EXTERNAL
    for key, value in (('location', '../../../../../../etc/passwd'), ('offset', '0'), ('length', '16')):
        outside.external_data.add(key=key, value=value)
    huge = onnx.TensorProto(name='w', data_type=TensorProto.FLOAT, dims=[1 << 40, 1 << 20], raw_data=b'abcd')
    add = helper.make_node('Add', ['face', 'w'], ['z']), helper.make_node('Flatten', ['z'], ['y'])
    return {
        'empty': b'', 'text': b'no network', 'cut off': model([flat])[:-20], 'a picture': FACE, 'zeros': bytes(4096),
        'two inputs': model([flat], more=[helper.make_tensor_value_info('x', TensorProto.FLOAT, ['N', 3])]),
        'no face': model([flat], ('N', 512)), 'five channels': model([flat], ('N', 5, 112, 112)),
        'not square': model([flat], ('N', 3, 112, 96)), 'tiny': model([flat], ('N', 3, 4, 4)),
        'a huge side': model([flat], ('N', 3, 1 << 20, 1 << 20)), 'texts': model([flat], kind=TensorProto.STRING),
        'no format': model([flat]), 'weights elsewhere': model(add, held=[outside]), 'huge weights': model(
            add, held=[huge]), 'an unknown operation': model([helper.make_node('Backdoor', ['face'], ['y'])]),
        'an operation of others': model([helper.make_node('Run', ['face'], ['y'], domain='evil')]),
    }


@pytest.mark.parametrize('kind', [
    'empty', 'text', 'cut off', 'a picture', 'zeros', 'two inputs', 'no face', 'five channels', 'not square', 'tiny',
    'a huge side', 'texts', 'no format', 'weights elsewhere', 'huge weights', 'an unknown operation',
    'an operation of others'])
def test_onnx(capsys, monkeypatch, tmp_path, kind):
    import mindspore  # noqa: F401  before onnx, after it cannot load any more

    import evaluate
    (tmp_path / 'a.onnx').write_bytes(onnx_files()[kind])
    (tmp_path / 'a.bin').write_bytes(bin_of([FACE, FACE]))
    form = [] if kind == 'no format' else ['--face_format', 'arcface']
    one_line(capsys, monkeypatch, tmp_path, evaluate, '--protocol', tmp_path / 'a.bin', '--resume', tmp_path / 'a.onnx',
             *form, '--device_target', 'CPU', '--dataset_path', tmp_path)


def test_there_are_sixty_and_they_can_run():
    assert len(BINS) + len(LISTS) + len(RECORDS) + len(INDICES) + 17 >= 80
    flag = FLAG + '-here'
    pickle.loads(pickle.dumps(Calls(os.system, f'touch {flag}')))
    assert os.path.exists(flag)
    os.remove(flag)
