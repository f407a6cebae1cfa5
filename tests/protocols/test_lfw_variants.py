"""LFW with masked faces and at given resolutions: which pictures meet, what they look like, table, JSON and report."""
import json
import sys

import cv2
import numpy as np
import pytest

from src.config import get_config
from src.data import lists
from src.data.images import decode, read_face, resize
from src.data.masked_set import Masking, write_masked
from src.data.pictures import picture_sha256, read_bytes
from src.evaluation import write_json
from src.protocols import protocol
from src.protocols.lfw_variants import Small, by_resolution, resolution_lines, resolution_names
from src.scoring import metrics
from src.sources import list_images


@pytest.fixture(scope='module')
def masked_root(synthetic, tmp_path_factory):
    out = tmp_path_factory.mktemp('masked')
    root = synthetic / 'lfw' / 'image'
    names = [str(path.relative_to(root)) for path in sorted(root.rglob('*.*'))]
    write_masked(str(root), names, str(out), Masking(), workers=1)
    return out


@pytest.fixture
def settings(synthetic, masked_root):
    cfg = get_config(dataset_path=str(synthetic))
    cfg.protocol_options['masked_root'] = str(masked_root)
    return cfg


def features_of(names):
    """Features that a name decides: of a person's pictures alike, of masked ones less so."""
    rows = []
    for name in names:
        masked = name.startswith('masked/')
        listed = name.split('/', 1)[1] if masked else name
        person, one = (np.random.default_rng(list(text.encode())) for text in (lists.person_of(listed), name))
        rows.append(person.standard_normal(16) + (1.5 if masked else 1.0) * one.standard_normal(16))
    return np.array(rows, np.float32)


@pytest.mark.parametrize('name, first, second', [('lfw_masked', '', 'masked/'), ('lfw_both_masked', *['masked/'] * 2)])
def test_the_right_pictures_meet(settings, name, first, second):
    kind, (listed, _) = protocol(name), protocol('lfw').images(settings)
    scored = kind.score(settings, features_of)
    for key, pairs in zip(('genuine', 'impostor'), lists.load_lfw_pairs(settings.lfw_pairs_mat_path, len(listed))):
        a, b = (metrics.unit_rows(features_of([folder + listed[row] for row in rows]))
                for folder, rows in zip((first, second), pairs.T))
        assert scored.result[key] == pytest.approx((a * b).sum(1), abs=1e-6)
    assert 60 < scored.numbers['eer100'] < 100 and None not in scored.numbers['interval95']['eer100']
    plain = protocol('lfw').score(settings, features_of)
    assert scored.numbers['eer100'] < plain.numbers['eer100'] - 1
    pictures = dict(zip(kind.images(settings)[0], kind.pictures(settings)))
    for shown, path in list(pictures.items())[::29]:
        masked = shown.startswith('masked/')
        assert path.startswith(settings.protocol_options['masked_root'] if masked else settings.root_path)
        assert path.rsplit('.', 1)[0].endswith(shown.removeprefix('masked/').rsplit('.', 1)[0])
        assert kind.picture(settings, shown) == path


def test_one_pass_embeds_each_picture_once(settings):
    kinds = {name: protocol(name) for name in ('lfw', 'lfw_masked', 'lfw_both_masked', 'lfw_16px')}
    listing = list_images(settings, kinds)
    held = listing.pictures(settings)
    num = {name: len(pictures) for name, (pictures, _) in held.items()}
    used = len(kinds['lfw_both_masked'].images(settings)[0])
    assert num['lfw'] == 14 * 24 and num['lfw_masked'] <= used and num['lfw_masked'] + num['lfw_both_masked'] == used
    assert num['lfw_16px'] == used and len(listing.keys) == sum(num.values())


def test_promises_about_masks_count_the_listed_pairs(settings):
    """All pictures with all would be other pairs; masked with masked is one kind of pairs."""
    first = protocol('lfw_masked').score(settings, features_of)
    both = protocol('lfw_both_masked').score(settings, features_of)
    assert first.numbers['far_promise'] and both.numbers['far_promise']
    assert protocol('lfw_masked')._takes_listed(settings, first.result)
    assert not protocol('lfw_both_masked')._takes_listed(settings, both.result)


