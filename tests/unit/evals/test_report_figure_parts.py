"""What figures are made of: labels that fit and keep apart, numbers, and long series made short."""

from itertools import pairwise

import numpy as np
import pytest

from mmclip_eval.report.figures.labels import Box, count, fit, number, place, spread, text_width, tick_texts
from mmclip_eval.report.figures.thinning import noisy, sample, smooth, thin

RANDOM = np.random.default_rng(0)


def test_a_spike_of_one_step_in_a_million_survives_thinning() -> None:
    y = np.zeros(1_000_000)
    y[[123_456, 777_777]] = 5.0, -3.0
    kept = thin(y, 600)
    assert len(kept) <= 600
    assert {0, 123_456, 777_777, 999_999} <= set(kept.tolist())
    y[500_000] = np.nan
    assert {123_456, 777_777, 500_000} <= set(thin(y, 600).tolist())


def test_smoothing_keeps_straight_lines_gaps_and_the_mean() -> None:
    line = 3.0 - 0.01 * np.arange(500)
    np.testing.assert_allclose(smooth(line, 25), line, atol=1e-9)
    noise = RANDOM.normal(0, 1, 2_000)
    assert noisy(noise)
    assert not noisy(np.linspace(0, 1, 2_000))
    assert np.std(smooth(noise, 101)) < 0.15
    noise[700:710] = np.nan
    assert np.flatnonzero(np.isnan(smooth(noise, 101))).tolist() == list(range(700, 710))
    centre = smooth(np.arange(300.0) ** 2, 11)[150]
    naive = np.convolve(np.convolve(np.arange(300.0) ** 2, np.ones(11) / 11, "same"), np.ones(11) / 11, "same")[150]
    assert centre == pytest.approx(naive)


def test_labels_of_a_map_do_not_lie_on_each_other() -> None:
    area = Box(0, 0, 360, 300)
    anchors = np.full((12, 2), 150.0)
    centres = place(anchors, [80.0] * 12, 14, area)
    boxes = [Box(x - 40, y - 7, x + 40, y + 7) for x, y in centres]
    assert not any(first.meets(second) for index, first in enumerate(boxes) for second in boxes[:index])
    assert centres[0] == (150.0, 150.0)


def test_end_labels_keep_their_order_and_their_distance() -> None:
    places = spread([10, 11, 12, 80], 13, 0, 100)
    assert places[3] == 80
    assert all(b - a >= 13 - 1e-9 for a, b in pairwise(places))
    assert np.mean(places[:3]) == pytest.approx(13)  # 11, pushed down by the edge
    assert spread([5, 5], 400, 0, 100) == [0, 100]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.5, "0.500"),
        (41.234, "41.2"),
        (8.317, "8.32"),
        (1_234.5, "1,234"),
        (9_999.9, "10k"),
        (12_800_000, "12.8M"),
        (-0.25, "\u22120.250"),
        (5e-4, "5e\u22124"),
        (999_999, "1M"),
        (3.2e9, "3.2G"),
        (float("nan"), "nan"),
    ],
)
def test_numbers_read_as_people_write_them(value: float, text: str) -> None:
    assert number(value) == text


def test_ticks_of_an_axis_share_their_unit_and_decimals() -> None:
    assert tick_texts([0, 0.25, 0.5]) == ["0", "0.25", "0.50"]
    assert tick_texts([0, 500_000, 1_000_000]) == ["0", "0.5M", "1.0M"]
    assert tick_texts([0, 2_000, 4_000]) == ["0", "2,000", "4,000"]
    assert tick_texts([-1, 0, 1]) == ["\u22121", "0", "1"]
    assert count(9_000) == "9,000"


def test_long_names_end_in_an_ellipsis_and_fit() -> None:
    short = fit("a name that is much too long for its place", 80)
    assert short.endswith("\u2026")
    assert text_width(short) <= 80
    assert fit("short", 80) == "short"
    assert text_width("\u6f22\u5b57") > text_width("ab")


def test_a_sample_is_the_same_every_time_and_in_order() -> None:
    first = sample(10**6, 1_000)
    assert first.tolist() == sample(10**6, 1_000).tolist() == sorted(set(first.tolist()))
    assert sample(5, 10).tolist() == [0, 1, 2, 3, 4]
