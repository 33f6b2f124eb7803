"""Further views of a batch through an image tower: copies of one view in one pass, corrupted where an objective wants it."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmclip.batch import ImageTextBatch, ViewOutput
from mmclip.errors import UserError
from mmclip.objectives.base import Pixels, ViewNeed
from mmclip.ops.philox import ranks_of_keys
from mmclip.randomness import Stream
from mmclip.towers.patches import kept_patches
from mmclip.towers.two_tower import TwoTower

Numbers = Mapping[str, tuple[int, ...]]
"""Where the copies of each named view stand in `ImageTextBatch.views`."""
NO_VIEWS: Numbers = MappingProxyType({})


def normalised(towers: TwoTower, batch: ImageTextBatch, needs: Sequence[ViewNeed], numbers: Numbers) -> Pixels:
    """The clean pixels of the views that are needed, as `towers` read them."""
    dtype = towers.logit_scale.dtype
    return {
        need.name: tuple(towers.spec.normalise(batch.views[number], dtype) for number in numbers[need.name])
        for need in needs
    }


def encode_views(
    towers: TwoTower, batch: ImageTextBatch, needs: Sequence[ViewNeed], numbers: Numbers, pixels: Pixels
) -> dict[str, tuple[ViewOutput, ...]]:
    """What `towers` make of the views that a tower learns from, masked and with noise where that is needed."""
    return {
        need.name: _encode(
            towers, batch.keys, need, numbers[need.name][: need.learnt], pixels[need.name][: need.learnt]
        )
        for need in needs
    }


def refuse_views(towers: TwoTower, needs: Sequence[ViewNeed]) -> None:
    """Refuse views that these towers cannot encode.

    Raises:
        UserError: naming the view and the reason.
    """
    can = towers.abilities
    for need in needs:
        reasons = {
            "features of single patches": can.patch_tokens if need.tokens else None,
            f"{need.masked:.0%} of the patches masked": can.patch_dropout if need.masked else None,
            "pictures of another size": can.small_crops if need.style == "local" or need.size else None,
        }
        refused = [f"{what}: {why}" for what, why in reasons.items() if why]
        if refused:
            raise UserError(
                f"the objective's view {need.name!r} needs {'; '.join(refused)}: choose a ViT, or another objective"
            )


def _encode(
    towers: TwoTower,
    keys: Int[Tensor, " batch"],
    need: ViewNeed,
    numbers: Sequence[int],
    pixels: Sequence[Float[Tensor, "batch 3 _ _"]],
) -> tuple[ViewOutput, ...]:
    kept = None
    if need.masked:
        grid = towers.image_grid
        assert grid is not None, "refused before"
        patches = grid[0] * grid[1]
        kept = torch.cat([kept_patches(keys, patches, need.masked, 1 + number) for number in numbers])
    if need.noise:
        pixels = [_noisy(of, keys, need.noise, 1 + number) for of, number in zip(pixels, numbers, strict=True)]
    found = towers.encode_view(torch.cat(list(pixels)), kept, embeds=need.embeds, tokens=need.tokens)
    size = len(keys)
    return tuple(found.part(slice(copy * size, (copy + 1) * size)) for copy in range(len(numbers)))


def _noisy(
    pixels: Float[Tensor, "batch 3 height width_px"], keys: Int[Tensor, " batch"], sigma: float, view: int
) -> Float[Tensor, "batch 3 height width_px"]:
    """With Gaussian noise from a generator for each sample: another layout of the batch or a second pass draws the same."""
    seeds = ranks_of_keys(keys, Stream.NOISE, 1, view)[:, 0].tolist()
    noise = torch.empty_like(pixels)
    for row, seed in zip(noise, seeds, strict=True):
        row.normal_(generator=torch.Generator(pixels.device).manual_seed(seed))
    return pixels + sigma * noise
