"""`zero_shot_classification`: accuracy of the classifier that the prompts make, with a table of its classes."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from mmclip.config import config
from mmclip_eval.eval_dataset import EvalDataset, Part
from mmclip_eval.labelled import Labelled
from mmclip_eval.prompts.prompt_set import ClassTexts, sha256_of
from mmclip_eval.tasks.base import EvalTask, Outcome, Table, TaskContext
from mmclip_eval.zero_shot import accuracy_figures, notes_of_ties, rank_and_predict


@config
class ZeroShotClassification(EvalTask):
    """Each picture goes to the class whose prompts it is most like."""

    type: Literal["zero_shot_classification"] = "zero_shot_classification"
    public_name: ClassVar[str] = "zeroshot_classification"
    needs: ClassVar[tuple[Part, ...]] = ("labelled", "prompts")
    dataset_type: ClassVar[str | None] = "classification"

    def fits(self, dataset: EvalDataset) -> bool:
        """Whether samples have a label."""
        return dataset.has_labels()

    def run(self, context: TaskContext) -> Outcome:
        """`acc1`, `acc5`, `mean_per_class_recall`, and the tables `per_class` and `confusion`."""
        part, class_embed = context.dataset.labelled, context.own.class_embed
        rank, predicted = rank_and_predict(context.image_embed, part.labels, class_embed)
        return Outcome(
            metrics=dict(accuracy_figures(rank, part.labels, len(part.class_names))),
            details=classification_details(part, context.dataset.prompts),
            tables={
                "per_class": per_class_table(part, predicted),
                "confusion": confusion_table(part.labels, predicted, len(part.class_names)),
            },
            notes=notes_of_ties(part.class_names, class_embed),
        )


def classification_details(part: Labelled, texts: ClassTexts) -> Mapping[str, Any]:
    """Which classes and prompts made the classifier."""
    return {
        "num_classes": len(part.class_names),
        "class_names": {"source": part.class_names_source, "sha256": sha256_of(part.classes)},
        "prompts": {**texts.prompts.facts(), "texts_sha256": texts.sha256},
    }


def per_class_table(part: Labelled, predicted: Int[Tensor, " sample"]) -> Table:
    """A row a class, in the order of the class names: how many samples it has, were recognised, and were taken for it.

    Recall is null where the class has no sample.
    """
    classes = len(part.class_names)
    samples = torch.bincount(part.labels, minlength=classes)
    correct = torch.bincount(part.labels[predicted == part.labels], minlength=classes)
    taken = torch.bincount(predicted, minlength=classes)
    rows = [
        (name, have, hit, hit / have if have else None, said)
        for name, have, hit, said in zip(
            part.class_names, samples.tolist(), correct.tolist(), taken.tolist(), strict=True
        )
    ]
    return Table(("class", "samples", "correct", "recall", "predicted"), rows)


def confusion_table(labels: Int[Tensor, " sample"], predicted: Int[Tensor, " sample"], classes: int) -> Table:
    """How many samples of a class were taken for which, by number of the class; pairs that never occur are left out."""
    codes, counts = torch.unique(labels * classes + predicted, return_counts=True)
    rows = [
        (code // classes, code % classes, count) for code, count in zip(codes.tolist(), counts.tolist(), strict=True)
    ]
    return Table(("class", "predicted", "count"), rows)
