"""Training sets from .rec to folder, pack and .rec, and back, through the command; nothing lost on the way."""
import os

import cv2
import numpy as np
import pytest
from conftest import PROJECT, script

from src.data import lists, recordio
from src.data.pack import Pack
from src.data.transcode import open_source, transcode

RECORDS = PROJECT.parent / 'shared' / 'records'


def picture(seed, side=112, extension='.jpg'):
    image = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3)).astype(np.uint8)
    return cv2.imencode(extension, cv2.resize(image, (side, side)))[1].tobytes()


def made(folder, labels=(0, 0, 1, 1, 2), people=True, **kwargs):
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [picture(seed, **kwargs) for seed in range(len(labels))]
    recordio.write_records(str(folder / 'train.rec'), labels, pictures, people=people, size=(112, 112))
    return folder / 'train.rec', pictures


def convert(file, target, out, *arguments):
    return script('src/convert.py', '--file_path', file, '--to', target, '--output_dir', out, *arguments)


def test_what_mxnet_wrote_goes_every_way_and_back(tmp_path):
    """.rec -> .rec, folder and pack; folder and pack -> .rec: always the bytes that MXNet wrote."""
    file = RECORDS / 'train_scalar.rec'
    if not file.exists():
        pytest.skip(f"the files that MXNet wrote are not at {RECORDS}")
    for source, target, out in ((file, 'rec', 'a'), (file, 'folder', 'b'), (file, 'pack', 'c'),
                                (tmp_path / 'b', 'rec', 'd'), (tmp_path / 'c' / 'pack.json', 'rec', 'e'),
                                (tmp_path / 'c' / 'pack.json', 'folder', 'f'), (tmp_path / 'b', 'pack', 'g')):
        done = convert(source, target, tmp_path / out)
        assert done.returncode == 0, done.stderr
        assert '77 ' in done.stdout and 'of 20 people' in done.stdout and done.stdout.count('\n') == 1
    for out in 'ade':
        for name in ('train.rec', 'train.idx', 'property'):
            wanted = RECORDS / name.replace('train', 'train_scalar')
            assert (tmp_path / out / name).read_bytes() == wanted.read_bytes()
    held = recordio.RecordFile(str(file))
    names, labels = lists.read_image_list(str(tmp_path / 'b' / 'train_list.txt'))
    assert names == [f'{label}/{key}.jpg' for label, key in zip(held.labels, held.keys)]
    assert labels.tolist() == held.labels.tolist()
    for row, name in enumerate(names):
        assert (tmp_path / 'b' / name).read_bytes() == held.data(row)
    assert len(list((tmp_path / 'f').glob('*/*.jpg'))) == 77
    for out in 'cg':
        packed = Pack(str(tmp_path / out / 'pack.json'))
        packed.verify(range(len(packed.shards)))
        assert packed.labels.tolist() == held.labels.tolist() and packed.face_format.name == 'arcface'
        assert [packed.data(row) for row in range(77)] == [held.data(row) for row in range(77)]


