"""Heads, their norms, and the teachers that follow them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmclip.errors import UserError
from mmclip.objectives.parts.heads import Prototypes, dino_head, predictor, projector
from mmclip.objectives.parts.norm import JoinedBatchNorm
from mmclip.objectives.parts.teacher_heads import follow, teacher_of

GO = torch.tensor(0.0)


def rows(count: int = 6, width: int = 5) -> Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_a_projector_is_linear_layers_with_norms_and_activations_between_them():
    kinds = [type(part) for part in projector(5, 7, 3, layers=3, norm="layer")]
    assert kinds == [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear]
    assert [type(part) for part in projector(5, 7, 3)] == [nn.Linear, nn.ReLU, nn.Linear]
    assert projector(5, 7, 3)(rows().float()).shape == (6, 3)
    with_last = projector(5, 7, 3, norm="batch", last_norm="batch").double()
    assert with_last[-2].bias is None
    assert not list(with_last[-1].parameters())
    assert with_last(rows()).mean(0).abs().max().item() < 1e-12
    assert predictor(4, 2)(torch.ones(3, 4)).shape == (3, 4)


def test_a_head_takes_rows_of_any_precision():
    head = projector(5, 7, 3)
    expected = head(rows().float())
    for dtype in (torch.float64, torch.bfloat16):
        assert head(rows().to(dtype)).dtype == torch.float32
    assert torch.equal(head(rows()), expected)


def test_batch_norm_equals_torchs_in_training_and_keeps_nothing():
    ours, torchs = JoinedBatchNorm(5).double(), nn.BatchNorm1d(5, track_running_stats=False).double()
    with torch.no_grad():
        for norm in (ours, torchs):
            norm.weight.copy_(torch.arange(5) + 1.0)
            norm.bias.copy_(torch.arange(5) - 2.0)
    given = [rows().requires_grad_() for _ in range(2)]
    results = [norm(x) for norm, x in zip((ours, torchs), given, strict=True)]
    assert torch.allclose(*results, atol=1e-12)
    for result in results:
        result.pow(3).sum().backward()
    assert torch.allclose(given[0].grad, given[1].grad, atol=1e-9)
    assert torch.equal(ours.eval()(rows()), results[0])
    assert not list(ours.buffers())
    with pytest.raises(UserError, match="global batch of at least 2, got 1"):
        ours(rows(1))


def test_prototypes_give_cosines_and_only_their_direction_counts():
    prototypes = Prototypes(5, 4).double()
    expected = [[F.cosine_similarity(row, weight, dim=0).item() for weight in prototypes.weight] for row in rows()]
    assert prototypes(rows()).tolist() == [pytest.approx(line, abs=1e-12) for line in expected]
    before = prototypes(3 * rows())
    with torch.no_grad():
        prototypes.weight.mul_(torch.arange(1, 5)[:, None])
    assert torch.allclose(prototypes(rows()), before, atol=1e-12)


def test_frozen_prototypes_get_a_gradient_of_zeros_and_pass_that_of_the_rows():
    prototypes, given = Prototypes(5, 4).double(), rows().requires_grad_()
    assert torch.equal(prototypes(rows(), frozen=True), prototypes(rows()))
    prototypes(given, frozen=True).square().sum().backward()
    assert prototypes.weight.grad is not None
    assert prototypes.weight.grad.abs().max() == 0
    assert given.grad.abs().max() > 0


def test_prototypes_are_exact_under_autocast():
    prototypes = Prototypes(64, 8)
    given = torch.randn(4, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = prototypes(given)
    assert found.dtype == torch.float32
    assert torch.equal(found, prototypes(given))


def test_a_teacher_starts_as_its_student_and_learns_nothing_by_gradient():
    torch.manual_seed(0)
    student = dino_head(5, 7, 3, 4)
    teacher = teacher_of(student, lambda: dino_head(5, 7, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), teacher.parameters(), strict=True))
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(a is b for a, b in zip(student.parameters(), teacher.parameters(), strict=True))


def test_a_teacher_nears_a_still_student_by_its_momentum_at_each_step():
    """After k steps m^k of the distance is left: .36603 for .99 and 100."""
    student = projector(5, 7, 3).double()
    teacher = teacher_of(student, lambda: projector(5, 7, 3).double())
    with torch.no_grad():
        for weight in teacher.parameters():
            weight.add_(1)
    for _ in range(100):
        follow(teacher, student, 0.99, GO)
    for a, b in zip(teacher.parameters(), student.parameters(), strict=True):
        assert (a - b).detach().flatten().tolist() == pytest.approx([0.99**100] * a.numel(), abs=1e-12)


def test_a_teacher_copies_buffers_and_stays_where_a_step_was_skipped():
    student = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)).double()
    teacher = teacher_of(student, lambda: nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)).double())
    before = copy.deepcopy(teacher.state_dict())
    student(rows())
    with torch.no_grad():
        student[0].weight.add_(1)
    follow(teacher, student, 0.9, torch.tensor(1.0))
    assert all(torch.equal(teacher.state_dict()[name], value) for name, value in before.items())
    follow(teacher, student, 0.9, GO)
    assert torch.equal(teacher[1].running_mean, student[1].running_mean)
    assert teacher[1].num_batches_tracked == 1
    assert torch.allclose(teacher[0].weight, before["0.weight"] + 0.1, atol=1e-12)
