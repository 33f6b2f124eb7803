"""What an objective costs beside `clip`, told before a run: in image tokens, which is where the time goes."""

from collections.abc import Mapping
from dataclasses import dataclass

from mmclip.objectives.base import ObjectiveNeeds

FORWARD = 1 / 3
"""Of the work of a forward and a backward pass together (Kaplan et al. 2020, section 2.1)."""
Sides = tuple[int, int]


@dataclass(frozen=True)
class ImageCost:
    """Work of the image tower on a sample, where its forward and backward pass over a whole picture is 1."""

    learning: float
    """Of the tower that learns."""
    teaching: float
    """Of the towers that follow it, which have no backward pass."""

    @property
    def total(self) -> float:
        """All of it: beside `clip`, as many times its price."""
        return self.learning + self.teaching


def image_cost(
    needs: ObjectiveNeeds, sides: Mapping[str, Sides], whole: Sides, patch: Sides | None = None, dropped: float = 0.0
) -> ImageCost:
    """The cost of a step of an objective, or of several joined.

    `sides` are heights and widths in pixels of the views by name, `whole` those of the picture that meets the caption, of
    whose patches a share is `dropped`. A tower without patches is taken to cost what its pixels do. Left out: the text tower,
    heads and decoders, the loss, and a teacher of another architecture.
    """
    unit = _tokens(whole, patch)
    copy_cost = {view.name: _tokens(sides[view.name], patch) / unit for view in needs.views}
    learning = sum((copy_cost[view.name] * view.learnt * (1 - view.masked) for view in needs.views), 0.0)
    if needs.pairs and needs.embeds_of is None:
        learning += 1.0 - dropped
    teaching = 0.0
    if needs.momentum is not None:
        taught = sum(copy_cost[view.name] * view.taught for view in needs.views if view.name in needs.momentum.views)
        teaching = FORWARD * (needs.momentum.pairs + taught)
    return ImageCost(learning, teaching)


def _tokens(sides: Sides, patch: Sides | None) -> float:
    (height, width), (tall, wide) = sides, patch or (1, 1)
    return float((height // tall) * (width // wide))
