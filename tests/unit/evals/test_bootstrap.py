import numpy as np
import pytest
import torch
from scipy.stats import binom

from mmclip_eval.metrics import bootstrap
from mmclip_eval.metrics.bootstrap import (
    accuracy_interval,
    mean_per_class_recall_interval,
    median_interval,
    ratio_interval,
    runs_interval,
    statistic_interval,
)


def resampled(samples: int, statistic, replicates: int = 3000) -> np.ndarray:
    """The textbook bootstrap: draw indices, compute, repeat; 2.5 % and 97.5 % points."""
    generator = np.random.default_rng(99)
    values = [statistic(generator.integers(samples, size=samples)) for _ in range(replicates)]
    return np.quantile(values, [0.025, 0.975])


def test_interval_of_an_accuracy_is_that_of_the_binomial():
    correct = torch.arange(400) < 280
    expected = binom.ppf([0.025, 0.975], 400, 0.7) / 400
    assert accuracy_interval(correct) == pytest.approx(expected, abs=0.006)


def test_interval_of_mean_per_class_recall_agrees_with_resampled_samples_where_classes_are_large():
    labels = np.repeat([0, 1, 2], [400, 100, 50])
    correct = np.arange(550) % 10 < 7

    def recall(drawn):
        return np.mean([correct[drawn][labels[drawn] == c].mean() for c in range(3)])

    interval = mean_per_class_recall_interval(torch.from_numpy(correct), torch.from_numpy(labels))
    assert interval == pytest.approx(resampled(550, recall), abs=0.008)
    assert interval != pytest.approx(accuracy_interval(torch.from_numpy(correct)), abs=0.008)


@pytest.mark.parametrize("per_class", [1, 4])
def test_classes_of_equal_size_give_mean_per_class_recall_the_interval_of_the_accuracy(per_class):
    labels = torch.arange(80) // per_class
    correct = torch.arange(80) % 5 < 3
    assert mean_per_class_recall_interval(correct, labels) == pytest.approx(accuracy_interval(correct), abs=1e-12)


def test_captions_of_one_picture_are_drawn_together():
    hits, trials = torch.tensor([5, 0] * 20), torch.full((40,), 5)
    low, high = ratio_interval(hits, trials)
    expected = resampled(40, lambda drawn: hits.numpy()[drawn].sum() / trials.numpy()[drawn].sum())
    assert (low, high) == pytest.approx(expected, abs=0.03)
    alone = accuracy_interval(torch.tensor([True, False] * 100))
    assert high - low > 1.8 * (alone[1] - alone[0])


def test_a_perfect_score_has_no_spread_and_equal_input_gives_equal_output():
    labels = torch.arange(30) % 3
    assert mean_per_class_recall_interval(torch.ones(30, dtype=torch.bool), labels) == (1.0, 1.0)
    half = torch.arange(30) < 15
    assert accuracy_interval(half) == accuracy_interval(half)


def weighted_mean(values):
    return lambda counts: counts @ values / counts.sum(axis=1)


def test_a_figure_of_the_counts_has_the_interval_of_resampled_samples():
    values = np.random.default_rng(0).normal(0.5, 0.1, 60)
    expected = resampled(60, lambda drawn: values[drawn].mean())
    assert statistic_interval([60], weighted_mean(values)) == pytest.approx(expected, abs=0.003)


def test_strata_are_drawn_apart_and_keep_their_sizes():
    def sizes(counts):
        assert (counts[:, :20].sum(axis=1) == 20).all()
        return counts[:, 20:].sum(axis=1) / 5

    assert statistic_interval([20, 5], sizes) == (1.0, 1.0)


def test_the_spread_of_several_runs_is_that_of_their_samples_and_of_the_runs():
    same = (torch.arange(200) < 120).expand(4, 200)
    assert runs_interval(same) == pytest.approx(accuracy_interval(same[0]), abs=0.01)
    apart = torch.stack([torch.ones(200, dtype=torch.bool), torch.zeros(200, dtype=torch.bool)])
    assert runs_interval(apart) == (0.0, 1.0)


def test_replicates_are_centred_on_the_figure_where_it_is_given():
    values = np.random.default_rng(0).normal(0.5, 0.1, 60)
    low, high = statistic_interval([60], weighted_mean(values))
    middle = (low + high) / 2
    shifted = statistic_interval([60], weighted_mean(values), centre=0.3)
    assert shifted == pytest.approx((low - middle + 0.3, high - middle + 0.3), abs=0.003)
    assert statistic_interval([60], weighted_mean(values), centre=0.0)[0] == 0.0


def test_replicates_without_a_figure_are_left_out():
    def sometimes(counts):
        return np.where(counts[:, 0] > 0, 0.25, np.nan)

    assert statistic_interval([10], sometimes) == (0.25, 0.25)


def test_draws_in_many_blocks_cover_the_same_interval(monkeypatch):
    labels = torch.arange(200) % 5
    correct = torch.arange(200) % 3 > 0
    whole = mean_per_class_recall_interval(correct, labels)
    of_counts = statistic_interval([200], weighted_mean(correct.numpy()))
    monkeypatch.setattr(bootstrap, "_BLOCK", 70)
    assert mean_per_class_recall_interval(correct, labels) == pytest.approx(whole, abs=1e-12)
    assert statistic_interval([200], weighted_mean(correct.numpy())) == pytest.approx(of_counts, abs=1e-12)


def test_no_samples_have_no_interval():
    with pytest.raises(ValueError, match="no samples"):
        accuracy_interval(torch.zeros(0, dtype=torch.bool))
    with pytest.raises(ValueError, match="no samples"):
        statistic_interval([5, 0], weighted_mean(np.zeros(5)))


def test_interval_of_a_median_is_that_of_medians_of_resampled_samples_each_with_all_its_values():
    generator = np.random.default_rng(0)
    owner = np.concatenate([np.arange(40), generator.integers(0, 40, 90)])
    values = generator.integers(1, 60, 130)
    own = [values[owner == sample] for sample in range(40)]
    expected = resampled(40, lambda drawn: np.median(np.concatenate([own[i] for i in drawn])))
    assert median_interval(torch.tensor(values), torch.tensor(owner)) == pytest.approx(expected, abs=1)
    assert median_interval(torch.full((9,), 3), torch.arange(9)) == (3.0, 3.0)
