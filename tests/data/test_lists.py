import hashlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from src.data import lists


def write(path, text):
    path.write_bytes(text.encode())
    return str(path)


def test_every_form_of_a_line(tmp_path):
    file = write(tmp_path / 'l', 'a/1.jpg 0\r\n\n  b c/2 3.png   1 0.99\nm.01/9.JPG\t2\nplain 3\n')
    names, labels = lists.read_image_list(file)
    assert names == ['a/1.jpg', 'b c/2 3.png', 'm.01/9.JPG', 'plain']
    assert labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize('text, message', [
    ('', 'no image'), ('\n \n', 'no image'), ('a.jpg 0\nb.jpg\n', 'line 2'), ('a.jpg x\n', 'line 1'),
    ('a.jpg 0\n/etc/x.jpg 1\n', 'line 2'), ('../x.jpg 0\n', 'leaves'), ('a/../../x.jpg 0\n', 'leaves'),
    ('C:\\x.jpg 0\n', 'leaves'), ('a.jpg 99999999999999999999\n', 'too large')])
def test_a_bad_line_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        lists.read_image_list(write(tmp_path / 'l', text))


@pytest.mark.parametrize('labels, message', [([0, 1, 3], 'line 3.*gap'), ([0, 1, 5], 'line 3.*not in 0..3'),
                                             ([0, -1], 'line 2')])
def test_train_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        lists.check_train_labels(np.array(labels), 4, 'list')
    lists.check_train_labels(np.array([2, 0, 1]), 4, 'list')


def test_lfw_order_from_blufr(protocol_files):
    blufr = lists.load_blufr(protocol_files[0])
    assert len(blufr.names) == 13233 and len(blufr.trials) == 10
    text = ''.join(f'{name} {label}\n' for name, label in zip(*lists.list_for_lfw(blufr)))
    assert hashlib.sha256(text.encode()).hexdigest() == \
        '26d061daef180a551625668b69761c0e39096f1b46e6864dd8daf43f9fa33246'


def test_pairs_agree_with_lfws_own_file(protocol_files):
    names, _ = lists.list_for_lfw(lists.load_blufr(protocol_files[0]))
    genuine, impostor = lists.load_lfw_pairs(protocol_files[1], len(names))
    stems = [name.rpartition('/')[2][:-4] for name in names]
    rows = [line.split() for line in Path(protocol_files[1].replace('.mat', '.txt')).read_text().splitlines()[1:]]
    own = [(f'{r[0]}_{int(r[1]):04d}', f'{r[-2] if len(r) == 4 else r[0]}_{int(r[-1]):04d}') for r in rows]
    assert [(stems[a], stems[b]) for a, b in genuine] == [p for p, r in zip(own, rows) if len(r) == 3]
    assert [(stems[a], stems[b]) for a, b in impostor] == [p for p, r in zip(own, rows) if len(r) == 4]


def test_broken_mat_files(tmp_path, protocol_files):
    whole = Path(protocol_files[0]).read_bytes()
    for name, data in [('cut', whole[:200000]), ('text', b'not a mat file at all' * 20), ('empty', b'')]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name):
            lists.load_blufr(str(tmp_path / name))
    with pytest.raises(ValueError, match="not\\s+this protocol's"):
        lists.load_blufr(protocol_files[1])
    with pytest.raises(FileNotFoundError):
        lists.load_blufr(str(tmp_path / 'absent.mat'))


@pytest.mark.parametrize('name', ['../../etc/x_1.jpg', '_0001.jpg', '/x_1.jpg', '..', 'plain.jpg'])
def test_names_in_a_mat_file_stay_in_their_folder(tmp_path, name):
    cells = np.empty((2, 1), object)
    cells[:, 0] = ['A_0001.jpg', name]
    rows = np.empty((1, 1), object)
    rows[0, 0] = np.array([[1], [2]])
    file = str(tmp_path / 'b.mat')
    savemat(file, {'imageList': cells, 'labels': np.array([[1], [2]]), 'trainIndex': rows, 'testIndex': rows,
                   'galIndex': rows, 'probIndex': rows})
    with pytest.raises(ValueError, match='expected names like'):
        lists.load_blufr(file)


@pytest.mark.parametrize('pairs', [np.array([[0, 1], [1, 2]]), np.array([[1, 9], [1, 2]]), np.array([1, 2, 3]),
                                   np.array([[1.5, 2], [1, 2]]), np.zeros((2, 0))])
def test_pairs_out_of_range(tmp_path, pairs):
    file = str(tmp_path / 'pairs.mat')
    savemat(file, {'pos_pair': pairs, 'neg_pair': np.array([[1], [2]])})
    with pytest.raises(ValueError, match='pos_pair'):
        lists.load_lfw_pairs(file, 8)


def test_files_appear_whole(tmp_path):
    file = tmp_path / 'l.txt'
    lists.write_image_list(str(file), ['a', 'b'], [0, 1])
    assert file.read_text() == 'a 0\nb 1\n' and [p.name for p in tmp_path.iterdir()] == ['l.txt']
