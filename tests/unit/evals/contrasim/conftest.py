"""Features whose answers are known: models that share their axes, and models that share nothing."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmclip_data.features.layers import LayerFeatures

ROWS, WIDTH, LAYERS = 120, 24, 4


def features_of(layers: list[Tensor]) -> LayerFeatures:
    names = tuple(f"block {number + 1} mean" for number in range(len(layers)))
    return LayerFeatures("image", (*names, "embedding"), (*layers, layers[-1][:, :5]), torch.arange(len(layers[0])))


def unrelated_models(count: int, seed: int = 0) -> list[LayerFeatures]:
    """Layers of the same contents at the same depth, each on axes of its own, with an offset of its own."""
    generator = torch.Generator().manual_seed(seed)
    contents = torch.randn(ROWS, 6, generator=generator)

    def layer() -> Tensor:
        return contents @ torch.randn(6, WIDTH, generator=generator) + torch.randn(WIDTH, generator=generator)

    return [features_of([layer() for _ in range(LAYERS)]) for _ in range(count)]


def related_models(count: int, seed: int = 0) -> list[LayerFeatures]:
    """Models of one origin: a layer moves every example along the same axis in each, and all else is noise of its own.

    No similarity between examples tells such layers apart, since only their offset does; nor do they tell their model.
    """
    generator = torch.Generator().manual_seed(seed)

    def layer(depth: int) -> Tensor:
        rows = torch.randn(ROWS, WIDTH, generator=generator)
        rows[:, depth] += 3
        return rows

    return [features_of([layer(depth) for depth in range(LAYERS)]) for _ in range(count)]


@pytest.fixture(scope="session")
def unrelated() -> Callable[[int], list[LayerFeatures]]:
    return unrelated_models


@pytest.fixture(scope="session")
def related() -> Callable[[int], list[LayerFeatures]]:
    return related_models
