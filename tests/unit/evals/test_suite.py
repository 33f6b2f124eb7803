import json
import math
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from mmclip.errors import UserError
from mmclip_data.features import encoder as encoder_module
from mmclip_data.features.encoder import text_share
from mmclip_data.features.model import Towers
from mmclip_eval.datasets import EvalDatasetConfig
from mmclip_eval.results.result import ModelIdentity
from mmclip_eval.suite import evaluate
from mmclip_eval.tasks.base import EvalTask, Outcome

IDENTITY = ModelIdentity(model="colours", precision="fp32", checkpoint="runs/a", weights_sha256="00")


def results_of(model, *folders, **settings):
    datasets = [EvalDatasetConfig(name=folder.name, path=str(folder), **settings) for folder in folders]
    return list(evaluate(model, datasets, IDENTITY, chunk_size=4))


def values(result):
    return {name: estimate.value for name, estimate in result.metrics.items()}


def test_a_model_that_is_right_but_for_one_label_scores_exactly_that(classification_folder, colour_model):
    (result,) = results_of(colour_model, classification_folder)
    assert values(result) == {"acc1": 5 / 6, "mean_per_class_recall": pytest.approx((1 + 1 + 0.5) / 3)}
    assert {name: estimate.chance for name, estimate in result.metrics.items()} == {
        "acc1": pytest.approx(1 / 3),
        "mean_per_class_recall": pytest.approx(1 / 3),
    }
    low, high = result.metrics["acc1"].interval
    assert low < 5 / 6 <= high == 1.0


def test_retrieval_both_ways_gives_the_figures_worked_out_by_hand(retrieval_folder, colour_model):
    # Of five captions only "rather red" misses: it finds the red picture first, its own (white) second.
    # The red picture misses too, since "rather red", which it does not own, ties with both of its captions.
    # The white picture's own caption names no white, so only green and blue win.
    (result,) = results_of(colour_model, retrieval_folder)
    found = values(result)
    assert found["image_retrieval_recall@1"] == 4 / 5
    assert found["image_retrieval_recall@5"] == 1.0
    assert found["text_retrieval_recall@1"] == 2 / 4
    assert found["text_retrieval_recall@10"] == 1.0
    assert result.metrics["image_retrieval_recall@1"].chance == pytest.approx(1 / 4)
    assert result.metrics["text_retrieval_recall@1"].chance == pytest.approx((2 + 1 + 1 + 1) / 4 / 5)


