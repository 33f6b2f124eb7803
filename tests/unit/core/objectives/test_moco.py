"""Both versions of MoCo against double loops and a public implementation, over several steps."""

import math
from collections import deque
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from torch import Tensor

from mmclip.batch import PairLabels, TowerOutput, ViewOutput
from mmclip.errors import UserError
from mmclip.objectives import MocoConfig, ModelShape, ObjectiveContext
from mmclip.ops.keys import batch_infonce, queue_infonce

ROWS, WIDTH, TEMPERATURE = 6, 4, 0.2
GO, SKIPPED = torch.tensor(0.0), torch.tensor(1.0)
SMALL: dict[str, Any] = {"hidden": 9, "out": 5, "queue_size": 8}


def output(pooled: Tensor) -> TowerOutput:
    nothing, scale = pooled.new_zeros(len(pooled[0]), 0), pooled.new_ones(1)
    return TowerOutput(
        nothing, nothing, scale, None, views={"strong": tuple(ViewOutput(rows.clone()) for rows in pooled)}
    )


def step_of(number: int, share: float = 0.0, same_pictures: bool = False) -> tuple[TowerOutput, ObjectiveContext]:
    """Random features of two views for student and teacher; pictures are new at each step unless they are the `same`."""
    generator = torch.Generator().manual_seed(number)
    student, teacher = torch.randn(2, 2, ROWS, WIDTH, dtype=torch.float64, generator=generator)
    pictures = torch.arange(ROWS) + (0 if same_pictures else 100 * number)
    labels = torch.stack([torch.zeros(ROWS, dtype=torch.int64), pictures], 1)  # all captions are the same one
    context = ObjectiveContext(
        step=number, samples_seen=0, labels=PairLabels(labels, labels), share=share, momentum=output(teacher)
    )
    return output(student), context


def built(version: int = 2, **fields: Any) -> Any:
    torch.manual_seed(0)
    config = MocoConfig(version=version, **SMALL | fields)
    return config.build(ModelShape(embed=3, pooled=WIDTH)).double()


def pooled(outputs: TowerOutput | None, copy: int) -> Tensor:
    assert outputs is not None
    return outputs.views["strong"][copy].pooled


def cross_entropy(query: Tensor, positive: Tensor, negatives: list[Tensor]) -> Tensor:
    cosines = torch.stack([F.cosine_similarity(query, key, dim=0) for key in (positive, *negatives)])
    return torch.logsumexp(cosines / TEMPERATURE, 0) - cosines[0] / TEMPERATURE


def test_each_query_meets_its_own_key_and_those_of_the_steps_before():
    """Four steps, so the queue of 8 wraps around at a place that the batch of 6 does not divide."""
    objective, queue = built(), deque[Tensor](maxlen=8)
    for number in range(4):
        outputs, context = step_of(number)
        found = objective(outputs, context)
        queries = objective.projector(pooled(outputs, 0))
        keys = objective.teacher(pooled(context.momentum, 1))
        terms = [cross_entropy(query, key, list(queue)) for query, key in zip(queries, keys, strict=True)]
        assert found.loss.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-9, abs=1e-15)
        assert found.report["queue_filled"].item() == len(queue) / 8
        objective.on_optimizer_step(found.staged, context, GO)
        queue.extend(keys.detach())
        with torch.no_grad():  # an optimizer's step, so that the teacher has something to follow
            objective.projector[0].weight.mul_(1.1)
    ages = [4 - 2] * 2 + [4 - 3] * 6
    assert objective.ring.mean_age(4).item() == sum(ages) / 8


def test_the_first_step_has_no_negative_and_costs_nothing():
    found = built()(*step_of(0))
    assert found.loss.item() == 0
    assert found.report["queue_filled"].item() == 0


def test_keys_of_the_same_picture_are_no_negatives_and_those_of_the_same_caption_are():
    objective = built()
    first = objective(*step_of(0))
    objective.on_optimizer_step(first.staged, step_of(0)[1], GO)
    assert objective(*step_of(1)).loss.item() > 1
    outputs, context = step_of(1, same_pictures=True)
    queries, keys = objective.projector(pooled(outputs, 0)), objective.teacher(pooled(context.momentum, 1))
    held = list(objective.ring.keys[:ROWS])
    terms = [cross_entropy(queries[i], keys[i], [*held[:i], *held[i + 1 :]]) for i in range(ROWS)]
    assert objective(outputs, context).loss.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-9)


