"""Training of the encoders: on layers of several models, and on pairs of rows."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmclip.ops.infonce import infonce
from mmclip_eval.contrasim.encoder import Encoders
from mmclip_eval.contrasim.loss import supervised_contrastive
from mmclip_eval.contrasim.settings import ContraSimConfig

Advance = Callable[[int, int], None]
"""Called after each step with the steps done and the steps in all."""
Model = Float[Tensor, "layer row _"]
"""The layers of one model."""


def fit_layers(
    models: Sequence[Model],
    labels: Int[Tensor, "model layer"],
    settings: ContraSimConfig,
    advance: Advance | None = None,
) -> Encoders:
    """Encoders for which layers of one label are alike.

    The unit of the loss is a layer of a model with all examples of the batch, whose encoded rows are laid end to end: two
    units are as alike as the mean cosine of their rows.
    """
    count, flat = models[0].shape[1], labels.flatten().to(models[0].device)
    encoders = Encoders([model.shape[2] for model in models], settings).to(models[0].device)

    def loss(rows: Int[Tensor, " row"]) -> Float[Tensor, ""]:
        similarity = layer_similarity(encoders, [model[:, rows] for model in models])
        return supervised_contrastive(similarity, flat, settings.temperature)

    batches = _batches(count, settings.batch_size, settings)
    return _trained(encoders, batches, loss, settings, advance)


def fit_pairs(
    left: Float[Tensor, "row left_width"],
    right: Float[Tensor, "row right_width"],
    settings: ContraSimConfig,
    advance: Advance | None = None,
) -> Encoders:
    """Encoders for which row i of one side is like row i of the other, by symmetric InfoNCE over the batch."""
    encoders = Encoders((left.shape[1], right.shape[1]), settings).to(left.device)
    scale = torch.tensor(1 / settings.temperature, device=left.device)

    def loss(rows: Int[Tensor, " row"]) -> Float[Tensor, ""]:
        return infonce(encoders(left[rows]), encoders(right[rows]), scale).loss

    batches = _batches(len(left), settings.pair_batch_size, settings)
    return _trained(encoders, batches, loss, settings, advance)


def layer_similarity(encoders: Encoders, models: Sequence[Model]) -> Float[Tensor, "unit unit"]:
    """Mean cosine of the encoded rows of any two layers; the units are the layers of the first model, then of the second."""
    encoded = torch.cat([encoders(model).flatten(1) for model in models])
    return encoded @ encoded.T / models[0].shape[1]


def _trained(
    encoders: Encoders,
    batches: Iterator[Int[Tensor, " row"]],
    loss: Callable[[Tensor], Tensor],
    settings: ContraSimConfig,
    advance: Advance | None,
) -> Encoders:
    optimizer = torch.optim.Adam(encoders.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    device = next(encoders.parameters()).device
    for step, rows in enumerate(itertools.islice(batches, settings.steps)):
        value = loss(rows.to(device))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        if advance is not None:
            advance(step + 1, settings.steps)
    return encoders.eval()


def _batches(count: int, size: int, settings: ContraSimConfig) -> Iterator[Int[Tensor, " row"]]:
    """All examples in a new order, again and again, in batches of nearly one size: one row alone would have no negative."""
    generator = torch.Generator().manual_seed(settings.seed)
    while True:
        yield from torch.randperm(count, generator=generator).tensor_split(max(1, round(count / size)))
