"""`SparseAutoencoder`: features as a sum of few of many directions."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

BLOCK = 4096
"""Rows whose activations are held at a time."""


class SparseAutoencoder(nn.Module):
    """Encoder, decoder and pre-bias, over rows divided by `scale`.

    With u = x / scale: z = s(W (u - b) + c) and x' = scale (z D + b), where D holds a direction of length 1 a unit. s is
    the ReLU of the `k` largest (Gao et al. 2024, eq. 3), or of all where `k` is None (Bricken et al. 2023).
    """

    def __init__(self, width: int, units: int, k: int | None) -> None:
        super().__init__()
        self.k = k
        self.encoder = nn.Parameter(torch.zeros(units, width))
        self.encoder_bias = nn.Parameter(torch.zeros(units))
        self.directions = nn.Parameter(torch.zeros(units, width))
        self.centre = nn.Parameter(torch.zeros(width))
        self.scale: Float[Tensor, ""]
        self.register_buffer("scale", torch.ones(()))

    @property
    def width(self) -> int:
        """Of the features."""
        return self.directions.shape[1]

    @property
    def units(self) -> int:
        """How many there are."""
        return self.directions.shape[0]

    def encode(self, rows: Float[Tensor, "row width"]) -> Float[Tensor, "row unit"]:
        """Activations, none below zero; with `k` at most so many of a row are above it, and among equals it keeps k."""
        return self.activate(self.before_activation(rows / self.scale))

    def decode(self, activations: Float[Tensor, "row unit"]) -> Float[Tensor, "row width"]:
        """Features of activations."""
        return (activations @ self.directions + self.centre) * self.scale

    def forward(self, rows: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        """The rows, as few units say them."""
        return self.decode(self.encode(rows))

    def before_activation(self, scaled: Float[Tensor, "row width"]) -> Float[Tensor, "row unit"]:
        """What the units see of rows that are divided by `scale`."""
        return (scaled - self.centre) @ self.encoder.T + self.encoder_bias

    def activate(self, seen: Float[Tensor, "row unit"]) -> Float[Tensor, "row unit"]:
        """Of what the units see, what counts."""
        return F.relu(seen) if self.k is None else keep_largest(seen, self.k)

    @torch.no_grad()
    def encoded(self, rows: Float[Tensor, "row width"]) -> Iterator[tuple[Tensor, Float[Tensor, "block unit"]]]:
        """Blocks of the rows and their activations, both where the autoencoder is."""
        for block in rows.split(BLOCK):
            block = block.to(self.directions.device)
            yield block, self.encode(block)

    @torch.no_grad()
    def normalise(self) -> None:
        """Bring every direction back to length 1: it would otherwise grow, and its activations shrink, for nothing."""
        self.directions.copy_(F.normalize(self.directions, dim=1))


def keep_largest(seen: Float[Tensor, "row unit"], k: int) -> Float[Tensor, "row unit"]:
    """The `k` largest of each row where they are above zero, and zero elsewhere."""
    values, places = seen.topk(k, dim=1, sorted=False)
    return torch.zeros_like(seen).scatter(1, places, F.relu(values))
