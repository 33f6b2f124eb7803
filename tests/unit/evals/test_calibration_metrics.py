import numpy as np
import pytest
import torch

from mmclip_eval.metrics import calibration
from mmclip_eval.metrics.calibration import confidence_of, expected_error_interval, reliability


def test_hand_made_bins_give_their_gap_weighted_by_size():
    confidence = torch.tensor([0.9, 0.9, 0.9, 0.3])
    correct = torch.tensor([True, True, False, True])
    found = reliability(confidence, correct, bins=2)
    assert found.size.tolist() == [1, 3]
    assert found.accuracy.tolist() == [1.0, pytest.approx(2 / 3)]
    assert found.expected_error == pytest.approx(0.25 * 0.7 + 0.75 * (0.9 - 2 / 3), abs=1e-7)
    assert found.largest_error == pytest.approx(0.7, abs=1e-7)


def test_the_upper_edge_belongs_to_a_bin():
    found = reliability(torch.tensor([0.5, 1.0, 0.6]), torch.tensor([True, True, True]), bins=2)
    assert found.size.tolist() == [1, 2]
    assert bool(reliability(torch.tensor([1.0]), torch.tensor([True]), bins=15).confidence[0].isnan())


def test_a_classifier_that_is_right_as_often_as_it_believes_has_no_error():
    correct = torch.cat([torch.arange(10) < 7, torch.arange(10) < 4])
    confidence = torch.cat([torch.full((10,), 0.7), torch.full((10,), 0.4)])
    assert reliability(confidence, correct).expected_error == pytest.approx(0, abs=1e-7)


def test_confidence_is_the_highest_softmax_and_its_logits_must_be_finite():
    found = confidence_of(torch.tensor([[0.0, 0.0], [100.0, 0.0]]))
    assert found.tolist() == [0.5, 1.0]
    with pytest.raises(ValueError, match="non-finite"):
        confidence_of(torch.tensor([[0.0, float("inf")]]))


def test_each_replicate_is_the_error_of_its_samples(replicates_of):
    generator = np.random.default_rng(0)
    confidence = torch.from_numpy(generator.uniform(0.3, 1, 60))
    correct = torch.from_numpy(generator.uniform(size=60) < confidence.numpy() - 0.1)
    counts, figures = replicates_of(calibration, lambda: expected_error_interval(confidence, correct))
    for count, figure in zip(counts, figures, strict=True):
        drawn = torch.from_numpy(np.repeat(np.arange(60), count))
        assert figure == pytest.approx(reliability(confidence[drawn], correct[drawn]).expected_error, abs=1e-12)


def test_interval_holds_the_figure_of_a_calibrated_classifier():
    generator = np.random.default_rng(1)
    confidence = torch.from_numpy(generator.uniform(0.3, 1, 300))
    correct = torch.from_numpy(generator.uniform(size=300) < confidence.numpy())
    low, high = expected_error_interval(confidence, correct)
    assert low < reliability(confidence, correct).expected_error < high


@pytest.mark.parametrize("confidence", [0.0, 1.5, float("nan")])
def test_what_is_no_confidence_is_refused(confidence):
    with pytest.raises(ValueError, match="outside"):
        reliability(torch.tensor([confidence]), torch.tensor([True]))
