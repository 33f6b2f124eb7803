"""The learning rate as a pure function of samples seen: it needs no state and cannot drift at a resume."""

import math
from typing import Literal

from mmclip.config import config
from mmclip.errors import UserError


@config
class ScheduleConfig:
    """Linear warmup, then `cosine`: half a cosine to the end, or `constant`: the peak, and a cooldown at the end."""

    type: Literal["cosine", "constant"] = "cosine"
    warmup_samples: int | None = None
    """Samples of linear warmup; by default a tenth of the run."""
    final_fraction: float = 0.0
    """Learning rate at the end, as a fraction of the peak; of `constant` only where it cools down."""
    cooldown_samples: int = 0
    """The last samples of a `constant` run, in which the rate falls to `final_fraction`."""
    cooldown_power: float = 1.0
    """Shape of that fall: the share of it that is left, to this power; 1 is a straight line."""

    def __post_init__(self) -> None:
        if self.warmup_samples is not None and self.warmup_samples < 0:
            raise UserError(f"schedule.warmup_samples={self.warmup_samples}: expected 0 or more")
        if not 0 <= self.final_fraction <= 1:
            raise UserError(
                f"schedule.final_fraction={self.final_fraction}: expected a fraction from 0 to 1 of the peak"
            )
        if self.cooldown_samples < 0:
            raise UserError(f"schedule.cooldown_samples={self.cooldown_samples}: expected 0 or more")
        if not self.cooldown_power > 0:
            raise UserError(f"schedule.cooldown_power={self.cooldown_power}: expected a number above 0")
        if self.type == "cosine" and self.cooldown_samples:
            raise UserError(
                f"schedule.cooldown_samples={self.cooldown_samples}: a cosine falls all the way; use schedule.type = "
                '"constant", or leave the cooldown out'
            )

    def warmup(self, total_samples: int) -> int:
        """Samples of warmup in a run of this length.

        Raises:
            UserError: the warmup lasts as long as the run, so the peak would never be reached, or reaches into the cooldown.
        """
        if not total_samples:
            return 0
        warmup = total_samples // 10 if self.warmup_samples is None else self.warmup_samples
        if warmup >= total_samples:
            raise UserError(
                f"schedule.warmup_samples={warmup} must be less than the {total_samples} samples of the run: "
                "shorten the warmup or lengthen the run"
            )
        if warmup + self.cooldown_samples > total_samples:
            raise UserError(
                f"schedule.cooldown_samples={self.cooldown_samples} and {warmup} samples of warmup are more than the "
                f"{total_samples} samples of the run: shorten one of them or lengthen the run"
            )
        return warmup


def learning_rate(schedule: ScheduleConfig, peak: float, samples_seen: int, total_samples: int) -> float:
    """Learning rate of the step that brings the run to `samples_seen`.

    The cosine is that of Loshchilov and Hutter 2017 (equation 5, without restarts), the plateau with a cooldown that of Zhai
    et al. 2022 (section 3.5).
    """
    warmup = schedule.warmup(total_samples)
    if samples_seen <= warmup:
        return peak * samples_seen / warmup
    if schedule.type == "cosine":
        done = min(1.0, (samples_seen - warmup) / (total_samples - warmup))
        share = (1 + math.cos(math.pi * done)) / 2
    else:
        left = max(0, total_samples - samples_seen)
        cools = left < schedule.cooldown_samples
        share = (left / schedule.cooldown_samples) ** schedule.cooldown_power if cools else 1.0
    return peak * (schedule.final_fraction + (1 - schedule.final_fraction) * share)
