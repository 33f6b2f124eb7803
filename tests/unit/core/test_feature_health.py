import math

import pytest
import torch
import torch.nn.functional as F

from mmclip.training import feature_health
from mmclip.training.diagnostics import effective_rank, spread, uniformity
from mmclip.training.feature_health import health_of_features, joined_features, raw_std


def features(rows: int = 200, width: int = 16, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(rows, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_directions_are_judged_whatever_their_length():
    rows = features()
    longer = rows * torch.linspace(0.5, 9.0, len(rows), dtype=torch.float64)[:, None]
    plain, stretched = health_of_features(rows), health_of_features(longer)
    for name in ("effective_rank", "effective_rank_centred", "std", "uniformity", "dimensions"):
        assert float(plain[name]) == pytest.approx(float(stretched[name]), rel=1e-9)
    directions = F.normalize(rows, dim=1)
    assert float(plain["effective_rank"]) == pytest.approx(float(effective_rank(directions)))
    assert float(plain["std"]) == pytest.approx(float(spread(directions)))
    assert float(plain["uniformity"]) == pytest.approx(float(uniformity(directions)))


def test_scale_is_that_of_the_features_themselves():
    rows = features(5000, scale=3.0)
    found = health_of_features(rows)
    assert float(found["raw_std"]) == pytest.approx(3.0, rel=0.02)
    assert float(found["mean_norm"]) == pytest.approx(3.0 * math.sqrt(16), rel=0.03)
    assert float(raw_std(rows / 1000 + 7)) == pytest.approx(float(raw_std(rows)) / 1000, rel=1e-9)


@pytest.mark.parametrize(("rows", "width", "dimensions"), [(8, 16, 8), (40, 16, 16)])
def test_dimensions_are_those_that_the_rows_can_fill(rows: int, width: int, dimensions: int):
    assert float(health_of_features(features(rows, width))["dimensions"]) == dimensions


def test_each_figure_sees_the_collapse_that_others_miss():
    """A shrunken cloud has healthy directions; a line of directions has a healthy scale."""
    shrunken, line = health_of_features(features() * 1e-4), health_of_features(features(width=1) * torch.ones(1, 16))
    assert float(shrunken["effective_rank_centred"]) > 12
    assert float(shrunken["raw_std"]) < 1e-3
    assert float(line["effective_rank"]) == pytest.approx(1, abs=1e-6)
    assert float(line["raw_std"]) > 1


def test_no_more_rows_than_are_looked_at_are_joined(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(feature_health, "MAX_ROWS", 8)
    rows = torch.arange(40.0)[:, None]
    assert joined_features(rows)[:, 0].tolist() == [0, 5, 10, 15, 20, 25, 30, 35]
    monkeypatch.setattr(feature_health, "world_size", lambda: 2)
    monkeypatch.setattr(feature_health, "all_gather", lambda mine: mine)
    halves = [joined_features(part)[:, 0].tolist() for part in rows.split(20)]
    assert [value for half in halves for value in half] == [0, 5, 10, 15, 20, 25, 30, 35]
