"""A sparse autoencoder and how it is fitted."""

import math
from dataclasses import replace

import pytest
import torch

from mmclip.errors import UserError
from mmclip_eval.sparse.autoencoder import SparseAutoencoder, keep_largest
from mmclip_eval.sparse.config import SparseConfig
from mmclip_eval.sparse.dead_units import Silence, auxiliary_loss, resample
from mmclip_eval.sparse.fitting import fit, geometric_median

SHORT = SparseConfig(units=24, k=3, steps=40, batch_size=64)


def some_rows(rows: int = 200, width: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) + 3


def test_exactly_the_k_largest_of_each_row_stay():
    seen = torch.rand(50, 20, generator=torch.Generator().manual_seed(0)) + 0.1
    kept = keep_largest(seen, 4)
    for row, own in zip(seen.tolist(), kept.tolist(), strict=True):
        least = sorted(row)[-4]
        assert own == [value if value >= least else 0.0 for value in row]
    assert keep_largest(torch.ones(3, 20), 4).sum(dim=1).tolist() == [4, 4, 4], "among equals it keeps k, not all"


def test_what_is_not_above_zero_stays_silent_even_among_the_largest():
    assert keep_largest(torch.tensor([[-1.0, 2.0, -3.0, 0.0]]), 3).tolist() == [[0.0, 2.0, 0.0, 0.0]]


def test_encoder_and_decoder_are_the_papers_equations():
    model = SparseAutoencoder(width=2, units=3, k=1)
    state = {
        "encoder": torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]),
        "encoder_bias": torch.tensor([0.5, 0.0, -9.0]),
        "directions": torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]),
        "centre": torch.tensor([1.0, 1.0]),
        "scale": torch.tensor(2.0),
    }
    model.load_state_dict(state)
    rows = torch.tensor([[4.0, 3.0]])  # u = (2, 1.5), u - b = (1, .5): W (u - b) + c = (1.5, 1, -7.5)
    assert model.encode(rows).tolist() == [[1.5, 0.0, 0.0]]
    assert model(rows).tolist() == [[5.0, 2.0]]  # 2 (1.5 (1, 0) + (1, 1))
    model.k = None
    assert model.encode(rows).tolist() == [[1.5, 1.0, 0.0]]


@pytest.mark.parametrize("form", ["topk", "l1"])
def test_every_direction_has_length_1_and_fitting_helps(form):
    rows, settings = some_rows(), replace(SHORT, form=form)
    model = fit(rows, settings)
    assert torch.allclose(model.directions.norm(dim=1), torch.ones(24), atol=1e-6)
    before = fit(rows, replace(settings, steps=1))

    def error(one: SparseAutoencoder) -> float:
        return float((rows - one(rows)).square().sum())

    assert error(model) < 0.8 * error(before)
    if form == "topk":
        assert int((model.encode(rows) > 0).sum(dim=1).max()) <= 3


def test_a_higher_price_leaves_less_activity_and_fewer_active_units():
    rows = some_rows()
    cheap, dear = (
        fit(rows, replace(SHORT, form="l1", l1=price, steps=200, resample_times=0)).encode(rows)
        for price in (0.02, 0.5)
    )
    assert float(dear.sum()) < 0.7 * float(cheap.sum())
    assert int((dear > 0).sum()) < int((cheap > 0).sum())


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    first, second, other = (fit(some_rows(), replace(SHORT, seed=seed)).directions for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_size_of_the_features_moves_nothing_but_the_scale():
    rows = some_rows()
    small, large = fit(rows, SHORT), fit(rows * 1024, SHORT)  # a power of two: the same mantissas
    assert torch.allclose(small.directions, large.directions, atol=1e-4)
    assert float(large.scale) == pytest.approx(1024 * float(small.scale), rel=1e-6)


def test_the_geometric_median_is_the_middle_one_of_points_on_a_line_and_the_mean_is_not():
    points = torch.tensor([[0.0, 0.0], [1.0, 1.0], [50.0, 50.0]], dtype=torch.float64)
    assert torch.allclose(geometric_median(points), torch.ones(2, dtype=torch.float64), atol=1e-3)
    square = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]], dtype=torch.float64)
    assert torch.allclose(geometric_median(square), torch.ones(2, dtype=torch.float64))


def test_a_unit_is_dead_once_it_was_silent_for_long_enough_and_lives_when_it_fires():
    silence = Silence(units=3, dead_after_rows=4, device=torch.device("cpu"))
    batch = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    silence.see(batch)
    assert silence.dead.tolist() == [False, False, False]
    silence.see(batch)
    assert silence.dead.tolist() == [False, True, False]
    silence.see(torch.tensor([[0.0, 1.0, 0.0]]))
    assert silence.dead.tolist() == [False, False, False]


def test_dead_units_are_given_the_error_that_the_others_leave():
    model = SparseAutoencoder(width=4, units=3, k=1)
    with torch.no_grad():
        model.directions.copy_(torch.eye(4)[:3])
    seen = torch.tensor([[5.0, 0.5, 0.25], [5.0, -1.0, 2.0]])
    error = torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 0.0]])
    dead = torch.tensor([False, True, True])
    # Row 1 is left (0, .5, .75, 1), row 2 (0, 1, 0, 0) of squared lengths 3 and 5.
    left = (0.5**2 + 0.75**2 + 1) + 1
    assert auxiliary_loss(model, seen, error, dead).item() == pytest.approx(left / 8)
    assert auxiliary_loss(model, seen, error, torch.zeros(3, dtype=torch.bool)).item() == 0


def test_a_resampled_unit_points_at_what_is_explained_worst_and_has_no_moments():
    model = SparseAutoencoder(width=3, units=2, k=None)
    with torch.no_grad():
        for parameter in (model.directions, model.encoder):
            parameter.copy_(torch.eye(3)[:2])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    rows = torch.tensor([[0.0, 0.0, 9.0], [1.0, 0.0, 0.0]])
    with torch.no_grad():
        model.directions.copy_(torch.eye(3)[:2])
        model.centre.zero_()
    living = model.encoder[0].detach().norm()
    resample(model, optimizer, rows, torch.tensor([False, True]), torch.Generator().manual_seed(0))
    assert torch.allclose(model.directions[1], torch.tensor([0.0, 0.0, 1.0]))
    assert torch.allclose(model.encoder[1], torch.tensor([0.0, 0.0, 0.2 * float(living)]))
    assert torch.equal(model.directions[0], torch.eye(3)[0])
    assert optimizer.state[model.encoder]["exp_avg"][1].tolist() == [0, 0, 0]
    assert optimizer.state[model.encoder]["exp_avg"][0].abs().sum() > 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"k": 25}, "k=25 active units of 24"),
        ({"k": 0}, "k=0: expected a whole number from 1 on"),
        ({"units": 0}, "units=0"),
        ({"steps": 0}, "steps=0"),
        ({"held_out_share": 1.0}, "held_out_share=1.0"),
        ({"lr": math.nan}, "lr=nan"),
        ({"l1": -1.0}, "l1=-1.0"),
        ({"resample_times": -1}, "resample_times=-1"),
    ],
)
def test_settings_that_no_autoencoder_can_have_are_refused(changed, said):
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):  # pydantic wraps what a check of ours says
        replace(SHORT, **changed).units_of(8)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (torch.ones(100, 8), "all 100 rows of the features are equal"),
        (some_rows().index_fill(0, torch.tensor(7), math.nan), "row 7 of the features is not finite"),
    ],
)
def test_features_that_tell_nothing_are_refused(rows, said):
    with pytest.raises(UserError, match=said):
        fit(rows, SHORT)
