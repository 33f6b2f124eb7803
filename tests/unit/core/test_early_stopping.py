"""Early stopping is a fold over the evaluations of a run."""

import math

import pytest

from mmclip.training.early_stopping import EarlyStopping, EarlyStoppingConfig, Watched, watched_names


def folded(values: list[float], **settings: object) -> EarlyStopping:
    stopping = EarlyStopping(EarlyStoppingConfig(metric="dev/acc1", **settings))  # pyright: ignore
    for step, value in enumerate(values):
        stopping.note(Watched(step, value))
        if stopping.is_over:
            break
    return stopping


def test_the_run_ends_after_so_many_evaluations_without_a_better_one_and_the_best_is_kept():
    stopping = folded([0.1, 0.3, 0.2, 0.3, 0.9], patience=2)
    assert (stopping.best, stopping.evaluations) == (Watched(1, 0.3), 4)
    assert folded([0.1, 0.3, 0.2, 0.4, 0.9], patience=2).best == Watched(4, 0.9)


def test_a_gain_below_min_delta_is_none_and_lower_may_be_better():
    assert folded([0.5, 0.505, 0.509], patience=2, min_delta=0.01).best == Watched(0, 0.5)
    assert folded([5.0, 3.0, 4.0], patience=3, lower_is_better=True).best == Watched(1, 3.0)


def test_a_figure_that_is_no_number_never_is_the_best():
    assert folded([math.nan, 0.2, math.inf, math.nan], patience=2).best == Watched(1, 0.2)
    assert folded([math.nan, math.nan], patience=2).best is None


def test_the_history_gives_the_same_state_as_the_run_that_made_it():
    values = [0.1, 0.4, 0.3, 0.2]
    replayed = EarlyStopping(EarlyStoppingConfig(metric="dev/acc1", patience=2), map(Watched, range(4), values))
    assert (replayed.best, replayed.is_over) == (folded(values, patience=2).best, True)


def test_a_star_means_all_figures_that_fit_and_a_name_itself():
    names = ["dev/image_retrieval_recall@1", "dev/text_retrieval_recall@5", "dev/mean_per_class_recall", "kept/acc1"]
    assert watched_names("dev/*_recall@*", names) == names[:2]
    assert watched_names("kept/acc1", names) == ["kept/acc1"]
    assert watched_names("kept/acc5", names) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "acc1"}, "expected SET/METRIC"),
        ({"patience": 0}, "expected at least 1 evaluation"),
        ({"min_delta": -0.1}, "expected 0 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        EarlyStoppingConfig(**settings)