@pytest.mark.parametrize("classes", [3, 5, 7, 129])
def test_a_collapsed_model_scores_no_more_than_chance(classes, tmp_path, write_tar, picture, constant_model):
    root = tmp_path / "set"
    red, numbers = picture("red"), range(2 * classes)
    samples = [{"cls": b"%d" % (i % classes), "png": red, "txt": b"text %d" % i} for i in numbers]
    write_tar(root / "test" / "0.tar", samples)
    (root / "test" / "nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("\n".join(f"class {i}" for i in range(classes)))
    tasks = ("zero_shot_classification", "zero_shot_retrieval")
    results = results_of(constant_model, root, tasks=tasks, templates="simple")
    assert [result.task for result in results] == list(tasks)
    for result in results:
        for name, estimate in result.metrics.items():
            worse = estimate.value >= estimate.chance if estimate.lower_is_better else estimate.value <= estimate.chance
            assert worse or estimate.value == pytest.approx(estimate.chance, abs=1e-12), name


@pytest.mark.parametrize("classes", [4, 5])
def test_acc5_is_left_out_below_five_classes(classes, tmp_path, write_tar, picture, colour_model):
    names = ["red", "green", "blue", "white", "black"][:classes]
    write_tar(tmp_path / "a.tar", [{"cls": name.encode(), "png": picture(name)} for name in names])
    (result,) = results_of(colour_model, tmp_path / "a.tar", templates="none")
    assert ("acc5" in result.metrics) == (classes == 5)
    assert result.metrics["acc1"].value == 1.0


def test_one_pass_over_the_pictures_serves_all_tasks(tmp_path, write_tar, picture, colour_model):
    colours = ["red", "green", "blue", "white", "black"]
    write_tar(tmp_path / "a.tar", [{"cls": c.encode(), "txt": c.encode(), "png": picture(c)} for c in colours])
    tasks = ("zero_shot_classification", "zero_shot_retrieval")
    results = results_of(colour_model, tmp_path / "a.tar", tasks=tasks, templates="none")
    assert len(results) == 2
    assert colour_model.image_rows == [4, 4]  # five pictures in chunks of four, once


def test_every_set_is_checked_before_any_is_encoded(classification_folder, retrieval_folder, colour_model):
    (retrieval_folder / "test" / "nshards.txt").write_text("9")
    with pytest.raises(UserError, match="nshards"):
        results_of(colour_model, classification_folder, retrieval_folder)
    assert colour_model.image_rows == []


def test_two_sets_of_one_name_are_refused(classification_folder, colour_model):
    with pytest.raises(UserError, match="'wds_colours' is given 2 times"):
        results_of(colour_model, classification_folder, classification_folder)


def test_a_model_of_nan_is_an_error_and_not_a_chance_score(classification_folder, colour_model, monkeypatch):
    monkeypatch.setattr(colour_model, "embed_uint8", lambda images: torch.full((len(images), 5), math.nan))
    with pytest.raises(UserError, match=r"sample wds_colours/0\.tar/s0000000: its embedding is not finite"):
        results_of(colour_model, classification_folder)


def test_the_result_file_says_all_that_produced_it(classification_folder, colour_model, tmp_path):
    (result,) = results_of(colour_model, classification_folder)
    content = json.loads(result.write(tmp_path / "results").read_text())
    assert content["metrics"]["acc1"] == 5 / 6
    assert content["prompts"]["templates"] == ["a {c} thing", "something {c}"]
    assert content["class_names"]["source"].endswith("classnames.txt")
    assert (content["n_seen"], content["num_classes"]) == (6, 3)
    assert content["preprocess"]["size"] == [8, 8]
    assert content["checkpoint"] == {"path": "runs/a", "sha256": None, "weights_sha256": "00"}
    assert (content["task"], content["task_type"]) == ("zeroshot_classification", "zero_shot_classification")
    assert len(content["prompts"]["texts_sha256"]) == 64
    assert content["run"]["wall_seconds"] >= 0
    assert content["versions"]["torch"] == torch.__version__
    assert content["dataset_fingerprint"]
    assert {"dataset", "model", "pretrained", "task", "metrics", "language"} <= set(content)


def test_progress_is_reported_with_the_name_of_the_set(classification_folder, colour_model):
    seen = []
    datasets = [EvalDatasetConfig(name="colours", path=str(classification_folder))]
    list(evaluate(colour_model, datasets, IDENTITY, chunk_size=4, progress=lambda *step: seen.append(step)))
    assert seen == [("colours", 4, 6), ("colours", 6, 6)]


def test_a_result_that_is_there_is_not_worked_out_again_and_another_prompt_or_label_is(
    classification_folder, colour_model
):
    settings = EvalDatasetConfig(name="colours", path=str(classification_folder))
    (first,) = evaluate(colour_model, [settings], IDENTITY)
    rows = len(colour_model.image_rows)
    again = list(evaluate(colour_model, [settings], IDENTITY, is_there=lambda name: name == first.file_name))
    assert (again, len(colour_model.image_rows)) == ([], rows)
    changed = [
        replace(settings, templates="simple"),
        replace(settings, class_names=("red", "green", ("blue", "azure"))),
        replace(settings, name="others"),
    ]
    names = [result.file_name for other in changed for result in evaluate(colour_model, [other], IDENTITY)]
    (other_weights,) = evaluate(colour_model, [settings], replace(IDENTITY, weights_sha256="11"))
    (other_seed,) = evaluate(colour_model, [settings], IDENTITY, seed=1)
    assert len({first.file_name, *names, other_weights.file_name, other_seed.file_name}) == 6


class SumOfScores(EvalTask):
    """A figure that another number of threads would sum up otherwise."""

    type = "sum_of_scores"
    threads: ClassVar[list[int]] = []

    def run(self, context):
        self.threads.append(torch.get_num_threads())
        context.encode_texts(["red", "blue"])
        return Outcome({})


def test_a_task_has_one_thread_and_what_it_asks_for_is_encoded_by_all(classification_folder, colour_model, monkeypatch):
    towers = []
    monkeypatch.setattr(encoder_module, "text_share", lambda *given: towers.append(given[2]) or text_share(*given))
    monkeypatch.setattr(Towers, "threads", lambda *_: torch.get_num_threads())
    settings = EvalDatasetConfig(name="a", path=str(classification_folder), tasks=(SumOfScores(),))
    torch.set_num_threads(3)
    try:
        list(evaluate(colour_model, [settings], IDENTITY, chunk_size=4))
        assert (SumOfScores.threads, towers, torch.get_num_threads()) == ([1], [3], 3)
    finally:
        torch.set_num_threads(1)
