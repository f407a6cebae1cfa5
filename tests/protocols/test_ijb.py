"""IJB-B and IJB-C: synthetic twins of the files through evaluate.py, numbers against insightface's way in NumPy."""
import json
import sys

import cv2
import numpy as np
import pytest
from twins import features_of_people, write_ijb

from src.config import get_config
from src.data import align, ijb
from src.data.images import decode
from src.data.pictures import read_bytes
from src.protocols import protocol


def run(monkeypatch, capsys, *arguments):
    """Run evaluate.py in this process; its stdout."""
    import evaluate
    monkeypatch.setattr(sys, 'argv', ['evaluate.py', *map(str, arguments)])
    evaluate.main()
    return capsys.readouterr().out


def pooled_by_insightface(features, rows, weighted=True):
    """image2template_feature of ijb_11.py."""
    template, medium, _, score = (np.array(column) for column in zip(*rows))
    held = features.astype(np.float64)
    held = held * score[:, None] if weighted else held / np.linalg.norm(held, axis=1, keepdims=True)
    sums = {t: np.sum([held[(template == t) & (medium == m)].mean(0) for m in np.unique(medium[template == t])], 0)
            for t in np.unique(template)}
    return {t: total / np.linalg.norm(total) for t, total in sums.items()}


@pytest.mark.parametrize(('name', 'weighted'), [('ijbc', True), ('ijbb', False)])
def test_one_to_one_is_insightfaces(tmp_path, monkeypatch, capsys, name, weighted):
    _, rows, pairs, _ = write_ijb(tmp_path, name, subjects=40)
    features = features_of_people([row[2] for row in rows], noise=2.0)
    np.save(tmp_path / 'f.npy', features)
    flags = [] if weighted else ['--no_norm_weight', '--no_detector_weight']
    out = run(monkeypatch, capsys, '--protocol', name, '--features', tmp_path / 'f.npy', '--dataset_path', tmp_path,
              '--json', tmp_path / 'n.json', '--thresholds', tmp_path / 't.json', '--report', tmp_path / 'r', *flags)
    numbers = json.loads((tmp_path / 'n.json').read_text())
    unit = pooled_by_insightface(features, rows, weighted)
    scores, same = np.array([unit[a] @ unit[b] for a, b, _ in pairs]), np.array([s for *_, s in pairs], bool)
    assert numbers['num_genuine'] == same.sum() and numbers['num_impostors'] == (~same).sum()
    assert numbers['tar_at_far']['1e-06'] is None                        # 9,000 pairs cannot resolve it
    for far in (1e-3, 1e-2, 1e-1):
        refused = np.sort(scores[~same])[::-1][int(far * (~same).sum())]
        assert numbers['tar_at_far'][f'{far:g}'] == pytest.approx(100 * np.mean(scores[same] > refused))
    points = json.loads((tmp_path / 't.json').read_text())['points']
    assert {point['far'] for point in points} == {1e-3, 1e-2, 1e-1}
    table = [line for line in out.splitlines() if not line.startswith('report:')]
    assert max(map(len, table)) <= 80 and f'{len(pairs)} pairs of {len(unit)} templates' in out
    assert 'ROC, IJB-' in (tmp_path / 'r' / 'report.html').read_text()


