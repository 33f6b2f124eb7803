"""Towers that follow the trained ones as a moving average and teach them (He et al. 2020; Grill et al. 2020)."""

from copy import deepcopy
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mmclip.batch import ImageTextBatch, TowerOutput, ViewOutput
from mmclip.objectives.base import ObjectiveNeeds
from mmclip.towers.two_tower import TwoTower
from mmclip.training.precision import Precision, autocast
from mmclip.training.views import Numbers, encode_views, normalised


class MomentumTowers:
    """A copy of the towers in evaluation mode, which learns nothing itself and sees every picture whole.

    Where no pair is needed, its text tower is never run, moved or saved.
    """

    def __init__(self, towers: TwoTower, needs: ObjectiveNeeds, numbers: Numbers, precision: Precision) -> None:
        assert needs.momentum is not None, "asked for only where an objective has such a teacher"
        self.need = needs.momentum
        seen = [view for view in needs.views if view.name in self.need.views]
        self.views = [replace(view, copies=view.taught, masked=0.0, noise=0.0, learning=None) for view in seen]
        self.numbers = {view.name: numbers[view.name][-view.taught :] for view in seen}
        self.precision: Precision = precision
        self.towers = deepcopy(towers).requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, batch: ImageTextBatch, parts: int) -> TowerOutput:
        """What it makes of a batch, encoded in so many parts."""
        found = [self._encode(part) for part in batch.split(parts)]
        if len(found) == 1:
            return found[0]
        views = {
            name: tuple(_joined([part.views[name][copy] for part in found]) for copy in range(len(copies)))
            for name, copies in found[0].views.items()
        }
        image_embed, text_embed = (
            torch.cat([getattr(part, name) for part in found]) for name in ("image_embed", "text_embed")
        )
        return TowerOutput(image_embed, text_embed, found[-1].logit_scale, found[-1].logit_bias, views=views)

    @torch.no_grad()
    def update(self, towers: TwoTower, share: float, skipped: Float[Tensor, ""], teaches: bool = True) -> None:
        """Move towards the weights after a step before which a `share` of the run was done; not where it was skipped.

        As long as it teaches nobody it is a copy, so that it starts from what has been learnt by then.
        """
        moved, taken = 1 - self.need.at(share) if teaches else 1.0, 1 - skipped
        own = self.state()
        for name, weight in towers.backbone.named_parameters():
            if name in own:
                own[name].lerp_(weight, moved * taken.to(weight.dtype))
        for name, buffer in towers.backbone.named_buffers():  # statistics of norms are averages already
            if name in own:
                own[name].copy_(buffer)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it, by the names of the backbone; the tensors themselves."""
        everything = self.towers.backbone.state_dict()
        return {name: tensor for name, tensor in everything.items() if self.need.pairs or name.startswith("visual.")}

    def _encode(self, batch: ImageTextBatch) -> TowerOutput:
        towers = self.towers
        with autocast(self.precision, batch.images.device):
            pixels = normalised(towers, batch, self.views, self.numbers)
            views = encode_views(towers, batch, self.views, self.numbers, pixels)
            if self.need.pairs:
                both = towers(batch.images, batch.tokens, batch.lengths)
                return TowerOutput(both.image_embed, both.text_embed, both.logit_scale, both.logit_bias, views=views)
        nothing = batch.images.new_zeros((len(batch.ids), 0), dtype=towers.logit_scale.dtype)
        return TowerOutput(nothing, nothing, towers.logit_scale.exp(), None, views=views)


def part_of(output: TowerOutput, samples: slice) -> TowerOutput:
    """The rows of some samples, features of patches included."""
    views = {name: tuple(view.part(samples) for view in copies) for name, copies in output.views.items()}
    embeds = {name: getattr(output, name)[samples] for name in ("image_embed", "text_embed")}
    return replace(output, **embeds, views=views)


def _joined(parts: list[ViewOutput]) -> ViewOutput:
    def rows(name: str) -> Tensor | None:
        return None if getattr(parts[0], name) is None else torch.cat([getattr(part, name) for part in parts])

    pooled = rows("pooled")
    assert pooled is not None
    return ViewOutput(pooled, rows("embed"), rows("tokens"))
