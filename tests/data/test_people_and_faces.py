"""Batches of people x faces: who is in them, how often, and that only seed and step decide."""
import numpy as np
import pytest

from src.data.people_and_faces import PeopleAndFaces

LABELS = np.repeat([7, 2, 9, 4, 5], [6, 1, 3, 4, 9])          # labels need not be 0..n-1
LABELS = np.random.default_rng(0).permutation(LABELS)


def test_a_batch_holds_different_people_with_their_own_faces():
    batches = PeopleAndFaces(LABELS, 3, 6, seed=1)
    assert batches.num_repeated == 1
    for step in range(40):
        rows = batches.rows(step)
        assert rows.shape == (2, 3)
        labels = LABELS[rows]
        assert (labels == labels[:, :1]).all() and labels[0, 0] != labels[1, 0]
        for person, row in zip(labels[:, 0], rows):
            assert len(set(row)) == min(3, (person == LABELS).sum())


def test_few_faces_are_taken_equally_often():
    labels = np.array([0, 0, 1, 1, 1, 1, 1])
    for step in range(10):
        rows = PeopleAndFaces(labels, 5, 10, seed=1).rows(step)
        two = rows[labels[rows[:, 0]] == 0][0]
        assert sorted(np.bincount(two, minlength=2)) == [2, 3]


def test_everybody_is_seen_equally_often_and_every_face_at_some_time():
    batches = PeopleAndFaces(LABELS, 2, 4, seed=3)                # 5 people, 2 a batch: rounds of 2 batches
    seen = np.stack([batches.rows(step) for step in range(400)])
    for number in range(200):                                     # one of five people sits out
        assert len(np.unique(LABELS[seen[2 * number:2 * number + 2]])) == 4
    people, counts = np.unique(LABELS[seen[..., 0]], return_counts=True)
    assert people.tolist() == [2, 4, 5, 7, 9]
    assert np.abs(counts - 160).max() < 5 * np.sqrt(200 * 0.8 * 0.2)         # binomial: 200 rounds, 4 of 5 chances
    assert set(seen.reshape(-1)) == set(range(len(LABELS)))


def test_seed_and_step_decide():
    one, other = PeopleAndFaces(LABELS, 2, 4, seed=1), PeopleAndFaces(LABELS, 2, 4, seed=1)
    for step in (9, 1, 30):
        other.rows(step)
    assert np.array_equal(one.rows(5), other.rows(5)) and not np.array_equal(one.rows(5), one.rows(6))
    assert any(not np.array_equal(one.rows(k), PeopleAndFaces(LABELS, 2, 4, seed=2).rows(k)) for k in range(3))


@pytest.mark.parametrize('faces, batch, message', [(4, 6, 'does not divide'), (2, 12, 'takes 6 people.* has 5')])
def test_batches_that_cannot_be(faces, batch, message):
    with pytest.raises(ValueError, match=message):
        PeopleAndFaces(LABELS, faces, batch, seed=1)
