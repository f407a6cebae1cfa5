"""Lists of pairs: the real ones, each form, and what is broken: one line with file and line number."""
import numpy as np
import pytest
from conftest import FACES, PROJECT

from src.data import pairs

RECORDS = PROJECT.parent / 'shared' / 'records'


def read(tmp_path, text, name='a.csv'):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return pairs.read_pairs(str(tmp_path / name))


def test_lfws_real_list():
    """As a plain reading of it: ten folds of 300 genuine and 300 impostor pairs."""
    file = FACES / 'lfw_pairs.txt'
    if not file.exists():
        pytest.skip(f"LFW's pairs are not at {file}")
    found = pairs.read_pairs(str(file))
    wanted = []
    for line in file.read_text().splitlines()[1:]:
        words = line.split()
        people = words[0], words[-2] if len(words) == 4 else words[0]
        wanted.append([f'{person}/{person}_{int(n):04d}.jpg' for person, n in zip(people, (words[1], words[-1]))])
    assert [[found.names[a], found.names[b]] for a, b in found.rows] == wanted and len(wanted) == 6000
    assert found.same.tolist() == ([True] * 300 + [False] * 300) * 10
    assert found.folds.tolist() == np.arange(10).repeat(600).tolist()
    assert len(set(found.names)) == len(found.names) == found.rows.max() + 1


def test_the_real_list_of_cplfw():
    file = RECORDS / 'pairs_CPLFW.txt'
    if not file.exists():
        pytest.skip(f"CPLFW's pairs are not at {file}")
    found = pairs.read_pairs(str(file))
    words = [line.split() for line in file.read_text().splitlines()[1:]]
    assert [found.names[row] for row in found.rows.ravel()] == [name for name, _ in words] and len(found.rows) == 6000
    assert found.same.tolist() == [answer == '1' for _, answer in words[::2]] and found.same.sum() == 3000
    for kind in (True, False):
        assert found.folds[found.same == kind].tolist() == np.arange(10).repeat(300).tolist()


def test_calfw_tells_the_fold_of_a_genuine_pair(tmp_path):
    text = ''.join(f'A_{k}.jpg {k}\nB_{k}.jpg {k}\n' for k in range(1, 11))
    text += ''.join(f'C_{k}.jpg 0\nD_{k}.jpg 0\n' for k in range(10))
    found = read(tmp_path, text, 'pairs_CALFW.txt')
    assert found.same.tolist() == [True] * 10 + [False] * 10 and found.folds.tolist() == [*range(10), *range(10)]
    assert read(tmp_path, 'A.jpg 1\nB.jpg 1\nC.jpg 0\nD.jpg 0\n').folds is None


def test_lfw_without_folds(tmp_path):
    found = read(tmp_path, '1\nA 1 2\nA 1 B 3\n')
    assert found.names == ['A/A_0001.jpg', 'A/A_0002.jpg', 'B/B_0003.jpg'] and found.folds is None
    assert found.rows.tolist() == [[0, 1], [0, 2]] and found.same.tolist() == [True, False]


def cfp(root, num_splits=2, entry='{i} ../Data/Images/{i:03d}/{kind}/01.jpg\n'):
    protocol = root / 'Protocol'
    for kind in ('FF', 'FP'):
        for split in range(1, num_splits + 1):
            folder = protocol / 'Split' / kind / f'{split:02d}'
            folder.mkdir(parents=True)
            (folder / 'same.txt').write_text(f'{split},{split}\n')
            (folder / 'diff.txt').write_text(f'{split},{split + 1}\n3,1\n')
    for letter, kind in (('F', 'frontal'), ('P', 'profile')):
        (protocol / f'Pair_list_{letter}.txt').write_text(''.join(entry.format(i=i, kind=kind) for i in (1, 2, 3)))
    return protocol / 'Split'


