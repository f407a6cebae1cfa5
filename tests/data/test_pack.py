"""Packs: the same batches as from the folder, MindSpore reads the shards too, damage and lies are refused."""
import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import PROJECT, TINY, script

from src.config import get_config
from src.data.images import list_id, listed_faces
from src.data.pack import Pack, pack, pack_shard
from src.dataset import FaceFolder, PackedFaces, TrainingBatches, open_faces
from src.device import Device
from src.training import checkpoint
from src.training.log import read_log


@pytest.fixture(scope='module')
def packs(synthetic, tmp_path_factory):
    """{encoding: PREFIX.json} of the synthetic training faces in three shards, through the script."""
    out = tmp_path_factory.mktemp('packs')
    for encoding in ('raw', 'jpeg'):
        done = script('prepare.py', 'pack', '--root', synthetic / 'train', '--list', synthetic / 'train_list.txt',
                      '--out', out / encoding, '--encoding', encoding, '--shards', '3', '--workers', '2')
        assert done.returncode == 0 and '48 faces of 6 people in 3 shards' in done.stdout, done.stderr
        assert sorted(p.name for p in out.glob(f'{encoding}*') if p.suffix != '.db') == sorted(
            [*(f'{encoding}{end}' for end in ('.json', '.fingerprint.npz', '_bad_images.txt')),
             *(f'{encoding}_{i:04d}.mindrecord' for i in range(3))])
    return {encoding: str(out / f'{encoding}.json') for encoding in ('raw', 'jpeg')}


def config(synthetic, *settings):
    return get_config('quickstart', ['num_classes=6', 'image_size=128', 'resize_size=144', 'batch_size=8', *settings],
                      str(synthetic))


@pytest.mark.parametrize('size', ['image_size=128 resize_size=144', 'image_size=32 resize_size=36'])
def test_a_pack_gives_the_same_batches_bit_for_bit(synthetic, packs, size):
    folder = config(synthetic, *size.split())
    packed = config(synthetic, *size.split(), f"train_list={packs['raw']}")
    assert isinstance(open_faces(packed), PackedFaces) and isinstance(open_faces(folder), FaceFolder)
    for step in (0, 5, 6, 17):
        batches = [TrainingBatches(open_faces(cfg), cfg)[step] for cfg in (folder, packed)]
        assert all(np.array_equal(a, b) for a, b in zip(*batches))


def test_jpeg_is_close_and_smaller(synthetic, packs):
    raw, jpeg = Pack(packs['raw']), Pack(packs['jpeg'])
    assert np.array_equal(raw.labels, jpeg.labels) and len(raw) == 48
    assert jpeg.lengths.sum() < raw.lengths.sum() / 1.5 and (raw.lengths == 144 ** 2).all()
    difference = [np.abs(raw.face(i).astype(int) - jpeg.face(i)).mean() for i in range(48)]
    assert 0 < np.mean(difference) < 4


def test_mindspore_reads_the_shards_too(packs):
    from mindspore.mindrecord import FileReader
    packed, row = Pack(packs['raw']), 0
    for shard in packed.shards:
        reader = FileReader(os.path.join(packed.folder, shard['file']))
        for record in reader.get_next():
            image = record['image'] if isinstance(record['image'], bytes) else bytes(record['image'])
            assert image == packed.data(row) and record['label'] == packed.labels[row]
            row += 1
        reader.close()
    assert row == 48


def test_training_from_a_pack_equals_training_from_the_folder(synthetic, trained, packs, tmp_path):
    done = script('train.py', *TINY, f"train_list={packs['raw']}", '--dataset_path', synthetic, '--ckpt_path', tmp_path)
    assert done.returncode == 0, done.stderr
    logs = [read_log(str(folder / 'train_log.jsonl')) for folder in (trained, tmp_path)]
    losses = [[row['loss'] for row in rows if 'loss' in row] for rows in logs]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    assert [p.name for p in tmp_path.glob('pack_check_*')]


def copied(packs, folder):
    for file in os.listdir(os.path.dirname(packs['raw'])):
        shutil.copy(os.path.join(os.path.dirname(packs['raw']), file), folder)
    return folder / 'raw.json'


def open_and_check(file, cfg, out):
    cfg.train_list = str(file)
    faces = open_faces(cfg)
    faces.check(cfg, str(out), Device('CPU', 0, 0, 1))


def flip(file, place):
    with open(file, 'r+b') as data:
        data.seek(place)
        byte = data.read(1)
        data.seek(place)
        data.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize('damage, message', [
    (lambda d: os.truncate(d / 'raw_0001.mindrecord', 17_000_000), 'has 17000000 bytes'),
    (lambda d: os.remove(d / 'raw_0002.mindrecord'), 'is missing'),
    (lambda d: os.truncate(d / 'raw_0000.mindrecord.db', 4096), 'has 4096 bytes'),
    (lambda d: flip(d / 'raw_0001.mindrecord', 16_800_000), 'does not match its sha256'),
    (lambda d: flip(d / 'raw_0000.mindrecord.db', 60), 'does not match its sha256|not the index'),
    (lambda d: shutil.copy(d / 'raw_0001.mindrecord', d / 'raw_0000.mindrecord'), 'does not match its sha256'),
    (lambda d: os.remove(d / 'raw.json'), 'no such pack')])
