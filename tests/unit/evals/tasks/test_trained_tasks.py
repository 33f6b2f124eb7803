"""Probes, few shots, Tip-Adapter and neighbours: what they learn from, what they choose on, and what they refuse."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from mmclip.errors import UserError
from mmclip_eval.datasets import EvalDatasetConfig
from mmclip_eval.metrics.neighbours import neighbour_votes
from mmclip_eval.probes.drawing import draw_shots
from mmclip_eval.probes.logistic import Examples
from mmclip_eval.probes.tip_adapter import TipAdapter
from mmclip_eval.tasks.few_shot import FewShot
from mmclip_eval.tasks.knn import Knn
from mmclip_eval.tasks.linear_probe import LinearProbe
from mmclip_eval.tasks.tip_adapter import TipAdapterTask
from mmclip_eval.tasks.training_set import chance_of_constant_answer


@pytest.fixture
def splits(tmp_path, write_tar, folder, labelled_samples):
    """Folder with 36 samples to learn from, 24 to choose on and 48 to be measured on, the classes in turn."""
    sizes = {"test": (48, 0), "train": (36, 1000), "val": (24, 2000)}
    return folder(tmp_path / "set", write_tar, {split: labelled_samples(*size) for split, size in sizes.items()})


@pytest.fixture
def measure(splits, result_of, tone_model, setup_with):
    def measured(task, *others):
        return result_of(tone_model, setup_with(splits, task, *others))

    return measured


@pytest.fixture
def embed(tone_model, labelled_samples, tone_pixels):
    """Embeddings and labels of some of the samples, made without any of the code that is tested."""

    def made(count, first):
        samples = labelled_samples(count, first)
        pixels = torch.stack([tone_pixels(sample["png"]) for sample in samples])
        labels = torch.tensor([int(sample["cls"]) for sample in samples])
        return Examples(F.normalize(tone_model.embed_uint8(pixels), dim=1), labels)

    return made


def accuracy(probe, examples):
    return float((probe.predict(examples.embed.double()) == examples.labels.numpy()).mean())


def fitted(examples, strength):
    return LogisticRegression(C=strength, max_iter=1000).fit(examples.embed.double(), examples.labels)


def test_a_probe_of_a_given_strength_is_that_of_scikit_learn_on_the_training_split(measure, embed):
    result = measure(LinearProbe(strength=5.0))
    assert result.metrics["lp_acc1"].value == pytest.approx(accuracy(fitted(embed(36, 1000), 5.0), embed(48, 0)))
    assert result.details["train"]["num_samples"] == 36
    content = result.to_json()
    assert content["metrics"]["fewshot_k"] == -1
    assert content["metrics"]["seed"] == 0
    assert {"lp_acc1", "lp_acc5", "lp_mean_per_class_recall"} <= content["metrics"].keys()
    assert "fewshot_k" not in content["intervals"]


def test_a_strength_chosen_on_a_validation_split_is_fitted_again_with_it(measure, embed):
    result = measure(LinearProbe(validation="val"))
    chosen = result.details["regularisation"]
    assert chosen["chosen_on_samples"] == 24
    best = max(chosen["tried"], key=lambda one: (one["acc1"], -one["loss"]))
    assert chosen["strength"] == best["strength"]
    assert best["acc1"] == pytest.approx(accuracy(fitted(embed(36, 1000), best["strength"]), embed(24, 2000)))
    both = embed(36, 1000).and_also(embed(24, 2000))
    assert result.details["train"]["num_samples"] == 60
    assert result.metrics["lp_acc1"].value == pytest.approx(accuracy(fitted(both, best["strength"]), embed(48, 0)))


def test_without_a_validation_split_a_part_is_held_out_and_given_back(measure, embed):
    result = measure(LinearProbe(held_out=0.5))
    assert result.details["regularisation"]["chosen_on_samples"] == 18
    strength = result.details["regularisation"]["strength"]
    assert result.metrics["lp_acc1"].value == pytest.approx(accuracy(fitted(embed(36, 1000), strength), embed(48, 0)))


def test_few_shots_are_never_joined_by_the_validation_split(measure, embed):
    result = measure(LinearProbe(fewshot_k=2, validation="val"))
    assert result.details["train"]["num_samples"] == 12
    train = embed(36, 1000)
    shots = train.at(draw_shots(train.labels, 2, seed=0))
    strength = result.details["regularisation"]["strength"]
    assert result.metrics["lp_acc1"].value == pytest.approx(accuracy(fitted(shots, strength), embed(48, 0)))
    assert result.to_json()["metrics"]["fewshot_k"] == 2


def test_the_training_set_may_be_another_set_of_the_suite(measure, tmp_path, write_tar, folder, labelled_samples):
    path = folder(tmp_path / "more", write_tar, {"test": labelled_samples(30, 5000)})
    result = measure(LinearProbe(train="more", strength=1.0), EvalDatasetConfig(name="more", path=str(path)))
    assert result.details["train"]["num_samples"] == 30


def test_few_shot_is_the_mean_of_its_draws_and_its_interval_holds_their_spread(measure, embed):
    result = measure(FewShot(shots=(1, 3), draws=4))
    train, test = embed(36, 1000), embed(48, 0)
    ones = [accuracy(fitted(train.at(draw_shots(train.labels, 1, seed)), 1.0), test) for seed in range(4)]
    assert result.metrics["lp_acc1@1"].value == pytest.approx(np.mean(ones))
    rows = result.tables["draws"].rows
    assert [row[:2] for row in rows] == [(1, 0), (1, 1), (1, 2), (1, 3), (3, 0), (3, 1), (3, 2), (3, 3)]
    assert [row[3] for row in rows[:4]] == pytest.approx(ones)
    low, high = result.metrics["lp_acc1@1"].interval
    assert low <= min(ones) + 0.1
    assert high >= max(ones) - 0.1


def test_the_usual_shots_are_those_that_every_class_has(measure):
    assert list(measure(FewShot(draws=1)).metrics) == ["lp_acc1@1", "lp_acc1@2", "lp_acc1@4"]


def test_the_adapter_is_that_of_its_equation_with_the_numbers_that_it_found(measure, embed, tone_model, class_embed):
    result = measure(TipAdapterTask(shots=2))
    train, test = embed(36, 1000), embed(48, 0)
    drawn = draw_shots(train.labels, 2, seed=0)
    scale = float(tone_model.logit_scale.exp())
    adapter = TipAdapter(class_embed, train.at(drawn), scale)
    found = result.details["tip_adapter"]
    assert found["searched_on_samples"] == 24
    scores = adapter.scores(test.embed, found["alpha"], found["beta"])
    expected = float((scores.argmax(dim=1) == test.labels).double().mean())
    assert result.metrics["tip_acc1"].value == pytest.approx(expected)
    fixed = measure(TipAdapterTask(shots=2, alpha=0.5, beta=2.0)).metrics["tip_acc1"].value
    expected = float((adapter.scores(test.embed, 0.5, 2.0).argmax(dim=1) == test.labels).double().mean())
    assert fixed == pytest.approx(expected)


def test_neighbours_vote_as_their_metric_says(measure, embed):
    train, test = embed(36, 1000), embed(48, 0)
    votes = neighbour_votes(test.embed, train.embed, train.labels, 6, neighbours=3, temperature=0.2)
    expected = float((votes.argmax(dim=1) == test.labels).double().mean())
    assert measure(Knn(neighbours=3, temperature=0.2)).metrics["knn_acc1"].value == pytest.approx(expected)


def test_classes_without_a_training_example_are_told_and_count_as_wrong(
    tmp_path, write_tar, folder, labelled_samples, result_of, tone_model, setup_with
):
    train = [sample for sample in labelled_samples(36, 1000) if sample["cls"] not in (b"4", b"5")]
    root = folder(tmp_path / "set", write_tar, {"test": labelled_samples(48, 0), "train": train})
    for task in (LinearProbe(strength=10.0), Knn()):
        result = result_of(tone_model, setup_with(root, task))
        assert "2 classes (16 samples) have no training example, and count as wrong" in result.notes
        assert [row[3] for row in result.tables["per_class"].rows[4:]] == [0.0, 0.0]


def test_one_example_of_each_class_leaves_none_to_choose_on(
    tmp_path, write_tar, folder, labelled_samples, result_of, tone_model, setup_with
):
    splits = {"test": labelled_samples(48, 0), "train": labelled_samples(6, 1000)}
    root = folder(tmp_path / "set", write_tar, splits)
    with pytest.raises(UserError, match="no class has two examples, so none can be held out"):
        result_of(tone_model, setup_with(root, LinearProbe()))
    assert result_of(tone_model, setup_with(root, LinearProbe(strength=1.0))).metrics["lp_acc1"].value > 0
    assert list(result_of(tone_model, setup_with(root, FewShot())).metrics) == ["lp_acc1@1"]


def test_chance_is_the_best_constant_answer_that_training_would_suggest():
    train, test = torch.tensor([0, 0, 0, 1, 1, 2, 3]), torch.tensor([0, 1, 1, 1, 2, 3, 3, 3])
    assert chance_of_constant_answer(train, test, classes=5, k=1) == 1 / 8
    assert chance_of_constant_answer(train, test, classes=5, k=2) == 4 / 8
    assert (
        chance_of_constant_answer(train, test, classes=5, k=3) == 7 / 8
    )  # of 2 and 3, equally often learnt, the better


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (LinearProbe(train="test"), "measured, linear_probe: train holds the very samples that are measured"),
        (LinearProbe(validation="test"), "validation holds the very samples that are measured"),
        (LinearProbe(train="trian"), "no split 'trian'"),
        (LinearProbe(fewshot_k=7, strength=1.0), "class 'red' has 6 examples, and fewshot_k=7 asks for more"),
        (FewShot(shots=(1, 50)), "and shots=50 asks for more"),
        (TipAdapterTask(shots=9), "and shots=9 asks for more"),
        (TipAdapterTask(shots=6), "all 36 examples are shots, and none is left to search alpha and beta on"),
        (Knn(train="test"), "train holds the very samples"),
    ],
)
def test_what_would_measure_nothing_is_refused_before_anything_is_encoded(
    task, message, measure, tone_model, monkeypatch
):
    monkeypatch.setattr(tone_model, "embed_uint8", lambda images: pytest.fail("a picture was encoded"))
    with pytest.raises(UserError, match=message):
        measure(task)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (LinearProbe, {"fewshot_k": 0}, "fewshot_k=0: expected"),
        (LinearProbe, {"fewshot_k": 1}, "leaves nothing to choose the strength on"),
        (LinearProbe, {"held_out": 1.0}, r"held_out=1\.0: expected a share"),
        (LinearProbe, {"threads": 0}, "threads=0"),
        (FewShot, {"shots": (2, 2)}, "expected different numbers"),
        (FewShot, {"draws": 0}, "draws=0"),
        (TipAdapterTask, {"alpha": 1.0}, "both numbers or neither"),
        (Knn, {"neighbours": 0}, "at least one neighbour"),
        (Knn, {"temperature": 0.0}, "temperature above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(task, options, message):
    with pytest.raises(ValueError, match=message):
        task(**options)