def test_one_to_many_by_both_rules(tmp_path, monkeypatch, capsys):
    _, rows, _, templates = write_ijb(tmp_path, subjects=60, unknown=25)
    features = features_of_people([row[2] for row in rows], noise=2.5)
    np.save(tmp_path / 'f.npy', features)
    out = run(monkeypatch, capsys, '--protocol', 'ijbc_1n', 'ijbc', '--features', tmp_path / 'f.npy',
              '--dataset_path', tmp_path, '--json', tmp_path / 'n.json', '--thresholds', tmp_path / 't.json')
    numbers = json.loads((tmp_path / 'n.json').read_text())['ijbc_1n']
    unit = pooled_by_insightface(features, rows)
    probes = [t for t, (_, role) in templates.items() if role == 'probe']
    for column, halves in enumerate(((0,), (1,), None, (0, 1))):
        if halves is None:
            continue
        gallery = [t for t, (s, role) in templates.items() if role == 'gallery' and s % 2 in halves]
        subject = np.array([templates[t][0] for t in gallery])
        scores = np.array([[unit[p] @ unit[g] for g in gallery] for p in probes])
        mate = np.array([templates[p][0] for p in probes])[:, None] == subject
        known = mate.any(1)
        own = (scores * mate).sum(1)[known]
        rank = 1 + (scores[known] > own[:, None]).sum(1)
        for r in (1, 5, 10):
            assert numbers['rank'][str(r)][column] == pytest.approx(100 * np.mean(rank <= r))
        unknown = np.sort(scores[~known].max(1))[::-1]
        for x in (0.01, 0.1):
            allowed = int(x * len(unknown) + 1e-9)
            expected = 100 * np.mean(own > unknown[allowed]) if allowed else None
            assert numbers['tpir'][f'{x:g}'][column] == (pytest.approx(expected) if allowed else None)
    impostors = np.sort(scores[known][~mate[known]].tolist() + scores[~known].ravel().tolist())[::-1]
    threshold = impostors[int(np.ceil(known.sum() * 0.1)) - 1]
    assert numbers['tpir_insightface']['0.1'] == pytest.approx(100 * np.mean(own > threshold))
    assert max(map(len, out.splitlines())) <= 80 and 'rank 1 ' in out and 'G1 (30)' in out


def test_crops_are_aligned_by_their_points(tmp_path):
    folder, *_ = write_ijb(tmp_path, pictures=True)
    cfg = get_config(dataset_path=str(tmp_path))
    pictures = protocol('ijbc').pictures(cfg)
    held = ijb.read_pictures(str(folder), 'ijbc')
    for row in (0, 7):
        image = cv2.imread(str(folder / 'loose_crop' / held.names[row]))
        expected = align.align(image, held.points[row], 'arcface')
        assert np.array_equal(decode(read_bytes(pictures[row]), 'BGR'), expected) and expected.shape == (112, 112, 3)
    cfg.protocol_options['geometry'] = 'test'
    assert decode(read_bytes(protocol('ijbc').pictures(cfg)[0]), 'BGR').shape == (128, 128, 3)
    cfg.protocol_options.update(geometry='none', crops='arcface_crop')   # FaceX-Zoo aligns them beforehand
    (folder / 'loose_crop').rename(folder / 'arcface_crop')
    assert read_bytes(protocol('ijbc').pictures(cfg)[0]) == (folder / 'arcface_crop' / held.names[0]).read_bytes()
    cfg.protocol_options['crops'] = '../x'
    with pytest.raises(ValueError, match='leaves the image folder'):
        protocol('ijbc').pictures(cfg)


def test_a_network_embeds_the_crops_once_for_both_protocols(tmp_path, monkeypatch, capsys):
    from conftest import TINY
    _, rows, _, _ = write_ijb(tmp_path, subjects=3, unknown=1, pictures=True)
    out = run(monkeypatch, capsys, '--protocol', 'ijbc', 'ijbc_1n', '--untrained', '--geometry', 'test', '--flip',
              'sum', '--dataset_path', tmp_path, '--thresholds', tmp_path / 't.json', *TINY)
    assert f'embedded {len(rows)} images' in out and 'IJB-C 1:N' in out


def test_pictures_in_another_order_are_joined_by_name(tmp_path):
    folder, *_ = write_ijb(tmp_path)
    before = ijb.read_pictures(str(folder), 'ijbc')
    file = folder / 'meta' / 'ijbc_name_5pts_score.txt'
    file.write_text('\n'.join(reversed(file.read_text().splitlines())))
    after = ijb.read_pictures(str(folder), 'ijbc')
    assert before.names == after.names and np.array_equal(before.points, after.points)
    assert np.array_equal(before.scores, after.scores)


