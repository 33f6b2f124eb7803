"""The angle between the gradients of two objectives, with the same weights and without a change to any of them."""

import pytest
import torch
from torch import nn

from mmclip.training.gradient_cosine import gradient_figures


@pytest.fixture
def weights() -> tuple[nn.Linear, nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    first, last = nn.Linear(5, 6).double(), nn.Linear(6, 4).double()
    return first, last, last(torch.tanh(first(torch.randn(7, 5, dtype=torch.float64))))


def by_backward(loss: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    found = torch.autograd.grad(loss, [layer.weight, layer.bias], retain_graph=True)
    return torch.cat([part.flatten() for part in found])


def test_cosine_and_norm_are_those_of_the_two_gradients(weights: tuple[nn.Linear, nn.Linear, torch.Tensor]):
    first, last, output = weights
    losses = {"main": output.square().mean(), "aux": 3 * output[:, 0].exp().mean()}
    figures = gradient_figures({name: [(loss, None)] for name, loss in losses.items()}, list(last.parameters()))
    one, other = (by_backward(loss, last) for loss in losses.values())
    assert float(figures["gradient_norm/main"]) == pytest.approx(float(one.norm()), rel=1e-12)
    assert float(figures["gradient_norm/aux"]) == pytest.approx(float(other.norm()), rel=1e-12)
    expected = torch.cosine_similarity(one, other, dim=0)
    assert float(figures["gradient_cosine/main/aux"]) == pytest.approx(float(expected), rel=1e-12)
    assert all(parameter.grad is None for layer in (first, last) for parameter in layer.parameters())
    losses["main"].backward()  # the graph is still there


def test_opposed_objectives_have_minus_one_and_equal_ones_one(weights: tuple[nn.Linear, nn.Linear, torch.Tensor]):
    _, last, output = weights
    loss = output.square().mean()
    pulls = {"a": [(loss, None)], "b": [(2 * loss, None)], "c": [(-loss, None)]}
    figures = gradient_figures(pulls, list(last.parameters()))
    assert float(figures["gradient_cosine/a/b"]) == pytest.approx(1)
    assert float(figures["gradient_cosine/a/c"]) == pytest.approx(-1)
    assert float(figures["gradient_cosine/b/c"]) == pytest.approx(-1)


def test_a_loss_that_does_not_reach_the_weights_has_neither_norm_nor_angle(
    weights: tuple[nn.Linear, nn.Linear, torch.Tensor],
):
    first, last, output = weights
    aside = first.weight.square().sum()
    pulls = {"main": [(output.square().mean(), None)], "aside": [(aside, None)]}
    figures = gradient_figures(pulls, list(last.parameters()))
    assert float(figures["gradient_norm/aside"]) == 0
    assert float(figures["gradient_cosine/main/aside"]) == 0


def test_gradients_left_at_features_pull_the_weights_as_the_losses_do(
    weights: tuple[nn.Linear, nn.Linear, torch.Tensor],
):
    _, last, output = weights
    losses = {"main": output.square().mean(), "aux": output[:, 0].exp().mean()}
    left = {name: [(output, torch.autograd.grad(loss, output, retain_graph=True)[0])] for name, loss in losses.items()}
    direct = gradient_figures({name: [(loss, None)] for name, loss in losses.items()}, list(last.parameters()))
    for name, figure in gradient_figures(left, list(last.parameters())).items():
        assert float(figure) == pytest.approx(float(direct[name]), rel=1e-12)
