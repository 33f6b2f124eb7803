from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from mmclip_eval.metrics import multilabel
from mmclip_eval.metrics.multilabel import (
    average_precision,
    chance_average_precision,
    mean_average_precision_interval,
)


def random_set(samples=60, classes=4, levels=1000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (samples, classes), generator=generator).float()
    positive = torch.rand(samples, classes, generator=generator) < torch.linspace(0.1, 0.7, classes)
    positive[0] = True
    return scores, positive


def test_hand_made_ranking_gives_the_mean_of_the_precisions_at_its_positives():
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.6]])
    positive = torch.tensor([[True], [False], [True], [False]])
    assert average_precision(scores, positive).tolist() == [(1 / 1 + 2 / 3) / 2]


@pytest.mark.parametrize("levels", [3, 10, 100_000])
def test_average_precision_agrees_with_scikit_learn_with_and_without_ties(levels):
    scores, positive = random_set(levels=levels, seed=levels)
    expected = average_precision_score(positive.numpy(), scores.numpy(), average=None)
    assert average_precision(scores, positive).numpy() == pytest.approx(expected, abs=1e-12)


def test_a_constant_score_gives_the_share_of_positives_which_is_below_chance():
    _, positive = random_set()
    found = average_precision(torch.zeros(positive.shape), positive)
    assert found.numpy() == pytest.approx(positive.double().mean(dim=0).numpy(), abs=1e-12)
    assert bool((found <= chance_average_precision(positive)).all())


def test_a_class_without_a_positive_has_no_figure_and_does_not_move_the_interval():
    scores, positive = random_set()
    positive[:, 1] = False
    assert average_precision(scores, positive).isnan().tolist() == [False, True, False, False]
    kept = [0, 2, 3]
    assert mean_average_precision_interval(scores, positive) == mean_average_precision_interval(
        scores[:, kept], positive[:, kept]
    )


def test_chance_is_the_mean_over_all_orders():
    orders = set(permutations([True, True, False, False, False]))
    scores = torch.arange(5, 0, -1).float()[:, None]
    figures = [float(average_precision(scores, torch.tensor(order)[:, None])) for order in orders]
    positive = torch.tensor([[True], [True], [False], [False], [False]])
    assert float(chance_average_precision(positive)) == pytest.approx(np.mean(figures), abs=1e-12)


@pytest.mark.parametrize("levels", [4, 1000])
def test_each_replicate_is_the_figure_of_its_samples(levels, replicates_of):
    scores, positive = random_set(samples=80, levels=levels)
    counts, figures = replicates_of(multilabel, lambda: mean_average_precision_interval(scores, positive))
    for count, figure in zip(counts, figures, strict=True):
        drawn = np.repeat(np.arange(80), count)
        assert figure == pytest.approx(average_precision_score(positive[drawn], scores[drawn]), abs=1e-12)


def test_interval_holds_the_figure():
    scores, positive = random_set()
    low, high = mean_average_precision_interval(scores, positive)
    assert low < float(average_precision(scores, positive).mean()) < high


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="non-finite"):
        average_precision(torch.tensor([[float("nan")]]), torch.tensor([[True]]))
    with pytest.raises(ValueError, match="no samples"):
        average_precision(torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.bool))
