"""Which units of one model another has too."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmclip.errors import UserError
from mmclip_eval.report.environment import environment
from mmclip_eval.sparse.changes import Side, sparse_changes
from mmclip_eval.sparse.comparison import compare_units
from mmclip_eval.sparse.config import SparseConfig
from mmclip_eval.sparse.matching import match_activations

UNITS = 20


def activations(seed: int = 0, rows: int = 400) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    fires = torch.rand(rows, UNITS, generator=generator) < 0.1
    return torch.rand(rows, UNITS, generator=generator) * fires


def test_units_in_another_order_and_of_other_strength_are_found_again_exactly():
    a = activations()
    order = torch.randperm(UNITS, generator=torch.Generator().manual_seed(1))
    found = match_activations(a, 3 * a[:, order])
    assert dict(zip(found.kept.a.tolist(), found.kept.b.tolist(), strict=True)) == {
        int(unit): place for place, unit in enumerate(order)
    }
    assert torch.allclose(found.kept.correlation, torch.ones(UNITS, dtype=torch.float64))
    assert (len(found.lost), len(found.new), found.share_kept) == (0, 0, 1.0)
    assert found.mean_correlation == pytest.approx(1)
    assert found.floor < 0.3


def test_units_that_were_taken_out_are_lost_and_others_in_their_place_are_new():
    a, other = activations(), activations(seed=9)
    b = a.clone()
    b[:, [2, 5, 11]] = other[:, [2, 5, 11]]
    found = match_activations(a, b)
    assert found.lost.tolist() == [2, 5, 11]
    assert found.new.tolist() == [2, 5, 11]
    assert found.kept.a.sort().values.tolist() == [unit for unit in range(UNITS) if unit not in (2, 5, 11)]
    assert found.share_kept == 17 / 20
    low, high = found.share_kept_interval
    assert low < 17 / 20 < high
    fewer = match_activations(a, a[:, 4:])
    assert fewer.lost.tolist() == [0, 1, 2, 3]
    assert fewer.new.tolist() == []


def test_a_unit_that_fires_on_few_pictures_is_neither_kept_nor_lost():
    a = activations()
    a[:, 7] = 0
    a[:4, 7] = 1.0
    b = activations()
    found = match_activations(a, b)
    assert found.rare == (1, 0)
    assert 7 not in found.kept.a.tolist() + found.lost.tolist()
    assert found.new.tolist() == [7]


def test_nothing_is_kept_where_the_pictures_are_permuted():
    a = activations()
    found = match_activations(a, a[torch.randperm(len(a), generator=torch.Generator().manual_seed(3))])
    assert found.share_kept == 0
    assert found.mean_correlation == pytest.approx(found.floor, abs=0.05)


def test_chance_raises_what_partners_need_where_units_fire_rarely_on_few_pictures():
    few = torch.eye(8).repeat_interleave(30, dim=1)[:, torch.arange(240) % 240]
    few = few + torch.rand(
        8, 240, generator=torch.Generator().manual_seed(0)
    )  # of eight pictures all units fire on each
    found = match_activations(few, few.flip(0))
    assert found.least > 0.8
    assert found.floor > 0.5


def test_other_pictures_are_refused():
    with pytest.raises(UserError, match="400 rows of A and 399 of B"):
        match_activations(activations(), activations()[1:])


@pytest.fixture
def features() -> tuple[torch.Tensor, SparseConfig]:
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(16, 12, generator=generator), dim=1)
    strength = torch.rand(600, 16, generator=generator)
    chosen = torch.rand(600, 16, generator=generator).argsort(dim=1) < 2
    return (strength * chosen) @ directions, SparseConfig(units=24, k=2, steps=150, batch_size=128)


def test_equal_features_keep_every_unit_and_a_second_fit_is_the_ceiling(features):
    rows, settings = features
    found = compare_units(rows, rows.clone(), settings)
    assert found.share_kept == 1
    assert found.ceiling == found.within_a.share_kept == found.within_b.share_kept
    assert 0.4 < found.ceiling <= 1
    assert found.between.mean_correlation == pytest.approx(1)
    assert (len(found.lost), len(found.new)) == (0, 0)


def test_what_one_model_does_not_see_is_lost_beyond_the_noise_of_fits(features):
    rows, settings = features
    blind = rows.clone()
    blind[:, :6] = 0  # B sees half of what A sees
    found = compare_units(rows, blind, settings)
    assert len(found.lost) > 0
    assert set(found.lost.tolist()) <= set(found.between.lost.tolist()) & set(found.within_a.kept.a.tolist())
    with pytest.raises(UserError, match="600 rows of A and 500 of B"):
        compare_units(rows, blind[:500], settings)
    with pytest.raises(UserError, match="10 rows of features"):
        compare_units(rows[:10], blind[:10], replace(settings, seed=2))


def test_the_part_of_a_page_shows_lost_new_and_kept_units_with_their_pictures(
    features, picture, write_tar, tmp_path: Path
):
    from mmclip_eval.datasets import open_samples
    from mmclip_eval.eval_dataset import SetConfig
    from mmclip_eval.report.pictures import Album

    rows, settings = features
    colours = ["red", "green", "blue", "white", "black"]
    write_tar(tmp_path / "pictures.tar", [{"png": picture(colours[i % 5]), "cls": b"0"} for i in range(len(rows))])
    samples = open_samples(SetConfig(name="pictures", path=str(tmp_path / "pictures.tar"))).samples
    blind = rows.clone()
    blind[:, :6] = 0
    found = compare_units(rows, blind, settings)
    shown = sparse_changes(
        found, Side(rows), Side(blind), Album(samples, 10**6), torch.arange(len(rows)), units=3, hits=2
    )
    assert shown.lost_in_all == len(found.lost)
    assert len(shown.lost) == min(3, len(found.lost))
    assert all(len(query.hits) == 2 and query.hits[0].picture.uri for query in shown.lost)
    page = (
        environment().from_string('{% from "sparse.html.j2" import changes %}{{ changes(found) }}').render(found=shown)
    )
    assert "units of A that B has too" in page
    assert f"Lost: {len(shown.lost)} of {len(found.lost)} units" in page
    assert "correlation" in page
    samples.close()
