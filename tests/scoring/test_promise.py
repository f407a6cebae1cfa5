"""Promised FARs from lists and from all pairs of pictures: against plain NumPy, tables and JSON."""
import math

import numpy as np
import pytest

from benchmarks import far_bound_coverage as populations
from src.scoring import metrics, promise
from src.scoring.far_bound import far_bound, upper_bound
from src.scoring.all_with_all import vectors


def test_table_and_json_of_promises():
    rng = np.random.default_rng(3)
    people = populations.all_pairs(200)
    impostor, genuine = rng.standard_normal(len(people)), 6 + rng.standard_normal(500)
    measured = promise.listed_pairs(impostor, people)
    promised = promise.promises(genuine, impostor, measured, {0.1: 1.28, 0.001: 3.1, 0.0: math.nan})
    first, second, third = promised['points']
    assert promised['independent_pairs'] == 100 and promised['people'] == 200
    assert first['upper'] == far_bound(impostor, people, 1.28).upper
    assert first['measured'] == np.mean(impostor >= 1.28) < first['upper'] < 0.3 and first['promised_threshold'] > 1.28
    assert first['promised_tpr'] == 100 * np.mean(genuine >= first['promised_threshold']) > 99
    assert second['promised_threshold'] is None and second['people_needed'] == 5990 and third['upper'] is None
    need = first['people_for_double']
    assert upper_bound(first['over_people'], need // 2) <= 2 * first['over_people']
    assert upper_bound(first['over_people'], need // 2 - 1) > 2 * first['over_people']
    lines = promise.promise_lines(promised)
    assert max(map(len, lines)) <= 80 and '5990' in lines[3]


@pytest.mark.parametrize('lowest', [math.inf, 0.1, -1.0])
def test_all_pairs_weigh_two_people_the_same(lowest):
    """The rate over people is the mean over pairs of people of their share of accepted pairs of pictures."""
    rng = np.random.default_rng(0)
    people = rng.permutation(np.repeat(np.arange(40) * 3, rng.integers(1, 9, size=40)))
    features = (rng.standard_normal((120, 16))[people] + 1.5 * rng.standard_normal((len(people), 16)))
    measured = promise.all_pairs(vectors(features), people, lowest, share=0.1)
    unit = metrics.unit_rows(features)
    scores = unit @ unit.T
    threshold = float(np.sort(measured.scores)[len(measured.scores) // 2])
    shares = [np.mean(scores[np.ix_(people == p, people == q)] >= threshold - 1e-13)
              for p in np.unique(people) for q in np.unique(people) if p < q]
    found = far_bound(measured.scores, people, threshold, weighted=measured.weighted)
    assert found.over_people == pytest.approx(np.mean(shares)) and found.num_pairs == 20 and measured.num_people == 40
    low, high = np.triu_indices(len(people), 1)
    others = np.sort(scores[low, high][people[low] != people[high]])
    share = int(0.1 * len(others))
    expected = others[others >= min(lowest, others[-share - 1]) - 1e-13]
    np.testing.assert_allclose(np.sort(measured.scores), expected, atol=1e-13)
    if lowest == -1:
        assert measured.weighted.weights.sum() == pytest.approx(1)


def test_one_person_promises_nothing_and_memory_is_kept():
    features = np.random.default_rng(1).standard_normal((600, 8))
    with pytest.raises(ValueError, match='1 people, expected two'):
        promise.all_pairs(vectors(features), np.zeros(600, int))
    with pytest.raises(ValueError, match='memory_mb 2 is too small: the accepted pairs'):
        promise.all_pairs(vectors(features), np.arange(600), -1.0, memory_mb=2)
