"""The protocol of tasks: how a configuration names them, what they are given, and the tables of the first two."""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import pytest
import torch

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval import datasets
from mmclip_eval.datasets import EvalDatasetConfig
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.results.result import ModelIdentity
from mmclip_eval.suite import evaluate
from mmclip_eval.tasks.base import EvalTask, Outcome, Related
from mmclip_eval.tasks.registry import TASKS
from mmclip_eval.tasks.zero_shot_retrieval import ZeroShotRetrieval
from mmclip_launch.run.tables import from_table, to_toml

IDENTITY = ModelIdentity(model="colours", precision="fp32")


def read(tasks) -> EvalDatasetConfig:
    return from_table(EvalDatasetConfig, {"name": "a", "path": "b", "tasks": tasks}, "suite.toml")


def test_a_bare_name_is_the_task_with_its_defaults_and_a_table_has_options():
    tasks = read(["zero_shot_retrieval", {"type": "zero_shot_retrieval", "recall_at": [1, 50]}]).tasks
    assert tasks == (ZeroShotRetrieval(), ZeroShotRetrieval(recall_at=(1, 50)))
    assert EvalDatasetConfig(name="a", path="b", tasks=("zero_shot_retrieval",)).tasks == tasks[:1]


def test_tasks_are_written_and_read_back_equal():
    settings = read(["zero_shot_classification", {"type": "zero_shot_retrieval", "recall_at": [7]}])
    assert from_table(EvalDatasetConfig, tomllib.loads(to_toml(settings)), "again") == settings


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (
            ["zero_shot_retrival"],
            "tasks: expected one of .*, got 'zero_shot_retrival'; did you mean 'zero_shot_retrieval'",
        ),
        ([{"type": "retrieval"}], r"tasks\.0\.type: expected one of .*got 'retrieval'"),
        ([{"type": "zero_shot_retrieval", "recall": [1]}], r"tasks\.0\.recall: unknown key; did you mean 'recall_at'"),
        ([{"type": "zero_shot_retrieval", "recall_at": [0]}], r"recall_at=\[0\]: expected different numbers from 1 on"),
        ([{"type": "zero_shot_retrieval", "recall_at": ["1"]}], r"tasks\.0\.recall_at\.0: expected a valid integer"),
        ([{}], r"tasks\.0: the table needs a key 'type'"),
    ],
)
def test_what_names_no_task_or_option_is_told_with_the_nearest_that_does(tasks, message):
    with pytest.raises(UserError, match=message):
        read(tasks)


def test_every_task_has_the_name_that_it_is_registered_under_and_one_for_files():
    assert {name: task().type for name, task in TASKS.items()} == {name: name for name in TASKS}
    assert all(task.public_name and task.version >= 1 and task.__doc__ for task in TASKS.values())


def test_classification_keeps_a_table_of_its_classes_and_one_of_its_confusions(classification_folder, colour_model):
    settings = EvalDatasetConfig(name="set", path=str(classification_folder))
    (result,) = evaluate(colour_model, [settings], IDENTITY, chunk_size=4)
    per_class, confusion = result.tables["per_class"], result.tables["confusion"]
    assert per_class.columns == ("class", "samples", "correct", "recall", "predicted")
    assert per_class.rows == [("red", 2, 2, 1.0, 2), ("green", 2, 2, 1.0, 3), ("blue", 2, 1, 0.5, 1)]
    assert confusion.rows == [(0, 0, 2), (1, 1, 2), (2, 1, 1), (2, 2, 1)]
    assert result.to_json()["tables"]["confusion"]["columns"] == ["class", "predicted", "count"]


def test_a_collapsed_model_takes_every_sample_for_another_class_than_its_own(classification_folder, constant_model):
    settings = EvalDatasetConfig(name="set", path=str(classification_folder))
    (result,) = evaluate(constant_model, [settings], IDENTITY, chunk_size=4)
    assert result.metrics["acc1"].value == 0
    assert all(truth != said for truth, said, _ in result.tables["confusion"].rows)
    assert [row[2] for row in result.tables["per_class"].rows] == [0, 0, 0]


