"""insightface's accuracy against the same computed in the plainest way, and what surrounds it."""
import math

import numpy as np
import pytest
from conftest import PROJECT

from src.data.images import decode
from src.data.verification import read_bin
from src.scoring import metrics, verification


def embeddings(num_pairs, seed, dimensions=16, noise=0.9):
    """Return (embeddings (2P, D), same (P,)) of pairs in ten blocks, first halves genuine."""
    generator = np.random.default_rng(seed)
    same = np.arange(num_pairs) // max(1, num_pairs // 20) % 2 == 0
    first = generator.normal(size=(num_pairs, dimensions))
    other = np.where(same[:, None], first, generator.normal(size=first.shape))
    held = np.stack([first, other], 1).reshape(-1, dimensions)
    return held + noise * generator.normal(size=held.shape), same


def plain_accuracies(features, same):
    """Return the accuracy of each of ten folds, one threshold and one pair at a time."""
    distances = []
    for a, b in zip(features[0::2], features[1::2]):
        a, b = a / math.sqrt(sum(a * a)), b / math.sqrt(sum(b * b))
        distances.append(float(np.sum(np.square(a - b))))
    bounds, start, accuracies = [], 0, []
    for fold in range(10):
        end = start + len(same) // 10 + (fold < len(same) % 10)
        bounds.append(range(start, end))
        start = end
    for test in bounds:
        best, best_accuracy = None, -1.0
        train = [i for i in range(len(same)) if i not in test]
        for threshold in np.arange(0, 4, 0.01):
            accuracy = sum((distances[i] < threshold) == same[i] for i in train) / len(train)
            if accuracy > best_accuracy:
                best, best_accuracy = threshold, accuracy
        accuracies.append(sum((distances[i] < best) == same[i] for i in test) / len(test))
    return accuracies


@pytest.mark.parametrize('num_pairs, seed', [(200, 0), (200, 1), (203, 2), (60, 3), (10, 4)])
@pytest.mark.parametrize('flip', [False, True])
def test_the_accuracy_is_that_of_a_plain_computation(num_pairs, seed, flip):
    features, same = embeddings(num_pairs, seed)
    mirrored = embeddings(num_pairs, seed + 100)[0] if flip else None
    rows = np.arange(2 * num_pairs).reshape(-1, 2)
    result = verification.score(features, rows, same, flipped=mirrored)
    wanted = plain_accuracies(features + mirrored if flip else features, same)
    assert np.array_equal(result['grid_accuracies'], wanted)
    assert result['grid_accuracy'] == (np.mean(wanted), np.std(wanted)) and (flip or np.mean(wanted) > 0.5)


def test_ties_go_to_the_first_threshold_and_a_distance_on_it_is_no_match():
    """All pairs right from 1.01 on: 1.01 is taken, and a distance of exactly that is refused."""
    distances = np.array([1.0, 3.0] * 10)
    same = np.array([True, False] * 10)
    thresholds = verification.grid_accuracy(distances, same)[3]
    assert thresholds.tolist() == [verification.THRESHOLDS[101]] * 10
    distances[0] = verification.THRESHOLDS[101]
    assert verification.grid_accuracy(distances, same)[2].tolist() == [0.5] + [1.0] * 9


def test_folds_that_the_list_gives():
    """Genuine pairs first: runs of file order would train on one kind; the list's folds do not."""
    features, same = embeddings(200, 5)
    order = np.argsort(~same, kind='stable')
    distances = verification.squared_distances(verification.combine(features), np.arange(400).reshape(-1, 2))
    folds = verification.fold_of(200)
    mean = verification.grid_accuracy(distances, same)[0]
    assert verification.grid_accuracy(distances[order], same[order], folds[order])[0] == mean
    assert verification.grid_accuracy(distances[order], same[order])[0] != mean


def test_lfws_own_rule_and_tar_stand_beside_it():
    features, same = embeddings(400, 6)
    rows = np.arange(800).reshape(-1, 2)
    result = verification.score(features, rows, same)
    unit = metrics.unit_rows(features)
    scores = metrics.pair_scores(unit, rows)
    assert np.allclose(result['genuine'], scores[same], rtol=0, atol=16 * np.finfo(float).eps)
    assert np.allclose(result['accuracy_10fold'], metrics.accuracy_10fold(scores[same], scores[~same]), atol=0.006)
    for far, (tar, threshold) in result['tar_at_far'].items():
        if far * 200 < 1:
            assert math.isnan(tar)
        else:
            assert np.mean(result['impostor'] >= threshold) <= far and np.mean(result['genuine'] >= threshold) == tar
    assert result['norm'] == pytest.approx(np.mean([math.sqrt(sum(row * row)) for row in features]), rel=1e-14)


def test_mirror_images():
    plain, mirrored = np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[3.0, -4.0], [0.0, 0.0]])
    assert verification.combine(plain, mirrored).tolist() == [[1, 0], [0, 0]]
    assert verification.combine(plain, mirrored, 'none').tolist() == [[0.6, 0.8], [0, 0]]
    assert verification.combine(plain, mirrored, 'concat')[0] == pytest.approx(np.array([3, 4, 3, -4]) / math.sqrt(50))
    with pytest.raises(ValueError, match="flip 'both' is not one of none, sum, concat"):
        verification.combine(plain, mirrored, 'both')


def test_what_cannot_be_scored():
    with pytest.raises(ValueError, match='9 pairs, expected 10'):
        verification.grid_accuracy(np.ones(9), np.ones(9, bool))
    with pytest.raises(ValueError, match='1 of 10 distances are not finite'):
        verification.grid_accuracy(np.array([np.nan] + [1.0] * 9), np.ones(10, bool))
    with pytest.raises(ValueError, match='1 fold, expected 2'):
        verification.grid_accuracy(np.ones(10), np.ones(10, bool), np.zeros(10))


def test_insightfaces_small_set():
    """Ten genuine pairs, embedded as grey pixels: the accuracy of a plain computation, no TAR without impostors."""
    file = PROJECT.parent / 'shared' / 'records' / 'insightface_small_lfw.bin'
    if not file.exists():
        pytest.skip(f"insightface's small_lfw.bin is not at {file}")
    pictures, same = read_bin(str(file))
    features = np.array([decode(picture)[::8, ::8].ravel() for picture in pictures], float) - 127
    result = verification.score(features, np.arange(20).reshape(-1, 2), same)
    assert np.array_equal(result['grid_accuracies'], plain_accuracies(features, same))
    assert len(result['genuine']) == 10 and math.isnan(result['tar_at_far'][0.1][0])
