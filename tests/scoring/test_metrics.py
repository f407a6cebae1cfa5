"""Hand-made numbers and the golden values of the protocols' own code (MATLAB functions run under GNU Octave)."""
import math

import numpy as np
import pytest

from src.data import lists
from src.scoring import metrics

TOLERANCE = 1e-4                  # percentage points


@pytest.fixture(scope='module')
def golden(protocol_files):
    """Features in BLUFR's order, those in LFW's order, and the protocol."""
    protocol = lists.load_blufr(protocol_files[0])
    r = np.random.default_rng(20261122)
    centres = r.standard_normal((5749, 64)).astype(np.float32)
    features = centres[protocol.labels - 1] + np.float32(1.1) * r.standard_normal((13233, 64)).astype(np.float32)
    place = {name: i for i, name in enumerate(lists.list_for_blufr(protocol)[0])}
    return features, features[[place[name] for name in lists.list_for_lfw(protocol)[0]]], protocol


def test_lfw_golden_values(golden, protocol_files):
    result = metrics.lfw(golden[1], *lists.load_lfw_pairs(protocol_files[1], 13233))
    assert 100 * result['eer100'] == pytest.approx(97.766667, abs=TOLERANCE)
    assert result['auc'] == pytest.approx(0.997495, abs=1e-6)
    assert [100 * result['tpr_at_far'][far][0] for far in (0.01, 0.001, 0.0)] == \
        pytest.approx([95.166667, 86.433333, 72.8], abs=TOLERANCE)


BLUFR_GOLDEN = np.array([
    [76.470664, 27.304019, 32.408940, 32.533113], [75.694251, 25.864015, 30.332234, 30.459041],
    [80.329589, 34.413914, 32.789281, 32.886724], [81.748438, 34.630443, 30.584354, 30.725730],
    [73.655645, 24.233124, 30.609011, 30.744849], [75.577467, 26.140782, 32.532118, 32.573560],
    [75.527351, 26.323913, 33.166515, 33.257507], [80.291982, 34.006233, 33.843257, 33.890327],
    [82.923504, 35.717562, 30.534937, 30.611723], [74.682170, 25.322765, 32.592108, 32.657510]])


def test_blufr_golden_values(golden):
    result = metrics.blufr(golden[0], golden[2])
    far = {x: np.argmin(np.abs(metrics.VR_FARS - x)) for x in (1e-3, 1e-5)}
    dir_far = np.argmin(np.abs(metrics.DIR_FARS - 0.01))
    found = 100 * np.stack([result['vr'][:, far[1e-3]], result['vr'][:, far[1e-5]], result['dir'][:, 0, dir_far],
                            result['dir'][:, 9, dir_far]], 1)
    assert np.abs(found - BLUFR_GOLDEN).max() < TOLERANCE
    vr, dir_ = metrics.blufr_reported(result)
    assert 100 * np.array(metrics.mean_and_lower(vr)) == pytest.approx([77.690106, 74.398181], abs=TOLERANCE)
    assert 100 * np.array(metrics.mean_and_lower(dir_)) == pytest.approx([31.939276, 30.647757], abs=TOLERANCE)


def plain_blufr_trial(unit, labels, trial):
    """The protocol as its text says it, every score compared: the reference for small random cases."""
    scores = unit @ unit.T
    i, j = np.tril_indices(len(trial['test']), -1)
    a, b = trial['test'][i], trial['test'][j]
    same = labels[a] == labels[b]
    genuine, impostor = np.sort(scores[a, b][same]), np.sort(scores[a, b][~same])[::-1]
    vr = []
    for far in metrics.VR_FARS:
        k = int(math.floor(far * len(impostor) + 0.5))
        above = genuine[genuine > impostor[0]]
        first = (impostor[0] + above[0]) / 2 if len(above) else impostor[0] + math.sqrt(2.0 ** -52)
        threshold = -np.inf if far == 1 else first if k == 0 else impostor[k - 1]
        vr.append(np.mean(genuine >= threshold))
    return np.array(vr)


