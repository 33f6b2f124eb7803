"""What is broken on purpose: a measure that still succeeds then does not measure what it seems to."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmclip_eval.contrasim.fit import Model


def wrong_correspondence(models: int, layers: int, seed: int) -> Int[Tensor, "model layer"]:
    """A label for each layer of each model, the layers of each model permuted at random: which are "the same" is invented."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(layers, generator=generator) for _ in range(models)])


def right_correspondence(models: int, layers: int) -> Int[Tensor, "model layer"]:
    """Each layer is the same as the one of its number."""
    return torch.arange(layers).expand(models, layers).clone()


def rotated(models: list[Model], seed: int) -> list[Model]:
    """Each layer turned by a random orthogonal matrix of its own: nothing that CKA sees changes."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.stack([layer @ _rotation(layer, generator) for layer in model]) for model in models]


def unpaired(models: list[Model], seed: int) -> list[Model]:
    """The examples of each model in an order of its own: no row of one model belongs to that row of another."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(model.shape[1], generator=generator).to(model.device) for model in models]
    return [model[:, order] for model, order in zip(models, orders, strict=True)]


def _rotation(layer: Float[Tensor, "row width"], generator: torch.Generator) -> Float[Tensor, "width width"]:
    width = layer.shape[1]
    drawn = torch.randn(width, width, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(drawn)
    return (q * r.diagonal().sign()).to(layer)  # with these signs the matrix is drawn evenly (Mezzadri 2007)
