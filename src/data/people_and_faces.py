"""Batches of people x faces by step number, which heads that compare faces need: triplet, contrastive, mps.

    rows = PeopleAndFaces(labels, 4, global_batch=128, seed=1).rows(step)      # (32, 4): 32 people, 4 faces of each

A batch holds every person once. People come in rounds: each round is a permutation of all, drawn from (seed, round);
those that do not fill a last batch sit this round out. So everybody is seen equally often, however many faces there
are. A person's faces are drawn anew at every step, from (seed, step), without repetition; of a person with fewer than
K faces, each is taken as often as needed, K / n times or one more.
"""
from functools import lru_cache

import numpy as np

_ROUND, _FACES = 3, 4                    # purpose of a random stream; src/dataset.py has the smaller ones


class PeopleAndFaces:
    """rows(step) -> (P, K) rows of the training set, of P people and K faces of each; P * K is the global batch.

    Raises ValueError if K does not divide the batch or there are fewer than P people.
    """

    def __init__(self, labels: np.ndarray, faces_per_person: int, global_batch: int, seed: int):
        self.num_faces, self.seed = faces_per_person, seed
        self.by_person = np.argsort(labels, kind='stable')
        self.people, self.first, self.counts = np.unique(labels[self.by_person], return_index=True, return_counts=True)
        self.per_batch, rest = divmod(global_batch, faces_per_person)
        if rest:
            raise ValueError(f"faces_per_person={faces_per_person} does not divide the global batch of {global_batch}")
        if self.per_batch > len(self.people):
            raise ValueError(f"a batch of {global_batch} with faces_per_person={faces_per_person} takes "
                             f"{self.per_batch} people; the training set has {len(self.people)}: lower batch_size or "
                             "raise faces_per_person")
        self.per_round = len(self.people) // self.per_batch
        self.round = lru_cache(2)(self._round)

    @property
    def num_repeated(self) -> int:
        """Return how many people have fewer than K faces."""
        return int((self.counts < self.num_faces).sum())

    def _round(self, number):
        return np.random.default_rng([self.seed, _ROUND, number]).permutation(len(self.people))

    def rows(self, step: int) -> np.ndarray:
        """Return the rows (P, K) of a step."""
        number, place = divmod(int(step), self.per_round)
        chosen = self.round(number)[place * self.per_batch:][:self.per_batch]
        rng = np.random.default_rng([self.seed, _FACES, int(step)])
        return np.stack([self.by_person[self.first[person] + self._faces(rng, self.counts[person])]
                         for person in chosen])

    def _faces(self, rng, count):
        """Return K numbers below `count`, no two the same if there are enough."""
        if count >= self.num_faces:
            return rng.choice(count, self.num_faces, replace=False)
        return np.resize(rng.permutation(count), self.num_faces)
