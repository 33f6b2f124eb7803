"""`calibration`: whether the zero-shot classifier is right as often as its softmax says (Guo et al., 2017)."""

from typing import ClassVar, Literal

import torch

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.eval_dataset import Part
from mmclip_eval.metrics.calibration import BINS, Reliability, confidence_of, expected_error_interval, reliability
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.tasks.base import EvalTask, Outcome, Table, TaskContext
from mmclip_eval.tasks.zero_shot_classification import classification_details
from mmclip_eval.zero_shot import SAMPLE_BLOCK, rank_and_predict


@config
class Calibration(EvalTask):
    """The softmax of the cosines at the temperature that the model was trained with."""

    type: Literal["calibration"] = "calibration"
    public_name: ClassVar[str] = "calibration"
    needs: ClassVar[tuple[Part, ...]] = ("labelled", "prompts")

    bins: int = BINS
    """Of equal width over the confidence."""

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise UserError(f"bins={self.bins}: expected at least one")

    def run(self, context: TaskContext) -> Outcome:
        """`expected_calibration_error` (lower is better), and the table `reliability` for a diagram."""
        part, class_embed = context.dataset.labelled, context.own.class_embed
        rank, _ = rank_and_predict(context.image_embed, part.labels, class_embed)
        blocks = context.image_embed.split(SAMPLE_BLOCK)
        confidence = torch.cat([confidence_of(context.logit_scale * (block @ class_embed.T)) for block in blocks])
        found = reliability(confidence, rank < 1, self.bins)
        interval = expected_error_interval(confidence, rank < 1, self.bins)
        details = {
            **classification_details(part, context.dataset.prompts),
            "logit_scale": context.logit_scale,
            "mean_confidence": float(confidence.mean()),
            "largest_calibration_error": found.largest_error,
        }
        error = Estimate(found.expected_error, interval, chance=None, lower_is_better=True)
        return Outcome({"expected_calibration_error": error}, details, {"reliability": reliability_table(found)})


def reliability_table(found: Reliability) -> Table:
    """A row a bin; confidence and accuracy are null where it is empty."""
    bins = len(found.size)
    rows = [
        (
            i / bins,
            (i + 1) / bins,
            int(found.size[i]),
            *(_known(side[i]) for side in (found.confidence, found.accuracy)),
        )
        for i in range(bins)
    ]
    return Table(("above", "up_to", "samples", "confidence", "accuracy"), rows)


def _known(value: torch.Tensor) -> float | None:
    return None if bool(value.isnan()) else float(value)
