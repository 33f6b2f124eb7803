"""Calibration, robustness and what does not belong: figures worked out from the same logits, and what is refused."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from mmclip.errors import UserError
from mmclip_eval.datasets import EvalDatasetConfig
from mmclip_eval.tasks.calibration import Calibration
from mmclip_eval.tasks.ood_detection import SCORES, OodDetection
from mmclip_eval.tasks.robustness import Robustness


@pytest.fixture
def logits(tone_model, class_embed, tone_pixels):
    """Scaled cosines and labels of samples, made without any of the code that is tested."""

    def made(samples):
        pixels = torch.stack([tone_pixels(sample["png"]) for sample in samples])
        cosines = F.normalize(tone_model.embed_uint8(pixels), dim=1) @ class_embed.T
        return tone_model.logit_scale.exp() * cosines, torch.tensor([int(sample["cls"]) for sample in samples])

    return made


@pytest.fixture
def own(tmp_path, write_tar, folder, labelled_samples):
    samples = labelled_samples(60, 0)
    return folder(tmp_path / "own", write_tar, {"test": samples}), samples


@pytest.fixture
def other(tmp_path, write_tar, folder, labelled_samples):
    samples = labelled_samples(48, 700)
    path = folder(tmp_path / "other", write_tar, {"test": samples})
    return EvalDatasetConfig(name="other", path=str(path)), samples


def test_calibration_error_is_that_of_the_softmax_at_the_models_temperature(
    own, logits, result_of, tone_model, setup_with
):
    path, samples = own
    result = result_of(tone_model, setup_with(path, Calibration(bins=5)))
    scaled, labels = logits(samples)
    confidence, said = scaled.double().softmax(dim=1).max(dim=1)
    right, bins = (said == labels).double(), np.ceil(confidence.numpy() * 5).astype(int)
    gaps = [abs(float((confidence - right)[bins == b].sum())) for b in range(1, 6)]
    assert result.metrics["expected_calibration_error"].value == pytest.approx(sum(gaps) / 60, abs=1e-6)
    assert result.metrics["expected_calibration_error"].lower_is_better
    assert result.details["logit_scale"] == pytest.approx(float(torch.tensor(3.0).exp()))
    rows = result.tables["reliability"].rows
    assert [row[2] for row in rows] == [int((bins == b).sum()) for b in range(1, 6)]
    assert all((row[3] is None) == (row[2] == 0) for row in rows)


def test_a_hotter_model_is_less_sure(own, result_of, tone_model, setup_with):
    setup = setup_with(own[0], Calibration())
    cold = result_of(tone_model, setup).details["mean_confidence"]
    tone_model.logit_scale = torch.tensor(0.5)
    assert result_of(tone_model, setup).details["mean_confidence"] < cold


def test_what_does_not_belong_is_told_by_energy_and_by_softmax(own, other, logits, result_of, tone_model, setup_with):
    (path, samples), (settings, others) = own, other
    result = result_of(tone_model, setup_with(path, OodDetection(outside=("other",)), settings))
    inside, outside = logits(samples)[0].double(), logits(others)[0].double()
    truth = np.repeat([1, 0], [60, 48])
    energy = torch.cat([inside, outside]).logsumexp(dim=1)
    softmax = torch.cat([inside, outside]).softmax(dim=1).amax(dim=1)
    assert result.metrics["energy_auroc@other"].value == pytest.approx(roc_auc_score(truth, energy), abs=1e-6)
    assert result.metrics["softmax_auroc@other"].value == pytest.approx(roc_auc_score(truth, softmax), abs=1e-6)
    assert result.metrics["energy_fpr95@other"].lower_is_better
    assert result.details["outside"]["other"]["num_samples"] == 48


def test_robustness_is_the_difference_of_the_two_accuracies(own, other, logits, result_of, tone_model, setup_with):
    (path, samples), (settings, others) = own, other
    result = result_of(tone_model, setup_with(path, Robustness(clean="other"), settings))
    shifted, clean = (
        float((scaled.argmax(dim=1) == labels).double().mean()) for scaled, labels in map(logits, (samples, others))
    )
    values = {name: estimate.value for name, estimate in result.metrics.items()}
    expected = {"shifted_acc1": shifted, "clean_acc1": clean, "robustness_gap": clean - shifted}
    assert values == pytest.approx(expected)
    assert result.details["logits"]["clean"] == pytest.approx(np.log(clean / (1 - clean)))


def test_of_the_clean_set_only_the_classes_of_the_shifted_one_are_measured(
    own, tmp_path, write_tar, picture_of_tone, result_of, tone_model, setup_with
):
    samples = [{"cls": name.encode(), "png": picture_of_tone(i, i)} for i, name in enumerate(("red", "green"))] * 3
    write_tar(tmp_path / "few.tar", samples)
    clean = EvalDatasetConfig(name="whole", path=str(own[0]))
    setup = setup_with(tmp_path / "few.tar", Robustness(clean="whole"), clean, templates="none")
    result = result_of(tone_model, setup)
    assert result.details["clean"]["num_samples"] == 20
    assert result.details["clean"]["left_out_of_other_classes"] == 40
    assert result.metrics["clean_acc1"].chance == 1 / 2


def test_scores_are_counted_on_the_same_bins_for_every_set(own, other, result_of, tone_model, setup_with):
    result = result_of(tone_model, setup_with(own[0], OodDetection(outside=("other",)), other[0]))
    rows = [dict(zip(result.tables["scores"].columns, row, strict=True)) for row in result.tables["scores"].rows]
    assert {(row["score"], row["set"]) for row in rows} == {(s, n) for s in SCORES for n in (result.dataset, "other")}
    for score in SCORES:
        sides = [[row for row in rows if (row["score"], row["set"]) == (score, n)] for n in (result.dataset, "other")]
        assert [row["above"] for row in sides[0]] == [row["above"] for row in sides[1]]
        assert sum(row["samples"] for row in sides[0]) == result.num_samples
        outside = result.details["outside"]["other"]["num_samples"]
        assert sum(row["samples"] for row in sides[1]) == outside
        assert all(one["up_to"] == two["above"] for one, two in zip(sides[0], sides[0][1:], strict=False))


def test_effective_robustness_is_measured_against_other_models(own, other, result_of, tone_model, setup_with):
    baseline = ((0.3, 0.2), (0.6, 0.5), (0.8, 0.7))
    result = result_of(tone_model, setup_with(own[0], Robustness(clean="other", baseline=baseline), other[0]))
    logit = [[np.log(value / (1 - value)) for value in side] for side in zip(*baseline, strict=True)]
    slope, intercept = np.polyfit(*logit, deg=1)
    values = {name: estimate.value for name, estimate in result.metrics.items()}
    line = slope * np.log(values["clean_acc1"] / (1 - values["clean_acc1"])) + intercept
    assert values["effective_robustness"] == pytest.approx(values["shifted_acc1"] - 1 / (1 + np.exp(-line)))
    assert json.loads(json.dumps(result.to_json()))["baseline"]["models"] == 3


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (OodDetection(), "measured, ood_detection: set outside to sets of the suite"),
        (OodDetection(outside=("texture",)), "'texture' is no set of the suite; known: measured, other"),
        (OodDetection(outside=("measured",)), "'measured' of outside holds the very same samples"),
        (Robustness(), "measured, robustness: set clean to the set of the suite"),
        (Robustness(clean="imagenet"), "'imagenet' is no set of the suite"),
    ],
)
def test_a_set_that_is_not_there_is_told(task, message, own, other, result_of, tone_model, setup_with):
    with pytest.raises(UserError, match=message):
        result_of(tone_model, setup_with(own[0], task, other[0]))


def test_sets_that_name_their_classes_differently_are_no_pair(
    own, tmp_path, write_tar, picture_of_tone, result_of, tone_model, setup_with
):
    write_tar(tmp_path / "few.tar", [{"cls": name, "png": picture_of_tone(0, 0)} for name in (b"red", b"crimson")])
    clean = EvalDatasetConfig(name="whole", path=str(own[0]))
    with pytest.raises(UserError, match=r"class 'crimson' is no class of whole \(1 of 2 are not\)"):
        result_of(tone_model, setup_with(tmp_path / "few.tar", Robustness(clean="whole"), clean, templates="none"))


@pytest.mark.parametrize("baseline", [((0.5, 0.4),), ((0.5, 0.4), (1.0, 0.9))])
def test_a_baseline_without_a_line_is_refused(baseline):
    with pytest.raises(ValueError, match="baseline: "):
        Robustness(clean="a", baseline=baseline)
