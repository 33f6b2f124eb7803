"""`multilabel_classification`: how well the prompts of each class rank the pictures that show it."""

from typing import ClassVar, Literal

import torch

from mmclip.config import config
from mmclip_eval.eval_dataset import Part
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.metrics.multilabel import (
    average_precision,
    chance_average_precision,
    mean_average_precision_interval,
)
from mmclip_eval.multilabelled import Multilabelled
from mmclip_eval.prompts.prompt_set import sha256_of
from mmclip_eval.tasks.base import EvalTask, Outcome, Table, TaskContext
from mmclip_eval.zero_shot import SAMPLE_BLOCK, class_weights


@config
class MultilabelClassification(EvalTask):
    """A picture may show several classes; each class ranks all pictures by themselves."""

    type: Literal["multilabel_classification"] = "multilabel_classification"
    public_name: ClassVar[str] = "zeroshot_classification"
    needs: ClassVar[tuple[Part, ...]] = ("multilabelled", "multilabel_prompts")
    dataset_type: ClassVar[str | None] = "multilabel"

    def run(self, context: TaskContext) -> Outcome:
        """`mean_average_precision` over the classes that a picture shows, and the table `per_class`."""
        part, texts = context.dataset.multilabelled, context.dataset.multilabel_prompts
        class_embed = class_weights(texts, context.encode_texts)
        scores = torch.cat([block @ class_embed.T for block in context.image_embed.split(SAMPLE_BLOCK)])
        precision, chance = average_precision(scores, part.positive), chance_average_precision(part.positive)
        shown = part.positive.any(dim=0)
        figure = Estimate(
            float(precision[shown].mean()),
            mean_average_precision_interval(scores, part.positive),
            float(chance[shown].mean()),
        )
        details = {
            "num_classes": len(part.class_names),
            "class_names": {"source": part.class_names_source, "sha256": sha256_of(part.classes)},
            "prompts": {**texts.prompts.facts(), "texts_sha256": texts.sha256},
        }
        return Outcome({"mean_average_precision": figure}, details, {"per_class": _table(part, precision)})


def _table(part: Multilabelled, precision: torch.Tensor) -> Table:
    """A row a class; average precision is null where no picture shows it."""
    rows = [
        (name, count, value if count else None)
        for name, count, value in zip(
            part.class_names, part.positive.sum(dim=0).tolist(), precision.tolist(), strict=True
        )
    ]
    return Table(("class", "positives", "average_precision"), rows)
