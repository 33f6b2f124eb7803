"""What the tasks share that learn from a training set: where it is, what is held out of it, and how they are scored."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.eval_dataset import EvalDataset, Part, SetConfig
from mmclip_eval.metrics.bootstrap import accuracy_interval, mean_per_class_recall_interval
from mmclip_eval.metrics.classification import mean_per_class_recall, top_k_accuracy
from mmclip_eval.metrics.confusion import rank_and_prediction
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.probes.drawing import hold_out
from mmclip_eval.probes.logistic import Examples
from mmclip_eval.tasks.base import Encoded, EvalTask, Related, Table, TaskContext
from mmclip_eval.tasks.zero_shot_classification import confusion_table, per_class_table


@config
class TrainedTask(EvalTask):
    """A task that learns from labelled pictures; the set that is measured is never among them."""

    needs: ClassVar[tuple[Part, ...]] = ("labelled",)

    train: str = "train"
    """What it learns from: another set of the suite by name, else a split of the same set."""

    def related(self, settings: SetConfig, suite: Mapping[str, SetConfig]) -> Mapping[str, Related]:
        """The training set."""
        return {"train": labelled_set(self.train, settings, suite)}

    def check(self, dataset: EvalDataset, related: Mapping[str, EvalDataset]) -> None:
        """Refuse to be measured on what was learnt."""
        for role, other in related.items():
            if other.whole.fingerprint == dataset.whole.fingerprint:
                raise UserError(
                    f"{dataset.config.name}, {self.type}: {role} holds the very samples that are measured; name another "
                    f"split, or another set of the suite, for {role}"
                )


@config
class ChoosingTask(TrainedTask):
    """A task that also chooses a setting of its own on samples that it did not learn from."""

    validation: str | None = None
    """What the setting is chosen on, named as `train` is; None: a part of the training set that is held out."""
    held_out: float = 0.2
    """Share of each class that is held out of the training set where there is no validation set."""

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise UserError(f"held_out={self.held_out}: expected a share between 0 and 1, such as 0.2")

    def related(self, settings: SetConfig, suite: Mapping[str, SetConfig]) -> Mapping[str, Related]:
        """The training set, and the validation set where one is named."""
        roles = dict(super().related(settings, suite))
        if self.validation is not None:
            roles["validation"] = labelled_set(self.validation, settings, suite)
        return roles

    def learn_and_choose(self, context: TaskContext, train: Examples) -> tuple[Examples, Examples]:
        """What is learnt from while a setting is chosen, and what it is chosen on."""
        if self.validation is not None:
            return train, examples_of(context.related("validation"))
        return hold_out(train, self.held_out, context.seed)


def labelled_set(name: str, settings: SetConfig, suite: Mapping[str, SetConfig]) -> Related:
    """A set of the suite by its name, else a split of the set itself, its labels read as the set's own classes."""
    # Another split has another number of samples.
    other = suite[name] if name in suite else replace(settings, split=name, num_samples=None)
    return Related(other, ("labelled",), same_classes=True)


def examples_of(encoded: Encoded) -> Examples:
    """Embeddings with their classes."""
    return Examples(encoded.image_embed, encoded.dataset.labelled.labels)


def classes_of(context: TaskContext, train: Examples) -> int:
    """Number of classes, of which some may have no sample on one side."""
    return max(len(context.dataset.labelled.class_names), int(train.labels.max()) + 1)


@dataclass(frozen=True)
class Scored:
    """How a trained classifier did on the set that is measured."""

    labels: Int[Tensor, " sample"]
    rank: Int[Tensor, " sample"]
    """How many other classes score at least as high as the sample's own."""
    predicted: Int[Tensor, " sample"]
    train_labels: Int[Tensor, " example"]
    classes: int

    def figures(self, prefix: str) -> Iterator[tuple[str, Estimate]]:
        """Yield `acc1`, `acc5` (from five classes on) and `mean_per_class_recall`, each behind `prefix`.

        Chance is what one constant answer scores: the classes that are most frequent in the training set.
        """
        correct = self.rank < 1
        for k in (1, 5):
            if k <= self.classes:
                hit = self.rank < k
                chance = chance_of_constant_answer(self.train_labels, self.labels, self.classes, k)
                yield f"{prefix}acc{k}", Estimate(top_k_accuracy(self.rank, k), accuracy_interval(hit), chance)
        recall = mean_per_class_recall(correct, self.labels)
        interval = mean_per_class_recall_interval(correct, self.labels)
        yield f"{prefix}mean_per_class_recall", Estimate(recall, interval, chance=1 / len(self.labels.unique()))

    @property
    def notes(self) -> tuple[str, ...]:
        """Told of classes that could not be learnt."""
        unseen = set(self.labels.tolist()) - set(self.train_labels.tolist())
        samples = sum(int((self.labels == label).sum()) for label in unseen)
        return (f"{len(unseen)} classes ({samples} samples) have no training example, and count as wrong",) * bool(
            unseen
        )

    def tables(self, context: TaskContext) -> Mapping[str, Table]:
        """`per_class` and `confusion`, as those of zero-shot classification."""
        return {
            "per_class": per_class_table(context.dataset.labelled, self.predicted),
            "confusion": confusion_table(self.labels, self.predicted, self.classes),
        }


def score(scores: Float[Tensor, "sample class"], context: TaskContext, train: Examples) -> Scored:
    """Compare scores with the labels of the set that is measured."""
    labels = context.dataset.labelled.labels
    rank, predicted = rank_and_prediction(scores, labels)
    return Scored(labels, rank, predicted, train.labels, scores.shape[1])


def chance_of_constant_answer(
    train_labels: Int[Tensor, " example"], labels: Int[Tensor, " sample"], classes: int, k: int
) -> float:
    """Share of `labels` among the `k` classes that are most frequent in training; of equals those most frequent here."""
    trained, here = (torch.bincount(side, minlength=classes) for side in (train_labels, labels))
    best = sorted(range(classes), key=lambda label: (-int(trained[label]), -int(here[label])))[:k]
    return float(here[best].sum() / len(labels))


def training_details(context: TaskContext, train: Examples) -> dict[str, object]:
    """Which samples were learnt from."""
    encoded = context.related("train")
    return {
        "num_classes": classes_of(context, train),
        "train": {
            "num_samples": len(train.labels),
            "split": encoded.dataset.config.split,
            "dataset_fingerprint": encoded.dataset.samples.fingerprint,
        },
        "seed": context.seed,
    }
