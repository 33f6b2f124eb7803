"""What an autoencoder explains on held-out rows, and what its figures stand beside."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mmclip.errors import UserError
from mmclip_eval.sparse.anchors import by_principal_components, gaussian_twin
from mmclip_eval.sparse.autoencoder import SparseAutoencoder
from mmclip_eval.sparse.config import SparseConfig
from mmclip_eval.sparse.files import CONFIG_FILE, WEIGHTS_FILE, load_autoencoder, save_autoencoder
from mmclip_eval.sparse.reconstruction import Explained, Use, errors_and_use, explained
from mmclip_eval.sparse.study import SparseStudy, split, study
from mmclip_eval.sparse.units import Texts, chosen_units, units_of

SETTINGS = SparseConfig(units=48, k=3, steps=400, batch_size=128, lr=1e-2, seed=1)
ACTIVE = 3


def planted(rows: int = 1500, width: int = 24, parts: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that are sums of three of many directions, and the directions."""
    generator = torch.Generator().manual_seed(3)
    directions = normalize(torch.randn(parts, width, generator=generator), dim=1)
    chosen = torch.rand(rows, parts, generator=generator).argsort(dim=1)[:, :ACTIVE]
    strength = 0.5 + torch.rand(rows, ACTIVE, generator=generator)
    activations = torch.zeros(rows, parts).scatter(1, chosen, strength)
    return activations @ directions + 0.2 + 0.01 * torch.randn(rows, width, generator=generator), directions


@pytest.fixture(scope="module")
def found() -> SparseStudy:
    return study(planted()[0], SETTINGS)


def test_planted_directions_are_found(found: SparseStudy):
    cosines = planted()[1] @ found.model.directions.T
    assert float(cosines.max(dim=1).values.mean()) > 0.9
    assert found.explained.low > 0.8


def test_the_gaussian_control_is_explained_less_at_the_same_number_of_active_units(found: SparseStudy):
    assert found.use.mean_active == pytest.approx(ACTIVE, abs=0.05)
    assert found.control_use.mean_active == pytest.approx(ACTIVE, abs=0.05)
    assert found.has_structure
    assert found.control.value < found.explained.value - 0.2
    assert found.by_components.value < found.control.value
    assert found.notes == ()


def test_to_beat_a_control_that_was_not_fitted_shows_nothing(found: SparseStudy):
    best = Explained(0.9, 0.89, 0.91)
    left_behind = replace(
        found, explained=best, control=Explained(0.5, 0.49, 0.51), by_components=Explained(0.7, 0.69, 0.71)
    )
    assert left_behind.beats_control
    assert not left_behind.has_structure
    assert any("not fitted as far as it can be" in note for note in left_behind.notes)
    assert replace(left_behind, by_components=Explained(0.4, 0.39, 0.41)).has_structure


def test_normal_rows_beat_no_control():
    rows = torch.randn(800, 12, generator=torch.Generator().manual_seed(0))
    plain = study(rows, replace(SETTINGS, units=24, steps=150))
    assert not plain.has_structure
    assert any("show no sparse structure" in note for note in plain.notes)


def test_the_figures_of_the_held_out_rows_are_those_of_a_loop(found: SparseStudy):
    rows = planted()[0].double()
    mean = rows[found.fitted].mean(dim=0)
    error = variance = active = 0.0
    for row in rows[found.held_out]:
        activations = found.model.encode(row.float()[None])[0]
        error += float((row - found.model(row.float()[None])[0].double()).square().sum())
        variance += float((row - mean).square().sum())
        active += int((activations > 0).sum())
    assert found.explained.value == pytest.approx(1 - error / variance, abs=1e-6)
    assert found.explained.unexplained == pytest.approx(error / variance, abs=1e-6)
    assert found.use.mean_active == pytest.approx(active / len(found.held_out))
    assert found.explained.low < found.explained.value < found.explained.high


