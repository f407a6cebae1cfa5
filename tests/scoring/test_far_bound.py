"""The promised FAR: its formula by brute force, disjoint pairs, and coverage in populations of known FAR."""
import math

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks import far_bound_coverage as populations
from src.scoring import far_bound
from src.scoring.far_bound import pair_weights, people_needed, threshold_for, upper_bound


@pytest.mark.parametrize(('num_pairs', 'far', 'share'), [(1, 0.3, 0.05), (7, 0.4, 0.05), (50, 0.1, 0.2), (40, 1, 0.05)])
def test_the_mean_of_the_lowest_share_by_its_definition(num_pairs, far, share):
    """Sum over k of what of P(X = k) belongs to the lowest `share`."""
    left, total = share, 0.0
    for k, chance in enumerate(binom.pmf(np.arange(num_pairs + 1), num_pairs, far)):
        total += k * min(chance, left)
        left -= min(chance, left)
    assert far_bound.lowest_mean(far, num_pairs, share) == pytest.approx(total / share, abs=1e-9 * num_pairs)


def test_no_false_accept_gives_the_exact_binomial_bound():
    """Clopper and Pearson's bound for 0 of n, which a population of people who match everybody attains."""
    for num_pairs in (1, 10, 3000):
        assert (1 - upper_bound(0.0, num_pairs)) ** num_pairs == pytest.approx(0.05)
    assert upper_bound(0.0, 0) == 1.0


def test_the_bound_rises_with_the_measured_rate_and_falls_with_people():
    means = np.linspace(0, 1, 41)
    bounds = np.array([upper_bound(mean, 200) for mean in means])
    assert (np.diff(bounds) > 0).all() and bounds[-1] == 1.0 and (bounds[:-1] > means[:-1]).all()
    by_people = [upper_bound(0.01, n) for n in (50, 100, 1000, 10000)]
    assert (np.diff(by_people) < 0).all() and by_people[-1] < 0.0125
    # never below the bound of that many independent pairs, within a few percent of it
    for k in (1, 5, 30):
        exact = populations.betaincinv(k + 1, 200 - k, 0.95)
        assert exact < upper_bound(k / 200, 200) < 1.08 * exact


def test_what_is_not_a_rate_is_refused():
    with pytest.raises(ValueError, match='between 0 and 1'):
        upper_bound(1.2, 10)


def test_weights_come_from_pairs_that_share_nobody():
    everybody = populations.all_pairs(9)
    weighted = pair_weights(everybody)
    assert weighted.num_pairs == 4 and weighted.weights.sum() == pytest.approx(1)
    assert np.ptp(weighted.weights) < 0.02                   # every pair about as often as any other: 1/36 each
    star = np.array([[0, other] for other in range(1, 30)])  # all pairs share person 0
    assert pair_weights(star).num_pairs == 1
    doubled = np.array([[1, 2], [2, 1], [1, 2], [5, 9]])     # several pictures of the same two people
    assert pair_weights(doubled).num_pairs == 2
    assert pair_weights(doubled).weights[3] == pytest.approx(0.5)
    assert pair_weights(np.zeros((0, 2), int)).num_pairs == 0


def test_people_and_scores_of_any_number_give_the_same_weights():
    people = populations.listed_pairs(50, 80)
    assert np.array_equal(pair_weights(people).weights, pair_weights(1000 - 7 * people).weights)


def test_the_promising_threshold_is_the_lowest():
    rng = np.random.default_rng(1)
    people = populations.all_pairs(60)
    scores = np.round(rng.standard_normal(len(people)), 1)   # with ties
    weighted = pair_weights(people)
    threshold, found = threshold_for(scores, people, 0.2, weighted=weighted)
    assert found.upper <= 0.2
    lower = scores[scores < threshold].max()
    assert far_bound.far_bound(scores, people, lower, weighted=weighted).upper > 0.2
    nothing, none = threshold_for(scores, people, 0.01, weighted=weighted)      # 60 people cannot promise 1 %
    assert math.isnan(nothing) and none is None
    assert threshold_for(scores, people, 1.0, weighted=weighted)[0] == scores.min()


@pytest.mark.parametrize(('far', 'mean'), [(0.01, 0.0), (0.001, 0.0), (0.01, 0.004)])
def test_so_many_people_are_needed_and_not_fewer(far, mean):
    count = people_needed(far, mean)
    assert upper_bound(mean, count // 2) <= far < upper_bound(mean, count // 2 - 1)


def test_no_number_of_people_promises_less_than_is_measured():
    assert people_needed(0.01, 0.01) is None and people_needed(0.0) is None


def test_the_bound_holds_in_populations_of_known_far():
    """150 populations a design; the share allowed to fail is 5 %, the test's own limit is three deviations more."""
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)
    for people, num_people in ((populations.all_pairs(80), 80), (populations.listed_pairs(400, 600), 400)):
        found = populations.coverage(people, num_people, 150, others=False)
        assert 1 - found['bound'] <= allowed and 1 - found['threshold'] <= allowed, found
        assert found['promised'] > 30
        assert found['median_ratio'] < 40                    # and it is not 1 everywhere


def test_the_worst_population_uses_up_the_five_percent_and_counting_pairs_fails():
    """People who match everybody: the bound fails in 5 %, a bound that counts pairs in most of what it should hold."""
    people = populations.all_pairs(60)
    held = populations.worst_coverage(people, 60, 800)
    assert abs(held - 0.95) < 4 * math.sqrt(0.05 * 0.95 / 800)
    population, far, threshold = populations.worst_population(30)
    rng = np.random.default_rng(2)
    by_pairs = [populations.pair_bound(population.scores(people, 60, rng) >= threshold, people, 60, rng) >= far
                for _ in range(200)]
    assert np.mean(by_pairs) < 0.9


def test_known_far_is_the_share_of_drawn_pairs():
    """The formula of the populations against a million draws, standard error below 0.0005."""
    rng = np.random.default_rng(5)
    population = populations.Population(0.5, 0.05, 3.0, np.array([0.6, 0.4]), 1.0)
    people = np.arange(400_000).reshape(-1, 2)
    scores = population.scores(people, 400_000, rng)
    far = population.far(2.0)
    assert np.mean(scores >= 2.0) == pytest.approx(far, abs=5 * math.sqrt(far / len(people)))
    assert population.far(population.threshold(0.01)) == pytest.approx(0.01)
