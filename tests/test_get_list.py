"""LFW's two lists, LFW's own pairs file, the list of a folder of people."""
import os

import numpy as np
import pytest
from conftest import FACES, script
from scipy.io import savemat

from src import get_list
from src.data import lists


def run(*arguments):
    return script('src/get_list.py', *arguments)


def test_both_lists_and_nothing_the_second_time(synthetic, tmp_path):
    arguments = ['--dataset_path', synthetic, '--out', tmp_path]
    assert run(*arguments).returncode == 0
    files = [tmp_path / f'image_list_for_{protocol}.txt' for protocol in ('lfw', 'blufr')]
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    done = run(*arguments)
    assert done.returncode == 0 and done.stdout.count('unchanged') == 2
    assert before == [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    protocol = lists.load_blufr(str(synthetic / 'mat_files' / 'blufr_lfw_config.mat'))
    names, labels = lists.read_image_list(str(files[0]))
    assert names == lists.list_for_lfw(protocol)[0] and np.array_equal(labels, lists.list_for_lfw(protocol)[1])


def test_the_real_lists(protocol_files, tmp_path):
    """The sum that docs of the protocol state, and LFW's own pairs.txt; a list in another order is found out."""
    (tmp_path / 'mat_files').mkdir()
    for file in protocol_files:
        os.symlink(file, tmp_path / 'mat_files' / os.path.basename(file))
    pairs = FACES / 'lfw_pairs.txt'
    done = run('--dataset_path', tmp_path, '--check', pairs)
    assert done.returncode == 0 and '3000 positive and 3000 negative pairs agree' in done.stdout, done.stderr
    assert lists.file_sha256(str(tmp_path / 'image_list_for_lfw.txt')) == \
        '26d061daef180a551625668b69761c0e39096f1b46e6864dd8daf43f9fa33246'
    names = lists.list_for_blufr(lists.load_blufr(protocol_files[0]))[0]
    with pytest.raises(ValueError, match='positive pair'):
        get_list.check_pairs(names, protocol_files[1], str(pairs))


def test_the_authors_result_file_is_used_if_it_is_there(synthetic, tmp_path):
    protocol = lists.load_blufr(str(synthetic / 'mat_files' / 'blufr_lfw_config.mat'))
    names, labels = lists.list_for_lfw(protocol)
    cells = [np.empty((1, len(names)), object) for _ in range(2)]
    cells[0][0] = [f'0123456789{name}'.replace('/', '\\') for name in names[::-1]]
    cells[1][0] = [str(label) for label in labels]
    (tmp_path / 'mat_files').mkdir()
    savemat(tmp_path / 'mat_files' / 'LightenedCNN_B_lfw.mat', {'image_path': cells[0], 'labels_original': cells[1]})
    os.symlink(synthetic / 'mat_files' / 'blufr_lfw_config.mat', tmp_path / 'mat_files' / 'blufr_lfw_config.mat')
    assert run('--dataset_path', tmp_path).returncode == 0
    found = lists.read_image_list(str(tmp_path / 'image_list_for_lfw.txt'))
    assert found[0] == names[::-1] and np.array_equal(found[1], labels)
    cells[0][0][5] = '0123456789../../etc/x.jpg'
    savemat(tmp_path / 'mat_files' / 'LightenedCNN_B_lfw.mat', {'image_path': cells[0], 'labels_original': cells[1]})
    done = run('--dataset_path', tmp_path)
    assert done.returncode == 2 and 'leaves the image folder' in done.stderr


def test_a_folder_of_people(tmp_path):
    for person, number in (('b', 3), ('a', 1), ('c c', 2), ('empty', 0)):
        (tmp_path / 'train' / person).mkdir(parents=True)
        for i in range(number):
            (tmp_path / 'train' / person / f'{i}.jpg').touch()
    (tmp_path / 'train' / 'b' / 'notes.txt').touch()
    done = run('train', tmp_path / 'train', '--min_images', '2')
    assert done.returncode == 0 and '2 people have fewer than 2 pictures' in done.stdout
    assert (tmp_path / 'train_list.txt').read_text() == 'b/0.jpg 0\nb/1.jpg 0\nb/2.jpg 0\nc c/0.jpg 1\nc c/1.jpg 1\n'
    names, labels = lists.read_image_list(str(tmp_path / 'train_list.txt'))
    lists.check_train_labels(labels, 2, 'f')
    assert 'unchanged' in run('train', tmp_path / 'train', '--min_images', '2').stdout
    for arguments, message in ((['train', tmp_path / 'none'], 'no such folder'),
                               (['test'], 'expected nothing, or train'),
                               (['train', tmp_path / 'train', '--min_images', '9'], 'no person with 9')):
        done = run(*arguments)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count('\n') == 1


@pytest.mark.parametrize('line', ['A_B 1', 'A_B x 2', 'A_B 1 C_D x'])
def test_a_broken_pairs_file(tmp_path, line):
    (tmp_path / 'pairs.txt').write_text(f'10 300\nA_B 1 2\n{line}\n')
    with pytest.raises(ValueError, match='line 3: expected'):
        get_list.read_pairs_txt(str(tmp_path / 'pairs.txt'))
