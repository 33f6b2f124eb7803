"""How well rows are explained that nothing was fitted to, and how many units it takes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmclip_eval.metrics.bootstrap import statistic_interval
from mmclip_eval.sparse.autoencoder import SparseAutoencoder


@dataclass(frozen=True)
class Explained:
    """Share of the variance that a reconstruction explains."""

    value: float
    """1 minus the fraction of variance unexplained; below zero where the mean row would do better."""
    low: float
    high: float
    """Ends of the 95 % interval over the rows."""

    @property
    def unexplained(self) -> float:
        """Fraction of variance unexplained: squared error over squared distance from the mean of the fitted rows."""
        return 1 - self.value


@dataclass(frozen=True)
class Use:
    """How often units fire over some rows."""

    rows: int
    fires: Int[Tensor, " unit"]
    """Rows in which each has an activation above zero."""

    @property
    def mean_active(self) -> float:
        """Units that are active in a row, on average (L0)."""
        return int(self.fires.sum()) / self.rows

    @property
    def density(self) -> Float[Tensor, " unit"]:
        """Share of the rows in which each fires."""
        return self.fires.double() / self.rows


def explained(
    rows: Float[Tensor, "row width"], error: Float[Tensor, " row"], mean: Float[Tensor, " width"]
) -> Explained:
    """Share of the variance of `rows` around `mean` that is explained where `error` is the squared error of each.

    Each row is drawn with its error and its own variance in the bootstrap.
    """
    errors = error.double().cpu().numpy()
    variances = (rows.double().cpu() - mean.double().cpu()).square().sum(dim=1).numpy()
    low, high = statistic_interval(
        [len(rows)], lambda counts: 1 - (counts @ errors) / np.maximum(counts @ variances, 1e-300)
    )
    return Explained(float(1 - errors.sum() / variances.sum()), low, high)


def errors_of(
    rebuild: Callable[[Float[Tensor, "row width"]], Float[Tensor, "row width"]], rows: Float[Tensor, "row width"]
) -> Float[Tensor, " row"]:
    """Squared length of what `rebuild` misses of each row, on the CPU."""
    return (rows.double() - rebuild(rows).double()).square().sum(dim=1).cpu()


def errors_and_use(model: SparseAutoencoder, rows: Float[Tensor, "row width"]) -> tuple[Float[Tensor, " row"], Use]:
    """The squared error of each row, and how often the units fire, on the CPU."""
    errors: list[Tensor] = []
    fires = torch.zeros(model.units, dtype=torch.long)
    for block, activations in model.encoded(rows):
        errors.append((block - model.decode(activations)).double().square().sum(dim=1).cpu())
        fires += (activations > 0).sum(dim=0).cpu()
    return torch.cat(errors), Use(len(rows), fires)