def test_cfp(tmp_path):
    split = cfp(tmp_path)
    found = pairs.read_pairs(str(split / 'FP'))
    assert found.same.tolist() == [True, False, False] * 2 and found.folds.tolist() == [0, 0, 0, 1, 1, 1]
    assert [[found.names[a], found.names[b]] for a, b in found.rows[:2]] == [
        ['Data/Images/001/frontal/01.jpg', 'Data/Images/001/profile/01.jpg'],
        ['Data/Images/001/frontal/01.jpg', 'Data/Images/002/profile/01.jpg']]
    found = pairs.read_cfp(str(split / 'FF') + '/')
    assert all('frontal' in name for name in found.names) and found.rows[0].tolist() == [0, 0]


@pytest.mark.parametrize('text', [
    'a b/1.jpg,c.jpg,1\nc.jpg,d.jpg,0\n', 'a b/1.jpg\tc.jpg\t1\nc.jpg\td.jpg\t0\n',
    'a b/1.jpg;c.jpg;same\nc.jpg;d.jpg;diff\n',
    '"a b/1.jpg" c.jpg 1\nc.jpg d.jpg 0\n', '"a b/1.jpg","c.jpg","1"\n"c.jpg","d.jpg","0"\n',
    'first,second,label\na b/1.jpg,c.jpg,Same\nc.jpg,d.jpg,Different\n', '1,a b/1.jpg,c.jpg\n0,c.jpg,d.jpg\n',
    'same,a,b\nTRUE,a b/1.jpg,c.jpg\nFALSE,c.jpg,d.jpg\n',
    'path1\tissame\tpath2\na b/1.jpg\tyes\tc.jpg\nc.jpg\tno\td.jpg\n',
    'a b/1.jpg, c.jpg, 1\r\n\r\nc.jpg, d.jpg, -1\r\n', '\ufeffa b/1.jpg,c.jpg,1\nc.jpg,d.jpg,0',
    'a,b,note,label\na b/1.jpg,c.jpg,"x, y",1\nc.jpg,d.jpg,,0\n', '"a b/1.jpg"   c.jpg  1\nc.jpg  d.jpg  0  \n'])
def test_tables_of_every_form(tmp_path, text):
    found = read(tmp_path, text)
    assert found.names == ['a b/1.jpg', 'c.jpg', 'd.jpg'] and found.rows.tolist() == [[0, 1], [1, 2]]
    assert found.same.tolist() == [True, False] and found.folds is None


def test_a_column_of_folds(tmp_path):
    assert read(tmp_path, 'a,b,same,fold\nx,y,1,2\nx,z,0,1\n').folds.tolist() == [1, 0]


