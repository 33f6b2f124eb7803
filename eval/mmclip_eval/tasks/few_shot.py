"""`few_shot`: linear probes on a few examples of each class, over several draws of them."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.eval_dataset import EvalDataset
from mmclip_eval.metrics.bootstrap import runs_interval
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.probes.drawing import draw_shots
from mmclip_eval.probes.logistic import Examples, choose_strength, fit_probe
from mmclip_eval.tasks.base import Outcome, Table, TaskContext
from mmclip_eval.tasks.linear_probe import refuse_too_few
from mmclip_eval.tasks.training_set import (
    ChoosingTask,
    Scored,
    chance_of_constant_answer,
    classes_of,
    examples_of,
    score,
    training_details,
)

USUAL_SHOTS = (1, 2, 4, 8, 16)
STRENGTH_OF_ONE_SHOT = 1.0
"""With one example of each class and no validation set there is nothing to choose a strength on."""


@config
class FewShot(ChoosingTask):
    """How accuracy grows with the number of examples."""

    type: Literal["few_shot"] = "few_shot"
    public_name: ClassVar[str] = "few_shot"

    shots: tuple[int, ...] = ()
    """Examples of each class; empty: those of 1, 2, 4, 8 and 16 that every class of the training set has."""
    draws: int = 3
    """How often the examples are drawn anew; a figure is the mean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1 or any(shots < 1 for shots in self.shots) or len(set(self.shots)) < len(self.shots):
            raise UserError(
                f"shots={list(self.shots)}, draws={self.draws}: expected different numbers of examples and at least one "
                "draw, such as shots = [1, 4, 16] and draws = 3"
            )

    def check(self, dataset: EvalDataset, related: Mapping[str, EvalDataset]) -> None:
        """Refuse a training set that has fewer examples of a class than are asked for."""
        super().check(dataset, related)
        for shots in self.shots:
            refuse_too_few(related["train"], shots, "shots")

    def run(self, context: TaskContext) -> Outcome:
        """`lp_acc1@K` for K shots, and the table `draws`; the interval is over draws and samples."""
        train = examples_of(context.related("train"))
        fewest = int(train.labels.unique(return_counts=True)[1].min())
        metrics: dict[str, Estimate] = {}
        rows: list[tuple[int, int, float, float]] = []
        for shots in self.shots or [usual for usual in USUAL_SHOTS if usual <= fewest]:
            runs = [self._draw(context, train, shots, context.seed + draw) for draw in range(self.draws)]
            correct = torch.stack([scored.rank < 1 for scored, _ in runs])
            means = correct.double().mean(dim=1)
            # A draw has equally many of every class: the best constant answer is the most frequent class of the set.
            one = runs[0][0]
            chance = chance_of_constant_answer(one.train_labels, one.labels, one.classes, 1)
            metrics[f"lp_acc1@{shots}"] = Estimate(float(means.mean()), runs_interval(correct), chance)
            rows += [
                (shots, context.seed + draw, strength, float(mean))
                for draw, (mean, (_, strength)) in enumerate(zip(means, runs, strict=True))
            ]
        table = Table(("shots", "seed", "strength", "acc1"), rows)
        return Outcome(metrics, self._details(context, train), {"draws": table})

    def _draw(self, context: TaskContext, train: Examples, shots: int, seed: int) -> tuple[Scored, float]:
        few = train.at(draw_shots(train.labels, shots, seed))
        classes, strength = classes_of(context, train), STRENGTH_OF_ONE_SHOT
        if shots > 1 or self.validation is not None:
            strength, _ = choose_strength(*self.learn_and_choose(context, few), classes)
        return score(fit_probe(few, classes, strength).scores(context.image_embed), context, few), strength

    def _details(self, context: TaskContext, train: Examples) -> Mapping[str, Any]:
        return training_details(context, train) | {"draws": self.draws}
