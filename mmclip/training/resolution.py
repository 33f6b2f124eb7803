"""Training at several picture sizes: most of a run on small pictures, its end at the model's own size.

CLIPA (Li et al. 2023, section 4) and RECLIP (Li et al. 2023, section 3): attention and patches cost with the number of
patches, and a short end at full size recovers what small pictures cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmclip.config import config
from mmclip.errors import UserError
from mmclip.towers.patches import Grid
from mmclip.training.checkpoint.contents import Trained

MOMENTS = ("exp_avg", "exp_avg_sq")


@config
class ResolutionConfig:
    """A part of a run at another picture size than the model's own, in which every run ends."""

    size: int
    """Side of the training pictures in pixels."""
    until: float
    """Where the part ends: below 1 a share of the run, from 1 on a number of samples seen; its last batch is completed."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"resolution: size={self.size}: expected a side in pixels, such as 112")
        if not self.until > 0:
            raise UserError(f"resolution: until={self.until}: expected a share of the run, such as 0.8, or samples")

    def end_step(self, total_steps: int, global_batch_size: int) -> int:
        """The first step of a run that is not in this part."""
        samples = self.until * total_steps * global_batch_size if self.until < 1 else self.until
        return -int(-samples // global_batch_size)


@dataclass(frozen=True)
class Part:
    """Steps at one size."""

    size: Grid
    """Height and width of the pictures in pixels."""
    end_step: int


def parts_of(
    resolution: Sequence[ResolutionConfig], own_size: Grid, total_steps: int, global_batch_size: int
) -> list[Part]:
    """All steps of a run, the last ones at the model's own size.

    Raises:
        UserError: the parts do not follow each other, or leave no step for the own size.
    """
    parts: list[Part] = []
    for entry in resolution:
        end = entry.end_step(total_steps, global_batch_size)
        before = parts[-1].end_step if parts else 0
        if not before < end < total_steps:
            raise UserError(
                f"resolution: size={entry.size} until={entry.until:g} ends at step {end:,}: expected more than {before:,} "
                f"and less than {total_steps:,}, since each part has a step and the last is of the model's own size"
            )
        parts.append(Part((entry.size, entry.size), end))
    return [*parts, Part(own_size, total_steps)]


def part_before(parts: Sequence[Part], step: int) -> Part:
    """The part that a run of so many steps was trained in last: at a boundary the one that ends there."""
    return next(part for part in parts if step <= part.end_step)


def set_image_size(trained: Trained, size: Grid) -> tuple[str, ...]:
    """Go on at another size: weights and their average as `TwoTower.set_image_size` has it, AdamW's moments beside them.

    Moments are interpolated bilinearly: its weights are not negative, so a second moment stays one, and with the same
    weights the first keeps its bound by it, |sum w m| <= sqrt(sum w m^2). Parameters that are no grid of positions, such
    as tables of relative positions, begin their moments anew; their names are returned. Some parameters are other tensors
    afterwards: wrappers have to be made again.

    Raises:
        UserError: the image tower cannot take the size.
    """
    towers = trained.module.towers
    before, grid = dict(towers.backbone.named_parameters()), towers.image_grid
    towers.set_image_size(size)
    after, state = dict(towers.backbone.named_parameters()), trained.optimizer.state
    replaced = {parameter: after[name] for name, parameter in before.items() if after[name] is not parameter}
    for group in trained.optimizer.param_groups:
        group["params"] = [replaced.get(parameter, parameter) for parameter in group["params"]]
    anew: list[str] = []
    for old, new in replaced.items():
        old_state = state.pop(old, None)
        if not old_state:
            continue
        if grid is not None and towers.image_grid is not None and is_grid(old, new, grid, towers.image_grid):
            moments = {key: resized_moment(old_state[key], grid, towers.image_grid) for key in MOMENTS}
            state[new] = {**old_state, **{key: torch.empty_like(new).copy_(moments[key]) for key in MOMENTS}}
        else:
            anew.append(next(name for name, parameter in after.items() if parameter is new))
    if trained.ema is not None:
        trained.ema.towers.set_image_size(size)
    return tuple(anew)


def is_grid(old: Tensor, new: Tensor, before: Grid, after: Grid) -> bool:
    """Whether two tensors [..., token, width] are the positions of two grids, each behind the same few other tokens."""
    prefix = old.shape[-2] - before[0] * before[1] if old.ndim >= 2 else -1
    return prefix >= 0 and new.shape == (*old.shape[:-2], prefix + after[0] * after[1], old.shape[-1])


def resized_moment(
    moment: Float[Tensor, "*one token width"], before: Grid, after: Grid
) -> Float[Tensor, "*one resized_token width"]:
    """Bilinear and antialiased over the grid, which stands behind tokens that stay as they are."""
    prefix = moment.shape[-2] - before[0] * before[1]
    tokens = moment.flatten(0, -2)
    picture = tokens[prefix:].T.unflatten(1, before)[None]
    resized = F.interpolate(picture, size=after, mode="bilinear", antialias=True, align_corners=False)
    joined = torch.cat([tokens[:prefix], resized[0].flatten(1).T])
    return joined.reshape(*moment.shape[:-2], *joined.shape)
