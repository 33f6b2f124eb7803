"""A batch in pieces gives the gradient of the batch as a whole, whatever is kept and whatever is encoded twice."""

from collections.abc import Callable

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from mmclip.batch import DataPosition, ImageTextBatch, TowerOutput
from mmclip.errors import UserError
from mmclip.objectives import ObjectiveConfig, ObjectiveContext, SiglipConfig
from mmclip.objectives.clip import ClipConfig
from mmclip.release import create
from mmclip.towers.architecture import ModelConfig
from mmclip.training.accumulate import AccumulationConfig, GraphBudget, accumulate
from mmclip.training.module import TrainingModule
from mmclip.training.optim import OptimizerConfig, build_optimizer
from mmclip.training.precision import Precision
from mmclip.training.progress import Progress
from mmclip.training.schedule import ScheduleConfig
from mmclip.training.step import TrainStep, UpdateRule

SAMPLES = 12
START = ObjectiveContext(step=0, samples_seen=0)


def batch_of(tokenize: Callable, dtype_seed: int = 0) -> ImageTextBatch:
    generator = torch.Generator().manual_seed(dtype_seed)
    images = torch.randint(0, 256, (SAMPLES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    texts = [f"{name} number {number}" for number, name in enumerate(["red", "green", "blue", "grey"] * 3)]
    ids = tuple(f"s/{number}" for number in range(SAMPLES))
    return ImageTextBatch(
        images=images,
        tokens=tokenize(texts),
        keys=torch.arange(SAMPLES),
        ids=ids,
        position=DataPosition(SAMPLES),
    )


def make_step(
    objective: ObjectiveConfig,
    micro_batch_size: int | None = None,
    graph_gib: float = 0.0,
    precision: Precision = "fp64",
    max_grad_norm: float | None = None,
) -> TrainStep:
    torch.manual_seed(3)
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True)
    built = objective.build()
    towers = create(ModelConfig(arch="nano-vit-32"), built.needs.logit_bias)
    accumulation = AccumulationConfig(micro_batch_size=micro_batch_size, graph_gib=graph_gib)
    micro_batches = accumulation.micro_batches(SAMPLES, 1)
    module = TrainingModule(towers, built, precision, micro_batches=micro_batches)
    if precision == "fp64":
        module.double()
    settings = OptimizerConfig(lr=1e-3, max_grad_norm=max_grad_norm)
    rule = UpdateRule(settings, ScheduleConfig(warmup_samples=0), 100 * SAMPLES, SAMPLES, seed=0)
    return TrainStep(accelerator, module, build_optimizer(settings, module), rule, accumulation)


def gradients_of(step: TrainStep, steps: int = 2) -> tuple[list[dict[str, torch.Tensor]], list[float]]:
    found: list[dict[str, torch.Tensor]] = []

    def note(*_: object) -> None:
        found.append({n: p.grad.clone() for n, p in step.module.named_parameters() if p.grad is not None})

    step.bare_optimizer.register_step_pre_hook(note)
    progress, losses = Progress(), []
    for number in range(steps):
        report = step(batch_of(step.module.towers.tokenizer, number), progress)
        losses.append(float(report.loss))
        progress = progress.after(SAMPLES)
    return found, losses


@pytest.mark.parametrize("objective", [ClipConfig(), SiglipConfig()], ids=["clip", "siglip"])
@pytest.mark.parametrize(("size", "graph_gib"), [(4, 0.0), (2, 0.0), (1, 1.0), (6, 1.0)])
def test_pieces_give_the_gradient_of_the_whole(objective: ObjectiveConfig, size: int, graph_gib: float):
    whole, whole_losses = gradients_of(make_step(objective))
    step = make_step(objective, size, graph_gib)
    pieces, losses = gradients_of(step)
    assert step.micro_batches == SAMPLES // size
    assert losses == pytest.approx(whole_losses, rel=1e-12)
    for expected, got in zip(whole, pieces, strict=True):
        assert expected.keys() == got.keys()
        assert "towers.backbone.logit_scale" in got
        scale = max(float(gradient.norm()) for gradient in expected.values())
        for name, gradient in expected.items():
            assert float((got[name] - gradient).norm()) <= 1e-9 * max(float(gradient.norm()), 1e-6 * scale), name


def test_kept_graphs_change_no_bit_and_save_a_forward():
    calls: list[int] = []

    def run(bytes_allowed: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(6, 4).double()
        rows = torch.randn(8, 6, dtype=torch.float64)
        budget = GraphBudget(bytes_allowed, list(layer.parameters()))
        calls.clear()

        def encode(micro: torch.Tensor) -> TowerOutput:
            calls.append(len(micro))
            out = torch.nn.functional.normalize(layer(micro).tanh(), dim=1)
            return TowerOutput(out, out.flip(1), torch.ones(1, dtype=torch.float64), None)

        objective = ClipConfig().build()
        for _ in range(2):  # the first call learns what a graph takes
            layer.zero_grad()
            calls.clear()
            accumulate(
                rows.split(2), encode, lambda whole: objective(whole, START), lambda loss: loss.backward(), budget
            )
        return [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]

    lean = run(0)
    assert len(calls) == 4 + 3
    rich = run(1 << 20)
    assert len(calls) == 4
    assert all(torch.equal(a, b) for a, b in zip(lean, rich, strict=True))


def test_a_budget_for_two_graphs_keeps_two():
    budget = GraphBudget(bytes_allowed=250, bytes_of_one=100)
    assert [budget.kept(count) for count in (1, 2, 5)] == [1, 2, 2]
    assert GraphBudget(bytes_allowed=50, bytes_of_one=100).kept(5) == 1
    weight = torch.nn.Parameter(torch.ones(1000, 4))
    counting = GraphBudget(bytes_allowed=10**6, parameters=[weight])
    rows = torch.ones(16, 1000, requires_grad=True)
    both = torch.zeros(16, 4)
    counting.counted(lambda: TowerOutput((rows @ weight).tanh(), both, torch.ones(1), None))
    assert counting.bytes_of_one == rows.nbytes + 16 * 4 * 4, "the rows and the tanh, but not the weight"


def test_dropout_is_replayed_at_the_second_pass():
    """The loss saw the masks that the gradient goes through: with equal masks the pushed gradient is that of the loss."""
    torch.manual_seed(0)
    layer, drop = torch.nn.Linear(6, 4).double(), torch.nn.Dropout(0.5)
    rows = torch.randn(8, 6, dtype=torch.float64)
    objective = ClipConfig().build()

    def encode(numbered: tuple[int, torch.Tensor]) -> TowerOutput:
        torch.manual_seed(numbered[0])
        out = torch.nn.functional.normalize(layer(drop(numbered[1])), dim=1)
        return TowerOutput(out, out.flip(1), torch.full((1,), 10.0, dtype=torch.float64), None)

    micros = list(enumerate(rows.split(2)))
    accumulate(micros, encode, lambda whole: objective(whole, START), lambda loss: loss.backward(), GraphBudget(0))
    got = [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]
    layer.zero_grad()
    parts = [encode(micro) for micro in micros]
    joined = [torch.cat([getattr(part, name) for part in parts]) for name in ("image_embed", "text_embed")]
    objective(TowerOutput(*joined, parts[0].logit_scale, None), START).loss.backward()
    assert all(torch.allclose(a, p.grad, rtol=1e-12) for a, p in zip(got, layer.parameters(), strict=True))


def test_sizes_that_do_not_come_out_even_are_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"4096 is not divisible by 3 ranks x accumulation.micro_batch_size=2 = 6; nearest: "
                                        r"4092, 4098"):  # fmt: skip
        AccumulationConfig(micro_batch_size=2).micro_batches(4096, 3)
    assert AccumulationConfig(micro_batch_size=512).micro_batches(1024, 2) == 1
    assert AccumulationConfig(micro_batch_size=128).micro_batches(1024, 2) == 4


def test_batch_norm_is_refused_by_name_under_accumulation():
    towers = create(ModelConfig(arch="tiny-resnet-32"), needs_logit_bias=False)
    with pytest.raises(UserError, match=r"batch norms \(first: visual.*of 2 micro-batches"):
        TrainingModule(towers, ClipConfig().build(), micro_batches=2)


def test_a_step_whose_gradient_is_not_finite_changes_nothing_and_names_the_samples():
    step = make_step(ClipConfig())
    good = step(batch_of(step.module.towers.tokenizer), Progress())
    assert float(good.skipped) == 0
    before = {name: tensor.clone() for name, tensor in step.module.state_dict().items()}
    moments = {name: value.clone() for name, value in step.bare_optimizer.state[step.module.towers.logit_scale].items()}
    rows = torch.arange(SAMPLES) == 5

    def poison(module: object, inputs: object, output: TowerOutput) -> TowerOutput:
        spoiled = torch.where(rows[:, None], torch.nan, output.image_embed)
        return TowerOutput(spoiled, output.text_embed, output.logit_scale, output.logit_bias)

    handle = step.module.towers.register_forward_hook(poison)
    report = step(batch_of(step.module.towers.tokenizer), Progress(1, SAMPLES))
    handle.remove()
    assert float(report.skipped) == 1
    assert report.not_finite.tolist() == rows.tolist()
    assert all(torch.equal(tensor, before[name]) for name, tensor in step.module.state_dict().items())
    after = step.bare_optimizer.state[step.module.towers.logit_scale]
    assert all(torch.equal(value, moments[name]) for name, value in after.items()), "not even the step count moved"
    assert float(step(batch_of(step.module.towers.tokenizer), Progress(1, SAMPLES)).skipped) == 0


def test_fp16_scales_the_loss_and_gives_the_update_of_fp32():
    exact, half = make_step(ClipConfig(), precision="fp32"), make_step(ClipConfig(), precision="fp16")
    assert half.scaler.is_enabled()
    assert not exact.scaler.is_enabled()
    (expected, _), (got, _) = gradients_of(exact, 1), gradients_of(half, 1)
    for name, gradient in expected[0].items():
        cosine = torch.nn.functional.cosine_similarity(gradient.flatten(), got[0][name].flatten(), dim=0)
        assert float(cosine) > 0.98 or float(gradient.norm()) < 1e-4, name
        assert got[0][name].dtype == torch.float32
    assert float(got[0]["towers.backbone.logit_scale"]) == pytest.approx(
        float(expected[0]["towers.backbone.logit_scale"]), rel=0.05, abs=1e-3
    )


def test_an_overflow_of_the_loss_scale_halves_it():
    step = make_step(ClipConfig(), precision="fp16")
    step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    report = step(batch_of(step.module.towers.tokenizer), Progress())
    assert float(report.skipped) == 1
    assert step.scaler.get_scale() == 2.0**39
