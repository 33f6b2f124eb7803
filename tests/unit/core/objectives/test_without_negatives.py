"""What holds of every objective that learns from views without negatives, and what of each."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss, NegativeCosineSimilarity, SwaVLoss, VICRegLoss
from torch import Tensor

from mmclip.batch import TowerOutput, ViewOutput
from mmclip.errors import UserError
from mmclip.objectives import (
    ByolConfig,
    DinoConfig,
    ModelShape,
    ObjectiveContext,
    SimsiamConfig,
    SwavConfig,
    VicregConfig,
)

SHAPE = ModelShape(embed=4, pooled=6, image_size=(64, 64), patch_size=(16, 16))
ROWS = 8
GO, SKIPPED = torch.tensor(0.0), torch.tensor(1.0)
CONFIGS: dict[str, Any] = {
    "byol": ByolConfig(hidden=9, out=5),
    "byol, no norm": ByolConfig(hidden=9, out=5, norm="none"),
    "simsiam": SimsiamConfig(hidden=9, out=5, bottleneck=3),
    "simsiam, no norm": SimsiamConfig(hidden=9, out=5, bottleneck=3, norm="none"),
    "vicreg": VicregConfig(hidden=9, out=5),
    "swav": SwavConfig(hidden=9, out=5, prototypes=7, local_views=2),
    "swav with a queue": SwavConfig(hidden=9, out=5, prototypes=7, local_views=0, queue_size=20),
    "dino": DinoConfig(hidden=9, bottleneck=5, prototypes=7, local_views=2),
    "dino without small crops": DinoConfig(hidden=9, bottleneck=5, prototypes=7, local_views=0, norm="layer"),
}
every = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def built(config: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return config.build(SHAPE).double()


def output(views: dict[str, list[Tensor]]) -> TowerOutput:
    (first, *_), *_ = views.values()
    nothing = torch.zeros(len(first), 0, dtype=first.dtype)
    named = {name: tuple(ViewOutput(pooled=copy) for copy in copies) for name, copies in views.items()}
    scale = torch.ones(1, dtype=first.dtype)
    return TowerOutput(image_embed=nothing, text_embed=nothing, logit_scale=scale, logit_bias=None, views=named)


def views(objective: Any, names: tuple[str, ...] | None = None, seed: int = 0) -> dict[str, list[Tensor]]:
    """Random features for the views that it needs, or for those of `names`."""
    generator = torch.Generator().manual_seed(seed)
    return {
        need.name: [torch.randn(ROWS, 6, dtype=torch.float64, generator=generator) for _ in range(need.copies)]
        for need in objective.needs.views
        if names is None or need.name in names
    }


def context(objective: Any, share: float = 0.5, seed: int = 1) -> ObjectiveContext:
    momentum = objective.needs.momentum
    taught = None if momentum is None else output(views(objective, momentum.views, seed))
    return ObjectiveContext(step=3, samples_seen=100, share=share, momentum=taught)


@every
def test_nothing_changes_in_forward(config: Any):
    objective = built(config)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    losses = [objective(output(views(objective)), context(objective)).loss for _ in range(2)]
    assert torch.equal(*losses)
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


@every
def test_all_state_is_in_the_state_dict(config: Any):
    """After steps that moved teacher and centre, a new instance goes on as the old one."""
    objective, other = built(config), built(config, seed=1)
    for seed in range(3):
        given = context(objective, seed=seed)
        found = objective(output(views(objective, seed=seed)), given)
        with torch.no_grad():
            for weight in objective.parameters():
                weight.add_(0.01 if weight.requires_grad else 0)
        objective.on_optimizer_step(found.staged, given, GO)
    other.load_state_dict(objective.state_dict())
    both = [one(output(views(one, seed=9)), context(one, seed=9)) for one in (objective, other)]
    assert torch.equal(both[0].loss, both[1].loss)


@every
def test_no_gradient_reaches_a_teacher_even_where_one_could(config: Any):
    objective = built(config)
    given, seen = context(objective), views(objective)
    taught = [] if given.momentum is None else [v.pooled for copies in given.momentum.views.values() for v in copies]
    for tensor in (*taught, *(copy for copies in seen.values() for copy in copies)):
        tensor.requires_grad_()
    found = objective(output(seen), given)
    frozen = [weight for weight in objective.parameters() if not weight.requires_grad]
    if taught:
        assert frozen
        reached = torch.autograd.grad(found.loss, taught, allow_unused=True, retain_graph=True)
        assert reached == (None,) * len(taught)
    found.loss.backward()
    assert all(weight.grad is None for weight in frozen)
    assert not any(tensor.requires_grad for tensor in (*found.report.values(), *found.staged.values()))
    assert all(copy.grad is not None and copy.grad.any() for copies in seen.values() for copy in copies)


@every
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_every_parameter_that_learns_gets_a_gradient(config: Any, share: float):
    """DDP waits for each, so that of a frozen layer is there, and 0."""
    objective = built(config)
    objective(output(views(objective)), context(objective, share)).loss.backward()
    learning = {name: weight for name, weight in objective.named_parameters() if weight.requires_grad}
    assert [name for name, weight in learning.items() if weight.grad is None] == []
    still = {name for name, weight in learning.items() if not weight.grad.any()}
    assert still == {name for name in learning if "prototypes" in name and share == 0}, still


@every
def test_order_of_samples_and_of_views_does_not_matter(config: Any):
    objective = built(config)
    given, seen = context(objective), views(objective)
    expected = objective(output(seen), given).loss.item()
    order = torch.tensor([3, 1, 2, 0, 7, 6, 4, 5])

    def changed(change: Callable[[list[Tensor]], list[Tensor]]) -> float:
        taught = None
        if given.momentum is not None:
            taught = output({n: change([v.pooled for v in copies]) for n, copies in given.momentum.views.items()})
        other = ObjectiveContext(step=3, samples_seen=100, share=0.5, momentum=taught)
        return objective(output({name: change(copies) for name, copies in seen.items()}), other).loss.item()

    assert changed(lambda copies: [copy[order] for copy in copies]) == pytest.approx(expected, rel=1e-9)
    assert changed(lambda copies: copies[::-1]) == pytest.approx(expected, rel=1e-9)
    assert changed(lambda copies: [copies[0][order], *copies[1:]]) != pytest.approx(expected, rel=1e-6)


@every
def test_bf16_features_give_a_loss_in_fp32_near_that_of_fp32(config: Any):
    torch.manual_seed(0)
    objective = config.build(SHAPE)

    def loss(dtype: torch.dtype) -> Tensor:
        seen = {name: [copy.to(dtype) for copy in copies] for name, copies in views(objective).items()}
        given = context(objective)
        if given.momentum is not None:
            taught = {n: [v.pooled.to(dtype) for v in copies] for n, copies in given.momentum.views.items()}
            given = ObjectiveContext(step=3, samples_seen=100, share=0.5, momentum=output(taught))
        return objective(output(seen), given).loss

    expected, outside = loss(torch.float32), loss(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(torch.bfloat16)
    assert outside.dtype == inside.dtype == torch.float32
    assert outside.item() == pytest.approx(expected.item(), rel=5e-3, abs=5e-3)
    assert inside.item() == pytest.approx(expected.item(), rel=2e-2, abs=2e-2)


@every
def test_a_skipped_step_moves_nothing_and_another_moves_teacher_and_centre(config: Any):
    objective = built(config)
    given = context(objective)
    staged = objective(output(views(objective)), given).staged
    with torch.no_grad():
        for weight in objective.parameters():
            weight.add_(1.0 if weight.requires_grad else 0.0)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    objective.on_optimizer_step({name: value * torch.nan for name, value in staged.items()}, given, SKIPPED)
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    objective.on_optimizer_step(staged, given, GO)
    moved = {name for name, value in objective.state_dict().items() if not torch.equal(value, before[name])}
    state = {name for name in before if any(part in name for part in ("teacher", "centre", "queues"))}
    assert moved == {name for name in state if "labels" not in name}
    for name in (name for name in moved if "teacher" in name):
        momentum = 1 - 0.004 * 0.5  # half of the run is done
        source = name.replace("teacher_head", "head").replace("teacher_projector", "projector")
        assert torch.allclose(before[source] - objective.state_dict()[name], torch.tensor(momentum).double(), atol=1e-7)


def test_byol_is_two_minus_two_cosines_of_each_direction():
    objective = built(CONFIGS["byol"])
    seen, given = views(objective)["strong"], context(objective)
    predicted = [objective.predictor(objective.projector(copy)) for copy in seen]
    taught = [objective.teacher_projector(view.pooled) for view in given.momentum.views["strong"]]
    cosine = NegativeCosineSimilarity()
    expected = 4 + 2 * cosine(predicted[0], taught[1]) + 2 * cosine(predicted[1], taught[0])
    found = objective(output({"strong": seen}), given)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-9)
    squares = [
        (F.normalize(predicted[i], dim=1) - F.normalize(taught[1 - i], dim=1)).square().sum(1).mean() for i in (0, 1)
    ]
    assert found.loss.item() == pytest.approx(float(sum(squares).detach()), rel=1e-9)
    assert found.report["prediction_cosine"].item() == pytest.approx(1 - expected.item() / 4, rel=1e-9)


def test_simsiam_is_the_negative_cosine_of_both_directions_and_moves_no_target():
    objective = built(CONFIGS["simsiam"])
    seen = [copy.requires_grad_() for copy in views(objective)["strong"]]
    first, second = [objective.projector(copy) for copy in seen]
    cosine = NegativeCosineSimilarity()
    expected = (
        cosine(objective.predictor(first), second.detach()) + cosine(objective.predictor(second), first.detach())
    ) / 2
    found = objective(output({"strong": seen}), context(objective)).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    ours, theirs = (torch.autograd.grad(loss, seen) for loss in (found, expected))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_vicreg_swav_and_dino_equal_lightlys_on_their_heads():
    objective = built(CONFIGS["vicreg"])
    seen = views(objective)["strong"]
    expected = VICRegLoss()(*[objective.projector(copy) for copy in seen])
    assert objective(output({"strong": seen}), context(objective)).loss.item() == pytest.approx(
        expected.item(), rel=1e-9
    )

    objective = built(CONFIGS["swav"])
    seen = views(objective)
    large, small = (
        [objective.prototypes(objective.projector(copy)) for copy in seen[name]] for name in ("global", "local")
    )
    found = objective(output(seen), context(objective)).loss
    assert found.item() == pytest.approx(SwaVLoss()(large, small).item(), rel=1e-9)

    sixteenth = (
        0.0625  # lightly holds its teacher's temperature in fp32: one that is exact there tells the losses apart
    )
    objective = built(replace(CONFIGS["dino"], teacher_temperature=sixteenth, teacher_temperature_end=sixteenth))
    seen, given = views(objective), context(objective)
    taught = [objective.teacher_head(view.pooled) for view in given.momentum.views["global"]]
    told = [objective.head(copy) for name in ("global", "local") for copy in seen[name]]
    theirs = DINOLoss(7, teacher_temp=sixteenth)
    expected = theirs(taught, told)
    found = objective(output(seen), given)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-9)
    objective.on_optimizer_step(found.staged, given, GO)
    assert torch.allclose(objective.centre.mean, theirs.center.flatten().double(), atol=1e-12)


def test_rows_of_earlier_batches_take_part_in_the_assignments():
    """lightly's loss with a queue, of which only the filled rows count; one of each large view, the newest 20 rows."""
    objective = built(CONFIGS["swav with a queue"])
    pushed: list[list[Tensor]] = [[], []]
    for number in range(4):
        seen = views(objective, seed=number)
        large = [objective.projector(copy).detach() for copy in seen["global"]]
        early, found = (objective(output(seen), context(objective, share)) for share in (0.03, 0.5))
        scores = [objective.prototypes(rows) for rows in large]
        assert early.loss.item() == pytest.approx(SwaVLoss()(scores, []).item(), rel=1e-9)
        queued = [objective.prototypes(torch.cat(rows)[-20:]) for rows in pushed] if number else None
        assert found.loss.item() == pytest.approx(SwaVLoss()(scores, [], queued).item(), rel=1e-9)
        objective.on_optimizer_step(found.staged, context(objective), GO)
        for rows, new in zip(pushed, large, strict=True):
            rows.append(new)


