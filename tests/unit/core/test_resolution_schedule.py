"""Changes of the picture size in a run: where they lie, and what becomes of weights, average and moments."""

from copy import deepcopy
from typing import Any

import open_clip.model
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.errors import UserError
from mmclip.objectives.clip import ClipConfig
from mmclip.release import create
from mmclip.towers.architecture import ModelConfig
from mmclip.towers.two_tower import TwoTower
from mmclip.training.accumulate import AccumulationConfig
from mmclip.training.ema import EmaConfig, WeightAverage
from mmclip.training.module import TrainingModule
from mmclip.training.optim import OptimizerConfig, build_optimizer
from mmclip.training.progress import Progress
from mmclip.training.resolution import Part, ResolutionConfig, part_before, parts_of, resized_moment
from mmclip.training.schedule import ScheduleConfig
from mmclip.training.step import TrainStep, UpdateRule

VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
TIMM = {
    **VIT,
    "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 32},
}


def build(model_cfg: dict[str, Any], micro_batch_size: int | None = None) -> TrainStep:
    torch.manual_seed(0)
    towers = create(ModelConfig(inline=model_cfg), needs_logit_bias=False)
    module = TrainingModule(towers, ClipConfig().build(), "fp32")
    settings = OptimizerConfig(lr=1e-3)
    rule = UpdateRule(settings, ScheduleConfig(warmup_samples=0), 1000, 8, 0)
    optimizer, ema = build_optimizer(settings, module), WeightAverage(EmaConfig(decay=0.5), towers)
    accumulation = AccumulationConfig(micro_batch_size=micro_batch_size, graph_gib=1.0 if micro_batch_size else 0.0)
    return TrainStep(Accelerator(cpu=True), module, optimizer, rule, accumulation, ema)


def batch_of(towers: TwoTower, size: int, seed: int) -> ImageTextBatch:
    draws = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (8, 3, size, size), dtype=torch.uint8, generator=draws)
    tokens = towers.tokenizer([f"number {seed} {row}" for row in range(8)])
    return ImageTextBatch(images, tokens, torch.arange(8), tuple(map(str, range(8))), DataPosition(8))


def train(step: TrainStep, size: int, steps: range) -> None:
    for number in steps:
        step(batch_of(step.module.towers, size, number), Progress(number, number * 8))


def test_parts_end_where_shares_and_samples_say():
    resolution = [ResolutionConfig(size=16, until=0.25), ResolutionConfig(size=24, until=81)]
    # 20 steps of 8: a quarter is step 5; of 81 samples the last batch is completed, that of step 11.
    parts = parts_of(resolution, (32, 32), 20, 8)
    assert parts == [Part((16, 16), 5), Part((24, 24), 11), Part((32, 32), 20)]
    sizes = [part_before(parts, step).size[0] for step in (0, 5, 6, 11, 12, 20)]
    assert sizes == [16, 16, 24, 24, 32, 32]


@pytest.mark.parametrize(
    ("resolution", "message"),
    [
        ([ResolutionConfig(size=16, until=160)], r"until=160 ends at step 20: expected more than 0 and less than 20"),
        (
            [ResolutionConfig(size=16, until=0.5), ResolutionConfig(size=24, until=0.5)],
            "size=24 until=0.5 ends at step 10: expected more than 10",
        ),
    ],
)
def test_parts_that_leave_no_step_are_refused(resolution: list[ResolutionConfig], message: str):
    with pytest.raises(UserError, match=message):
        parts_of(resolution, (32, 32), 20, 8)


