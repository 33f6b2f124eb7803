"""`tip_adapter`: zero-shot logits and the votes of a few examples, without training (Zhang et al., 2022)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.eval_dataset import EvalDataset, Part
from mmclip_eval.probes.drawing import draw_shots
from mmclip_eval.probes.logistic import Examples
from mmclip_eval.probes.tip_adapter import TipAdapter
from mmclip_eval.tasks.base import Outcome, TaskContext
from mmclip_eval.tasks.linear_probe import refuse_too_few
from mmclip_eval.tasks.training_set import TrainedTask, examples_of, labelled_set, score, training_details
from mmclip_eval.tasks.zero_shot_classification import classification_details

ALPHAS = tuple(round(0.1 + 2.9 * step / 20, 4) for step in range(20))
BETAS = tuple(round(0.1 + 6.9 * step / 20, 4) for step in range(20))
"""The range of the authors' search, with a tenth of its steps for beta."""


@config
class TipAdapterTask(TrainedTask):
    """What a cache of a few examples adds to the prompts."""

    type: Literal["tip_adapter"] = "tip_adapter"
    public_name: ClassVar[str] = "tip_adapter"
    needs: ClassVar[tuple[Part, ...]] = ("labelled", "prompts")

    shots: int = 16
    """Examples of each class in the cache."""
    alpha: float | None = None
    """Weight of the votes; None: searched together with `beta`."""
    beta: float | None = None
    """How fast a vote falls with the distance."""
    validation: str | None = None
    """What both are searched on, named as `train` is; None: the examples of the training set that were not drawn."""

    def __post_init__(self) -> None:
        if self.shots < 1 or (self.alpha is None) != (self.beta is None):
            raise UserError(
                f"shots={self.shots}, alpha={self.alpha}, beta={self.beta}: expected at least one shot, and both "
                "numbers or neither"
            )

    def related(self, settings, suite):
        """The training set, and the validation set where one is named."""
        roles = dict(super().related(settings, suite))
        if self.validation is not None:
            roles["validation"] = labelled_set(self.validation, settings, suite)
        return roles

    def check(self, dataset: EvalDataset, related: Mapping[str, EvalDataset]) -> None:
        """Refuse a training set that has too few examples to draw from and to search on."""
        super().check(dataset, related)
        train = related["train"]
        refuse_too_few(train, self.shots, "shots")
        labels = train.labelled.labels
        if self.alpha is None and self.validation is None and len(labels) == self.shots * len(labels.unique()):
            raise UserError(
                f"{train.config.path}, split {train.config.split}: all {len(labels)} examples are shots, and none is "
                "left to search alpha and beta on: give fewer shots, validation, or alpha and beta"
            )

    def run(self, context: TaskContext) -> Outcome:
        """`tip_acc1`, `tip_acc5`, `tip_mean_per_class_recall`, and the tables `per_class` and `confusion`."""
        train = examples_of(context.related("train"))
        drawn = draw_shots(train.labels, self.shots, context.seed)
        cache = train.at(drawn)
        adapter = TipAdapter(context.own.class_embed, cache, context.logit_scale)
        searched_on = 0
        alpha, beta = self.alpha, self.beta
        if alpha is None or beta is None:
            held_out = self._held_out(context, train, drawn)
            searched_on = len(held_out.labels)
            alpha, beta = adapter.search(held_out, ALPHAS, BETAS)
        scored = score(adapter.scores(context.image_embed, alpha, beta), context, cache)
        details = {
            **classification_details(context.dataset.labelled, context.dataset.prompts),
            **training_details(context, cache),
            "tip_adapter": {"alpha": alpha, "beta": beta, "searched_on_samples": searched_on},
        }
        settings = {"fewshot_k": self.shots, "seed": context.seed}
        return Outcome(
            dict(scored.figures("tip_")), details, scored.tables(context), settings=settings, notes=scored.notes
        )

    def _held_out(self, context: TaskContext, train: Examples, drawn: torch.Tensor) -> Examples:
        if self.validation is not None:
            return examples_of(context.related("validation"))
        rest = torch.ones(len(train.labels), dtype=torch.bool).index_fill_(0, drawn, False)
        return train.at(rest.nonzero()[:, 0])
