import math

import pytest
import torch

from mmclip.errors import UserError
from mmclip.training.optim import OptimizerConfig, parameter_groups
from mmclip.training.progress import LengthConfig
from mmclip.training.schedule import ScheduleConfig, learning_rate


def test_warmup_rises_linearly_to_the_peak():
    schedule = ScheduleConfig(warmup_samples=100)
    assert learning_rate(schedule, 1.0, 25, 1000) == pytest.approx(0.25)
    assert learning_rate(schedule, 1.0, 100, 1000) == 1.0


def test_cosine_falls_to_the_final_fraction():
    schedule = ScheduleConfig(warmup_samples=0, final_fraction=0.1)
    assert learning_rate(schedule, 2.0, 500, 1000) == pytest.approx(2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2))
    assert learning_rate(schedule, 2.0, 1000, 1000) == pytest.approx(0.2)


def test_learning_rate_never_leaves_its_range():
    schedule = ScheduleConfig(warmup_samples=300)
    rates = [learning_rate(schedule, 1.0, seen, 1000) for seen in range(10, 1001, 10)]
    assert max(rates) == 1.0
    assert min(rates) >= 0
    assert rates.index(1.0) == 29


@pytest.mark.parametrize("warmup", [1000, 5000])
def test_warmup_that_outlasts_the_run_is_refused(warmup: int):
    with pytest.raises(UserError, match=rf"warmup_samples={warmup} must be less than the 1000"):
        ScheduleConfig(warmup_samples=warmup).warmup(1000)


def test_length_counts_steps_samples_and_epochs():
    assert LengthConfig(steps=7).total_steps(32, 1000) == 7
    assert LengthConfig(samples=65).total_steps(32, 1000) == 3
    assert LengthConfig(epochs=1.5).total_steps(100, 1000) == 15
    assert LengthConfig(epochs=0.001).total_steps(100, 1000) == 1


@pytest.mark.parametrize("length", [{}, {"steps": 1, "epochs": 1.0}, {"samples": 0}, {"steps": -3}])
def test_length_that_says_nothing_or_too_much_is_refused(length: dict):
    with pytest.raises(UserError, match="length"):
        LengthConfig(**length).total_steps(32, 1000)


def test_vectors_and_scalars_do_not_decay():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    module[0].weight.requires_grad_(True)
    decays, others = parameter_groups(module.named_parameters(), weight_decay=0.3)
    assert [p.shape for p in decays["params"]] == [torch.Size([4, 3])]
    assert decays["weight_decay"] == 0.3
    assert len(others["params"]) == 3
    assert others["weight_decay"] == 0.0


def test_frozen_parameters_are_left_out():
    module = torch.nn.Linear(3, 4)
    module.weight.requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(module.named_parameters(), 0.2)) == 1


def test_absurd_learning_rate_is_refused():
    with pytest.raises(ValueError, match=r"optimizer.lr=0.0"):
        OptimizerConfig(lr=0.0)
