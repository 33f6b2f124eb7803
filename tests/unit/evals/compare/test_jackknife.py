"""Intervals that leave out groups of rows hold what a figure is on average as often as they say."""

import numpy as np
import pytest
from scipy.stats import t

from mmclip_eval.compare.representation.anchors import KINDS
from mmclip_eval.compare.representation.cka import linear_cka
from mmclip_eval.compare.representation.grams import Grams
from mmclip_eval.compare.representation.jackknife import GROUPS, T_QUANTILE, groups_of, interval
from mmclip_eval.compare.representation.measures import figures_of_grams, figures_of_pair
from mmclip_eval.compare.representation.neighbours import mutual_neighbours
from mmclip_eval.compare.representation.pair import Pair

ROWS, TRUTHS, TRIALS = 300, 400, 200


def drawn(seed: int, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Two models of examples, some of which are odd ones; the models stay the same."""
    draw, models = np.random.default_rng(seed), np.random.default_rng(1)
    seen = draw.normal(size=(rows, 5)) * draw.lognormal(sigma=0.5, size=(rows, 1))
    x, y = (seen @ models.normal(size=(5, width)) + draw.normal(size=(rows, width)) for width in (12, 9))
    return x, y


def test_the_quantile_is_that_of_as_many_groups():
    assert pytest.approx(t.ppf(0.975, GROUPS - 1), abs=1e-6) == T_QUANTILE


def test_the_interval_of_a_mean_is_students():
    values = np.random.default_rng(0).normal(size=GROUPS * 20)
    groups = groups_of(len(values), np.random.default_rng(1))
    low, high = interval(values.mean(), [np.delete(values, group).mean() for group in groups], most=9.0)
    means = np.array([values[group].mean() for group in groups])
    half = T_QUANTILE * means.std(ddof=1) / np.sqrt(GROUPS)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half))


def test_groups_hold_each_row_once():
    groups = groups_of(103, np.random.default_rng(1))
    assert sorted(np.concatenate(groups).tolist()) == list(range(103))
    assert {len(group) for group in groups} == {10, 11}


@pytest.mark.parametrize(("prepare", "figures"), [(Pair, figures_of_pair), (Grams.of, figures_of_grams)])
def test_what_is_left_without_a_group_is_what_the_other_rows_give(prepare, figures):
    x, y = drawn(0, 80)
    groups = groups_of(80, np.random.default_rng(0))
    for group, left in zip(groups, prepare(x, y).without(groups), strict=True):
        expected = figures(prepare(np.delete(x, group, axis=0), np.delete(y, group, axis=0)))
        assert figures(left) == pytest.approx(expected, abs=1e-9)


def test_a_bootstrap_would_raise_what_repeated_rows_are_alike_in():
    """Why there is none."""
    x, y = drawn(0)
    again = [np.random.default_rng(seed).integers(ROWS, size=ROWS) for seed in range(5)]
    groups = groups_of(ROWS, np.random.default_rng(0))
    left_out = [mutual_neighbours(np.delete(x, group, axis=0), np.delete(y, group, axis=0)) for group in groups]
    _, high = interval(mutual_neighbours(x, y), left_out)
    assert min(mutual_neighbours(x[rows], y[rows]) for rows in again) > high
    x, y = np.random.default_rng(0).normal(size=(2, ROWS, 256))  # independent
    assert abs(linear_cka(x, y)) < 0.02
    assert min(linear_cka(x[rows], y[rows]) for rows in again) > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=["of pairs", "of rows"])
def test_intervals_hold_the_mean_figure_19_times_in_20(kind):
    truth: dict[str, list[float]] = {name: [] for name in kind.names}
    for seed in range(TRUTHS):
        for name, figure in kind.whole(*drawn(10_000 + seed)).items():
            truth[name].append(figure)
    held = dict.fromkeys(kind.names, 0)
    for seed in range(TRIALS):
        prepared = kind.prepare(*drawn(seed))
        value = kind.figures(prepared)
        left_out = [kind.figures(part) for part in prepared.without(groups_of(ROWS, np.random.default_rng(seed)))]
        for name, figure in value.items():
            low, high = interval(figure, [part[name] for part in left_out])
            held[name] += int(low <= np.mean(truth[name]) <= high)
    shares = {name: count / TRIALS for name, count in held.items()}
    assert all(0.90 <= share <= 0.995 for share in shares.values()), shares  # 0.95 +- 3 standard errors
