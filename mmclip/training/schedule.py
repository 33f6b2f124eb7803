"""The learning rate as a pure function of samples seen: it needs no state and cannot drift at a resume."""

import math
from typing import Literal

from mmclip.config import config
from mmclip.errors import UserError


@config
class ScheduleConfig:
    """Linear warmup, then cosine decay."""

    type: Literal["cosine"] = "cosine"
    warmup_samples: int | None = None
    """Samples of linear warmup; by default a tenth of the run."""
    final_fraction: float = 0.0
    """Learning rate at the end, as a fraction of the peak."""

    def __post_init__(self) -> None:
        if self.warmup_samples is not None and self.warmup_samples < 0:
            raise UserError(f"schedule.warmup_samples={self.warmup_samples}: expected 0 or more")
        if not 0 <= self.final_fraction <= 1:
            raise UserError(
                f"schedule.final_fraction={self.final_fraction}: expected a fraction from 0 to 1 of the peak"
            )

    def warmup(self, total_samples: int) -> int:
        """Samples of warmup in a run of this length.

        Raises:
            UserError: the warmup lasts as long as the run, so the peak would never be reached.
        """
        warmup = total_samples // 10 if self.warmup_samples is None else self.warmup_samples
        if warmup >= total_samples:
            raise UserError(
                f"schedule.warmup_samples={warmup} must be less than the {total_samples} samples of the run: "
                "shorten the warmup or lengthen the run"
            )
        return warmup


def learning_rate(schedule: ScheduleConfig, peak: float, samples_seen: int, total_samples: int) -> float:
    """Learning rate of the step that brings the run to `samples_seen`."""
    warmup = schedule.warmup(total_samples)
    if samples_seen <= warmup:
        return peak * samples_seen / warmup
    done = min(1.0, (samples_seen - warmup) / (total_samples - warmup))
    cosine = (1 + math.cos(math.pi * done)) / 2
    return peak * (schedule.final_fraction + (1 - schedule.final_fraction) * cosine)
