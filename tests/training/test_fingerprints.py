"""The fingerprint beside the checkpoints: made while training, resumed, carried over by fine-tuning, or unknown."""
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import run_in_process

from src.data import fingerprint, lists, pack
from src.data.face_format import face_format
from src.data.fingerprint import fingerprint_of
from src.data.recordio import write_records
from src.dataset import open_faces
from src.training import checkpoint, fingerprints
from src.training.fingerprints import BASE, FILE, PARTIAL, Maker


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in a._fields)


@pytest.fixture
def faces(cfg):
    return open_faces(cfg)


@pytest.fixture
def whole(cfg):
    """The fingerprint of the training set, made at once."""
    names, labels = lists.read_image_list(cfg.train_list)
    return fingerprint.of_list(cfg.data_path, names, labels, face_format('lightcnn'),
                               list_id=lists.file_sha256(cfg.train_list))


def make(faces, folder, *started_from, **kwargs):
    with Maker(faces, str(folder)) as maker:
        maker.begin(*started_from, **kwargs)
    return maker.link()


def as_checkpoint(folder, link, name='net.ckpt'):
    os.makedirs(folder, exist_ok=True)
    lists.write_text(checkpoint.metadata_file(str(folder / name)), json.dumps({'fingerprint': link}))
    return str(folder / name)


def test_training_leaves_a_fingerprint(trained, whole):
    ckpt = checkpoint.newest(str(trained))
    held, reason = fingerprint_of(ckpt)
    assert reason == '' and held.complete and same(held, whole) and (held.num_pictures, held.num_people) == (48, 6)
    assert checkpoint.read_metadata(ckpt)['fingerprint']['ids'] == whole.ids
    assert not {PARTIAL, BASE} & set(os.listdir(trained)) and fingerprint_of(str(trained / 'best.ckpt'))[0]


def test_it_goes_on_where_it_was_cut_off(faces, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, '_CHUNK', 10)
    read, seen = fingerprint.file_record, []

    def stops_at_25(path, face):
        seen.append(path)
        if len(seen) == 25:
            maker._stop.set()
        return read(path, face)
    monkeypatch.setattr(fingerprint, 'file_record', stops_at_25)
    with pytest.raises(KeyboardInterrupt), Maker(faces, str(tmp_path)) as maker:
        maker.begin()
        maker.finish()
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == [PARTIAL] and fingerprint_of(as_checkpoint(tmp_path, maker.link()))[0] is None
    with open(tmp_path / PARTIAL, 'ab') as partial:
        partial.write(b'half a record')
    del seen[:]
    make(faces, tmp_path)
    assert 28 <= len(seen) <= 29 and same(fingerprint.read(str(tmp_path / FILE)), whole)
    del seen[:]
    make(faces, tmp_path)                                            # written once
    assert not seen


def test_a_pack_gives_the_same_at_once(cfg, whole, tmp_path, monkeypatch):
    pack.pack(cfg.data_path, cfg.train_list, str(tmp_path / 'p'), encoding='jpeg', workers=1)
    cfg.train_list = str(tmp_path / 'p.json')
    monkeypatch.setattr(Maker, '_from_pictures', None)
    make(open_faces(cfg), tmp_path)
    assert same(fingerprint.read(str(tmp_path / FILE)), whole)
    monkeypatch.undo()
    os.remove(tmp_path / FILE)
    os.remove(pack.fingerprint_file(cfg.train_list))                 # an older pack: its faces only
    make(open_faces(cfg), tmp_path)
    held = fingerprint.read(str(tmp_path / FILE))
    assert len(held.files) == len(held.people) == 0 and len(held.pixels) == len(whole.pixels)
    records = np.zeros(len(whole.pixels), fingerprint.RECORD)
    records['pixels'] = whole.pixels
    assert fingerprint.known_pictures(held, records, 'lightcnn').all()


