"""`Seen`: what one of the compared models makes of an evaluation set."""

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Bool, Int
from torch import Tensor

from mmclip.errors import UserError
from mmclip_eval.analysis.predictions import Predictions, predict
from mmclip_eval.evidence import Evidence
from mmclip_eval.zero_shot import rank_and_predict


@dataclass(frozen=True)
class Said:
    """A classifier's answers."""

    predicted: Int[Tensor, " sample"]
    correct: Bool[Tensor, " sample"]
    """A tie with another class is none."""


@dataclass(frozen=True)
class Seen(Evidence):
    """What a pass saw, by which model, and what that model says of it."""

    name: str
    logit_scale: float
    """Inverse temperature that cosines are multiplied by."""

    @cached_property
    def said(self) -> Said:
        """The class that each picture is most like, of a set that has some."""
        assert self.class_embed is not None
        labels = self.dataset.labelled.labels
        rank, predicted = rank_and_predict(self.image_embed, labels, self.class_embed)
        return Said(predicted, rank < 1)

    @cached_property
    def likeliest(self) -> Predictions:
        """The few likeliest classes of each picture, with their probabilities."""
        assert self.class_embed is not None
        return predict(self.image_embed, self.class_embed, self.logit_scale, k=3)


def refuse_other_samples(a: Seen, b: Seen) -> None:
    """Refuse two that saw different samples.

    Raises:
        UserError: their sets are not the same.
    """
    ours, theirs = a.dataset.samples.fingerprint, b.dataset.samples.fingerprint
    if ours != theirs or len(a.image_embed) != len(b.image_embed):
        raise UserError(
            f"{a.name} saw {len(a.image_embed):,} samples of {a.dataset.config.name} and {b.name} saw "
            f"{len(b.image_embed):,} of {b.dataset.config.name}: both have to see the same"
        )
