"""The price of objectives beside `clip`, in image tokens, against the numbers that their papers and we count by hand."""

import pytest

from mmclip.objectives import (
    ByolConfig,
    ClipConfig,
    DinoConfig,
    MaskedConfig,
    MocoConfig,
    ModelShape,
    MomentumNeed,
    ObjectiveConfig,
    ObjectiveNeeds,
    QueueConfig,
    SiglipConfig,
    SimclrConfig,
    SwavConfig,
    VicregConfig,
    ViewNeed,
)
from mmclip.objectives.combined import AuxiliaryConfig, build_objective
from mmclip.objectives.cost import ImageCost, image_cost

SIDES = {"strong": (224, 224), "global": (224, 224), "local": (96, 96), "masked": (224, 224)}
SHAPE = ModelShape(embed=16, pooled=16, image_size=(224, 224), patch_size=(16, 16))


def of(needs: ObjectiveNeeds, dropped: float = 0.0) -> ImageCost:
    return image_cost(needs, SIDES, (224, 224), (16, 16), dropped)


def beside(main: ObjectiveConfig, auxiliary: ObjectiveConfig) -> ImageCost:
    objective = build_objective(main, [AuxiliaryConfig(objective=auxiliary)], SHAPE)
    return of(objective.needs)


@pytest.mark.parametrize(
    ("objective", "cost"),
    [
        (ClipConfig(), 1),
        (SiglipConfig(), 1),
        (QueueConfig(queue_size=8), 4 / 3),
        (SimclrConfig(), 2),
        (VicregConfig(), 2),
        (ByolConfig(), 2 + 2 / 3),
        (MocoConfig(version=2), 1 + 1 / 3),  # one view asks, the other answers
        (MocoConfig(version=3), 2 + 2 / 3),
        (DinoConfig(local_views=8), (2 * 196 + 8 * 36 + 2 * 196 / 3) / 196),
        (SwavConfig(local_views=6), (2 * 196 + 6 * 36) / 196),
        (MaskedConfig(share=0.75), 0.25),
    ],
    ids=lambda value: getattr(value, "type", ""),
)
def test_each_view_costs_its_patches_and_a_teacher_a_forward_pass(objective: ObjectiveConfig, cost: float):
    assert of(objective.needs).total == pytest.approx(cost)


def test_slip_encodes_three_pictures_in_place_of_one():
    small = SimclrConfig(hidden=8, out=4)
    assert beside(ClipConfig(), small).total == pytest.approx(3)


def test_silc_costs_four_times_since_the_caption_meets_the_large_crops():
    cost = beside(SiglipConfig(image_view="global"), DinoConfig(prototypes=8, hidden=8, bottleneck=4, local_views=8))
    assert cost.learning * 196 == pytest.approx(2 * 196 + 8 * 36)  # 680 tokens
    assert cost.total == pytest.approx(4.1, abs=0.05)


def test_dropped_patches_are_those_of_the_picture_that_meets_the_caption():
    assert of(ClipConfig().needs, dropped=0.5) == ImageCost(0.5, 0.0)
    assert of(SimclrConfig().needs, dropped=0.5).total == 2


def test_a_tower_without_patches_costs_what_its_pixels_do():
    needs = ObjectiveNeeds(
        views=(ViewNeed("half", copies=4, size=32),), momentum=MomentumNeed(0.9, 1.0, views=("half",), pairs=True)
    )
    cost = image_cost(needs, {"half": (32, 32)}, (64, 64))
    assert (cost.learning, cost.teaching) == (pytest.approx(2), pytest.approx(2 / 3))
