"""Templates and identification against straightforward NumPy: pooling, pairs, ranks, thresholds; blocks and memory."""
import math

import numpy as np
import pytest

from src.scoring import identification, metrics, templates
from src.scoring.all_with_all import vectors


def pictures(seed=0, num=400, num_templates=60, num_media=5, size=24):
    rng = np.random.default_rng(seed)
    people = rng.integers(num_templates // 3, size=num_templates)
    centres = rng.standard_normal((num_templates, size))
    template = np.concatenate([np.arange(num_templates), rng.integers(num_templates, size=num - num_templates)])
    features = (centres[people[template]] + rng.standard_normal((num, size))).astype(np.float32)
    return features, 7 * template + 3, rng.integers(num_media, size=num) * 11, rng.random(num), people


def plain_pool(features, template, media, scores, by_length):
    """insightface's image2template_feature in float64, one picture at a time."""
    held = features.astype(np.float64)
    if not by_length:
        held = held / np.linalg.norm(held, axis=1, keepdims=True)
    if scores is not None:
        held = held * scores[:, None]
    pooled = []
    for t in np.unique(template):
        of_template = held[template == t]
        media_of = media[template == t]
        pooled.append(np.sum([np.mean(of_template[media_of == m], 0) for m in np.unique(media_of)], 0))
    return np.unique(template), np.array(pooled)


@pytest.mark.parametrize('by_length', [True, False])
@pytest.mark.parametrize('weighted', [True, False])
def test_pooling_is_insightfaces(by_length, weighted):
    features, template, media, scores, _ = pictures()
    scores = scores if weighted else None
    ids, pooled = templates.pool(features, template, media, detector_scores=scores, by_length=by_length)
    expected_ids, expected = plain_pool(features, template, media, scores, by_length)
    assert np.array_equal(ids, expected_ids)
    np.testing.assert_allclose(pooled, expected, rtol=1e-12, atol=1e-12)


def test_pooling_says_what_is_wrong():
    features, template, media, scores, _ = pictures()
    broken = features.copy()
    broken[5] = 0
    with pytest.raises(ValueError, match='row 5 .face_5. is zero'):
        templates.pool(broken, template, media, names=[f'face_{i}' for i in range(len(features))])
    with pytest.raises(ValueError, match='expected as many of each'):
        templates.pool(features, template[:-1], media)
    scores[3] = np.nan
    with pytest.raises(ValueError, match='1 detector scores are negative or not finite'):
        templates.pool(features, template, media, detector_scores=scores)
    with pytest.raises(ValueError, match='template in row 0 .3. is zero'):
        templates.pool(features, template, media, detector_scores=(template != 3).astype(float))


def test_pairs_of_templates_and_a_template_without_pictures():
    features, template, media, scores, _ = pictures()
    ids, pooled = templates.pool(features, template, media, detector_scores=scores)
    rng = np.random.default_rng(1)
    first, second = rng.choice(ids, 5000), rng.choice(ids, 5000)
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    expected = [unit[list(ids).index(a)] @ unit[list(ids).index(b)] for a, b in zip(first[:200], second[:200])]
    found = templates.pair_scores(ids, pooled, first, second)
    np.testing.assert_allclose(found[:200], expected, atol=1e-14)
    first[17] = 4
    with pytest.raises(ValueError, match='template 4 has no picture .1 such'):
        templates.pair_scores(ids, pooled, first, second)


def plain_curve(same, scores):
    """scikit-learn's roc_curve with the points on a line dropped: (fpr, tpr), falling."""
    order = np.argsort(-scores, kind='stable')
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    tps, fps = np.cumsum(same[order])[last], np.cumsum(~same[order])[last]
    keep = np.flatnonzero(np.concatenate([[True], (np.diff(fps, 2) != 0) | (np.diff(tps, 2) != 0), [True]]))
    fpr, tpr = np.append(0, fps[keep]) / (~same).sum(), np.append(0, tps[keep]) / same.sum()
    return np.flipud(fpr), np.flipud(tpr)


@pytest.mark.parametrize(('seed', 'digits'), [(0, 9), (1, 3), (2, 1)])
def test_tar_at_far_by_both_rules(seed, digits):
    """With few and with many equal scores: ours as `metrics.tpr_at_far`, the other as insightface's loop."""
    rng = np.random.default_rng(seed)
    genuine, impostor = np.round(rng.normal(2, 1, 900), digits), np.round(rng.normal(0, 1, 43_210), digits)
    result = templates.verification(genuine, impostor)
    same, scores = np.arange(44_110) < 900, np.concatenate([genuine, impostor])
    fpr, tpr = plain_curve(same, scores)
    for far in templates.FARS:
        tar, threshold = result['tar_at_far'][far]
        expected, _ = metrics.tpr_at_far(genuine, impostor, far)
        assert tar == pytest.approx(expected, nan_ok=True)
        if not math.isnan(tar):
            assert np.mean(genuine >= threshold) == tar and np.mean(impostor >= threshold) <= far
        _, nearest = min(zip(abs(fpr - far), range(len(fpr))))
        assert result['tar_nearest'][far] == pytest.approx(tpr[nearest])
    with pytest.raises(ValueError, match='expected both kinds'):
        templates.verification(genuine, impostor[:0])


def subjects(seed, num_probes=300, num_gallery=200, size=16, spread=1.0):
    """Random probes and gallery with duplicates, several mates, and probes without a mate."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((180, size))
    gallery_people, probe_people = rng.integers(150, size=num_gallery), rng.integers(180, size=num_probes)
    gallery, probes = ((centres[p] + spread * rng.standard_normal((len(p), size))).astype(np.float32)
                       for p in (gallery_people, probe_people))
    gallery[10], gallery[11] = gallery[12], 2 * gallery[12]              # exact ties
    return probes, gallery, probe_people, gallery_people


def plain_one_to_many(probes, gallery, probe_people, gallery_people):
    unit = [side.astype(np.float64) / np.linalg.norm(side.astype(np.float64), axis=1, keepdims=True)
            for side in (probes, gallery)]
    scores = unit[0] @ unit[1].T
    genuine, ranks, unknown, impostors = [], [], [], []
    for row, person in zip(scores, probe_people):
        others = row[gallery_people != person]
        impostors.extend(others)
        if (gallery_people == person).any():
            genuine.append(row[gallery_people == person].max())
            ranks.append(1 + np.sum(others > genuine[-1]))
        else:
            unknown.append(others.max())
    return np.array(genuine), np.array(ranks), np.array(unknown), np.sort(impostors)[::-1]


@pytest.mark.parametrize('memory_mb', [8, 1024])
@pytest.mark.parametrize('seed', [0, 1])
def test_one_to_many_is_plain_numpy(seed, memory_mb):
    sides = subjects(seed, num_probes=700, num_gallery=900)              # several blocks of 8 MB
    genuine, ranks, unknown, impostors = plain_one_to_many(*sides)
    found = identification.one_to_many(vectors(sides[0]), vectors(sides[1]), *sides[2:], memory_mb=memory_mb)
    np.testing.assert_allclose(found['genuine'], genuine, atol=1e-14)
    assert np.array_equal(found['ranks'], ranks)
    np.testing.assert_allclose(found['unknown'], unknown, atol=1e-14)
    assert found['rank'] == {r: np.mean(ranks <= r) for r in (1, 5, 10)} and found['num_mated'] == len(genuine)
    for x in identification.FPIRS:
        tpir, threshold = found['tpir'][x]
        assert np.mean(unknown >= threshold) <= x and tpir == np.mean(genuine >= threshold)
        score = impostors[math.ceil(len(genuine) * x) - 1]
        assert found['tpir_pairs'][x][1] == pytest.approx(score, abs=1e-14)
        assert found['tpir_pairs'][x][0] == np.mean(genuine > score)


def test_a_twin_in_the_gallery_does_not_push_a_mate_down():
    """The same picture under another name scores the same to the bit: ties count for the mate, larger ones against."""
    rng = np.random.default_rng(3)
    gallery = rng.standard_normal((500, 64)).astype(np.float32)
    gallery[100] = gallery[0]
    gallery[101] = gallery[0] * np.float32(1 + 1e-7)
    probes = (gallery[:1] + rng.standard_normal((1, 64))).astype(np.float32)
    people = np.arange(500)
    found = identification.one_to_many(vectors(probes), vectors(gallery), np.zeros(1, int), people)
    unit = gallery.astype(np.float64) / np.linalg.norm(gallery.astype(np.float64), axis=1, keepdims=True)
    scores = unit @ probes[0].astype(np.float64)
    assert found['ranks'][0] == 1 + np.sum(scores > scores[0] + 1e-13)


def test_nobody_to_find_and_nobody_unknown():
    probes, gallery, probe_people, gallery_people = subjects(4)
    strangers = identification.one_to_many(vectors(probes), vectors(gallery), probe_people + 1000, gallery_people)
    assert math.isnan(strangers['rank'][1]) and math.isnan(strangers['tpir'][0.1][0])
    known = np.isin(probe_people, gallery_people)
    found = identification.one_to_many(vectors(probes[known]), vectors(gallery), probe_people[known], gallery_people)
    assert found['rank'][10] > 0 and math.isnan(found['tpir'][0.01][0])


@pytest.mark.parametrize(('memory_mb', 'spread'), [(8, 1.0), (512, 1.0), (512, 0.2)])
def test_distractors_are_plain_numpy(memory_mb, spread):
    probes, distractors, people, _ = subjects(7, num_probes=150, num_gallery=3000, spread=spread)
    fars = (1e-5, 1e-4, 1e-3, 0.1, 1.0, 1e-9)
    found = identification.with_distractors(vectors(probes), people, vectors(distractors), fars=fars,
                                            memory_mb=memory_mb)
    unit, others = (side.astype(np.float64) / np.linalg.norm(side.astype(np.float64), axis=1, keepdims=True)
                    for side in (probes, distractors))
    impostors = unit @ others.T
    genuine, ranks = [], []
    for p in range(len(probes)):
        mates = [unit[p] @ unit[q] for q in range(len(probes)) if q != p and people[q] == people[p]]
        for score in sorted(mates):
            genuine.append(score)
            ranks.append(1 + np.sum(impostors[p] > score))
    np.testing.assert_allclose(found['genuine'], genuine, atol=1e-14)
    assert np.array_equal(found['ranks'], ranks) and found['num_impostors'] == impostors.size
    for far in fars:
        expected, _ = metrics.tpr_at_far(np.array(genuine), impostors.ravel(), far)
        assert found['tar_at_far'][far][0] == pytest.approx(expected, nan_ok=True), far


def test_float64_and_memory_mapped_features_and_odd_people(tmp_path):
    probes, distractors, people, _ = subjects(9, num_probes=60, num_gallery=500)
    np.save(tmp_path / 'd.npy', distractors)
    mapped = np.load(tmp_path / 'd.npy', mmap_mode='r')
    plain = identification.with_distractors(vectors(probes), people, vectors(distractors))
    again = identification.with_distractors(vectors(probes), 5 - 3 * people, vectors(mapped))
    wide = identification.with_distractors(vectors(probes.astype(float)), people, vectors(distractors.astype(float)))
    assert plain['rank'] == again['rank'] == wide['rank']
    assert np.array_equal(plain['ranks'], again['ranks']) and np.array_equal(plain['ranks'], wide['ranks'])


def test_too_little_memory_and_no_mates_are_said():
    probes, gallery, people, _ = subjects(2)
    with pytest.raises(ValueError, match='memory_mb 0 is too small'):
        identification.with_distractors(vectors(probes), people, vectors(gallery), memory_mb=0)
    with pytest.raises(ValueError, match='none of 300 probe pictures has another'):
        identification.with_distractors(vectors(probes), np.arange(300), vectors(gallery))
    gallery[4, 0] = np.inf
    with pytest.raises(ValueError, match='row 4 is not finite'):
        vectors(gallery)