def test_a_class_without_a_sample_has_no_recall_in_the_table(classification_folder, colour_model):
    names = ("red", "green", "blue", "white")
    settings = EvalDatasetConfig(name="set", path=str(classification_folder), class_names=names)
    (result,) = evaluate(colour_model, [settings], IDENTITY, chunk_size=4)
    assert result.tables["per_class"].rows[3] == ("white", 0, 0, None, 0)


@config
class Neighbours(EvalTask):
    """A task of one's own that reads another split."""

    type: Literal["neighbours"] = "neighbours"
    public_name: ClassVar[str] = "neighbours"
    needs = ("labelled",)

    def related(self, settings, suite) -> Mapping[str, Related]:
        return {"train": Related(replace(settings, split="train"), ("labelled",), same_classes=True)}

    def run(self, context) -> Outcome:
        train = context.related("train")
        nearest = (context.image_embed @ train.image_embed.T).argmax(dim=1)
        said = train.dataset.labelled.labels[nearest]
        right = float((said == context.dataset.labelled.labels).double().mean())
        names = train.dataset.labelled.class_names == context.dataset.labelled.class_names
        return Outcome({"acc1": Estimate(right, (0.0, 1.0), None)}, {"seed": context.seed, "same_names": names})


@pytest.fixture
def two_splits(classification_folder, write_tar, picture):
    samples = [{"cls": b"%d" % i, "png": picture(c)} for i, c in enumerate(("red", "green", "blue"))]
    write_tar(classification_folder / "train" / "0.tar", samples)
    (classification_folder / "train" / "nshards.txt").write_text("1")
    return classification_folder


def settings_with(task, folder, name="set") -> EvalDatasetConfig:
    return EvalDatasetConfig(name=name, path=str(folder), tasks=(task,))


def test_a_task_reads_another_split_which_is_encoded_once_for_all_tasks(two_splits, colour_model):
    both = [settings_with(Neighbours(), two_splits), settings_with(Neighbours(), two_splits, "again")]
    results = list(evaluate(colour_model, both, IDENTITY, chunk_size=4, seed=7))
    assert [result.metrics["acc1"].value for result in results] == [5 / 6, 5 / 6]
    assert results[0].details == {"seed": 7, "same_names": True}
    assert colour_model.image_rows == [4, 4, 4]  # six pictures of one split and three of the other, each once


def test_a_related_set_is_checked_before_anything_is_encoded(two_splits, colour_model, write_tar, picture):
    write_tar(two_splits / "train" / "0.tar", [{"cls": b"3", "png": picture("red")}])
    with pytest.raises(
        UserError, match=r"set reads .*, split train: sample set/0\.tar/s0000000: label 3 is none of the 3"
    ):
        list(evaluate(colour_model, [settings_with(Neighbours(), two_splits)], IDENTITY))
    assert colour_model.image_rows == []


def test_a_task_without_prompts_needs_neither_names_nor_templates(two_splits, colour_model):
    for name in ("classnames.txt", "zeroshot_classification_templates.txt"):
        (two_splits / name).unlink()
    (result,) = evaluate(colour_model, [settings_with(Neighbours(), two_splits)], IDENTITY, chunk_size=4)
    assert result.metrics["acc1"].value == 5 / 6
    with pytest.raises(UserError, match="labels are indices but there are no class names"):
        datasets.open_dataset(EvalDatasetConfig(name="set", path=str(two_splits), templates="none"))


def test_recall_is_taken_at_the_numbers_asked_for_and_ranks_have_their_unit(retrieval_folder, colour_model):
    settings = EvalDatasetConfig(name="set", path=str(retrieval_folder), tasks=(ZeroShotRetrieval(recall_at=(2,)),))
    (result,) = evaluate(colour_model, [settings], IDENTITY, chunk_size=4)
    assert list(result.metrics)[:2] == ["image_retrieval_recall@2", "text_retrieval_recall@2"]
    # Captions find their picture first but for "rather red"; the pictures' ranks are 2, 1, 1 and, for white, last.
    assert result.metrics["image_retrieval_median_rank"].value == 1
    content = result.to_json()
    assert content["units"]["text_retrieval_median_rank"] == "rank"
    assert content["lower_is_better"] == ["image_retrieval_median_rank", "text_retrieval_median_rank"]
    assert content["options"] == {"recall_at": [2]}
    assert torch.isfinite(torch.tensor(result.metrics["text_retrieval_median_rank"].interval)).all()