def test_records_give_the_same_pictures(cfg, whole, tmp_path):
    """A .rec that lists itself: the bytes and what they show, no names."""
    names, labels = lists.read_image_list(cfg.train_list)
    write_records(str(tmp_path / 'train.rec'), labels, ((Path(cfg.data_path) / name).read_bytes() for name in names),
                  people=False)
    cfg.train_list = cfg.data_path = str(tmp_path / 'train.rec')
    make(open_faces(cfg), tmp_path)
    held = fingerprint.read(str(tmp_path / FILE))
    assert np.array_equal(held.files, whole.files) and np.array_equal(held.pixels, whole.pixels)
    assert (held.num_pictures, held.num_people) == (48, 6)


def test_finetuning_carries_it_over(faces, whole, tmp_path):
    earlier = fingerprint.of_records(np.array([(7, np.arange(32))], fingerprint.RECORD), ['Ann Lee'], 1, list_id='old',
                                     alignment='lightcnn')
    base = as_checkpoint(tmp_path / 'base', {'file': FILE, 'ids': ['old'], 'complete': True})
    fingerprint.write(tmp_path / 'base' / FILE, earlier)
    out = tmp_path / 'out'
    out.mkdir()
    link = make(faces, out, base)
    held, _ = fingerprint_of(as_checkpoint(out, link))
    assert held.complete and held.ids == [whole.ids[0], 'old'] and 7 in held.files and held.num_pictures == 49
    os.remove(out / FILE)                                            # killed before it was written, and resumed
    fingerprint.write(out / BASE, earlier)
    assert make(faces, out, str(out / 'net.ckpt'), resumed=True) == link
    assert same(fingerprint.read(str(out / FILE)), held)


def test_weights_of_unknown_origin_stay_unknown(faces, whole, tmp_path):
    """Fine-tuned from weights without a fingerprint: what is known is said to be not all."""
    link = make(faces, tmp_path, str(tmp_path / 'foreign.params'))
    held, _ = fingerprint_of(as_checkpoint(tmp_path, link))
    assert not link['complete'] and not held.complete and np.array_equal(held.files, whole.files)
    assert make(faces, tmp_path, str(tmp_path / 'net.ckpt'), resumed=True) == link


def test_unknown_is_said_with_a_reason(faces, tmp_path):
    link = make(faces, tmp_path)
    ckpt = as_checkpoint(tmp_path, link)
    assert fingerprint_of(ckpt)[0] is not None
    moved = as_checkpoint(tmp_path / 'moved', link)
    other = as_checkpoint(tmp_path, {**link, 'ids': ['of another list']}, 'other.ckpt')
    for bad in (None, {}, 'x', {**link, 'ids': []}, {**link, 'ids': [1]}, {**link, 'file': '../' + FILE}):
        assert 'without a fingerprint' in fingerprint_of(as_checkpoint(tmp_path, bad, 'bad.ckpt'))[1]
    for file, reason in ((None, 'without'), ('absent.ckpt', 'without'), (moved, 'is missing'), (other, 'of another')):
        held, said = fingerprint_of(file)
        assert held is None and reason in said, file
    (tmp_path / FILE).write_bytes(b'broken')
    assert fingerprint_of(ckpt) == (None, fingerprint_of(ckpt)[1]) and 'not a readable' in fingerprint_of(ckpt)[1]


def test_a_failure_is_a_warning(faces, tmp_path, capsys):
    (tmp_path / PARTIAL).mkdir()
    make(faces, tmp_path)
    assert 'no fingerprint of the training set is made' in capsys.readouterr().err


def test_finetuned_training(cfg, trained, tmp_path):
    """Through the trainer: the fine-tuned network's checkpoints name the set, which the base's fingerprint covers."""
    shutil.copytree(trained, tmp_path / 'base')
    cfg.epochs = 1
    run_in_process(cfg, tmp_path / 'out', finetune=str(tmp_path / 'base'))
    held, reason = fingerprint_of(checkpoint.newest(str(tmp_path / 'out')))
    assert held.complete and held.num_pictures == 48 and reason == ''
