import pytest
import torch
from lightly.loss import VICRegLoss
from torch import Tensor

from mmclip.errors import UserError
from mmclip.ops.vicreg import vicreg_terms


def views(rows: int = 12, width: int = 7, seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    return [0.3 * torch.randn(rows, width, dtype=torch.float64) for _ in range(2)]


def weighted(x: Tensor, y: Tensor, *weights: float) -> Tensor:
    return sum(weight * term for weight, term in zip(weights, vicreg_terms(x, y), strict=True))  # pyright: ignore


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_value_and_gradients_equal_lightlys(weights: tuple[float, float, float]):
    """Each term alone too."""
    given, theirs = ([view.requires_grad_() for view in views()] for _ in range(2))
    ours, expected = weighted(*given, *weights), VICRegLoss(*weights)(*theirs)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-9)
    ours.backward()
    expected.backward()
    for mine, their in zip(given, theirs, strict=True):
        assert torch.allclose(mine.grad, their.grad, rtol=1e-9, atol=1e-12)


def test_terms_equal_double_loops_over_rows_and_columns():
    x, y = views(5, 3)
    found = vicreg_terms(x, y)
    hinge = cross = 0.0
    for view in (x, y):
        mean = [sum(float(view[n, i]) for n in range(5)) / 5 for i in range(3)]
        for i in range(3):
            for j in range(3):
                moment = sum(float(view[n, i] - mean[i]) * float(view[n, j] - mean[j]) for n in range(5)) / 4
                hinge += max(0.0, 1 - (moment + 1e-4) ** 0.5) / 3 / 2 if i == j else 0.0
                cross += moment**2 / 3 if i != j else 0.0
    distance = sum(float(x[n, i] - y[n, i]) ** 2 for n in range(5) for i in range(3)) / 15
    assert [float(term) for term in found] == pytest.approx([distance, hinge, cross], rel=1e-12)


def test_a_collapsed_batch_costs_24_75_and_a_whitened_one_nothing():
    """25 (1 - sqrt(1e-4)) by the hinge alone."""
    collapsed = torch.ones(8, 5, dtype=torch.float64)
    assert weighted(collapsed, collapsed, 25, 25, 1).item() == pytest.approx(24.75, abs=1e-12)
    rows = views(64, 5)[0]
    centred = rows - rows.mean(0)
    whitened = centred @ torch.linalg.inv(torch.linalg.cholesky(centred.T @ centred / 63)).T
    terms = vicreg_terms(whitened, whitened)
    assert [float(term) for term in terms] == pytest.approx([0, 0, 0], abs=1e-12)


def test_one_row_has_no_variance():
    with pytest.raises(UserError, match="global batch of at least 2, got 1"):
        vicreg_terms(*views(1))
