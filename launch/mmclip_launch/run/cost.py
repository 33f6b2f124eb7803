"""The price of a run's objectives beside `clip`, in words that stand at its start."""

from itertools import pairwise

from mmclip.objectives.base import Objective
from mmclip.objectives.cost import ImageCost, image_cost
from mmclip.towers.two_tower import TwoTower
from mmclip_data.loading.augment import ViewConfig
from mmclip_launch.run.config import RunConfig


def cost_of_run(config: RunConfig, objective: Objective, towers: TwoTower, views: tuple[ViewConfig, ...]) -> ImageCost:
    """The mean over the run: auxiliary objectives and dropped patches cost what they do while they last."""
    sides = {view.name: view.sides(towers.spec) for view in views if view.name}
    tail = 1 - towers.settings.unmasked_tail
    ends = {0.0, tail, 1.0, *(end for one in config.auxiliary for end in (one.start, one.end))}
    learning = teaching = 0.0
    for start, end in pairwise(sorted(ends)):
        middle = (start + end) / 2
        dropped = towers.patch_dropout if middle < tail else 0.0
        cost = image_cost(objective.needs_at(middle), sides, towers.spec.size, towers.patch_size, dropped)
        learning, teaching = learning + (end - start) * cost.learning, teaching + (end - start) * cost.teaching
    return ImageCost(learning, teaching)


def told_of_cost(cost: ImageCost) -> str:
    """One line about the price."""
    followed = f", {cost.teaching:.2f} of it for the teacher" if cost.teaching else ""
    return f"cost of the image tower beside clip: {cost.total:.2f} x a sample{followed} (without text tower, heads and loss)"
