"""`ood_detection`: whether the zero-shot logits tell the set's pictures from those of other sets."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.eval_dataset import EvalDataset, Part, SetConfig
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.metrics.outliers import auroc, energy_score, fpr95, softmax_score
from mmclip_eval.tasks.base import EvalTask, Outcome, Related, Table, TaskContext
from mmclip_eval.tasks.zero_shot_classification import classification_details
from mmclip_eval.zero_shot import SAMPLE_BLOCK

BINS = 60
"""Of the table of scores."""
SCORES = {"energy": energy_score, "softmax": softmax_score}


@config
class OodDetection(EvalTask):
    """Energy (Liu et al., 2020) and best softmax (Hendrycks and Gimpel, 2017) at the model's own temperature."""

    type: Literal["ood_detection"] = "ood_detection"
    public_name: ClassVar[str] = "ood_detection"
    needs: ClassVar[tuple[Part, ...]] = ("labelled", "prompts")

    outside: tuple[str, ...] = ()
    """Sets of the suite whose pictures belong to none of the classes."""

    def related(self, settings: SetConfig, suite: Mapping[str, SetConfig]) -> Mapping[str, Related]:
        """The sets outside; of them the pictures alone are read."""
        if not self.outside:
            raise UserError(
                f"{settings.name}, {self.type}: set outside to sets of the suite, such as [{next(iter(suite), 'name')!r}]"
            )
        return {name: Related(suite_set(name, settings, suite, self.type)) for name in self.outside}

    def check(self, dataset: EvalDataset, related: Mapping[str, EvalDataset]) -> None:
        """Refuse a set that would have to be told from itself."""
        for name, other in related.items():
            if other.whole.fingerprint == dataset.whole.fingerprint:
                raise UserError(f"{dataset.config.name}, {self.type}: {name!r} of outside holds the very same samples")

    def run(self, context: TaskContext) -> Outcome:
        """`energy_auroc@SET`, `energy_fpr95@SET` (lower is better), the same of `softmax`, and the table `scores`."""
        inside = self._scores(context, context.image_embed)
        every = {context.dataset.config.name: inside}
        metrics: dict[str, Estimate] = {}
        for name in self.outside:
            outside = every[name] = self._scores(context, context.related(name).image_embed)
            for kind in SCORES:
                metrics[f"{kind}_auroc@{name}"] = Estimate(*auroc(inside[kind], outside[kind]), chance=0.5)
                figure = fpr95(inside[kind], outside[kind])
                metrics[f"{kind}_fpr95@{name}"] = Estimate(*figure, chance=0.95, lower_is_better=True)
        details = {
            **classification_details(context.dataset.labelled, context.dataset.prompts),
            "logit_scale": context.logit_scale,
            "outside": {name: _described(context.related(name).dataset) for name in self.outside},
        }
        return Outcome(metrics, details, {"scores": scores_table(every)})

    def _scores(
        self, context: TaskContext, image_embed: Float[Tensor, "sample embed"]
    ) -> Mapping[str, Float[Tensor, " sample"]]:
        class_embed, blocks = context.own.class_embed, image_embed.split(SAMPLE_BLOCK)
        logits = [context.logit_scale * (block @ class_embed.T) for block in blocks]
        return {kind: torch.cat([score(block) for block in logits]) for kind, score in SCORES.items()}


def scores_table(scores: Mapping[str, Mapping[str, Float[Tensor, " sample"]]]) -> Table:
    """How many samples of each set fall into which of `BINS` bins of each score, on the same bins for all sets."""
    rows = []
    for kind in SCORES:
        low, high = (float(end) for end in torch.cat([own[kind] for own in scores.values()]).aminmax())
        edges = torch.linspace(low, high if high > low else low + 1, BINS + 1, dtype=torch.float64)
        for name, own in scores.items():
            place = torch.bucketize(own[kind].double(), edges[1:-1])
            counts = torch.bincount(place, minlength=BINS).tolist()
            ends = edges.tolist()
            rows += [(kind, name, ends[i], ends[i + 1], count) for i, count in enumerate(counts)]
    return Table(("score", "set", "above", "up_to", "samples"), rows)


def suite_set(name: str, settings: SetConfig, suite: Mapping[str, SetConfig], task: str) -> SetConfig:
    """A set of the suite.

    Raises:
        UserError: there is none of that name.
    """
    if name not in suite:
        known = ", ".join(sorted(suite)) or "none"
        raise UserError(f"{settings.name}, {task}: {name!r} is no set of the suite; known: {known}")
    return suite[name]


def _described(dataset: EvalDataset) -> Mapping[str, object]:
    return {"num_samples": len(dataset.rows), "dataset_fingerprint": dataset.samples.fingerprint}