@pytest.mark.parametrize(('file', 'text', 'message'), [
    ('face_tid_mid.txt', 'a.jpg 1\n', "line 1: expected 'picture template medium'"),
    ('face_tid_mid.txt', '../a.jpg 1 2\n', 'leaves the image folder'),
    ('face_tid_mid.txt', 'a.jpg 1 x\n', 'line 1: expected'),
    ('face_tid_mid.txt', 'a.jpg 1 99999999999\n', 'too large'),
    ('face_tid_mid.txt', '', 'no picture is listed'),
    ('name_5pts_score.txt', '1.jpg ' + '1 ' * 10 + 'nan\n', 'not finite'),
    ('name_5pts_score.txt', '1.jpg ' + '1 ' * 9 + '1\n', "line 1: expected 'picture x1"),
    ('name_5pts_score.txt', 'b.jpg ' + '1 ' * 10 + '1\n', 'they differ from line 1'),
    ('template_pair_label.txt', '1 2\n', "line 1: expected 'template template 1|0'"),
    ('template_pair_label.txt', '3 4 1\n1 2 2\n', "line 2: expected"),
    ('template_pair_label.txt', '1 2 1 0\n', 'line 1: expected'),
    ('template_pair_label.txt', '1 -2 1\n', 'line 1: expected'),
    ('template_pair_label.txt', '1 99999999999999999999999999 1\n', 'line 1: expected'),
    ('template_pair_label.txt', '\x00\x01' * 40000, 'line 1: longer than 65536 bytes'),
    ('template_pair_label.txt', '\n\n', 'no pair is listed'),
    ('template_pair_label.txt', '1000000 2000000 1\n3000000 4000000 0\n', 'template 1000000 has no picture'),
    ('1N_gallery_G1.csv', 'TEMPLATE_ID,SUBJECT_ID\n1,x\n', 'line 2: expected template and subject'),
    ('1N_gallery_G1.csv', '1,2\n1,3\n', 'line 2: template 1 belongs to subject 3 and to 2'),
    ('1N_gallery_G1.csv', 'TEMPLATE_ID,SUBJECT_ID\n', 'no template is listed'),
    ('1N_probe_mixed.csv', '5000000,3\n', 'template 5000000 has no picture')])
def test_what_is_wrong_is_one_line(tmp_path, file, text, message):
    folder, rows, *_ = write_ijb(tmp_path)
    (folder / 'meta' / f'ijbc_{file}').write_text(text)
    cfg = get_config(dataset_path=str(tmp_path))
    with pytest.raises(ValueError, match=message) as error:
        for name in ('ijbc', 'ijbc_1n'):
            protocol(name).score(cfg, lambda names: features_of_people([row[2] for row in rows]))
    assert '\n' not in str(error.value)


def test_missing_files_and_crops(tmp_path):
    cfg = get_config(dataset_path=str(tmp_path))
    with pytest.raises(FileNotFoundError, match='no meta/ijbb_face_tid_mid.txt in it, nor in its folder IJBB'):
        protocol('ijbb').images(cfg)
    folder, *_ = write_ijb(tmp_path)
    with pytest.raises(FileNotFoundError, match='listed crops are missing, such as 1.jpg'):
        protocol('ijbc').pictures(cfg)
    for file in (folder / 'meta').glob('*gallery*'):
        file.unlink()
    with pytest.raises(FileNotFoundError, match='no ijbc_1N_gallery_G1.csv'):
        protocol('ijbc_1n').score(cfg, lambda names: np.ones((len(names), 4)))


def test_pairs_are_read_in_blocks_with_any_line_ends(tmp_path, monkeypatch):
    folder, *_ = write_ijb(tmp_path)
    file = folder / 'meta' / 'ijbc_template_pair_label.txt'
    expected = ijb.read_template_pairs(str(folder), 'ijbc')
    monkeypatch.setattr(ijb, '_BLOCK', 64)
    file.write_bytes(b'\r\n'.join(file.read_bytes().replace(b' ', b'\t').splitlines()))
    for a, b in zip(expected, ijb.read_template_pairs(str(folder), 'ijbc')):
        assert np.array_equal(a, b)