def test_a_folder_of_people_without_a_list(tmp_path):
    """As get_list.py lists it: people in the order of their names."""
    for name in ('b/1.jpg', 'b/0.jpg', 'a/x.png'):
        (tmp_path / 'train' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'train' / name).write_bytes(picture(len(name)))
    done = convert(tmp_path / 'train', 'rec', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    assert recordio.RecordFile(str(tmp_path / 'out' / 'train.rec')).labels.tolist() == [0, 1, 1]
    assert (tmp_path / 'out' / 'property').read_text() == '2,112,112\n'


@pytest.mark.parametrize('labels', [(0, 2, 5), (1, 1, 2)])
def test_labels_with_gaps_are_kept_without_headers(tmp_path, labels):
    file, pictures = made(tmp_path, labels, people=False)
    transcode(open_source(str(file)), str(tmp_path / 'out'), 'rec')
    held = recordio.RecordFile(str(tmp_path / 'out' / 'train.rec'))
    assert held.labels.tolist() == list(labels) and held.people is None
    assert [held.data(row) for row in range(3)] == pictures


def test_people_are_put_together_and_vectors_of_labels_stay(tmp_path):
    vectors = np.array([[1, 7], [0, 8], [1, 9], [0, 10]])
    file, pictures = made(tmp_path, vectors, people=False)
    transcode(open_source(str(file)), str(tmp_path / 'out'), 'rec')
    held = recordio.RecordFile(str(tmp_path / 'out' / 'train.rec'))
    assert held.labels.tolist() == [0, 0, 1, 1] and held.people.tolist() == [[1, 3], [3, 5]]
    assert [held.record(row).labels.tolist() for row in range(4)] == vectors[[1, 3, 0, 2]].tolist()
    assert [held.data(row) for row in range(4)] == [pictures[row] for row in (1, 3, 0, 2)]


def test_a_pack_keeps_jpegs_and_encodes_the_rest(tmp_path):
    """PNG pictures and those of another size become JPEG of the format's size; an unreadable one is named."""
    pictures = [picture(0), picture(1, extension='.png'), picture(2, side=100), b'no picture']
    recordio.write_records(str(tmp_path / 'train.rec'), [0, 0, 1, 1], pictures, people=True)
    said = transcode(open_source(str(tmp_path / 'train.rec')), str(tmp_path / 'out'), 'pack', workers=1)
    assert '3 faces of 2 people' in said and '1 pictures unreadable' in said
    packed = Pack(str(tmp_path / 'out' / 'pack.json'))
    assert packed.data(0) == pictures[0] and packed.data(1) != pictures[1]
    assert {packed.face(row).shape for row in range(3)} == {(112, 112, 3)}
    wanted = cv2.imdecode(np.frombuffer(pictures[1], np.uint8), 1)[..., ::-1].astype(int)
    assert np.abs(packed.face(1) - wanted).mean() < 3
    assert (tmp_path / 'out' / 'pack_bad_images.txt').read_text().startswith('4: ')


def test_what_cannot_be_converted_is_one_line(tmp_path):
    file, _ = made(tmp_path / 'records')
    made(tmp_path / 'gap', (0, 2), people=False)
    made(tmp_path / 'large', side=144)
    assert convert(file, 'folder', tmp_path / 'out').returncode == 0
    (tmp_path / 'out' / '1' / '3.jpg').write_bytes(b'mine')
    (tmp_path / 'cut.rec').write_bytes(file.read_bytes()[:-1])
    (tmp_path / 'a.tsv').write_bytes(b'x')
    for source, target, out, message in (
            (tmp_path / 'none.rec', 'rec', 'x', 'no such .rec file'), (tmp_path / 'none', 'rec', 'x', 'no such'),
            (tmp_path / 'cut.rec', 'folder', 'x', 'not a whole RecordIO record'),
            (file, 'rec', 'records', 'there already'),
            (file, 'folder', 'out', '3.jpg: a duplicate name with another picture'),
            (tmp_path / 'out', 'folder', 'x', 'is a folder already'), (tmp_path / 'a.tsv', 'rec', 'x', '--to rec'),
            (tmp_path / 'gap' / 'train.rec', 'pack', 'x', 'comes after a gap'),
            (tmp_path / 'large' / 'train.rec', 'pack', 'x', "aligned as 'lightcnn'")):
        done = convert(source, target, tmp_path / out)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count('\n') == 1, done.stderr
    done = script('src/convert.py', '--file_path', file, '--output_dir', tmp_path / 'x')
    assert done.returncode == 2 and '--to rec|folder|pack' in done.stderr
    assert (tmp_path / 'out' / '1' / '3.jpg').read_bytes() == b'mine'
    assert not [name for folder in ('out', 'x') for name in os.listdir(tmp_path / folder) if 'tmp' in name]
