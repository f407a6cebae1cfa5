"""Two CPU ranks on the path of cards: overflows of one are those of all, gradients in buckets, BatchNorm."""
import json
from pathlib import Path

import pytest
from conftest import on_two_ranks

@pytest.fixture(scope='module')
def ranks(synthetic, tmp_path_factory):
    """What two_ranks.py saw on each rank."""
    out = tmp_path_factory.mktemp('ranks')
    on_two_ranks(Path(__file__).with_name('two_ranks.py'), out, synthetic)
    return [json.loads((out / f'rank_{rank}.json').read_text()) for rank in range(2)]


@pytest.mark.parametrize('kind', ['infinite', 'flag'])
def test_an_overflow_on_one_rank_is_one_on_all(ranks, kind):
    """No rank updates its weights, and both lower the scale: also where only rank 1 knows of the overflow."""
    assert [rank[kind] for rank in ranks] == [{'updated': False, 'scale': 128.0, 'kept': True}] * 2


def test_buckets_sum_what_one_call_sums(ranks):
    """Halves of the sum of two ranks are exact: MindSpore's reducer gives the same bits."""
    assert [rank['reducers']['apart'] for rank in ranks] == [0.0, 0.0]
    buckets = ranks[0]['reducers']['buckets']
    assert buckets == sorted(buckets, reverse=True) and buckets[-1] == 1 and len(set(buckets)) > 1


def test_ranks_score_with_the_statistics_of_rank_0(ranks):
    first, second = ranks[0]['run'][0]
    assert first == second and any(first)
