"""Fit a sparse autoencoder: Adam on the squared error, with what its form adds."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmclip.errors import UserError
from mmclip_data.features.tower_threads import one_thread
from mmclip_eval.sparse.autoencoder import BLOCK, SparseAutoencoder
from mmclip_eval.sparse.config import SparseConfig
from mmclip_eval.sparse.dead_units import Silence, auxiliary_loss, resample

Progress = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""
FALLING = 0.2
"""Last share of the steps, over which the learning rate falls to zero."""
MEDIAN_ROUNDS = 100
MEDIAN_TOLERANCE = 1e-6


def fit(
    rows: Float[Tensor, "row width"],
    settings: SparseConfig,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> SparseAutoencoder:
    """An autoencoder of all `rows`, the same for the same rows, settings and kind of device; it stays on `device`.

    On a CPU one thread works, so that the number of threads moves no figure.

    Raises:
        UserError: all rows are equal, one is not finite, or k is larger than the number of units.
    """
    place = device or torch.device("cpu")
    if not bool(rows.isfinite().all()):
        bad = int((~rows.isfinite().all(dim=1)).nonzero()[0, 0])
        raise UserError(f"row {bad} of the features is not finite: expected numbers; find out what made it")
    with one_thread(place):
        generator = torch.Generator().manual_seed(settings.seed)
        model = _begin(rows, settings, generator).to(place)
        _train(model, rows.to(place) / model.scale, settings, generator, progress)
    return model.eval().requires_grad_(False)


def geometric_median(rows: Float[Tensor, "row width"]) -> Float[Tensor, " width"]:
    """The point whose summed distance to all rows is smallest, by Weiszfeld's iteration from their mean."""
    median = rows.mean(dim=0)
    for _ in range(MEDIAN_ROUNDS):
        weight = 1 / (rows - median).norm(dim=1).clamp_min(1e-12)
        before, median = median, (weight @ rows) / weight.sum()
        if float((median - before).norm()) <= MEDIAN_TOLERANCE * float(median.norm()):
            break
    return median


def _begin(rows: Tensor, settings: SparseConfig, generator: torch.Generator) -> SparseAutoencoder:
    width = rows.shape[1]
    units = settings.units_of(width)
    model = SparseAutoencoder(width, units, settings.k if settings.form == "topk" else None)
    exact = rows.double().cpu()
    centre = exact.mean(dim=0) if settings.centre == "mean" else geometric_median(exact)
    scale = float((exact - centre).square().sum(dim=1).mean().sqrt())
    if scale <= 1e-6 * max(float(exact.abs().max()), 1e-30):
        raise UserError(f"all {len(rows)} rows of the features are equal: nothing can be told apart in them")
    directions = F.normalize(torch.randn(units, width, generator=generator), dim=1)
    with torch.no_grad():
        model.scale.fill_(scale)
        model.centre.copy_((centre / scale).float())
        model.directions.copy_(directions)
        model.encoder.copy_(directions)  # the transpose of the decoder, which leaves fewer units dead (Gao et al., A.1)
    return model


def _train(
    model: SparseAutoencoder,
    scaled: Tensor,
    settings: SparseConfig,
    generator: torch.Generator,
    progress: Progress | None,
) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, fused=True)  # a tenth of the time
    silence = Silence(model.units, round(settings.dead_after_passes * len(scaled)), scaled.device)
    resampled = _resampling_steps(settings)
    for step, batch in enumerate(_batches(len(scaled), settings, generator), start=1):
        rows = scaled[batch.to(scaled.device)]
        optimizer.param_groups[0]["lr"] = settings.lr * min(
            1.0, (settings.steps - step + 1) / (FALLING * settings.steps)
        )
        seen = model.before_activation(rows)
        activations = model.activate(seen)
        silence.see(activations.detach())
        error = rows - (activations @ model.directions + model.centre)
        loss = error.square().sum(dim=1).mean()
        if settings.form == "l1":
            loss = loss + settings.l1 * activations.sum(dim=1).mean()
        elif settings.aux_weight:
            loss = loss + settings.aux_weight * auxiliary_loss(model, seen, error, silence.dead)
        optimizer.zero_grad()
        loss.backward()
        _keep_length(model)
        optimizer.step()
        model.normalise()
        if step in resampled:
            dead = silence.dead
            drawn = torch.randperm(len(scaled), generator=generator)[:BLOCK].to(scaled.device)
            resample(model, optimizer, scaled[drawn], dead, generator)
            silence.forget(dead)
        if progress is not None:
            progress(step, settings.steps)


@torch.no_grad()
def _keep_length(model: SparseAutoencoder) -> None:
    """Take from the gradient of each direction what would only lengthen it: Adam's moments would be full of that."""
    gradient = model.directions.grad
    assert gradient is not None, "backward came before"
    gradient -= (gradient * model.directions).sum(dim=1, keepdim=True) * model.directions


def _resampling_steps(settings: SparseConfig) -> set[int]:
    times = settings.resample_times if settings.form == "l1" else 0
    return {round(settings.steps / 2 * number / times) for number in range(1, times + 1)} - {0}


def _batches(rows: int, settings: SparseConfig, generator: torch.Generator) -> Iterator[Int[Tensor, " batch"]]:
    """Passes over the rows, each in an order of its own, laid end to end and cut into batches."""
    size = min(settings.batch_size, rows)
    left = torch.empty(0, dtype=torch.long)
    for _ in range(settings.steps):
        if len(left) < size:
            left = torch.cat([left, torch.randperm(rows, generator=generator)])
        yield left[:size]
        left = left[size:]
