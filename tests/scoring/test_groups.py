"""Groups: planted differences are found, equal groups are called equal, every number against plain NumPy."""
import numpy as np
import pytest

from src.scoring import groups as grouping
from src.scoring import metrics
from src.scoring.far_bound import upper_bound
from src.scoring.groups import Groups, measure
from src.scoring.all_with_all import vectors


def planted(seed, people_of=(40, 40, 40), alike=(0.0, 0.0, 0.0), noise=(1.0, 1.0, 1.0), pictures=4, size=32):
    """Features of people in groups A, B, C: `alike` pulls the people of a group together, `noise` pictures apart."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(3), people_of)
    pull = np.array(alike)[group][:, None] * rng.standard_normal((3, size))[group]
    centres = pull + rng.standard_normal((len(group), size))
    people = np.repeat(np.arange(len(group)), pictures)
    features = centres[people] + np.array(noise)[group[people]][:, None] * rng.standard_normal((len(people), size))
    genuine = np.array([(i, i + 1) for i in range(len(people) - 1) if people[i] == people[i + 1]])
    return features.astype(np.float32), people, Groups(('A', 'B', 'C'), group[people]), genuine


def plain_scores(features):
    unit = metrics.unit_rows(features)
    return unit @ unit.T


@pytest.mark.parametrize('memory_mb', [16, 1024])
def test_every_number_is_plain_numpy(memory_mb):
    features, people, groups, genuine = planted(0, people_of=(200, 150, 90), alike=(0, 0.4, 0.8))
    groups.of_row[:8] = -1                                               # two people have no group
    result = measure(vectors(features), people, groups, genuine, num_resamples=50, memory_mb=memory_mb)
    scores = plain_scores(features)
    low, high = np.triu_indices(len(people), 1)
    low, high = low[people[low] != people[high]], high[people[low] != people[high]]
    impostor, own = scores[low, high], scores[genuine[:, 0], genuine[:, 1]]
    assert result['without_group'] == 8 and result['people'] == [198, 150, 90] and result['pictures'] == [792, 600, 360]
    for point in result['points']:
        tpr, _ = metrics.tpr_at_far(own, impostor, point['far'])
        threshold = point['threshold'] + 1e-12                           # that of the first refused pair, plus nothing
        assert point['tpr'] == pytest.approx(tpr)
        assert np.sum(impostor >= threshold) == int(point['far'] * len(impostor))
        assert point['impostor_pairs'] == len(impostor)
        of = groups.of_row
        for g, row in enumerate(point['by_group']):
            inside = (of[low] == g) & (of[high] == g)
            assert row['far'] == pytest.approx(np.mean(impostor[inside] >= threshold))
            assert row['impostor_pairs'] == inside.sum()
            assert row['tpr'] == pytest.approx(np.mean(own[of[genuine[:, 0]] == g] >= threshold))
            assert row['tpr_interval95'][0] <= row['tpr'] <= row['tpr_interval95'][1]
        for row in point['between']:
            g, h = (groups.names.index(name) for name in row['groups'])
            inside = ((of[low] == g) & (of[high] == h)) | ((of[low] == h) & (of[high] == g))
            assert row['far'] == pytest.approx(np.mean(impostor[inside] >= threshold))
            assert row['impostor_pairs'] == inside.sum()


def test_listed_and_all_pairs_agree_if_all_are_listed():
    features, people, groups, genuine = planted(3, alike=(0, 0.5, 0))
    low, high = np.triu_indices(len(people), 1)
    listed = np.stack([low, high], 1)[people[low] != people[high]]
    found = measure(vectors(features), people, groups, genuine, num_resamples=100)
    again = measure(vectors(features), people, groups, genuine, impostor_pairs=listed, num_resamples=100)
    for a, b in zip(found['points'], again['points']):
        for row_a, row_b in zip(a['by_group'], b['by_group']):
            for row in (row_a, row_b):
                row.pop('far_upper')                                     # of a list: of the pairs it has
            assert row_a == row_b
        assert {k: v for k, v in a.items() if k != 'by_group'} == {k: v for k, v in b.items() if k != 'by_group'}


def test_a_planted_difference_is_found_and_its_size_measured():
    """People of C are alike, pictures of B are noisy: C has the highest FAR, B the lowest TPR, beyond chance."""
    result = measure(*arguments(planted(1, people_of=(80, 80, 80), alike=(0, 0, 0.7), noise=(0.8, 1.3, 0.8))))
    point = result['points'][0]
    fars, tprs = ([row[key] for row in point['by_group']] for key in ('far', 'tpr'))
    assert point['far_ratio']['worst'] == 'C' and fars[2] > 3 * max(fars[:2])
    assert point['far_ratio']['interval95'][0] > 1
    assert point['miss_ratio']['worst'] == 'B' and tprs[1] < min(tprs[0], tprs[2])
    assert point['miss_ratio']['interval95'][0] > 1
    expected = fars[2] / min(fars[:2])
    assert point['far_ratio']['ratio'] == pytest.approx(expected)
    within, between = fars[2], [row['far'] for row in point['between'] if row['groups'] == ['A', 'C']]
    assert within > 3 * between[0]


def arguments(drawn):
    features, people, groups, genuine = drawn
    return vectors(features), people, groups, genuine


def test_groups_that_differ_by_chance_are_not_called_different():
    """40 data sets of equal groups: an interval of the FAR ratio without 1 is to be rare; 6 of 40 is beyond 3 sigma."""
    outside = 0
    for seed in range(40):
        point = measure(*arguments(planted(100 + seed)), fars=(0.01,), num_resamples=400)['points'][0]
        low, high = point['far_ratio']['interval95']
        outside += not low <= 1 <= (high or np.inf)
    assert outside <= 6


def test_the_promise_of_a_group_counts_its_people():
    features, people, groups, genuine = planted(5, people_of=(60, 60, 60))
    point = measure(vectors(features), people, groups, genuine, fars=(0.001,), num_resamples=20)['points'][0]
    for row in point['by_group']:                                        # as many pictures of everybody
        assert row['far_upper'] == pytest.approx(upper_bound(row['far'], 30))


def test_no_false_accept_has_no_ratio_but_a_promise():
    features, people, groups, genuine = planted(6, people_of=(30, 30, 30), alike=(0, 0, 2.5))
    point = measure(vectors(features), people, groups, genuine, fars=(0.001,), num_resamples=50)['points'][0]
    assert point['by_group'][0]['far'] == 0 and point['far_ratio']['ratio'] is None
    assert point['far_ratio']['worst'] == 'C' and point['by_group'][0]['far_upper'] > 0.15


def test_one_group_is_no_comparison():
    features, people, groups, genuine = planted(7)
    alone = Groups(('A', 'B', 'C'), np.where(groups.of_row == 1, 1, -1))
    with pytest.raises(ValueError, match='1 of the groups A, B, C have pictures'):
        measure(vectors(features), people, alone, genuine)


def test_pairs_of_a_person_across_groups_belong_to_neither():
    groups = Groups(('bare', 'masked'), np.array([0, 1, 1, -1]))
    assert groups.cells(np.array([[0, 1], [1, 0], [1, 2], [0, 0], [3, 1]])).tolist() == [1, 1, 3, 0, -1]
    assert grouping.LEVEL == 0.95
