"""Hard negative weights against the paper's equations, one candidate at a time, and against InfoNCE."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from torch import Tensor

from mmclip.batch import PairLabels, TowerOutput
from mmclip.errors import UserError
from mmclip.objectives import HardNegativesConfig, ObjectiveContext

ROWS = 7


def given(rows: int = ROWS, scale: float = 6.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sides = F.normalize(torch.randn(2, rows, 4, dtype=torch.float64, generator=generator), dim=2)
    image, text = (side.clone().requires_grad_() for side in sides)
    return image, text, torch.tensor([scale], dtype=torch.float64, requires_grad=True)


def labels(rows: int = ROWS) -> PairLabels:
    columns = torch.stack([torch.arange(rows) % 4, torch.arange(rows) % 5 + 10], 1)
    return PairLabels(columns, columns.clone())


def run(image: Tensor, text: Tensor, scale: Tensor, known: PairLabels | None = None, **fields: Any) -> Tensor:
    config = HardNegativesConfig(duplicates="negative" if known is None else "ignored", **fields)
    outputs = TowerOutput(image, text, scale, None)
    return config.build()(outputs, ObjectiveContext(step=0, samples_seen=0, labels=known)).loss


def by_definition(
    rows: Tensor, columns: Tensor, scale: Tensor, known: PairLabels | None, beta: float, tau_plus: float
) -> Tensor:
    """Robinson et al. 2021, equation 4 and the estimates below it, in plain numbers."""
    terms = []
    for i, row in enumerate(rows):
        positive = torch.exp(scale[0] * torch.dot(row, columns[i]))
        negatives = [
            torch.exp(scale[0] * torch.dot(row, column))
            for j, column in enumerate(columns)
            if j != i and not (known is not None and bool((known.image[i] == known.text[j]).any()))
        ]
        count = len(negatives)
        weights = [negative**beta for negative in negatives]
        mean = sum(w * n for w, n in zip(weights, negatives, strict=True)) / sum(weights)
        amount = count * (mean - tau_plus * positive) / (1 - tau_plus)
        lowest = count * torch.exp(-scale[0])
        terms.append(torch.log(1 + torch.maximum(amount, lowest) / positive))
    return torch.stack(terms).mean()


def same(found: Tensor, expected: Tensor, inputs: tuple[Tensor, ...]) -> None:
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    gradients = (torch.autograd.grad(loss, inputs) for loss in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("duplicates", ["negative", "ignored"])
@pytest.mark.parametrize(("beta", "tau_plus"), [(0.0, 0.0), (0.5, 0.0), (2.0, 0.0), (0.0, 0.1), (1.0, 0.2)])
def test_it_is_its_definition_one_candidate_at_a_time(beta: float, tau_plus: float, duplicates: str):
    inputs, known = given(), labels() if duplicates == "ignored" else None
    image, text, scale = inputs
    sides = [by_definition(*side, scale, known, beta, tau_plus) for side in ((image, text), (text, image))]
    same(run(*inputs, known, beta=beta, tau_plus=tau_plus), sum(sides, torch.zeros(())) / 2, inputs)


def test_without_weights_it_is_infonce():
    inputs = given(30, scale=14.3)
    same(run(*inputs, beta=0.0), ClipLoss()(*inputs), inputs)


@pytest.mark.parametrize("beta", [0.0, 0.5, 3.0])
def test_collapsed_and_orthonormal_pairs_cost_the_same_whatever_the_weights(beta: float):
    """All negatives are alike there, so each has the same weight."""
    one = F.one_hot(torch.zeros(6, dtype=torch.int64), 6).double()
    scale = torch.tensor([14.3], dtype=torch.float64)
    assert run(one, one, scale, beta=beta).item() == pytest.approx(math.log(6), rel=1e-12)
    orthonormal = torch.eye(6, dtype=torch.float64)
    expected = math.log1p(5 * math.exp(-14.3))
    assert run(orthonormal, orthonormal, scale, beta=beta).item() == pytest.approx(expected, rel=1e-12)


def test_weights_pull_the_loss_up_and_a_great_one_leaves_the_hardest_negative_alone():
    image, text, scale = given()
    losses = [run(image, text, scale, beta=beta).item() for beta in (0.0, 0.5, 1.0, 4.0)]
    assert losses == sorted(losses)
    logits = (scale * image @ text.T).detach()
    expected = 0.0
    for side in (logits, logits.T):
        hardest = side.masked_fill(torch.eye(ROWS, dtype=torch.bool), -torch.inf).amax(1)
        expected += F.softplus(hardest + math.log(ROWS - 1) - side.diagonal()).mean().item() / 2
    assert run(image, text, scale, beta=1e4).item() == pytest.approx(expected, rel=1e-6)


def test_it_is_blind_to_the_order_of_pairs_and_to_which_side_is_which():
    image, text, scale = given()
    options = {"beta": 1.0, "tau_plus": 0.1}
    expected = run(image, text, scale, **options).item()
    order = torch.randperm(ROWS)
    for others in ((text, image), (image[order], text[order])):
        assert run(*others, scale, **options).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tau_plus", [0.0, 0.3])
def test_a_scale_of_100_is_finite_in_single_precision(tau_plus: float):
    """e to the power of 200 is not; neither is the logarithm of what a wrong negative would leave."""
    inputs = given(scale=100.0)
    single = [tensor.detach().float().requires_grad_() for tensor in inputs]
    found = run(*single, beta=1.0, tau_plus=tau_plus)
    expected = run(*inputs, beta=1.0, tau_plus=tau_plus)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, exact in zip(torch.autograd.grad(found, single), torch.autograd.grad(expected, inputs), strict=True):
        assert (ours.double() - exact).abs().max() < 1e-4 * exact.abs().max()


def test_autocast_changes_nothing():
    inputs = [tensor.detach().float() for tensor in given()]
    expected = run(*inputs, labels(), beta=1.0, tau_plus=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run(*inputs, labels(), beta=1.0, tau_plus=0.1), expected)


@pytest.mark.parametrize("tau_plus", [0.0, 0.1])
def test_rows_whose_every_mismatch_is_a_duplicate_have_no_term(tau_plus: float):
    inputs = given(4)
    alike = PairLabels(*(torch.ones(4, 1, dtype=torch.int64) for _ in range(2)))
    found = run(*inputs, alike, beta=1.0, tau_plus=tau_plus)
    assert found.item() == 0
    assert all(not gradient.any() for gradient in torch.autograd.grad(found, inputs))


def test_what_is_missing_or_does_not_fit_is_refused_by_name():
    with pytest.raises(UserError, match="global batch of at least 2 pairs, got 1"):
        run(*given(1))
    outputs = TowerOutput(*given(), None)
    with pytest.raises(UserError, match=r"expected ObjectiveContext\(labels="):
        HardNegativesConfig().build()(outputs, ObjectiveContext(step=0, samples_seen=0))
    for field, value in (("beta", -1.0), ("tau_plus", 1.0)):
        with pytest.raises(ValueError, match=rf"objective\.{field}={value}"):
            HardNegativesConfig(**{field: value})