@pytest.mark.parametrize('offset', [0, 5, 1000])                    # 1000: all cosines are within 1e-6 of 1
@pytest.mark.parametrize('seed', range(3))
def test_verification_equals_the_plain_way(seed, offset):
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 9, 120)
    features = rng.standard_normal((9, 5))[labels] + rng.standard_normal((120, 5)) * 0.6
    features += offset
    features[3] = features[4]                                       # equal scores
    trials = []
    for _ in range(3):
        order = rng.permutation(120)
        known = order[labels[order] > 3]
        trials.append({'test': order[:90], 'gallery': known[:15], 'probe': order[:90]})
    protocol = lists.Blufr([''] * 120, labels, trials)
    result = metrics.blufr(features, protocol)
    unit = metrics.unit_rows(features)
    for trial, vr in zip(trials, result['vr']):
        assert np.allclose(vr, plain_blufr_trial(unit, labels, trial), atol=1e-12)


def test_identification_by_hand():
    # gallery: persons 1 and 2; probes: 1 (right, 0.9), 2 (rank 2, 0.5), and a stranger at 0.7
    unit = np.array([[1, 0, 0], [0, 1, 0], [0.9, 0.1, 0], [0.6, 0.5, 0], [0.7, 0.2, 0]])
    labels = np.array([1, 2, 1, 2, 3])
    shares, thresholds = metrics._identification(unit, labels, np.array([0, 1]), np.array([2, 3, 4]))
    at = {far: np.argmin(np.abs(metrics.DIR_FARS - far)) for far in (0.01, 0.9, 1)}
    assert thresholds[at[0.01]] == pytest.approx((0.7 + 0.9) / 2)   # no false accept allowed: half-way
    assert shares[0, at[0.01]] == 0.5 and shares[0, at[1]] == 0.5 and shares[1, at[1]] == 1.0
    assert shares[1, at[0.9]] == 0.5                                # threshold 0.7: the second probe stays below


def test_roc_collapses_ties():
    far, tpr, threshold = metrics.roc(np.array([0.5, 0.9]), np.array([0.5, 0.1]))
    assert far.tolist() == [0, 0, 0.5, 1] and tpr.tolist() == [0, 0.5, 1, 1]
    assert threshold.tolist() == [np.inf, 0.9, 0.5, 0.1]


def test_tpr_at_far_by_hand():
    genuine, impostor = np.array([0.9, 0.8, 0.6, 0.2]), np.array([0.7, 0.5, 0.4, 0.1])
    assert metrics.tpr_at_far(genuine, impostor, 0.0) == (0.5, 0.8)
    assert metrics.tpr_at_far(genuine, impostor, 0.25) == (0.75, 0.6)
    assert metrics.tpr_at_far(genuine, impostor, 1.0)[0] == 1.0
    assert all(math.isnan(x) for x in metrics.tpr_at_far(genuine, impostor, 0.1))       # 4 pairs cannot resolve 10 %
    assert metrics.tpr_at_far(np.array([0.7]), impostor, 0.0)[0] == 0.0                  # a tie is no match


def test_accuracy_of_separable_scores_is_one():
    genuine, impostor = np.full(100, 0.9), np.linspace(-1, 0.4, 100)
    assert metrics.accuracy_10fold(genuine, impostor) == (1.0, 0.0)
    assert metrics.accuracy_10fold(genuine[:95], impostor) == (1.0, 0.0)         # folds need not be of equal size
    assert math.isnan(metrics.accuracy_10fold(genuine[:9], impostor)[0])


def test_rank_of_the_threshold_rounds_half_up():
    assert metrics.accepted_count([0.05, 0.049, 0.15, 0.0], 10).tolist() == [1, 0, 2, 0]


@pytest.mark.parametrize('value, what', [(0.0, 'zero'), (np.nan, 'not finite'), (np.inf, 'not finite')])
def test_bad_features_are_named(value, what):
    features = np.ones((4, 3))
    features[2] = value
    with pytest.raises(ValueError, match=f'row 2 .c.jpg. is {what}'):
        metrics.unit_rows(features, ['a.jpg', 'b.jpg', 'c.jpg', 'd.jpg'])