def test_a_damaged_pack_is_refused_before_training(synthetic, packs, tmp_path, damage, message):
    file = copied(packs, tmp_path)
    open_and_check(file, config(synthetic), tmp_path)
    for verdict in tmp_path.glob('pack_check_*'):
        verdict.unlink()
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_and_check(file, config(synthetic), tmp_path)


@pytest.mark.parametrize('change', [
    lambda f: f.update(format=3), lambda f: f.update(encoding='pickle'), lambda f: f.update(shards=[]),
    lambda f: f['shards'][0].update(file='../raw_0000.mindrecord'), lambda f: f['shards'][0].update(file='/etc/passwd'),
    lambda f: f['shards'][0].update(count=99), lambda f: f.update(size=100), lambda f: f.pop('num_people'),
    lambda f: f.update(num_people=3), lambda f: f['shards'][0].update(bytes='1'), lambda f: f['shards'].append(7)])
def test_metadata_that_lie_are_refused(synthetic, packs, tmp_path, change):
    file = copied(packs, tmp_path)
    metadata = json.loads(file.read_text())
    change(metadata)
    file.write_text(json.dumps(metadata))
    with pytest.raises(ValueError):
        open_and_check(file, config(synthetic), tmp_path)


def test_a_shard_cut_off_in_use_ends_the_run_with_its_name(packs, tmp_path):
    packed = Pack(str(copied(packs, tmp_path)))
    os.truncate(tmp_path / 'raw_0001.mindrecord', 16_777_300)
    assert packed.face(0).shape == (144, 144)
    with pytest.raises(OSError, match='raw_0001.mindrecord: ends before face 20'):
        packed.face(20)


def test_a_shard_that_fails_in_the_middle_of_an_epoch_leaves_a_checkpoint(packs, tmp_path):
    """train.py as a process: its shards are cut off while it trains."""
    file = copied(packs, tmp_path)
    command = [sys.executable, '-u', PROJECT / 'train.py', *TINY, 'epochs=5000', 'log_steps=1', f'train_list={file}',
               '--ckpt_path', tmp_path / 'ckpt']
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        for line in run.stdout:
            if line.startswith('epoch: 1 step: 3,'):
                for shard in json.loads(file.read_text())['shards']:
                    os.truncate(tmp_path / shard['file'], 1000)
                break
        out, error = run.communicate(timeout=300)
    assert run.returncode == 1 and error.count('error: ') == 1 and '.mindrecord' in error and 'Traceback' not in error
    assert checkpoint.read_metadata(checkpoint.newest(str(tmp_path / 'ckpt')))['step'] >= 3


def test_finished_shards_are_kept_and_bad_images_counted(tmp_path):
    (tmp_path / 'train' / 'a').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(6):
        cv2.imwrite(str(tmp_path / 'train' / 'a' / f'{i}.png'), rng.integers(0, 256, (20, 20)).astype(np.uint8))
    (tmp_path / 'train' / 'a' / '6.png').write_bytes(b'broken')
    (tmp_path / 'list.txt').write_text(''.join(f'a/{i}.png {i % 2}\n' for i in range(8)))
    arguments = str(tmp_path / 'train'), str(tmp_path / 'list.txt'), str(tmp_path / 'p')
    with pytest.raises(ValueError, match='2 of 8 images cannot be read, more than --max_bad 0.01'):
        pack(*arguments, size=20, num_shards=4, workers=1)
    assert not (tmp_path / 'p.json').exists()
    when = (tmp_path / 'p_0000.mindrecord').stat().st_mtime_ns
    metadata = pack(*arguments, size=20, num_shards=4, workers=1, max_bad=0.5)       # the last shard has no good one
    assert (metadata['num_images'], metadata['num_bad'], len(metadata['shards'])) == (6, 2, 3)
    assert (tmp_path / 'p_0000.mindrecord').stat().st_mtime_ns == when
    bad = (tmp_path / 'p_bad_images.txt').read_text()
    assert bad.startswith('a/6.png: ') and 'a/7.png: no such image' in bad and bad.count('\n') == 2
    packed = Pack(str(tmp_path / 'p.json'))
    assert len(packed) == 6 and packed.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert np.array_equal(packed.face(5), cv2.imread(str(tmp_path / 'train' / 'a' / '5.png'), 0))
    with pytest.raises(ValueError, match='not one of 1 images can be read'):
        (tmp_path / 'list.txt').write_text('a/6.png 0\n')
        pack(*arguments, size=20, workers=1, max_bad=1.0)


def test_an_interrupted_pack_goes_on(synthetic, tmp_path, capsys):
    arguments = str(synthetic / 'train'), str(synthetic / 'train_list.txt'), str(tmp_path / 'p')
    job = {'root': str(synthetic / 'train'), 'prefix': str(tmp_path / 'p'), 'encoding': 'raw',
           'face_format': 'lightcnn', 'size': 144, 'shards': 3, 'list_sha256': list_id(arguments[1])}
    names, labels = listed_faces(arguments[1])
    pack_shard(job, 1, list(zip(names, labels.tolist()))[16:32])               # the one that the cut-off run finished
    when = (tmp_path / 'p_0001.mindrecord').stat().st_mtime_ns
    assert pack(*arguments, num_shards=3, workers=1)['num_images'] == 48
    assert '1 of 3 shards are finished already' in capsys.readouterr().out
    assert (tmp_path / 'p_0001.mindrecord').stat().st_mtime_ns == when
    assert (tmp_path / 'p_0000.mindrecord').stat().st_mtime_ns != when and not list(tmp_path.glob('p.*[0-9]*'))
