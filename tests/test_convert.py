"""The TSV converter: rows of every broken kind, parts, kill -9 in the middle, clean lists, duplicates."""
import base64
import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from conftest import PROJECT, script

from src import convert
from src.data.pack import Pack

RECTANGLE = base64.b64encode(np.arange(4, dtype=np.float32).tobytes())


def picture(seed):
    image = np.random.default_rng(seed).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    return cv2.imencode('.jpg', image)[1].tobytes()


def row(mid=b'm.0x_1', rank=b'7', face_id=b'FaceId-0', rectangle=RECTANGLE, data=None, seed=0):
    data = base64.b64encode(picture(seed)) if data is None else data
    return b'\t'.join([mid, rank, b'http://image', b'http://page', face_id, rectangle, data])


def test_a_good_row():
    assert convert.parse_row(row(seed=3) + b'\r\n') == ('m.0x_1/7-FaceId-0.jpg', picture(3))


BROKEN = {
    'empty': (b'', 'the line is empty'),
    'few columns': (b'm.1\t2\t3', '3 columns, expected 7'),
    'many columns': (row() + b'\tmore', '8 columns, expected 7'),
    'mid that leaves': (row(mid=b'../../etc'), "MID '../../etc' cannot be part of a file name"),
    'mid of dots': (row(mid=b'..'), "MID '..'"), 'no mid': (row(mid=b''), "MID ''"),
    'mid with NUL': (row(mid=b'm\0x'), 'MID'), 'absolute mid': (row(mid=b'/m.1'), 'MID'),
    'rank': (row(rank=b'-1'), "search rank '-1'"),
    'face id that leaves': (row(face_id=b'a/../../x'), "face id 'a/../../x'"),
    'face id with line end': (row(face_id=b'x\r'), 'face id'),
    'rectangle': (row(rectangle=b'%%%'), 'the rectangle is not base64'),
    'short rectangle': (row(rectangle=base64.b64encode(b'1234')), 'not four float32'),
    'base64': (row(data=b'?not base64?'), 'the image is not base64'),
    'cut base64': (row(data=base64.b64encode(picture(0))[:-3]), 'the image is not base64'),
    'no image': (row(data=b''), 'the file is empty'),
    'another file': (row(data=base64.b64encode(b'GIF89a nothing')), 'not a picture'),
    'cut off image': (row(data=base64.b64encode(picture(0)[:-200])), 'cut off'),
}


@pytest.mark.parametrize('kind', BROKEN)
def test_a_broken_row_has_a_reason(kind):
    line, reason = BROKEN[kind]
    with pytest.raises(convert.Rejected) as rejected:
        convert.parse_row(line)
    assert reason in str(rejected.value) and '\n' not in str(rejected.value) and '\t' not in str(rejected.value)


