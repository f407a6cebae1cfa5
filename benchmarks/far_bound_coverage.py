"""Does the promised FAR hold? 1,000 populations of known FAR, people who look alike and people who match everybody.

    python benchmarks/far_bound_coverage.py

Claim: the bound of src/scoring/far_bound.py holds in 95 % of populations or more, in the worst kind of population too;
bounds that count pairs (Clopper-Pearson) or resample people (bootstrap) do not. Three minutes on two cores. Each
population is drawn at random: how much people differ in being matched, a share of people who match everybody, families
that look alike; its FAR is known from the formula, its test people are drawn once. The worst kind has nothing but a few
people who match everybody.
"""
import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv, ndtr

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.scoring import far_bound  # noqa: E402


class Population(NamedTuple):
    """Scores are pair noise + what both people bring along + a family bonus, so that the FAR is a sum of normals."""

    spread: float                # standard deviation of what a person brings along
    wolves: float                # share of people who match everybody
    lift: float                  # what a wolf adds
    families: np.ndarray         # shares of the families, sum 1
    alike: float                 # what a common family adds

    def far(self, threshold):
        """Return the share of pairs of two random people that the threshold accepts."""
        total = 0.0
        same = float((self.families ** 2).sum())
        for num, chance in enumerate(((1 - self.wolves) ** 2, 2 * self.wolves * (1 - self.wolves), self.wolves ** 2)):
            for bonus, share in ((0.0, 1 - same), (self.alike, same)):
                z = (num * self.lift + bonus - threshold) / np.sqrt(1 + 2 * self.spread ** 2)
                total += chance * share * ndtr(z)
        return float(total)

    def threshold(self, far):
        """Return the threshold of a FAR, by bisection."""
        low, high = -40.0, 80.0
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if self.far(middle) > far else (low, middle)
        return high

    def scores(self, people, num_people, rng):
        """Draw people, and the scores of the pairs `people` (P, 2)."""
        brought = self.spread * rng.standard_normal(num_people) + self.lift * (rng.random(num_people) < self.wolves)
        family = rng.choice(len(self.families), num_people, p=self.families)
        p, q = people.T
        return rng.standard_normal(len(people)) + brought[p] + brought[q] + self.alike * (family[p] == family[q])


def random_population(rng):
    """Return a population of a random kind."""
    families = rng.dirichlet(np.full(int(rng.integers(1, 60)), rng.choice([0.2, 1.0, 10.0])))
    return Population(rng.choice([0.0, rng.uniform(0, 1)]), rng.choice([0.0, 10 ** rng.uniform(-3, -1)]),
                      rng.uniform(1, 12), families, rng.choice([0.0, rng.uniform(0, 4)]))


def worst_population(num_pairs):
    """Return (population, FAR, threshold): so many match everybody that 5 % of test people show no sign of them."""
    far = 1.0001 * far_bound.upper_bound(0.0, num_pairs)
    return Population(0.0, 1 - np.sqrt(1 - far), 60.0, np.ones(1), 0.0), far, 30.0


def all_pairs(num_people):
    """Return every pair of two people (P, 2)."""
    return np.stack(np.triu_indices(num_people, 1), 1)


def listed_pairs(num_people, num_pairs, seed=0):
    """Return a list of pairs such as LFW's: some people often, most once or never."""
    rng = np.random.default_rng(seed)
    share = 1 / (1 + np.arange(num_people)) ** 0.5
    people = rng.choice(num_people, (2 * num_pairs, 2), p=share / share.sum())
    return people[people[:, 0] != people[:, 1]][:num_pairs]


def pair_bound(accepted, _people, _num_people, _rng):
    """Return Clopper and Pearson's 95 % bound, as if pairs were independent."""
    k, n = int(accepted.sum()), len(accepted)
    return 1.0 if k == n else float(betaincinv(k + 1, n - k, 0.95))


def bootstrap_bound(accepted, people, num_people, rng, resamples=200):
    """Return the 95th percentile over resamples of people."""
    p, q = people.T
    shares = []
    for _ in range(resamples):
        counts = np.bincount(rng.integers(num_people, size=num_people), minlength=num_people)
        weights = counts[p] * counts[q]
        shares.append(weights @ accepted / max(weights.sum(), 1))
    return float(np.quantile(shares, 0.95))


def coverage(people, num_people, populations, seed=0, others=True):
    """Return how often each bound, and the threshold that promises, held; and the median of the bound over the FAR."""
    rng = np.random.default_rng(seed)
    weighted = far_bound.pair_weights(people)
    held = {'bound': [], 'threshold': [], 'pairs': [], 'bootstrap': []}
    ratios = []
    for _ in range(populations):
        population = random_population(rng)
        far = 10 ** rng.uniform(-3.5, -0.5)
        threshold = population.threshold(far)
        scores = population.scores(people, num_people, rng)
        found = far_bound.far_bound(scores, people, threshold, weighted=weighted)
        held['bound'].append(found.upper >= population.far(threshold))
        ratios.append(found.upper / far)
        wanted = 10 ** rng.uniform(-3, -0.5)
        promised, _ = far_bound.threshold_for(scores, people, wanted, weighted=weighted)
        if not np.isnan(promised):
            held['threshold'].append(population.far(promised) <= wanted)
        if others:
            for name, bound in (('pairs', pair_bound), ('bootstrap', bootstrap_bound)):
                held[name].append(bound(scores >= threshold, people, num_people, rng) >= far)
    shares = {name: float(np.mean(flags)) for name, flags in held.items() if flags}
    return {**shares, 'promised': len(held['threshold']), 'num_pairs': weighted.num_pairs,
            'median_ratio': float(np.median(ratios))}


def worst_coverage(people, num_people, draws, seed=0):
    """Return how often the bound held in the worst kind of population."""
    weighted = far_bound.pair_weights(people)
    population, far, threshold = worst_population(weighted.num_pairs)
    rng = np.random.default_rng(seed)
    return float(np.mean([far_bound.far_bound(population.scores(people, num_people, rng), people, threshold,
                                              weighted=weighted).upper >= far for _ in range(draws)]))


def main():
    """Print the table."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument('--populations', type=int, default=1000)
    count = flags.parse_args().populations
    designs = {'100 people, all pairs': (all_pairs(100), 100), '200 people, all pairs': (all_pairs(200), 200),
               '3,000 listed pairs of 2,000': (listed_pairs(2000, 3000), 2000)}
    print(f"{count} populations each; how often the FAR was at most the bound, 95 % promised")
    print(f"{'test people':<28}{'n':>4}{'bound':>8}{'threshold':>11}{'worst':>8}{'pairs':>8}{'bootstrap':>11}"
          f"{'bound / FAR':>13}{'s':>5}")
    for name, (people, num_people) in designs.items():
        start = time.time()
        found = coverage(people, num_people, count)
        worst = worst_coverage(people, num_people, 5 * count)
        print(f"{name:<28}{found['num_pairs']:>4}{found['bound']:>8.3f}{found['threshold']:>11.3f}{worst:>8.3f}"
              f"{found['pairs']:>8.3f}{found['bootstrap']:>11.3f}{found['median_ratio']:>13.2f}"
              f"{time.time() - start:>5.0f}", flush=True)


if __name__ == '__main__':
    main()
