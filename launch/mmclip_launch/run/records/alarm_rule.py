"""One rule of the alarms: a verdict on each logged line, and when that is said."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mmclip.objectives.combined import auxiliary_names
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.pairing import objectives_of

SETTLING_STEPS = 100
"""Steps after the warmup before a space is judged. Ours: from scratch it shrinks first (std .1 to .2 at step 20 of 207) and
then spreads (.5 at step 45 with `clip`, 65 with `siglip`), while the loss waits at chance."""


@dataclass(frozen=True)
class Expected:
    """What a run's figures are held against."""

    settled_after: int
    """Samples seen before the embedding space, the loss and the gradient are judged."""
    chance_loss: float | None
    """Loss of a model that cannot tell any sample from another; None where the objective has no such figure."""
    max_logit_scale: float
    max_grad_norm: float | None
    workers: int
    prototypes: Mapping[str, int] = field(default_factory=dict)
    """Of each objective that sorts samples over prototypes, how many: by what stands before its figures."""

    @classmethod
    def of(cls, config: RunConfig, total_steps: int) -> "Expected":
        """What the configuration of a run promises."""
        batch = config.global_batch_size
        return cls(
            settled_after=config.schedule.warmup(total_steps * batch) + SETTLING_STEPS * batch,
            chance_loss=chance_loss(config.objective.type, batch),
            max_logit_scale=config.optimizer.max_logit_scale,
            max_grad_norm=config.optimizer.max_grad_norm,
            workers=config.data.workers,
            prototypes={
                prefix: objective.prototypes
                for prefix, objective in zip(_prefixes(config), objectives_of(config), strict=True)
                if hasattr(objective, "prototypes")
            },
        )


def _prefixes(config: RunConfig) -> list[str]:
    """What stands before the figures of each objective: nothing for the main one."""
    return ["", *(f"{name}/" for name in auxiliary_names(config.auxiliary))]


@dataclass(frozen=True)
class Verdict:
    """Between `bad` and `fine` lies a band in which nothing changes, so that a figure on a threshold speaks once."""

    bad: bool
    fine: bool
    message: str = ""


class Figures(dict[str, float]):
    """One logged line. A figure that is missing is NaN, which is neither bad nor fine."""

    def __missing__(self, name: str) -> float:
        return math.nan


class Rule:
    """Speaks when `patience` verdicts in a row are bad, then is silent until one is fine."""

    name: str
    patience = 1
    waits_to_settle = True

    def __init__(self, expected: Expected) -> None:
        self.expected = expected
        self.raised = False
        self.bad_in_a_row = 0

    def judge(self, figures: Figures) -> Verdict:
        """The verdict on one logged line; called for each line in turn."""
        raise NotImplementedError

    def read(self, figures: Figures) -> str | None:
        """The message at the onset, else None."""
        verdict = self.judge(figures)
        self.bad_in_a_row = self.bad_in_a_row + 1 if verdict.bad else 0
        if self.raised:
            self.raised = not verdict.fine
            return None
        self.raised = self.bad_in_a_row >= self.patience
        return verdict.message if self.raised else None


def chance_loss(objective: str, global_batch_size: int) -> float | None:
    """Loss of equal logits: ln N for `clip`; for `siglip`, N pairs of N^2 are positive and the bias has learned that share.

    `simclr` chooses among the 2N - 1 other views. Any other objective has none that is known beforehand.
    """
    n = global_batch_size
    if objective == "simclr":
        return math.log(2 * n - 1)
    if objective == "clip":
        return math.log(n)
    if objective == "siglip":
        return math.log(n) + (n - 1) * math.log(n / (n - 1)) if n > 1 else 0.0
    return None
