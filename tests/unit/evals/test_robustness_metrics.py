import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from mmclip_eval.metrics import robustness
from mmclip_eval.metrics.robustness import Baseline, effective_robustness_interval, fit_baseline, robustness_gap


def test_gap_is_the_difference_with_the_interval_of_two_independent_samples():
    gap, (low, high) = robustness_gap(torch.arange(900) < 720, torch.arange(400) < 200)
    assert gap == pytest.approx(0.3)
    spread = 1.96 * np.sqrt(0.8 * 0.2 / 900 + 0.5 * 0.5 / 400)
    assert (low, high) == pytest.approx((0.3 - spread, 0.3 + spread), abs=0.006)


def test_a_line_on_logit_axes_is_found_again_and_its_models_have_no_effective_robustness():
    clean = np.array([0.3, 0.5, 0.7, 0.9])
    shifted = expit(0.9 * logit(clean) - 1.2)
    line = fit_baseline(clean.tolist(), shifted.tolist())
    assert (line.slope, line.intercept) == pytest.approx((0.9, -1.2))
    for pair in zip(clean, shifted, strict=True):
        assert line.effective_robustness(*pair) == pytest.approx(0, abs=1e-12)


def test_effective_robustness_is_the_height_above_the_line():
    assert Baseline(slope=1.0, intercept=0.0).effective_robustness(0.6, 0.55) == pytest.approx(-0.05)


def test_a_model_that_is_always_right_or_wrong_is_compared_with_the_end_of_the_line():
    line = Baseline(slope=1.2, intercept=-1.0)
    assert (line.expected(0.0), line.expected(1.0)) == (0.0, 1.0)
    assert line.effective_robustness(1.0, 0.75) == -0.25


def test_each_replicate_of_effective_robustness_is_that_of_its_samples(replicates_of):
    line, clean, shifted = Baseline(slope=0.9, intercept=-0.5), torch.arange(40) < 30, torch.arange(30) < 12
    counts, figures = replicates_of(robustness, lambda: effective_robustness_interval(line, clean, shifted))
    for count, figure in zip(counts, figures, strict=True):
        accuracies = np.dot(count[:40], clean.numpy()) / 40, np.dot(count[40:], shifted.numpy()) / 30
        assert figure == pytest.approx(line.effective_robustness(*accuracies), abs=1e-12)


def test_what_has_no_line_is_refused():
    with pytest.raises(ValueError, match="at least 2 models"):
        fit_baseline([0.5, 0.5], [0.4, 0.3])
    with pytest.raises(ValueError, match=r"accuracy of 1\.0 is infinite"):
        fit_baseline([0.5, 1.0], [0.4, 0.3])
    with pytest.raises(ValueError, match="0 clean and 1 shifted"):
        robustness_gap(torch.zeros(0, dtype=torch.bool), torch.ones(1, dtype=torch.bool))
