"""Intervals and paired tests: weights against repeated pairs, hand-made numbers, chance against a real difference."""
import numpy as np
import pytest

from src.scoring import metrics, uncertainty
from src.scoring.uncertainty import LFW_STATISTICS, lfw_comparison, lfw_intervals, lfw_statistics, trial_comparison


def drawn_pairs(seed, num_people=30, num_pairs=400, lift=1.0):
    """Scores with ties and the people of the pairs: (genuine, impostor, people), genuine pairs first."""
    rng = np.random.default_rng(seed)
    own = rng.integers(num_people, size=num_pairs)
    others = np.stack([rng.integers(num_people, size=num_pairs) for _ in range(2)], 1)
    others[:, 1] = np.where(others[:, 0] == others[:, 1], (others[:, 1] + 1) % num_people, others[:, 1])
    genuine = np.round(rng.standard_normal(num_pairs) + lift + 0.5 * np.sin(own), 1)
    return genuine, np.round(rng.standard_normal(num_pairs), 1), np.concatenate([np.stack([own, own], 1), others])


def plain_statistics(genuine, impostor, weights):
    """The same numbers from `metrics`, with every pair repeated as often as its weight says."""
    num = len(genuine)
    folds = [np.repeat(np.arange(10).repeat(num // 10), w) for w in (weights[:num], weights[num:])]
    genuine, impostor = np.repeat(genuine, weights[:num]), np.repeat(impostor, weights[num:])
    far, tpr, _ = metrics.roc(genuine, impostor)
    accuracies = []
    for fold in range(10):
        rest = [scores[f != fold] for scores, f in zip((genuine, impostor), folds)]
        rest_far, rest_tpr, threshold = metrics.roc(*rest)
        best = threshold[np.argmax(rest_tpr - rest_far)]
        accuracies.append((np.mean(genuine[folds[0] == fold] >= best) + np.mean(impostor[folds[1] == fold] < best)) / 2)
    return [1 - metrics.equal_error_rate(far, tpr), np.trapz(tpr, far), np.mean(accuracies),
            *(metrics.tpr_at_far(genuine, impostor, x)[0] for x in metrics.LFW_FARS)]


@pytest.mark.parametrize('seed', range(6))
def test_a_drawn_person_counts_as_if_the_pairs_stood_there_again(seed):
    genuine, impostor, people = drawn_pairs(seed)
    counts, pairs = uncertainty.person_draws(people, 5, seed)
    assert counts.shape == (5, 30) and (counts.sum(1) == 30).all()
    found = lfw_statistics(genuine, impostor, pairs, counts)
    for b in range(5):
        a, c = counts[b][pairs].T
        weights = np.where(pairs[:, 0] == pairs[:, 1], a, a * c)
        assert found[b] == pytest.approx(plain_statistics(genuine, impostor, weights), abs=1e-12, nan_ok=True)


def test_everybody_drawn_once_is_the_number_itself():
    genuine, impostor, people = drawn_pairs(9)
    found = lfw_statistics(genuine, impostor, people, np.ones((1, 30), np.int64))[0]
    assert found == pytest.approx(plain_statistics(genuine, impostor, np.ones(800, int)), abs=1e-12, nan_ok=True)
    assert np.isnan(found[LFW_STATISTICS.index('tpr@0.001')])            # 400 impostor pairs cannot resolve 0.1 %


def test_folds_that_do_not_exist_have_no_accuracy():
    genuine, impostor, people = drawn_pairs(2)
    found = lfw_statistics(genuine[:-3], impostor, np.delete(people, [397, 398, 399], 0), np.ones((1, 30), np.int64))
    assert np.isnan(found[0, 2]) and np.isfinite(found[0, :2]).all()


def test_few_people_widen_the_interval():
    """The same scores, with each pair of people of its own or in the hands of eight: the second knows less."""
    genuine, impostor, _ = drawn_pairs(3)
    rng = np.random.default_rng(0)
    shift = rng.standard_normal(8)
    few = np.arange(400) % 8
    genuine = genuine + shift[few]                                       # some people are harder than others
    apart = np.arange(800)[:, None].repeat(2, 1)
    crowd = np.concatenate([np.stack([few, few], 1), np.stack([few, (few + 1) % 8], 1)])
    widths = [np.subtract(*lfw_intervals(genuine, impostor, people)['eer100'][::-1]) for people in (apart, crowd)]
    assert widths[1] > 2 * widths[0] > 0
    low, high = lfw_intervals(genuine, impostor, apart)['eer100']
    far, tpr, _ = metrics.roc(genuine, impostor)
    assert low < 1 - metrics.equal_error_rate(far, tpr) < high


def test_a_model_against_itself_is_chance():
    genuine, impostor, people = drawn_pairs(4)
    rows = lfw_comparison((genuine, impostor), (genuine, impostor), people, 200)
    assert all(difference == 0 and p == 1 for name, (_, _, difference, _, p) in rows.items() if name != 'tpr@0.001')


def test_noise_is_chance_and_a_better_model_is_not():
    genuine, impostor, people = drawn_pairs(5)
    rng = np.random.default_rng(1)
    noisy, again = ([s + 0.05 * rng.standard_normal(400) for s in (genuine, impostor)] for _ in range(2))
    _, _, difference, (low, high), p = lfw_comparison(again, noisy, people)['eer100']
    assert low <= 0 <= high and p > 0.05 and abs(difference) < 0.02
    this, other, difference, (low, high), p = lfw_comparison((genuine + 1, impostor), noisy, people)['eer100']
    assert low > 0.1 and p < 0.01 and difference == this - other > 0.1


def test_trials_by_hand():
    low, high = uncertainty.trial_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.302653 / 3 ** 0.5, 2 + 4.302653 / 3 ** 0.5), abs=1e-6)
    assert np.isnan(uncertainty.trial_interval([1.0])).all()
    this, other, difference, interval, p = trial_comparison([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (this, other, difference) == (4, 2, 2) and interval == pytest.approx((2 - 2.484137, 2 + 2.484137), abs=1e-6)
    assert p == pytest.approx(0.0742, abs=1e-4)                          # t = 2 * sqrt(3), 2 degrees of freedom
    assert trial_comparison([1.0, 2.0], [1.0, 2.0])[4] == 1 and trial_comparison([2.0, 3.0], [1.0, 2.0])[4] == 0
