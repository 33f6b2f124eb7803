"""NT-Xent against closed forms, a double loop and two public implementations."""

import math

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from pytorch_metric_learning import losses
from torch import Tensor

from mmclip.batch import TowerOutput, ViewOutput
from mmclip.errors import UserError
from mmclip.objectives import ModelShape, ObjectiveContext, SimclrConfig
from mmclip.ops.nt_xent import nt_xent


def two_views(rows: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, rows, 5, dtype=torch.float64, generator=generator).unbind()
    return first.clone().requires_grad_(), second.clone().requires_grad_()


def by_definition(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Each view against all others, one at a time."""
    views, terms = [*first, *second], []
    for i, one in enumerate(views):
        cosines = {j: F.cosine_similarity(one, other, dim=0) for j, other in enumerate(views) if j != i}
        partner = cosines[(i + len(first)) % len(views)]
        terms.append(torch.logsumexp(torch.stack(list(cosines.values())) / temperature, 0) - partner / temperature)
    return torch.stack(terms).mean()


ORACLES = {
    "definition": by_definition,
    "lightly": lambda first, second, temperature: NTXentLoss(temperature)(first, second),
    "pytorch-metric-learning": lambda first, second, temperature: losses.SelfSupervisedLoss(
        losses.NTXentLoss(temperature), symmetric=True
    )(first, second),
}


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("oracle", ORACLES)
def test_value_and_gradient_equal_a_double_loop_and_two_public_implementations(oracle: str, temperature: float):
    inputs = two_views()
    found = nt_xent(*inputs, temperature)
    expected = ORACLES[oracle](*inputs, temperature)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    gradients = (torch.autograd.grad(loss, inputs) for loss in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rows", [2, 5, 32])
def test_collapsed_views_cost_the_logarithm_of_all_other_views(rows: int):
    views = torch.ones(rows, 4, dtype=torch.float64)
    assert nt_xent(views, views, 0.1).item() == pytest.approx(math.log(2 * rows - 1), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_orthonormal_pairs_cost_what_the_temperature_leaves(temperature: float):
    views = torch.eye(6, dtype=torch.float64)
    expected = math.log1p(10 * math.exp(-1 / temperature))
    assert nt_xent(views, views, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_it_is_blind_to_the_order_of_samples_and_views_and_to_lengths():
    first, second = two_views()
    expected = nt_xent(first, second, 0.1).item()
    order = torch.randperm(7)
    others = [(second, first), (first[order], second[order]), (first * 3, second * torch.rand(7, 1).double())]
    assert [nt_xent(*views, 0.1).item() for views in others] == pytest.approx([expected] * 3, rel=1e-12)
    assert abs(nt_xent(first, second.roll(1, 0), 0.1).item() - expected) > 0.01


def test_a_high_temperature_leaves_the_number_of_candidates_alone():
    assert nt_xent(*two_views(), 1e9).item() == pytest.approx(math.log(13), abs=1e-8)


def test_autocast_changes_nothing():
    inputs = [views.detach().float() for views in two_views()]
    expected = nt_xent(*inputs, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nt_xent(*inputs, 0.1), expected)


def test_a_single_sample_is_refused_since_its_views_have_no_negative():
    with pytest.raises(UserError, match="simclr: expected a global batch of at least 2, got 1"):
        nt_xent(*two_views(1), 0.1)


def test_the_objective_compares_what_its_projector_makes_of_the_two_strong_views():
    torch.manual_seed(0)
    objective = SimclrConfig(hidden=6, out=5, layers=3).build(ModelShape(embed=4, pooled=3)).double()
    pooled = torch.randn(2, 7, 3, dtype=torch.float64)
    nothing = torch.zeros(7, 0, dtype=torch.float64)
    views = {"strong": tuple(ViewOutput(rows) for rows in pooled)}
    scale = torch.ones(1, dtype=torch.float64)
    outputs = TowerOutput(nothing, nothing, scale, None, views=views)
    found = objective(outputs, ObjectiveContext(step=0, samples_seen=0))
    projected = [objective.projector(rows) for rows in pooled]
    assert found.loss.item() == pytest.approx(by_definition(*projected, 0.1).item(), rel=1e-12)
    cosine = F.cosine_similarity(*projected).mean().item()
    assert found.report["view_similarity"].item() == pytest.approx(cosine, rel=1e-12)
    assert len([part for part in objective.projector if isinstance(part, torch.nn.Linear)]) == 3


def test_fields_that_do_not_fit_are_refused_by_name():
    for field, value in (("temperature", 0.0), ("layers", 0), ("hidden", 0), ("out", 0)):
        with pytest.raises(ValueError, match=rf"objective\.{field}={value}"):
            SimclrConfig(**{field: value})
