import math

import pytest
import torch
import torch.nn.functional as F
from scipy.special import hyp0f1
from torch import Tensor

from mmclip.training import diagnostics
from mmclip.training.diagnostics import (
    alignment,
    effective_rank,
    evenly_spaced,
    health,
    modality_gap,
    spread,
    uniformity,
)


def sphere(rows: int, embed: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(seed)
    return F.normalize(torch.randn(rows, embed, dtype=dtype), dim=-1)


def rank_by_definition(rows: Tensor) -> float:
    values = torch.linalg.svdvals(rows.double())
    shares = [float(value / values.sum()) for value in values]
    return math.exp(-sum(share * math.log(share) for share in shares if share > 0))


@pytest.mark.parametrize("shape", [(40, 7), (7, 40)], ids=["more rows than dimensions", "fewer"])
def test_effective_rank_is_that_of_the_singular_values(shape: tuple[int, int]):
    rows = sphere(*shape) + 0.3
    assert float(effective_rank(rows)) == pytest.approx(rank_by_definition(rows), rel=1e-6)
    centred = rows - rows.mean(dim=0)
    assert float(effective_rank(rows, centred=True)) == pytest.approx(rank_by_definition(centred), rel=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 5, 16])
def test_equal_shares_of_r_directions_have_effective_rank_r(rank: int):
    rows = torch.eye(16)[torch.arange(16 * rank) % rank]
    assert float(effective_rank(rows)) == pytest.approx(rank, rel=1e-6)


def test_effective_rank_of_known_singular_values():
    rows = torch.diag(torch.tensor([2.0, 1.0, 0.0]))
    assert float(effective_rank(rows)) == pytest.approx(3 / 2 ** (2 / 3), rel=1e-6)  # exp(ln 3 - 2/3 ln 2)


def test_effective_rank_of_nothing_is_0_and_of_nan_is_nan():
    assert float(effective_rank(torch.zeros(4, 3))) == 0
    assert float(effective_rank(sphere(1, 3), centred=True)) == 0
    assert math.isnan(float(effective_rank(torch.full((4, 3), torch.nan))))


@pytest.mark.parametrize("embed", [3, 8, 64])
def test_uniformity_of_the_sphere_is_its_exact_value(embed: int):
    # E exp(-2 |x - y|^2) = exp(-4) E exp(4 cos) = exp(-4) 0F1(; embed/2; 4)
    exact = math.log(hyp0f1(embed / 2, 4.0)) - 4
    assert float(uniformity(sphere(4000, embed, dtype=torch.float32))) == pytest.approx(exact, abs=5e-3)


def test_uniformity_of_the_axes_is_exact():
    embed = 6
    rows = torch.cat([torch.eye(embed), -torch.eye(embed)]).double()
    expected = math.log((math.exp(-8) + (2 * embed - 2) * math.exp(-4)) / (2 * embed - 1))
    assert float(uniformity(rows)) == pytest.approx(expected, rel=1e-12)


def test_uniformity_in_chunks_is_the_mean_over_pairs(monkeypatch: pytest.MonkeyPatch):
    rows = sphere(11, 4)
    pairs = [(i, j) for i in range(11) for j in range(i)]
    mean = sum(math.exp(-2 * float((rows[i] - rows[j]).square().sum())) for i, j in pairs) / len(pairs)
    for chunk in (3, 11, 1024):
        monkeypatch.setattr(diagnostics, "CHUNK_ROWS", chunk)
        assert float(uniformity(rows)) == pytest.approx(math.log(mean), rel=1e-12)
    assert math.isnan(float(uniformity(rows[:1])))


def test_spread_is_1_on_the_sphere_and_0_where_all_rows_are_one():
    assert float(spread(sphere(4000, 64))) == pytest.approx(1, abs=0.01)
    assert float(spread(sphere(1, 64).expand(10, -1))) == pytest.approx(0, abs=1e-12)
    rows = sphere(9, 4)
    columns = [rows[:, k].tolist() for k in range(4)]
    by_hand = [math.sqrt(sum((x - sum(c) / 9) ** 2 for x in c) / 9) for c in columns]
    assert float(spread(rows)) == pytest.approx(2 * sum(by_hand) / 4, rel=1e-12)


def test_alignment_and_gap_of_known_pairs():
    x, y = torch.eye(4), torch.eye(4)[[1, 0, 2, 3]]
    assert float(alignment(x, y)) == pytest.approx(1.0)  # two pairs at squared distance 2, two at 0
    assert float(modality_gap(x, y)) == pytest.approx(0.0)
    assert float(modality_gap(x[:1].expand(3, -1), -x[:1].expand(3, -1))) == pytest.approx(2.0)


def test_each_figure_misses_a_collapse_that_another_sees():
    five = F.normalize(sphere(512, 5) @ torch.linalg.qr(sphere(64, 64, seed=1)).Q[:5], dim=-1)
    assert float(spread(five)) > 0.9
    assert float(effective_rank(five)) == pytest.approx(5, abs=0.1)
    torch.manual_seed(2)
    one = sphere(1, 64).float() + 1e-7 * torch.randn(512, 64)
    assert float(effective_rank(one, centred=True)) > 60  # rounding noise has full rank
    assert float(effective_rank(one)) == pytest.approx(1, abs=1e-3)
    assert float(spread(one)) < 1e-5
    assert float(uniformity(one)) == pytest.approx(0, abs=1e-5)


def test_health_is_that_of_evenly_spaced_rows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(diagnostics, "MAX_ROWS", 8)
    places = [int(row[0]) for row in evenly_spaced(torch.arange(21.0)[:, None])]
    assert places == [0, 2, 5, 7, 10, 13, 15, 18]
    image, text = sphere(21, 5), sphere(21, 5, seed=1)
    assert health(image, text) == health(image[places], text[places])
    assert torch.equal(evenly_spaced(image[:8]), image[:8])


def test_health_is_single_precision_under_autocast_and_holds_no_graph():
    image, text = (sphere(32, 8, seed, torch.float32).requires_grad_() for seed in (0, 1))
    outside = health(image, text)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = health(image, text)
    assert inside == outside
    assert not any(figure.requires_grad for figure in outside.values())
    halves = health(image.bfloat16(), text.bfloat16())  # figures of the rounded rows, not rounded figures
    assert {figure.dtype for figure in halves.values()} <= {torch.float32, torch.float64}
