"""Units that have stopped firing, and what brings them back while an autoencoder is trained."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mmclip_eval.sparse.autoencoder import SparseAutoencoder, keep_largest

RESAMPLED_LENGTH = 0.2
"""Of a unit that begins anew, beside the mean length of the encoders that live: it must not disturb them at once."""


class Silence:
    """How many rows each unit has seen since it last fired."""

    def __init__(self, units: int, dead_after_rows: int, device: torch.device) -> None:
        self.dead_after_rows = dead_after_rows
        self._rows = torch.zeros(units, dtype=torch.long, device=device)

    def see(self, activations: Float[Tensor, "row unit"]) -> None:
        """Take note of a batch."""
        fired = (activations > 0).any(dim=0)
        self._rows = torch.where(fired, 0, self._rows + len(activations))

    @property
    def dead(self) -> Bool[Tensor, " unit"]:
        """Which are silent for too long."""
        return self._rows >= self.dead_after_rows

    def forget(self, units: Bool[Tensor, " unit"]) -> None:
        """These begin anew."""
        self._rows = torch.where(units, 0, self._rows)


def auxiliary_loss(
    model: SparseAutoencoder,
    seen: Float[Tensor, "row unit"],
    error: Float[Tensor, "row width"],
    dead: Bool[Tensor, " unit"],
) -> Float[Tensor, ""]:
    """Share that dead units leave of the squared error that living ones make (AuxK, Gao et al. 2024, appendix A.2).

    Of the dead at most half as many as there are dimensions explain a row. A share, as in the authors' code: the error
    itself grows small, and would soon move nothing.
    """
    count = min(int(dead.sum()), max(1, model.width // 2))
    if not count:
        return error.new_zeros(())
    activations = keep_largest(seen.masked_fill(~dead, -torch.inf), count)
    wanted = error.detach()
    left = (wanted - activations @ model.directions).square().sum()
    return left / wanted.square().sum().clamp_min(1e-12)


@torch.no_grad()
def resample(
    model: SparseAutoencoder,
    optimizer: torch.optim.Adam,
    scaled: Float[Tensor, "row width"],
    dead: Bool[Tensor, " unit"],
    generator: torch.Generator,
) -> None:
    """Point each dead unit at a row drawn by its squared loss, and forget its moments (Bricken et al. 2023, appendix).

    `scaled` are rows divided by the scale; `generator` lives on the CPU.
    """
    units = dead.nonzero()[:, 0]
    if not len(units):
        return
    explained = model.activate(model.before_activation(scaled)) @ model.directions + model.centre
    loss = (scaled - explained).square().sum(dim=1).square().cpu()
    chosen = torch.multinomial(loss + loss.mean() * 1e-6 + 1e-12, len(units), replacement=True, generator=generator)
    directions = F.normalize(scaled[chosen.to(scaled.device)] - model.centre, dim=1)
    living = model.encoder[~dead].norm(dim=1)
    length = living.mean() if len(living) else model.encoder.new_ones(())
    model.directions[units] = directions
    model.encoder[units] = directions * length * RESAMPLED_LENGTH
    model.encoder_bias[units] = 0.0
    for parameter in (model.encoder, model.encoder_bias, model.directions):
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in optimizer.state[parameter]:
                optimizer.state[parameter][moment][units] = 0.0