def test_the_interval_is_the_spread_of_the_ratio_over_rows_that_are_drawn_again():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    error = torch.rand(300, generator=generator, dtype=torch.float64)
    figure = explained(rows, error, torch.zeros(2, dtype=torch.float64))
    variance = rows.square().sum(dim=1)
    rng, drawn = np.random.default_rng(5), []
    for _ in range(2000):
        places = torch.from_numpy(rng.integers(300, size=300))
        drawn.append(1 - float(error[places].sum() / variance[places].sum()))
    assert figure.value == pytest.approx(1 - float(error.sum() / variance.sum()))
    assert (figure.low, figure.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.01)


def test_principal_components_explain_what_the_singular_values_say():
    rows = torch.randn(200, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * torch.arange(1, 11)
    singular = torch.linalg.svdvals(rows - rows.mean(dim=0)).square()
    for components in (1, 4, 10):
        wanted = float(singular[:components].sum() / singular.sum())
        assert by_principal_components(rows, rows, components).value == pytest.approx(wanted, abs=1e-9)


def test_the_gaussian_twin_has_mean_and_covariance_and_no_heavy_tails():
    generator = torch.Generator().manual_seed(2)
    heavy = torch.randn(20_000, 4, generator=generator).pow(3) @ torch.randn(4, 4, generator=generator) + 5
    twin = gaussian_twin(heavy, seed=0)
    assert torch.allclose(twin.mean(dim=0), heavy.mean(dim=0), atol=0.5)
    assert torch.allclose(twin.T.cov(), heavy.T.cov(), rtol=0.1, atol=3.0)

    def kurtosis(rows: torch.Tensor) -> float:
        scaled = (rows - rows.mean(dim=0)) / rows.std(dim=0)
        return float(scaled.pow(4).mean())

    assert kurtosis(heavy) > 8
    assert kurtosis(twin) == pytest.approx(3, abs=0.2)


def test_dead_and_silent_units_are_counted():
    model = SparseAutoencoder(width=2, units=4, k=None)
    with torch.no_grad():
        model.encoder.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        model.encoder_bias.copy_(torch.tensor([0.0, 0.0, -1.0, -1.0]))  # the last never fires
        model.directions.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    fitted, held_out = torch.tensor([[1.0, 0.0], [2.0, 3.0], [-1.0, 0.5]]), torch.tensor([[4.0, 1.0], [5.0, 0.0]])
    _, use_when_fitted = errors_and_use(model, fitted)
    _, use = errors_and_use(model, held_out)
    assert use_when_fitted.fires.tolist() == [2, 1, 1, 0]
    assert use.fires.tolist() == [2, 0, 0, 0]
    assert use.density.tolist() == [1, 0, 0, 0]
    assert use.mean_active == 1
    none = Explained(0.0, 0.0, 0.0)
    by_hand = SparseStudy(
        model=model,
        settings=SETTINGS,
        fitted=torch.arange(3),
        held_out=torch.arange(3, 5),
        explained=none,
        use=use,
        use_when_fitted=use_when_fitted,
        components=1,
        by_components=none,
        control=none,
        control_use=Use(2, torch.zeros(4, dtype=torch.long)),
    )
    assert (by_hand.dead, by_hand.silent) == (1, 3)
    assert by_hand.to_json()["dead"]["share"] == 0.25


def test_rows_are_fitted_or_held_out_never_both_and_by_the_seed():
    fitted, held_out = split(1000, SETTINGS)
    assert len(held_out) == 250
    assert sorted([*fitted.tolist(), *held_out.tolist()]) == list(range(1000))
    assert torch.equal(split(1000, SETTINGS)[1], held_out)
    assert not torch.equal(split(1000, replace(SETTINGS, seed=2))[1], held_out)


def test_the_study_is_the_same_again_and_is_strict_json(found: SparseStudy):
    again = study(planted()[0], SETTINGS)
    assert json.dumps(again.to_json(), allow_nan=False) == json.dumps(found.to_json(), allow_nan=False)


def test_progress_counts_the_steps_of_both_fits():
    calls: list[tuple[str, int, int]] = []
    study(planted()[0], replace(SETTINGS, steps=3), progress=lambda *call: calls.append(call))
    assert calls == [(name, step, 3) for name in ("autoencoder", "control") for step in (1, 2, 3)]


@pytest.mark.parametrize(
    ("rows", "changed", "said"),
    [(63, {}, "63 rows of features: expected 64 at least"), (64, {"k": 49}, "k=49 active units of 48")],
)
def test_too_few_rows_and_too_many_active_units_are_refused_before_anything_is_fitted(rows, changed, said):
    with pytest.raises(UserError, match=said):
        study(torch.randn(rows, 24), replace(SETTINGS, **changed))


def test_a_saved_autoencoder_is_the_same_when_it_is_loaded(found: SparseStudy, tmp_path):
    save_autoencoder(found.model, SETTINGS, tmp_path / "units", {"checkpoint": "runs/demo"})
    model, settings = load_autoencoder(tmp_path / "units")
    rows = planted()[0]
    assert settings == SETTINGS
    assert torch.equal(model.encode(rows), found.model.encode(rows))
    assert torch.equal(model(rows), found.model(rows))
    assert json.loads((tmp_path / "units" / CONFIG_FILE).read_text())["made_of"] == {"checkpoint": "runs/demo"}
    save_autoencoder(found.model, SETTINGS, tmp_path / "units")  # replaces what it wrote itself


def test_what_is_no_autoencoder_is_neither_loaded_nor_replaced(found: SparseStudy, tmp_path):
    with pytest.raises(UserError, match=r"does not exist: expected a folder that `mmclip sparse` wrote"):
        load_autoencoder(tmp_path / "none")
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="is no autoencoder that mmclip wrote"):
        save_autoencoder(found.model, SETTINGS, tmp_path / "mine")
    folder = tmp_path / "units"
    save_autoencoder(found.model, SETTINGS, folder)
    about = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**about, "units": 7}))
    with pytest.raises(UserError, match="does not fit autoencoder.json"):
        load_autoencoder(folder)
    (folder / WEIGHTS_FILE).write_bytes(b"nothing")
    with pytest.raises(UserError, match="or damaged"):
        load_autoencoder(folder)


