import numpy as np
import pytest
import torch

from mmclip_eval.metrics.worst_group import worst_group


def groups_of(*counts):
    """Hits and group of every sample, from (hits, samples) of each group."""
    correct = [torch.arange(samples) < hits for hits, samples in counts]
    group = [torch.full((samples,), index) for index, (_, samples) in enumerate(counts)]
    return torch.cat(correct), torch.cat(group)


def test_the_lowest_group_that_is_large_enough_is_the_worst():
    found = worst_group(*groups_of((80, 100), (30, 60), (0, 4), (55, 60)), groups=5)
    assert found.accuracy == (0.8, 0.5, 0.0, pytest.approx(55 / 60), None)
    assert found.size == (100, 60, 4, 60, 0)
    assert (found.worst, found.value) == (1, 0.5)
    assert found.compared == (0, 1, 3)
    assert found.not_compared == (2,)


def test_a_smaller_minimum_lets_the_small_group_decide():
    found = worst_group(*groups_of((80, 100), (0, 4)), groups=2, min_size=4)
    assert (found.worst, found.value) == (1, 0.0)


def test_a_group_left_out_by_name_is_not_compared():
    found = worst_group(*groups_of((80, 100), (10, 100)), groups=2, left_out=[1])
    assert (found.worst, found.compared) == (0, (0,))


def test_no_group_that_is_large_enough_is_an_error_that_says_how_large_they_are():
    with pytest.raises(ValueError, match="no group has 50 samples: the largest has 20"):
        worst_group(*groups_of((10, 20), (5, 10)), groups=2)


def test_interval_of_a_clear_worst_group_is_that_of_its_own_accuracy():
    from scipy.stats import binom

    found = worst_group(*groups_of((190, 200), (100, 200)), groups=2)
    assert found.interval == pytest.approx(binom.ppf([0.025, 0.975], 200, 0.5) / 200, abs=0.006)


def test_interval_of_many_equal_groups_is_the_spread_of_their_minimum_about_the_figure():
    found = worst_group(*groups_of(*[(50, 100)] * 40), groups=40)
    generator = np.random.default_rng(0)
    minima = (generator.binomial(100, 0.5, (20_000, 40)) / 100).min(axis=1)
    low, high = np.quantile(minima, [0.025, 0.975]) - np.median(minima) + 0.5
    assert found.interval == pytest.approx((low, high), abs=0.011)