BROKEN = {
    'one column': ('a.jpg\nb.jpg\n', 'line 2: expected two paths'),
    'no answer': ('a.jpg,b.jpg,c.jpg,d.jpg\n', 'no pair'),
    'answer 2': ('a,b,1\na,c,2\n', "line 2: expected two paths and an answer .*found 'a,c,2'"),
    'answer nan': ('a,b,1\na,c,nan\n', 'line 2'), 'answer missing': ('a,b,1\na,c,\n', 'line 2'),
    'fewer columns': ('a,b,1\na,c\n', 'line 2'), 'more columns': ('a,b,1\na,c,0,0\n', 'line 2'),
    'another delimiter': ('a,b,1\na;c;0\n', 'line 2'), 'empty name': ('a,b,1\n,c,0\n', "line 2: the name ''"),
    'leaves': ('a,b,1\n../c,b,0\n', 'line 2: .*leaves the image folder'), 'absolute': ('/etc/passwd,b,1\n', 'line 1: '),
    'drive': ('C:\\a.jpg,b,1\n', 'line 1: .*leaves'), 'NUL': (b'a\0,b,1\n', 'line 1'),
    'binary': (bytes(range(256)), 'line'),
    'open quote': ('"a,b,1\n', 'line 1: unexpected end'), 'text after a quote': ('a,b,1\n"a"x,b,1\n', 'line 2: '),
    'long line': ('a' * 70_000 + ',b,1\n', 'line 1: longer than'), 'empty': ('', 'no pair is listed'),
    'blank': ('\n\n', 'no pair is listed'), 'header only': ('path1,path2,label\n', 'no pair is listed'),
    'two headers': ('path1,path2,label\npath1,path2,label\n', 'line 2'),
    'alone': ('a.jpg 1\nb.jpg 1\nc.jpg 0\n', "'c.jpg' in the last line has no partner"),
    'two answers': ('a.jpg 1\nb.jpg 0\n', 'line 2: the answer is 0, 1 in the line before'),
    'answer of words': ('a.jpg 1\nb.jpg yes\n', "line 2: expected 'picture answer'"),
    'alternating leaves': ('a.jpg 1\n../b.jpg 1\n', 'line 2: .*leaves'),
    'three words of two': ('a.jpg 1\nb.jpg 1 1\n', 'line 2'),
    'lfw words': ('10 300\nA 1\n', "line 2: expected 'person n m'"),
    'lfw letters': ('10 300\nA 1 x\n', 'line 2'), 'lfw five': ('10 300\nA 1 B 2 C\n', 'line 2'),
    'lfw other digits': ('10 300\nA \u0661 2\n', 'line 2'), 'lfw minus': ('10 300\nA -1 2\n', 'line 2'),
    'lfw leaves': ('1\n.. 1 2\n', 'line 2: .*leaves'),
    'lfw fewer pairs': ('10 300\nA 1 2\nA 1 B 1\n', '2 pairs, its first'),
    'lfw more pairs': ('1 1\nA 1 2\nA 1 3\nA 1 B 1\n', '3 pairs, its first line'),
    'lfw huge n': ('1\nA 1 99999999\n', 'line 2'),
    'lfw another order': ('1 1\nA 1 B 1\nA 1 2\n', 'folds of 1 genuine'), 'lfw none': ('10 300\n', 'no pair is listed'),
}


@pytest.mark.parametrize('kind', BROKEN)
def test_a_broken_list_is_one_line(tmp_path, kind):
    text, message = BROKEN[kind]
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, text)
    assert '\n' not in str(error.value) and str(tmp_path / 'a.csv') in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize('file, text, message', [
    ('Split/FP/01/same.txt', '1;1\n', "same.txt, line 1: expected 'i,j'"),
    ('Split/FP/01/same.txt', '0,1\n', '1..3, 1..3'), ('Split/FP/02/diff.txt', '1,1\n\n1,4\n', 'diff.txt, line 3'),
    ('Split/FP/01/same.txt', '1,1,1\n', 'same.txt, line 1'),
    ('Pair_list_P.txt', '1 a\n1 b\n', "Pair_list_P.txt, line 2: expected 'number picture'"),
    ('Pair_list_F.txt', '1 ../../../etc/passwd\n', 'Pair_list_F.txt, line 1: .*leaves'),
    ('Pair_list_F.txt', 'x\n', 'Pair_list_F.txt, line 1'), ('Pair_list_F.txt', '', 'same.txt, line 1')])
def test_a_broken_cfp_is_one_line(tmp_path, file, text, message):
    split = cfp(tmp_path)
    (tmp_path / 'Protocol' / file).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        pairs.read_pairs(str(split / 'FP'))
    assert '\n' not in str(error.value)


def test_what_is_not_there(tmp_path):
    split = cfp(tmp_path)
    with pytest.raises(ValueError, match='expected CFP'):
        pairs.read_pairs(str(split))
    (tmp_path / 'Protocol' / 'Pair_list_P.txt').unlink()
    for file in (split / 'FP', tmp_path / 'none.csv'):
        with pytest.raises(FileNotFoundError, match='no such file'):
            pairs.read_pairs(str(file))
