"""Contrast with a momentum teacher and queues of both modalities, against InfoNCE and a double loop over several steps."""

import itertools
import math
from collections import deque
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmclip.batch import PairLabels, TowerOutput
from mmclip.errors import UserError
from mmclip.objectives import ModelShape, ObjectiveContext, QueueConfig
from mmclip.ops.infonce import infonce
from mmclip.ops.momentum_targets import Candidates, momentum_cross_entropy, momentum_targets

ROWS, EMBED, SCALE = 6, 5, 14.3
GO, SKIPPED = torch.tensor(0.0), torch.tensor(1.0)


def pairs(generator: torch.Generator) -> TowerOutput:
    rows = torch.randn(2, ROWS, EMBED, dtype=torch.float64, generator=generator)
    image, text = (side.clone().requires_grad_() for side in F.normalize(rows, dim=2))
    return TowerOutput(image, text, torch.tensor([SCALE], dtype=torch.float64, requires_grad=True), None)


def step_of(number: int, share: float = 1.0, distinct: bool = False) -> tuple[TowerOutput, ObjectiveContext]:
    """Random embeddings of student and teacher; captions and pictures repeat, within a step and across steps."""
    generator = torch.Generator().manual_seed(number)
    student, teacher = pairs(generator), pairs(generator)
    rows = torch.arange(ROWS) + (1000 * number if distinct else 4 * number)
    labels = torch.stack([rows, rows + 10**6] if distinct else [rows % 7, rows // 2 + 100], 1)
    return student, ObjectiveContext(
        step=number, samples_seen=0, labels=PairLabels(labels, labels.clone()), momentum=teacher, share=share
    )


def built(**fields: Any) -> Any:
    return QueueConfig(**{"queue_size": 8} | fields).build(ModelShape(embed=EMBED, pooled=3)).double()


Key = tuple[Tensor, tuple[int, ...]]


def by_definition(
    rows: Tensor, taught: Tensor, labels: Tensor, keys: list[Key], scale: Tensor, alpha: float, duplicates: str
) -> Tensor:
    """The cross-entropy of each row, one candidate at a time."""
    terms = []
    for i, (row, teacher_row) in enumerate(zip(rows, taught, strict=True)):
        own, counted = [], []
        for j, (_, of_key) in enumerate(keys):
            agrees = any(a == b for a, b in zip(labels[i].tolist(), of_key, strict=True))
            own.append(j == i or (agrees and duplicates == "positive"))
            counted.append(own[-1] or not agrees)
        kept = [key for (key, _), counts in zip(keys, counted, strict=True) if counts]
        soft = torch.stack([scale.detach()[0] * torch.dot(teacher_row.detach(), key) for key in kept]).softmax(0)
        logits = torch.stack([scale[0] * torch.dot(row, key) for key in kept])
        one_hot = torch.tensor([mine for mine, counts in zip(own, counted, strict=True) if counts]).double()
        target = alpha * soft + (1 - alpha) * one_hot / one_hot.sum()
        terms.append(-(target * (logits - torch.logsumexp(logits, 0))).sum())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("duplicates", ["ignored", "positive"])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_it_is_its_definition_one_candidate_at_a_time(duplicates: str, alpha: float):
    """Four steps, so the queues of 8 wrap around at a place that the batch of 6 does not divide; gradients too."""
    objective = built(alpha=alpha, duplicates=duplicates)
    queues = {"image": deque[Key](maxlen=8), "text": deque[Key](maxlen=8)}
    for number in range(4):
        outputs, context = step_of(number)
        taught, labels = context.momentum, context.labels
        assert taught is not None
        assert labels is not None
        fresh = {
            name: [(key.detach(), tuple(ids)) for key, ids in zip(rows, labels.image.tolist(), strict=True)]
            for name, rows in (("image", taught.image_embed), ("text", taught.text_embed))
        }
        rest = outputs.logit_scale, alpha, duplicates
        captions, pictures = [*fresh["text"], *queues["text"]], [*fresh["image"], *queues["image"]]
        expected = (
            by_definition(outputs.image_embed, taught.image_embed, labels.image, captions, *rest)
            + by_definition(outputs.text_embed, taught.text_embed, labels.text, pictures, *rest)
        ) / 2
        found = objective(outputs, context)
        assert found.loss.item() == pytest.approx(expected.item(), rel=1e-9)
        inputs = outputs.image_embed, outputs.text_embed, outputs.logit_scale
        gradients = (torch.autograd.grad(loss, inputs) for loss in (found.loss, expected))
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        assert found.report["queue_filled"].item() == len(queues["text"]) / 8
        objective.on_optimizer_step(found.staged, context, GO)
        for name, queue in queues.items():
            queue.extend(fresh[name])


def test_without_queue_and_teachers_share_it_is_infonce_whose_keys_get_no_gradient():
    """The teacher is the student itself, as at a momentum of 0."""
    outputs, context = step_of(0)
    assert context.labels is not None
    context = ObjectiveContext(step=0, samples_seen=0, labels=context.labels, momentum=outputs)
    inputs = outputs.image_embed, outputs.text_embed, outputs.logit_scale
    found = built(queue_size=0, alpha=0.0)(outputs, context).loss
    whole = infonce(*inputs, labels=context.labels, duplicates="ignored").loss
    assert found.item() == pytest.approx(whole.item(), rel=1e-12)
    same = (context.labels.image[:, None] == context.labels.text[None]).any(2) & ~torch.eye(ROWS, dtype=torch.bool)
    image, text, scale = inputs
    sides = scale * image @ text.detach().T, scale * text @ image.detach().T
    expected = sum(F.cross_entropy(side.masked_fill(same, -torch.inf), torch.arange(ROWS)) / 2 for side in sides)
    gradients = (torch.autograd.grad(loss, inputs) for loss in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_targets_are_shares_of_one(alpha: float):
    torch.manual_seed(0)
    teacher = 20 * torch.randn(4, 9, dtype=torch.float64)
    positive = torch.eye(4, 9, dtype=torch.bool)
    positive[1, 5] = True
    valid = positive | (torch.rand(4, 9) > 0.3)
    found = momentum_targets(teacher, positive, valid, alpha)
    torch.testing.assert_close(found.sum(1), torch.ones(4, dtype=torch.float64))
    assert (found[~valid] == 0).all()
    assert found[1, 5].item() >= (1 - alpha) / 2


def test_a_teacher_like_the_student_leaves_nothing_to_learn_where_all_of_the_target_is_its():
    torch.manual_seed(0)
    rows = F.normalize(torch.randn(4, 5, dtype=torch.float64), dim=1).requires_grad_()
    keys = F.normalize(torch.randn(9, 5, dtype=torch.float64), dim=1)
    scale = torch.tensor([SCALE], dtype=torch.float64, requires_grad=True)
    kinds = torch.eye(4, 9, dtype=torch.bool), torch.ones(4, 9, dtype=torch.bool)
    loss = momentum_cross_entropy(rows, rows, Candidates((keys,), *kinds), scale, 1.0)
    gradient = torch.autograd.grad(loss, rows)[0]
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("candidates", "queue"), [(6, 0), (14, 8)])
def test_collapsed_embeddings_cost_the_logarithm_of_all_candidates(candidates: int, queue: int):
    objective = built(queue_size=queue)
    one = torch.zeros(ROWS, EMBED, dtype=torch.float64)
    one[:, 0] = 1
    collapsed = TowerOutput(one, one, torch.tensor([SCALE], dtype=torch.float64), None)
    for number in itertools.count():
        labels = step_of(number, distinct=True)[1].labels
        context = ObjectiveContext(step=number, samples_seen=0, labels=labels, momentum=collapsed, share=1.0)
        found = objective(collapsed, context)
        if number == 2:
            break
        objective.on_optimizer_step(found.staged, context, GO)
    assert found.loss.item() == pytest.approx(math.log(candidates), rel=1e-12)


def test_no_gradient_reaches_the_teacher_nor_its_keys():
    objective = built()
    for number in range(2):
        outputs, context = step_of(number)
        assert context.momentum is not None
        found = objective(outputs, context)
        taught = context.momentum.image_embed, context.momentum.text_embed, context.momentum.logit_scale
        assert torch.autograd.grad(found.loss, taught, allow_unused=True, retain_graph=True) == (None,) * 3
        assert not any(rows.requires_grad for rows in found.staged.values())
        objective.on_optimizer_step(found.staged, context, GO)
    assert not list(objective.parameters())
    assert not any(buffer.requires_grad for buffer in objective.buffers())


def test_nothing_changes_in_forward_or_at_a_skipped_step_and_all_state_is_saved():
    objective, resumed = built(), built()
    objective.on_optimizer_step(objective(*step_of(0)).staged, step_of(0)[1], GO)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    outputs, context = step_of(1)
    found = objective(outputs, context)
    assert objective(outputs, context).loss.item() == found.loss.item()
    objective.on_optimizer_step(found.staged, context, SKIPPED)
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    resumed.load_state_dict(before)
    assert resumed(outputs, context).loss.item() == found.loss.item()
    objective.on_optimizer_step(found.staged, context, GO)
    assert not torch.equal(objective.images.keys, before["images.keys"])


def test_the_teachers_share_grows_over_the_first_part_of_the_run():
    config = QueueConfig(alpha=0.4, alpha_ramp=0.1)
    assert [config.alpha_at(share) for share in (0.0, 0.05, 0.1, 1.0)] == pytest.approx([0, 0.2, 0.4, 0.4])
    assert QueueConfig(alpha=0.4, alpha_ramp=0.0).alpha_at(0.0) == 0.4
    early, late = (built(alpha_ramp=0.5)(*step_of(0, share)).loss.item() for share in (0.0, 0.5))
    assert early == built(alpha=0.0)(*step_of(0)).loss.item()
    assert late == built()(*step_of(0)).loss.item() != early


def test_rows_of_half_precision_are_compared_in_single_precision_under_autocast_too():
    outputs, context = step_of(0)
    assert context.momentum is not None
    objective = built().float()

    def single(given: TowerOutput, dtype: torch.dtype) -> TowerOutput:
        rows = (embed.detach().to(torch.bfloat16).to(dtype) for embed in (given.image_embed, given.text_embed))
        return TowerOutput(*rows, given.logit_scale.detach().float(), None)

    found = []
    for dtype in (torch.bfloat16, torch.float32):
        taught = single(context.momentum, dtype)
        how = ObjectiveContext(step=0, samples_seen=0, labels=context.labels, momentum=taught, share=1.0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(objective(single(outputs, dtype), how).loss)
    assert found[0].dtype == torch.float32
    assert torch.equal(*found)


def test_what_is_missing_or_does_not_fit_is_refused_by_name():
    outputs, context = step_of(0)
    with pytest.raises(UserError, match=r"momentum teacher: expected ObjectiveContext\(momentum="):
        built()(outputs, ObjectiveContext(step=0, samples_seen=0, labels=context.labels))
    with pytest.raises(UserError, match=r"expected ObjectiveContext\(labels="):
        built()(outputs, ObjectiveContext(step=0, samples_seen=0, momentum=context.momentum))
    for field, value in (("queue_size", -1), ("momentum", 1.5), ("alpha", -0.5), ("alpha_ramp", 2.0)):
        with pytest.raises(ValueError, match=rf"objective\.{field}={value}"):
            QueueConfig(**{field: value})
