"""Digests of a training set's pictures: one changed bit is found, whatever the number of pictures."""
from types import SimpleNamespace

import numpy as np
import pytest

from src.data import digests
from src.data.digests import Listed, check_digests, first_difference


def listed(count, rng=None):
    """Return `count` pictures of a few random bytes, held in memory as a pack's."""
    rng = rng or np.random.default_rng(1)
    held = [rng.bytes(20) for _ in range(count)]
    pack = SimpleNamespace(data=lambda row: held[row], first=np.array([0, count]), shards=[{'file': 'a_0000'}])
    return Listed(SimpleNamespace(pack=pack, labels=np.arange(count) // 3)), held


@pytest.mark.parametrize('count', [1, 2, 30, 31, 97, 400])
def test_one_bit_in_one_picture_is_found(count, monkeypatch):
    monkeypatch.setattr(digests, 'MAX_ROWS', 10)
    pictures, held = listed(count)
    then = digests.digests(pictures)
    check_digests(then)
    assert len(then['rows']) <= 10 and first_difference(pictures, digests.digests(pictures), then) is None
    for place in {0, count // 2, count - 1}:
        original = held[place]
        changed = bytearray(original)
        changed[-1] ^= 1
        held[place] = bytes(changed)
        assert first_difference(pictures, digests.digests(pictures), then).startswith(f'face {place + 1} of the pack')
        held[place] = original
    pictures.labels[count - 1] += 1
    assert first_difference(pictures, digests.digests(pictures), then).startswith(f'face {count} of the pack')


def test_several_changed_pictures_are_said_to_be_several(monkeypatch):
    pictures, held = listed(30)
    then = digests.digests(pictures)
    held[4], held[20] = b'a', b'b'
    assert first_difference(pictures, digests.digests(pictures), then) == (
        'face 5 of the pack, in a_0000 (and pictures further on: 1)')
    monkeypatch.setattr(digests, 'MAX_ROWS', 10)
    pictures, held = listed(30)
    then = digests.digests(pictures)
    held[3], held[5] = b'a', b'b'
    assert first_difference(pictures, digests.digests(pictures), then).startswith(
        'one of 2, the first of them face 4 of the pack')


def test_exchanged_pictures_and_other_numbers_are_noticed():
    pictures, held = listed(12)
    then = digests.digests(pictures)
    held[2], held[7] = held[7], held[2]
    assert 'face 3 ' in first_difference(pictures, digests.digests(pictures), then)
    fewer, _ = listed(11)
    assert first_difference(fewer, digests.digests(fewer), then) == '11 pictures here, 12 then'
    assert digests.digests(pictures, stopped=lambda: True) is None


def test_broken_digests_are_refused():
    good = digests.digests(listed(12)[0])
    for change in ({'num_pictures': 11}, {'num_pictures': '12'}, {'num_pictures': True}, {'width': 3}, {'rows': []},
                   {'rows': 5}, {'columns': ['0' * 16]}, {'sha256': 'z' * 64}, {'rows': [None] * 12},
                   {'num_pictures': 10**18}, {'num_pictures': -1}, {'num_pictures': 0}):
        with pytest.raises(ValueError, match='digests'):
            check_digests({**good, **change})
    for nothing in (None, [], 5, {}):
        with pytest.raises(ValueError, match='digests'):
            check_digests(nothing)