@pytest.mark.parametrize("model_cfg", [VIT, TIMM], ids=["open_clip", "timm"])
def test_a_change_interpolates_weights_average_and_moments(model_cfg: dict[str, Any]):
    step = build(model_cfg)
    towers, ema = step.module.towers, step.ema
    assert ema is not None
    step.set_image_size((16, 16))
    train(step, 16, range(3))
    name = next(n for n, _ in towers.backbone.visual.named_parameters() if "pos" in n)
    grid = towers.image_grid
    assert grid is not None
    small = towers.backbone.visual.get_parameter(name)
    average = ema.towers.backbone.visual.get_parameter(name).clone()
    moments = deepcopy(step.trained.optimizer.state[small])
    others = {n: deepcopy(step.trained.optimizer.state[p]) for n, p in step.module.named_parameters() if p is not small}
    assert step.set_image_size((32, 32)) == ()
    big = towers.backbone.visual.get_parameter(name)
    expected = big.flatten(0, -2)
    for before, after in ((small, big), (average, ema.towers.backbone.visual.get_parameter(name))):
        # open_clip's own routine is the oracle of its own towers and of timm's, which interpolate alike.
        state = {"visual.positional_embedding": before.detach().flatten(0, -2).clone()}
        oracle: Any = deepcopy(towers.backbone)
        oracle.visual.grid_size = towers.image_grid
        open_clip.model.resize_pos_embed(state, oracle)
        expected = state["visual.positional_embedding"].view_as(after)
        torch.testing.assert_close(after.detach(), expected, rtol=0, atol=1e-6)
    kept = step.trained.optimizer.state[big]
    assert kept["step"] == moments["step"] == 3
    for key in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(kept[key], resized_moment(moments[key], grid, (grid[0] * 2, grid[1] * 2)))
    assert (kept["exp_avg_sq"] >= 0).all()
    for n, parameter in step.module.named_parameters():
        if n in others and others[n]:
            assert torch.equal(step.trained.optimizer.state[parameter]["exp_avg"], others[n]["exp_avg"])
    before = big.detach().clone()
    train(step, 32, range(3, 4))
    assert not torch.equal(before, big)
    assert kept["step"] == 4 or step.trained.optimizer.state[big]["step"] == 4


def test_moments_are_bilinear_over_the_grid_and_leave_other_tokens_alone():
    moment = torch.rand(1 + 4, 3)
    resized = resized_moment(moment, (2, 2), (4, 4))
    assert torch.equal(resized[0], moment[0])
    picture = moment[1:].T.reshape(1, 3, 2, 2)
    expected = F.interpolate(picture, size=(4, 4), mode="bilinear", antialias=True)[0].flatten(1).T
    assert torch.allclose(resized[1:], expected)
    assert torch.equal(resized_moment(moment[None], (2, 2), (4, 4))[0], resized)


def test_a_changed_size_is_trained_as_if_the_model_had_been_built_with_it():
    """One step after a change equals one of new parts around the same weights and moments."""
    step = build(VIT, micro_batch_size=4)
    step.set_image_size((16, 16))
    train(step, 16, range(2))
    step.set_image_size((32, 32))
    fresh = build(VIT, micro_batch_size=4)
    fresh.module.load_state_dict(step.module.state_dict())
    fresh.trained.optimizer.load_state_dict(deepcopy(step.trained.optimizer.state_dict()))
    for other in (step, fresh):
        train(other, 32, range(2, 4))
    for (name, ours), (_, theirs) in zip(step.module.named_parameters(), fresh.module.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_towers_bound_to_their_size_are_refused_by_name_and_left_alone():
    resnet = {**VIT, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}
    with pytest.raises(UserError, match="ModifiedResNet cannot change their size"):
        TwoTower(resnet).refuse_image_sizes([(64, 64), (32, 32)])
    vit = TwoTower(VIT)
    with pytest.raises(UserError, match="no multiple of the patch size 8; nearest: 24"):
        vit.refuse_image_sizes([(16, 16), (23, 23)])
    assert vit.spec.size == (32, 32)
    assert vit.image_grid == (4, 4)


def test_a_locked_timm_tower_stays_locked():
    towers = TwoTower(TIMM)
    towers.backbone.visual.requires_grad_(False)
    towers.set_image_size(64)
    assert not any(parameter.requires_grad for parameter in towers.backbone.visual.parameters())
