"""The running mean of a teacher's scores, which is taken off them (DINO, Caron et al. 2021, equation 4)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmclip.ops.gather import all_sum, world_size


class Centre(nn.Module):
    """A moving average of the mean of the global batch; it moves once an optimizer step."""

    mean: Tensor

    def __init__(self, width: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(width))

    @torch.no_grad()
    def move(self, batch_mean: Float[Tensor, " width"], skipped: Float[Tensor, ""]) -> None:
        """Take in the mean over this rank's rows; nothing where `skipped` is 1, when it may be no number."""
        everywhere = all_sum(batch_mean).to(self.mean.dtype) / world_size()
        moved = self.mean.lerp(everywhere, 1 - self.momentum)
        self.mean.copy_(torch.where(skipped > 0, self.mean, moved))