def test_the_loss_of_a_full_queue_is_lightlys():
    torch.manual_seed(0)
    query, key = torch.randn(2, ROWS, 5, dtype=torch.float64).unbind()
    query.requires_grad_()
    queue = F.normalize(torch.randn(11, 5, dtype=torch.float64), dim=1)
    peer = NTXentLoss(TEMPERATURE, memory_bank_size=(11, 5)).double()
    peer.memory_bank.bank = queue.clone()
    found = queue_infonce(query, key, queue, torch.ones(ROWS, 11, dtype=torch.bool), TEMPERATURE)
    expected = peer(query, key)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    ours, theirs = (torch.autograd.grad(loss, query)[0] for loss in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_version_3_sums_both_directions_over_the_keys_of_the_batch():
    objective = built(3)
    outputs, context = step_of(0)
    queries = [objective.predictor(objective.projector(pooled(outputs, copy))) for copy in (0, 1)]
    keys = [objective.teacher(pooled(context.momentum, copy)) for copy in (0, 1)]
    total = torch.zeros((), dtype=torch.float64)
    for asking, answering in ((0, 1), (1, 0)):
        others = [[*keys[answering][:i], *keys[answering][i + 1 :]] for i in range(ROWS)]
        terms = [cross_entropy(queries[asking][i], keys[answering][i], others[i]) for i in range(ROWS)]
        total = total + 2 * TEMPERATURE * torch.stack(terms).mean()
    assert objective(outputs, context).loss.item() == pytest.approx(total.item(), rel=1e-9)
    assert not dict(objective.named_buffers())  # no queue


def test_version_3_of_collapsed_rows_costs_the_logarithm_of_the_batch():
    rows = torch.ones(5, 3, dtype=torch.float64)
    assert batch_infonce(rows, rows, 0.7).item() == pytest.approx(1.4 * math.log(5), rel=1e-12)
    orthonormal = torch.eye(5, dtype=torch.float64)
    expected = 1.4 * math.log1p(4 * math.exp(-1 / 0.7))
    assert batch_infonce(orthonormal, orthonormal, 0.7).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("version", [2, 3])
def test_no_gradient_reaches_the_teacher(version: int):
    objective = built(version)
    objective.on_optimizer_step(objective(*step_of(0)).staged, step_of(0)[1], GO)
    outputs, context = step_of(1)
    student, *taught = pooled(outputs, 0), pooled(context.momentum, 0), pooled(context.momentum, 1)
    for rows in (student, *taught):  # as if somebody had forgotten that a teacher has no gradient
        rows.detach_().requires_grad_()
    objective(outputs, context).loss.backward()
    assert student.grad is not None
    assert [rows.grad for rows in taught] == [None, None]
    assert all(weight.grad is None and not weight.requires_grad for weight in objective.teacher.parameters())
    trained = [name for name, weight in objective.named_parameters() if weight.grad is not None]
    assert {name.split(".")[0] for name in trained} == {"projector"} | ({"predictor"} if version == 3 else set())
    key = torch.ones(2, 3, requires_grad=True)
    query = torch.rand(2, 3, requires_grad=True)
    for loss in (
        batch_infonce(query, key, 0.1),
        queue_infonce(query, key, key, torch.ones(2, 2, dtype=torch.bool), 0.1),
    ):
        assert torch.autograd.grad(loss, key, allow_unused=True) == (None,)


@pytest.mark.parametrize("version", [2, 3])
def test_nothing_changes_in_forward_or_at_a_skipped_step(version: int):
    objective = built(version)
    objective.on_optimizer_step(objective(*step_of(0)).staged, step_of(0)[1], GO)
    with torch.no_grad():
        objective.projector[0].weight.add_(1)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    outputs, context = step_of(1)
    found = objective(outputs, context)
    assert objective(outputs, context).loss.item() == found.loss.item()
    objective.on_optimizer_step(found.staged, context, SKIPPED)
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    objective.on_optimizer_step(found.staged, context, GO)
    changed = {name for name, value in objective.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"teacher"} | ({"ring"} if version == 2 else set())


@pytest.mark.parametrize("version", [2, 3])
def test_a_resumed_objective_goes_on_as_the_first_one(version: int):
    first, second = built(version), built(version)
    with torch.no_grad():
        first.projector[0].weight.add_(1)
    first.on_optimizer_step(first(*step_of(0)).staged, step_of(0)[1], GO)
    second.load_state_dict(first.state_dict())
    assert first(*step_of(1)).loss.item() == second(*step_of(1)).loss.item()


@pytest.mark.parametrize(
    ("fields", "shares"),
    [
        ({}, (0.999, 0.999, 0.999)),
        ({"momentum": 0.9}, (0.9, 0.9, 0.9)),
        ({"version": 3}, (0.99, 0.995, 1)),
        ({"version": 3, "momentum": 0.9}, (0.9, 0.95, 1)),
    ],
)
def test_the_teacher_follows_at_the_pace_of_the_version(fields: dict[str, Any], shares: tuple[float, ...]):
    objective = built(**fields)
    momentum = objective.needs.momentum
    assert [momentum.at(share) for share in (0.0, 0.5, 1.0)] == pytest.approx(shares)
    started = objective.teacher[0].weight.clone()
    with torch.no_grad():
        objective.projector[0].weight.add_(1)
    outputs, context = step_of(0, share=0.5)
    objective.on_optimizer_step(objective(outputs, context).staged, context, GO)
    torch.testing.assert_close(objective.teacher[0].weight, started + 1 - shares[1])


def test_what_is_missing_or_does_not_fit_is_refused_by_name():
    outputs, context = step_of(0)
    with pytest.raises(UserError, match=r"ids of captions and pictures: expected ObjectiveContext\(labels="):
        built()(outputs, ObjectiveContext(step=0, samples_seen=0, momentum=context.momentum))
    with pytest.raises(UserError, match=r"momentum teacher: expected ObjectiveContext\(momentum="):
        built(3)(outputs, ObjectiveContext(step=0, samples_seen=0))
    for field, value in (("queue_size", 0), ("momentum", 1.5), ("temperature", -1.0)):
        with pytest.raises(ValueError, match=rf"objective\.{field}={value}"):
            MocoConfig(**{field: value})