def test_a_unit_shows_the_rows_that_fire_it_most_and_the_texts_in_its_direction():
    model = SparseAutoencoder(width=3, units=3, k=None)
    with torch.no_grad():
        model.encoder.copy_(torch.eye(3))
        model.directions.copy_(torch.eye(3))
    rows = torch.tensor([[0.1, 0.0, 0.0], [0.9, -1.0, 0.0], [0.5, 0.0, 0.0], [-1.0, 0.2, 0.0]])
    # The mean text is far away in all directions alike: only what is left without it names a unit.
    embed = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) + 10
    texts = Texts(embed, ("red", "green", "blue"))
    first, second = units_of(model, rows, (0, 1), 2, texts)
    assert first.rows == (1, 2)
    assert first.activations == pytest.approx((0.9, 0.5))
    assert (first.fires, first.name) == (3, "red")
    assert first.name_cosine == pytest.approx((2 / 3) ** 0.5)  # (2, -1, -1) / 6 ** .5
    assert (second.rows, second.fires, second.name) == ((3,), 1, "green")
    (bare,) = units_of(model, rows, (2,), 2, Texts(torch.eye(2), ("of another", "width")))
    assert (bare.names, bare.name, bare.rows) == ((), "unit 2", ())
    assert bare.to_json()["name_cosine"] is None


def test_units_are_drawn_among_those_that_fire_often_enough():
    fires = torch.tensor([0, 4, 5, 100, 7])
    assert chosen_units(fires, 10) == (3, 4, 2)
    assert len(chosen_units(torch.full((50,), 9), 10)) == 10
    assert chosen_units(torch.zeros(3, dtype=torch.long), 10) == ()
