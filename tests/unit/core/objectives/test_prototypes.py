"""Assignments to prototypes: Sinkhorn and Knopp, centring and sharpening, and the swapped prediction of both."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from lightly.loss import DINOLoss, SwaVLoss
from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn
from torch import Tensor

from mmclip.objectives.parts.centre import Centre
from mmclip.ops.prototypes import entropy, sharpened, sinkhorn, swapped_cross_entropy, used_share


def cosines(rows: int = 64, prototypes: int = 10, seed: int = 0, width: int = 8) -> Tensor:
    torch.manual_seed(seed)
    x, y = (F.normalize(torch.randn(n, width, dtype=torch.float64), dim=1) for n in (rows, prototypes))
    return x @ y.T


def test_sinkhorn_equals_lightlys():
    for iterations in (1, 3, 10):
        expected = lightly_sinkhorn(cosines(), iterations=iterations, epsilon=0.05)
        assert torch.allclose(sinkhorn(cosines(), 0.05, iterations), expected, rtol=1e-9, atol=1e-12)


def test_rows_sum_to_one_always_and_columns_are_even_in_the_end():
    few, many = (sinkhorn(cosines(), 0.05, iterations) for iterations in (3, 300))
    assert torch.allclose(few.sum(1), torch.ones(64).double(), atol=1e-12)
    assert (few.sum(0) - 6.4).abs().max() > 0.1
    assert (many.sum(0) - 6.4).abs().max() < 1e-9
    assert torch.allclose(sinkhorn(torch.ones(6, 4).double(), 0.05, 3), torch.full((6, 4), 0.25).double(), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sinkhorn_is_finite_in_every_precision_and_at_every_epsilon(dtype: torch.dtype):
    """exp(1 / .05) is infinite in fp16, and exp(-2 / .002) is 0 in fp32: a row of zeros would become no number."""
    for epsilon in (0.05, 0.002):
        with torch.autocast("cpu", torch.bfloat16):
            found = sinkhorn(cosines().to(dtype), epsilon, 3)
        assert found.dtype == torch.float32
        assert found.isfinite().all()
        assert torch.allclose(found.sum(1), torch.ones(64), atol=1e-5)
    rounded = cosines().to(dtype)
    assert torch.allclose(sinkhorn(rounded, 0.05, 3).double(), sinkhorn(rounded.double(), 0.05, 3), atol=1e-4)


def test_further_rows_take_part_where_they_are_valid_and_are_not_returned():
    own, queue = cosines(), cosines(30, seed=1)
    expected = lightly_sinkhorn(torch.cat([own, queue[:20]]))[:64]
    valid = torch.arange(30) < 20
    assert torch.allclose(sinkhorn(own, 0.05, 3, (queue, valid)), expected, atol=1e-12)
    assert torch.equal(sinkhorn(own, 0.05, 3, (queue, valid & False)), sinkhorn(own, 0.05, 3))


def test_swapped_prediction_equals_lightlys_swav():
    for small in (0, 3):
        views = [cosines(seed=seed).requires_grad_() for seed in range(2 + small)]
        theirs = [view.detach().clone().requires_grad_() for view in views]
        ours = swapped_cross_entropy([sinkhorn(view, 0.05, 3) for view in views[:2]], views, 0.1)
        expected = SwaVLoss()(theirs[:2], theirs[2:])
        assert ours.item() == pytest.approx(expected.item(), rel=1e-9)
        ours.backward()
        expected.backward()
        for mine, their in zip(views, theirs, strict=True):
            assert torch.allclose(mine.grad, their.grad, rtol=1e-9, atol=1e-12)


@given(st.integers(2, 5), st.integers(1, 5), st.integers(0, 10**6))
def test_self_distillation_equals_a_double_loop_and_lightlys(views: int, rows: int, seed: int):
    torch.manual_seed(seed)
    told = [torch.randn(rows, 6, dtype=torch.float64) for _ in range(views)]
    taught = [torch.randn(rows, 6, dtype=torch.float64) for _ in range(2)]
    centre = torch.randn(6, dtype=torch.float64)
    found = swapped_cross_entropy([sharpened(view, centre, 0.04) for view in taught], told, 0.1)
    terms = []
    for i in range(2):
        for j in range(views):
            if i != j:
                for n in range(rows):
                    target, log = ((taught[i][n] - centre) / 0.04).softmax(0), (told[j][n] / 0.1).log_softmax(0)
                    terms.append(-sum(float(target[k]) * float(log[k]) for k in range(6)))
    assert found.item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)
    theirs = DINOLoss(6)
    theirs.center = centre.view(1, 1, 6)
    assert found.item() == pytest.approx(theirs(taught, told, teacher_temp=0.04).item(), rel=1e-6)  # .04 as fp32


@pytest.mark.parametrize(("prototypes", "expected"), [(4096, 8.3178), (65536, 11.0904)])
def test_where_all_views_are_sorted_evenly_the_loss_is_ln_k(prototypes: int, expected: float):
    even = torch.full((2, prototypes), 0.3, dtype=torch.float64)
    targets = [sharpened(even, torch.zeros(prototypes).double(), 0.04)] * 2
    loss = swapped_cross_entropy(targets, [even] * 4, 0.1)
    assert loss.item() == pytest.approx(math.log(prototypes), rel=1e-12)
    assert loss.item() == pytest.approx(expected, abs=1e-4)
    assert entropy(targets).item() == pytest.approx(math.log(prototypes), rel=1e-12)
    assert used_share(targets).item() == pytest.approx(1, rel=1e-12)


def test_no_gradient_reaches_targets_or_centre():
    scores, centre = cosines().requires_grad_(), torch.zeros(10).double().requires_grad_()
    target = torch.full((64, 10), 0.1).double().requires_grad_()
    told = cosines(seed=1).requires_grad_()
    loss = swapped_cross_entropy([target, sharpened(scores, centre, 0.04)], [told, told], 0.1)
    loss = loss + swapped_cross_entropy([sinkhorn(scores, 0.05, 3)], [scores.detach(), told], 0.1)
    found = torch.autograd.grad(loss, [told, scores, centre, target], allow_unused=True)
    assert found[0] is not None
    assert found[1:] == (None, None, None)


def test_use_is_the_perplexity_of_the_mean_assignment():
    one_of_four = F.one_hot(torch.zeros(5, dtype=torch.int64), 4).double()
    assert used_share([one_of_four]).item() == pytest.approx(0.25)
    assert entropy([one_of_four]).item() == 0
    two_of_four = F.one_hot(torch.tensor([0, 0, 1, 1]), 4).double()
    assert used_share([two_of_four]).item() == pytest.approx(0.5)
    assert used_share([one_of_four, one_of_four.flip(1)]).item() == pytest.approx(0.5)


def test_a_centre_is_a_moving_average_and_skips_a_step_that_is_no_number():
    centre = Centre(3, 0.9).double()
    first, second = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([-1.0, 0.0, 1.0]).double()
    centre.move(first, torch.tensor(0.0))
    assert centre.mean.tolist() == pytest.approx([0.1, 0.2, 0.3])
    centre.move(torch.full((3,), torch.nan).double(), torch.tensor(1.0))
    assert centre.mean.tolist() == pytest.approx([0.1, 0.2, 0.3])
    centre.move(second, torch.tensor(0.0))
    assert centre.mean.tolist() == pytest.approx([-0.01, 0.18, 0.37])
    assert list(centre.state_dict()) == ["mean"]