def test_a_temperature_warms_up_on_a_line():
    config = DinoConfig(warmup_share=0.2)
    found = [config.teacher_temperature_at(share) for share in (0.0, 0.1, 0.2, 0.7)]
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert DinoConfig(warmup_share=0.0).teacher_temperature_at(0.0) == 0.07


def test_large_crops_are_named_alike_so_that_objectives_share_them():
    swav, dino = SwavConfig(local_views=4).needs, DinoConfig(local_views=4).needs
    assert swav.views == dino.views
    assert [(view.name, view.copies, view.style) for view in dino.views] == [
        ("global", 2, "strong"),
        ("local", 4, "local"),
    ]
    meets_captions = DinoConfig(global_style="crop", local_views=0).needs.views
    assert [(view.name, view.style) for view in meets_captions] == [("global", "crop")]
    assert len({config.needs.views for config in (ByolConfig(), SimsiamConfig(), VicregConfig())}) == 1
    assert not any(config.needs.pairs for config in CONFIGS.values())


def test_fields_that_do_not_fit_are_refused_by_name():
    wrong = [
        (ByolConfig, "hidden", 0, "at least 1"),
        (SimsiamConfig, "bottleneck", -1, "at least 1"),
        (VicregConfig, "variance", -1.0, "weights of at least 0"),
        (SwavConfig, "epsilon", 0.0, "above 0"),
        (SwavConfig, "prototypes", 1, "at least 2"),
        (DinoConfig, "frozen_share", 1.5, "a share from 0 to 1"),
        (DinoConfig, "local_views", -1, "at least 0"),
    ]
    for config, field, value, message in wrong:
        with pytest.raises(ValueError, match=rf"objective\..*{field}.*: expected .*{message}"):
            config(**{field: value})
    with pytest.raises(UserError, match=r"objective.local_size=40 is not divisible .* 16 x 16 pixels; nearest: 32"):
        DinoConfig(local_size=40).build(SHAPE)
    with pytest.raises(UserError, match="momentum from 1.5"):
        _ = ByolConfig(momentum=1.5).needs
