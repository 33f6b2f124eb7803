"""An exponential moving average of the weights (Polyak and Juditsky 1992), which is what a run with one is judged by."""

from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor

from mmclip.config import config
from mmclip.errors import UserError
from mmclip.ops.shards import local
from mmclip.towers.two_tower import TwoTower


@config
class EmaConfig:
    """Averaging of the towers' weights over steps."""

    decay: float | None = None
    """Share of the average that stays at each step, such as 0.9999 (about 10,000 steps of memory); without it none is made."""
    warmup: bool = True
    """Begin with a shorter memory, min(decay, (1 + step) / (10 + step)), so that random weights are soon forgotten."""

    def __post_init__(self) -> None:
        if self.decay is not None and not 0 <= self.decay < 1:
            raise UserError(f"ema.decay={self.decay}: expected at least 0 and below 1, such as 0.9999")

    def decay_at(self, step: int) -> float:
        """The decay of the step that makes a run `step` steps long."""
        assert self.decay is not None, "asked for only where there is an average"
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay


class WeightAverage:
    """Towers that follow others; they are evaluated and saved, never trained."""

    def __init__(self, config: EmaConfig, towers: TwoTower) -> None:
        self.config = config
        self.towers = deepcopy(towers).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, towers: TwoTower, step: int, skipped: Float[Tensor, ""]) -> None:
        """Move towards the weights after step number `step` (from 1), by nothing where the step was skipped."""
        share = (1 - self.config.decay_at(step)) * (1 - skipped)
        averages = dict(self.towers.named_parameters())
        for name, weight in towers.named_parameters():
            local(averages[name]).lerp_(local(weight), share.to(weight.dtype))
        counts = dict(self.towers.named_buffers())
        for name, buffer in towers.named_buffers():  # running statistics of norms are averages already
            counts[name].copy_(buffer)