def make_tsv(file, num_rows, broken_every=0, picture=picture):
    """Write rows of 20 people and, now and then, a broken one; return ({name: JPEG}, {line number: reason}).

    picture: function row number -> JPEG bytes.
    """
    good, bad, kinds = {}, {}, list(BROKEN)
    with open(file, 'wb') as tsv:
        for number in range(1, num_rows + 1):
            if broken_every and number % broken_every == 0:
                line, bad[number] = BROKEN[kinds[(number // broken_every) % len(kinds)]]
            else:
                mid, rank = b'm.%04d' % (number % 20), b'%d' % number
                good[f'{mid.decode()}/{number}-FaceId-0.jpg'] = picture(number)
                line = row(mid, rank, data=base64.b64encode(picture(number)))
            tsv.write(line + b'\n')
    return good, bad


def check(out, good, bad):
    found = {f'{p.parent.name}/{p.name}': p.read_bytes() for p in out.glob('*/*.jpg')}
    assert found.keys() == good.keys() and found == good
    rejected = dict(line.split('\t') for line in (out / 'rejected.tsv').read_text().splitlines())
    assert rejected.keys() == {str(number) for number in bad}
    assert all(reason in rejected[str(number)] for number, reason in bad.items())


@pytest.mark.parametrize('part_bytes, num_rows', [(97, 5), (3000, 60), (10**9, 60)])
def test_parts_of_any_size_give_the_same(tmp_path, part_bytes, num_rows):
    """Of 97 bytes: every part ends in the middle of a line."""
    good, bad = make_tsv(tmp_path / 'a.tsv', num_rows, 3)
    total = convert.convert(str(tmp_path / 'a.tsv'), str(tmp_path / 'out'), workers=2, part_bytes=part_bytes)
    check(tmp_path / 'out', good, bad)
    assert (total['images'], total['rejected'], total['rows']) == (len(good), len(bad), len(good) + len(bad))


def test_a_clean_list_takes_its_images_and_tells_what_never_came(tmp_path):
    good, _ = make_tsv(tmp_path / 'a.tsv', 40)
    listed = sorted(good)[:10]
    (tmp_path / 'clean.txt').write_text(''.join(f'{name} {i}\n' for i, name in enumerate([*listed, 'm.9/1-x.jpg'])))
    done = script('src/convert.py', '--file_path', tmp_path / 'a.tsv', '--output_dir', tmp_path / 'out', '--clean_list',
                  tmp_path / 'clean.txt')
    assert done.returncode == 0, done.stderr
    check(tmp_path / 'out', {name: good[name] for name in listed}, {})
    assert '30 not in the list' in done.stdout and '1 listed images never came' in done.stdout
    assert (tmp_path / 'out' / 'missing.txt').read_text() == 'm.9/1-x.jpg\n'


def test_duplicates_are_counted_and_never_overwritten(tmp_path):
    lines = [row(seed=1), row(seed=1), row(seed=2), row(rank=b'8', seed=3)]
    (tmp_path / 'a.tsv').write_bytes(b'\n'.join(lines))
    total = convert.convert(str(tmp_path / 'a.tsv'), str(tmp_path / 'out'), workers=1)
    assert (total['duplicates'], total['rejected'], total['images']) == (1, 1, 3)
    assert (tmp_path / 'out' / 'm.0x_1' / '7-FaceId-0.jpg').read_bytes() == picture(1)
    assert (tmp_path / 'out' / 'rejected.tsv').read_text().startswith('3\ta duplicate name with another picture')


def test_a_line_without_end_takes_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, 'MAX_LINE', 10_000)
    (tmp_path / 'a.tsv').write_bytes(row(seed=1) + b'\n' + b'x' * 50_000 + b'\n' + row(rank=b'9', seed=2) + b'\n')
    (tmp_path / 'out' / '.convert').mkdir(parents=True)
    job = {'tsv': str(tmp_path / 'a.tsv'), 'output_dir': str(tmp_path / 'out'), 'format': 'folder'}
    counts = convert.convert_part(job, 0, 0, 10**6, None)
    assert (counts['rows'], counts['images'], counts['rejected']) == (3, 2, 1)
    assert 'longer than 10000 bytes' in (tmp_path / 'out' / '.convert' / 'part_000000.tsv').read_text()


def test_a_killed_conversion_goes_on(tmp_path):
    good, bad = make_tsv(tmp_path / 'a.tsv', 6000, 20)
    convert_with_kills(tmp_path, good, bad)


def test_real_faces_survive_a_kill(real_faces, tmp_path):
    """All real training faces as a TSV, 5 % of its rows broken in every way, killed twice."""
    files = sorted((real_faces / 'train').glob('*/*.jpg'))
    good, bad = make_tsv(tmp_path / 'a.tsv', 20 * len(files) // 19, 20, lambda number: files[
        number % len(files)].read_bytes())
    assert len(good) >= len(files) - 1 and len(bad) > 300
    convert_with_kills(tmp_path, good, bad)


def convert_with_kills(tmp_path, good, bad):
    """kill -9 in the middle, twice: finished parts are not read again, nothing is missing, cut off or duplicate."""
    out = tmp_path / 'out'
    command = ['bash', PROJECT / 'scripts' / 'convert.sh', tmp_path / 'a.tsv', out, '--workers', '2', '--part_mb', '1']
    env = {**os.environ, 'PYTHON': sys.executable}
    for number in (2, 4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True, env=env)
        for _ in range(6000):
            if len(list(out.glob('.convert/part_*.json'))) >= number or process.poll() is not None:
                break
            time.sleep(0.01)
        assert process.poll() is None, 'it was over before it could be killed'
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finished = {p.name: p.stat().st_mtime_ns for p in out.glob('.convert/part_*.json')}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0 and 'parts are finished already' in done.stdout, done.stderr
    check(out, good, bad)
    assert all((out / '.convert' / name).stat().st_mtime_ns == when for name, when in finished.items())
    assert f"{len(good) + len(bad)} rows: {len(good)} images" in done.stdout and ' 0 duplicates' in done.stdout
    assert not list(out.glob('.convert/tmp-*'))
    assert 'finished already' in subprocess.run(command, capture_output=True, text=True, env=env).stdout
    check(out, good, bad)


def test_what_cannot_be_converted_is_one_line(tmp_path, monkeypatch):
    make_tsv(tmp_path / 'a.tsv', 3)
    (tmp_path / 'b.tsv').write_bytes(b'nothing\n')
    run = ['src/convert.py', '--output_dir', tmp_path / 'out', '--file_path']
    assert script(*run, tmp_path / 'a.tsv').returncode == 0
    for arguments, code, message in [
            ([tmp_path / 'none.tsv'], 2, 'no such TSV file'), ([tmp_path / 'b.tsv'], 2, 'holds another conversion'),
            ([tmp_path / 'b.tsv', '--output_dir', tmp_path / 'other'], 1, 'not one image came out'),
            ([tmp_path / 'a.tsv', '--workers', '0'], 2, '--workers 0')]:
        done = script(*run, *arguments)
        assert done.returncode == code and message in done.stderr and done.stderr.count('\n') == 1, done.stderr
    monkeypatch.setattr(convert.shutil, 'disk_usage', lambda _: type('Usage', (), {'free': 10}))
    with pytest.raises(OSError, match='are free, up to'):
        convert.convert(str(tmp_path / 'a.tsv'), str(tmp_path / 'third'))
    assert json.loads((tmp_path / 'third' / '.convert' / 'job.json').read_text())


def test_packed_shards_at_once(tmp_path):
    """The faces of a clean list as a pack: its labels, no small files; a row that is there twice stands in it once."""
    good, bad = make_tsv(tmp_path / 'a.tsv', 60, 10)
    with open(tmp_path / 'a.tsv', 'ab') as tsv:
        tsv.write(row(b'm.0001', b'1', seed=1) + b'\n')
    listed = sorted(good)[::2]
    (tmp_path / 'clean.txt').write_text(''.join(f'{name} {i % 5}\n' for i, name in enumerate(listed)))
    run = ['src/convert.py', '--file_path', tmp_path / 'a.tsv', '--output_dir', tmp_path / 'out', '--format', 'pack']
    done = script(*run)
    assert done.returncode == 2 and '--format pack needs --clean_list' in done.stderr
    done = script(*run, '--clean_list', tmp_path / 'clean.txt')
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / 'out').glob('*/*.jpg')) and (tmp_path / 'out' / 'rejected.tsv').exists()
    packed = Pack(str(tmp_path / 'out' / 'pack.json'))
    packed.verify(range(len(packed.shards)))
    in_file_order = sorted(listed, key=lambda name: int(name.split('/')[1].split('-')[0]))
    assert packed.labels.tolist() == [listed.index(name) % 5 for name in in_file_order] and packed.num_people == 5
    face = cv2.resize(cv2.imdecode(np.frombuffer(good[in_file_order[3]], np.uint8), 0), (144, 144))
    assert np.abs(packed.face(3).astype(int) - face).mean() < 6
    done = script(*run, '--clean_list', tmp_path / 'clean.txt')
    assert done.returncode == 0 and '1 of 1 parts are finished already' in done.stdout