def test_what_is_missing_is_said(settings, tmp_path):
    settings.protocol_options.masked_root = ''
    with pytest.raises(FileNotFoundError, match='--masked_root is not given: no such folder of masked faces'):
        protocol('lfw_masked').pictures(settings)
    settings.protocol_options.masked_root = str(tmp_path)
    with pytest.raises(FileNotFoundError, match=r'listed images are missing'):
        protocol('lfw_both_masked').pictures(settings)
    with pytest.raises(ValueError, match='--masked_root: none of the protocols lfw has this option'):
        list_images(settings, {'lfw': protocol('lfw')})
    for side in (3, 129):
        with pytest.raises(ValueError, match=f'a resolution of {side} pixels is out of range; allowed: 4 to 128'):
            protocol(f'lfw_{side}px')
    with pytest.raises(ValueError, match='unknown protocol'):
        protocol('lfw_16')
    assert resolution_names([32, 16, 32]) == ['lfw_16px', 'lfw_32px']


@pytest.mark.parametrize('side, colour', [(128, 'grey'), (144, 'grey'), (112, 'BGR')])
def test_a_small_face_has_no_more_than_its_pixels(tmp_path, side, colour):
    shape = (side, side) if colour == 'grey' else (side, side, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    source = Small([str(tmp_path / 'a.png')], 16)
    found = decode(source.data(0), colour)
    face = image[8:136, 8:136] if side == 144 else image
    assert np.array_equal(found, resize(resize(face, 16), face.shape[0])) and found.shape[0] == min(side, 128)
    blocks = face[:112, :112].reshape(-1, 7, 16, 7, *shape[2:]).mean((1, 3)) if side == 112 else \
        face.reshape(16, 8, 16, 8).mean((1, 3))
    # bilinear between the block averages: nothing beyond them, but for rounding to whole numbers twice
    assert found.max() <= blocks.max() + 1 and found.min() >= blocks.min() - 1


def test_small_pictures_are_pictures_of_their_own(settings):
    """A feature is kept by the bytes of its picture: those of a size, of the picture itself and of a mask differ."""
    names = protocol('lfw').images(settings)[0]
    found = [kind.pictures(settings)[0] for kind in map(protocol, ('lfw', 'lfw_16px', 'lfw_24px', 'lfw_both_masked'))]
    assert len({picture_sha256(picture) for picture in found}) == 4
    kind = protocol('lfw_16px')
    shown = kind.images(settings)[0][0]
    assert shown.startswith('16px/') and shown[5:] in names and kind.key(shown) == '16px/' + protocol('lfw').key(shown)
    assert read_bytes(kind.picture(settings, shown)) == read_bytes(kind.pictures(settings)[0])
    assert not np.array_equal(read_face(found[1]), read_face(found[2]))
    assert kind.picture(settings, '16px/nobody/nobody_0001.jpg') is None


def test_evaluate_with_resolutions_and_masks(synthetic, masked_root, tmp_path, monkeypatch, capsys):
    import evaluate
    monkeypatch.setattr(sys, 'argv', ['evaluate.py', *map(str, (
        '--protocol', 'lfw', 'lfw_masked', '--masked_root', masked_root, '--resolutions', 32, 8, '--untrained',
        '--recipe', 'quickstart', '--set', 'image_size=16', 'resize_size=18', '--device_target', 'CPU',
        '--dataset_path', synthetic, '--json', tmp_path / 'n.json', '--thresholds', tmp_path / 't.json', '--report',
        tmp_path / 'report'))])
    evaluate.main()
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines() if not line.startswith(('report:', 'embedded'))) <= 80
    table = out[out.index('LFW by resolution'):].splitlines()
    assert [line[:14].strip() for line in table[1:4]] == ['8 pixels', '32 pixels', 'as they are']
    numbers = json.loads((tmp_path / 'n.json').read_text())
    assert {'lfw', 'lfw_masked', 'lfw_8px', 'lfw_32px'} <= set(numbers)
    assert numbers['lfw_8px']['eer100'] != numbers['lfw']['eer100']
    for line, name in zip(table[1:4], ('lfw_8px', 'lfw_32px', 'lfw')):
        assert f"{numbers[name]['eer100']:.4f}" in line
    page = (tmp_path / 'report' / 'report.html').read_text()
    assert '>LFW by resolution<' in page and 'LFW masked' in page and 'LFW 8 px' in page
    assert {row['protocol'] for row in json.loads((tmp_path / 't.json').read_text())['points']} >= {'lfw_masked'}


def test_without_resolutions_there_is_no_table(settings, tmp_path):
    run = {name: protocol(name).score(settings, features_of) for name in ('lfw', 'lfw_both_masked')}
    assert by_resolution(run) == [] and resolution_lines(run) == []
    write_json(str(tmp_path / 'n.json'), {'a': run}, [])
    assert set(json.loads((tmp_path / 'n.json').read_text())) == {'lfw', 'lfw_both_masked'}
