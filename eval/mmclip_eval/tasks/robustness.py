"""`robustness`: what is left on shifted data of the accuracy on clean data (Taori et al., 2020)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.eval_dataset import EvalDataset, Part, SetConfig
from mmclip_eval.metrics.bootstrap import accuracy_interval
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.metrics.robustness import (
    effective_robustness_interval,
    fit_baseline,
    logit,
    robustness_gap,
)
from mmclip_eval.tasks.base import EvalTask, Outcome, Related, TaskContext
from mmclip_eval.tasks.ood_detection import suite_set
from mmclip_eval.tasks.zero_shot_classification import classification_details
from mmclip_eval.zero_shot import rank_and_predict


@config
class Robustness(EvalTask):
    """The set is the shifted one; both sets are told apart by its prompts, over the classes that it has.

    Of the clean set the samples of these classes are measured, so that ImageNet-A compares with its 200 of ImageNet.
    """

    type: Literal["robustness"] = "robustness"
    public_name: ClassVar[str] = "robustness"
    needs: ClassVar[tuple[Part, ...]] = ("labelled", "prompts")

    clean: str = ""
    """The set of the suite that this one is a shifted form of."""
    baseline: tuple[tuple[float, float], ...] = ()
    """Clean and shifted accuracy of other models on the same pair; from two on, effective robustness is measured."""

    def __post_init__(self) -> None:
        if self.baseline:
            try:
                fit_baseline(*zip(*self.baseline, strict=True))
            except ValueError as error:
                raise UserError(f"baseline: {error}") from error

    def related(self, settings: SetConfig, suite: Mapping[str, SetConfig]) -> Mapping[str, Related]:
        """The clean set."""
        if not self.clean:
            raise UserError(f"{settings.name}, {self.type}: set clean to the set of the suite that this is a shift of")
        return {"clean": Related(suite_set(self.clean, settings, suite, self.type), ("labelled",))}

    def check(self, dataset: EvalDataset, related: Mapping[str, EvalDataset]) -> None:
        """Refuse sets whose classes are not the same ones."""
        clean, names = related["clean"].labelled, dataset.labelled.class_names
        missing = [name for name in names if name not in clean.class_names]
        if missing:
            raise UserError(
                f"{dataset.config.name}, {self.type}: class {missing[0]!r} is no class of {self.clean} ({len(missing)} of "
                f"{len(names)} are not): both sets must name their classes alike"
            )
        if not bool(_in_classes(clean.labels, clean.class_names, names).ge(0).any()):
            raise UserError(f"{dataset.config.name}, {self.type}: {self.clean} has no sample of its classes")

    def run(self, context: TaskContext) -> Outcome:
        """`shifted_acc1`, `clean_acc1`, `robustness_gap` (lower is better) and, with a baseline, `effective_robustness`."""
        part, class_embed = context.dataset.labelled, context.own.class_embed
        encoded = context.related("clean")
        clean = encoded.dataset.labelled
        labels = _in_classes(clean.labels, clean.class_names, part.class_names)
        kept = labels >= 0
        right = {
            "shifted": rank_and_predict(context.image_embed, part.labels, class_embed)[0] < 1,
            "clean": rank_and_predict(encoded.image_embed[kept], labels[kept], class_embed)[0] < 1,
        }
        chance = 1 / len(part.class_names)
        metrics = {
            f"{side}_acc1": Estimate(float(hits.double().mean()), accuracy_interval(hits), chance)
            for side, hits in right.items()
        }
        metrics["robustness_gap"] = Estimate(
            *robustness_gap(right["clean"], right["shifted"]), chance=None, unit="difference", lower_is_better=True
        )
        details = {
            **classification_details(part, context.dataset.prompts),
            "clean": {
                "dataset": self.clean,
                "num_samples": int(kept.sum()),
                "left_out_of_other_classes": int((~kept).sum()),
                "dataset_fingerprint": encoded.dataset.samples.fingerprint,
            },
            "logits": {side: _logit(metrics[f"{side}_acc1"].value) for side in right},
        }
        if self.baseline:
            line = fit_baseline(*zip(*self.baseline, strict=True))
            interval = effective_robustness_interval(line, right["clean"], right["shifted"])
            value = line.effective_robustness(metrics["clean_acc1"].value, metrics["shifted_acc1"].value)
            metrics["effective_robustness"] = Estimate(value, interval, chance=None, unit="difference")
            details["baseline"] = {"slope": line.slope, "intercept": line.intercept, "models": len(self.baseline)}
        return Outcome(metrics, details)


def _in_classes(labels: torch.Tensor, names: tuple[str, ...], wanted: tuple[str, ...]) -> torch.Tensor:
    """Labels as indices into `wanted`, -1 where their class is not there."""
    index_of = {name: index for index, name in enumerate(wanted)}
    return torch.tensor([index_of.get(name, -1) for name in names])[labels]


def _logit(accuracy: float) -> float | None:
    return logit(accuracy) if 0 < accuracy < 1 else None
