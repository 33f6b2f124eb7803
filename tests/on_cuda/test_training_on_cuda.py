"""A step on a device does what it does on the CPU; in half precision it stays near, and it skips what is not finite."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.objectives.clip import ClipConfig
from mmclip.release import create
from mmclip.towers.architecture import ModelConfig
from mmclip.towers.settings import TowersConfig
from mmclip.training.accumulate import AccumulationConfig
from mmclip.training.module import TrainingModule
from mmclip.training.optim import OptimizerConfig, build_optimizer
from mmclip.training.precision import Precision
from mmclip.training.progress import Progress
from mmclip.training.schedule import ScheduleConfig
from mmclip.training.step import TrainStep, UpdateRule

SAMPLES, STEPS = 32, 4
Weights = dict[str, torch.Tensor]


def batch_of(step: TrainStep, number: int, poison: bool = False) -> ImageTextBatch:
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (SAMPLES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    texts = [f"picture {place} " + "of a thing " * (place % 5) for place in range(SAMPLES)]
    keys = torch.arange(SAMPLES) + number * SAMPLES
    ids = tuple(f"s/{key}" for key in keys.tolist())
    batch = ImageTextBatch(images, step.module.towers.tokenizer(texts), keys, ids, DataPosition(0))
    if poison:
        with torch.no_grad():
            step.module.towers.backbone.visual.proj[0, 0] = torch.nan
    return step.measured(batch).to(step.module.towers.device)


def make_step(
    device: str,
    precision: Precision = "fp32",
    micro_batch_size: int | None = None,
    settings: TowersConfig | None = None,
) -> TrainStep:
    torch.manual_seed(3)
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=device == "cpu")
    towers = create(ModelConfig(arch="nano-vit-32"), False)
    if settings is not None:
        towers.set_up(settings)
    accumulation = AccumulationConfig(micro_batch_size=micro_batch_size)
    module = TrainingModule(
        towers, ClipConfig().build(), precision, micro_batches=accumulation.micro_batches(SAMPLES, 1)
    )
    module = module.to(accelerator.device)
    rule = UpdateRule(OptimizerConfig(lr=1e-3), ScheduleConfig(warmup_samples=0), 100 * SAMPLES, SAMPLES, seed=0)
    return TrainStep(accelerator, module, build_optimizer(rule.optimizer, module), rule, accumulation)


def train(step: TrainStep) -> tuple[list[float], Weights]:
    progress, losses = Progress(), []
    for number in range(STEPS):
        losses.append(float(step(batch_of(step, number), progress).loss))
        progress = progress.after(SAMPLES)
    return losses, {name: weight.detach().cpu() for name, weight in step.module.towers.state_dict().items()}


def distance(mine: Weights, theirs: Weights) -> float:
    """Of all weights together, as a share of how far training has moved them."""
    start = {name: weight.detach().cpu() for name, weight in make_step("cpu").module.towers.state_dict().items()}
    moved = sum(float((theirs[name] - start[name]).double().square().sum()) for name in theirs) ** 0.5
    return sum(float((mine[name] - theirs[name]).double().square().sum()) for name in theirs) ** 0.5 / moved


@pytest.mark.parametrize(
    "settings",
    [TowersConfig(), TowersConfig(patch_dropout=0.5), TowersConfig(activation_checkpointing=True)],
    ids=["plain", "patch dropout", "activation checkpointing"],
)
def test_steps_on_a_device_are_those_on_the_cpu(settings: TowersConfig):
    losses, weights = train(make_step("cuda", settings=settings))
    expected, theirs = train(make_step("cpu", settings=settings))
    assert losses == pytest.approx(expected, rel=2e-4)
    assert distance(weights, theirs) < 0.05


def test_accumulation_is_exact_on_a_device():
    losses, weights = train(make_step("cuda", micro_batch_size=8))
    expected, theirs = train(make_step("cuda"))
    assert losses == pytest.approx(expected, rel=2e-4)
    assert distance(weights, theirs) < 0.05


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near(precision: Precision):
    step = make_step("cuda", precision)
    losses, weights = train(step)
    expected, _ = train(make_step("cuda"))
    # The scaler of fp16 begins too high and leaves the first step out, so its losses come a step later.
    late = 0 if precision == "bf16" else int(float(step.scaler.get_scale()) < 65536)
    assert losses[0] == pytest.approx(expected[0], rel=2e-2)
    assert losses[late + 1] == pytest.approx(expected[1], rel=5e-2)
    assert all(weight.dtype == torch.float32 for weight in weights.values() if weight.is_floating_point())


def test_the_same_step_twice_gives_the_same_bits():
    assert train(make_step("cuda", "bf16"))[0] == train(make_step("cuda", "bf16"))[0]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_that_is_not_finite_moves_nothing(precision: Precision):
    step = make_step("cuda", precision)
    progress = Progress()
    step(batch_of(step, 0), progress)
    batch = batch_of(step, 1, poison=True)
    before = {name: weight.detach().clone() for name, weight in step.module.named_parameters()}
    report = step(batch, progress.after(SAMPLES))
    assert float(report.skipped) == 1
    for name, weight in step.module.named_parameters():
        assert torch.equal(weight.detach().nan_to_num(), before[name].nan_to_num()), name


def test_compiled_blocks_train_as_they_do_without():
    losses, _ = train(make_step("cuda", settings=TowersConfig(compile=True)))
    expected, _ = train(make_step("cuda"))
    assert losses == pytest.approx(expected, rel=5e-4)
