"""Figures of the report: text that a page can hold twice, in its colours, with each value where it belongs."""

import base64
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest

from mmclip_eval.report.figures import (
    STYLESHEET,
    Bar,
    Line,
    Mark,
    Reference,
    bars,
    confusion,
    curve,
    gap_map,
    histogram,
    scatter,
    twin_curve,
)
from mmclip_eval.report.figures.labels import text_width
from mmclip_eval.report.figures.series import prepare

SVG = "{http://www.w3.org/2000/svg}"
PIXEL = "data:image/png;base64," + base64.b64encode(b"not looked at").decode()
RANDOM = np.random.default_rng(0)
STEPS = np.arange(2_000)
LOSS = 5.5 * np.exp(-STEPS / 400) + 1 + RANDOM.normal(0, 0.2, 2_000)
CLOUD = RANDOM.normal(0, 1, (300, 2))
ODD = '<b>&"$x_1$\x00\ud800 \u202e\u6f22\u5b57 \U0001f436'

Figure = Callable[[], str]
FIGURES: dict[str, Figure] = {
    "curve": lambda: curve(
        "Loss",
        [Line("loss", STEPS, LOSS), Line("other", STEPS, LOSS + 1)],
        y_label="nats",
        reference=[Reference(5.5, "chance"), Reference(100, "clamp")],
        marks=[Mark(500, "collapse"), Mark(510, "collapse"), Mark(1_800, "spike")],
    ),
    "curve, logarithmic": lambda: curve("Norm", [Line("norm", STEPS, np.exp(LOSS))], log_y=True),
    "twin curve": lambda: twin_curve(
        "Gap", Line("gap", STEPS, LOSS), Line("scale", STEPS, STEPS), marks=[Mark(9, "x")]
    ),
    "histogram": lambda: histogram("Similarity", RANDOM.normal(0.3, 0.1, 500), RANDOM.normal(0, 0.1, 5_000)),
    "confusion": lambda: confusion("Few", [[5, 1, 0], [0, 3, 3], [0, 0, 9]], ["cat", "dog", "frog"]),
    "confusion of many": lambda: confusion("Many", np.eye(30) + 0.01, [f"class number {place}" for place in range(30)]),
    "bars": lambda: bars("Scores", [Bar("digits", 0.9, 0.85, 0.95, 0.1), Bar("shapes", 0.4)]),
    "scatter": lambda: scatter(
        "Map", CLOUD, np.arange(300) % 3, ["a", "b", "c"], is_text=CLOUD[:, 0] > 0, thumbnails=[(0, 0, PIXEL)]
    ),
    "gap map": lambda: gap_map("Gap", RANDOM.normal(0, 1, (80, 16)), RANDOM.normal(1, 1, (80, 16))),
}
DEGENERATE: dict[str, Figure] = {
    "no series": lambda: curve("t", []),
    "an empty series": lambda: curve("t", [Line("a", [], [])]),
    "only nan": lambda: curve("t", [Line("a", [1, 2], ["nan", None])], reference=[Reference(1, "chance")]),
    "one point": lambda: curve("t", [Line("a", [256], [1.5])], marks=[Mark(256, "alarm")]),
    "one point at zero": lambda: curve("t", [Line("a", [0], [0])], y_zero=True),
    "all equal": lambda: curve("t", [Line("a", STEPS, np.full(2_000, 0.5))]),
    "logarithm of nothing positive": lambda: curve("t", [Line("a", [1, 2], [0, -1])], log_y=True),
    "logarithm of one value": lambda: curve("t", [Line("a", [1, 2], [3, 3])], log_y=True),
    "huge and tiny": lambda: curve("t", [Line("a", [0, 1], [1e300, -1e300]), Line("b", [0, 1], [1e-300, 0])]),
    "gaps everywhere": lambda: curve("t", [Line("a", STEPS, np.where(STEPS % 2, np.nan, LOSS))]),
    "a mark outside": lambda: curve(
        "t", [Line("a", [1, 2], [3, 4])], marks=[Mark(900, "late"), Mark(float("nan"), "?")]
    ),
    "forty series": lambda: curve("t", [Line(f"line {k}", STEPS, LOSS + k) for k in range(40)]),
    "odd words": lambda: curve(ODD * 30, [Line(ODD * 9, [0, 1], [1, 2])] * 2, x_label=ODD * 9, y_label=ODD * 9),
    "odd marks": lambda: curve(
        "", [Line("", [0, 1], [1, 2])], marks=[Mark(0, ODD * 9)], reference=[Reference(1, ODD * 9)]
    ),
    "a million points": lambda: curve("t", [Line("a", np.arange(10**6), np.sin(np.arange(10**6)))]),
    "a twin of nothing": lambda: twin_curve("t", Line("a", [], []), Line("b", [], [])),
    "a twin with one side": lambda: twin_curve("t", Line("a", [], []), Line("b", [1], [2])),
    "no similarities": lambda: histogram("t", [], ["nan"]),
    "only positives": lambda: histogram("t", [0.5], []),
    "equal similarities": lambda: histogram("t", np.ones(5), np.ones(9)),
    "no counts": lambda: histogram("t", [0, 0], [0, 0], edges=[0, 0.5, 1]),
    "a million similarities": lambda: histogram("t", RANDOM.normal(0, 1, 100), RANDOM.normal(0, 1, 10**6)),
    "no classes": lambda: confusion("t", [], []),
    "one class": lambda: confusion("t", [[3]], [ODD * 9]),
    "no predictions": lambda: confusion("t", np.zeros((2, 2)), ["a", "b"]),
    "nan counts": lambda: confusion("t", [[float("nan"), 1], [-1, float("inf")]], ["a", "b"]),
    "no scores": lambda: bars("t", []),
    "scores of nan": lambda: bars("t", [Bar(ODD * 9, float("nan")), Bar("b", 0, 0, 0)]),
    "other units": lambda: bars("t", [Bar("a", 41.5, 39, 43), Bar("b", -3)], percent=False),
    "no points": lambda: scatter("t", [], [], []),
    "one dot": lambda: scatter("t", [[1, 1]], [0], ["only"]),
    "points of nan": lambda: scatter("t", [[1, float("nan")]], [0], ["only"]),
    "equal points": lambda: scatter("t", np.ones((50, 2)), [0] * 25 + [-1] * 25, [ODD * 9], thumbnails=[(1, 1, PIXEL)]),
    "many groups": lambda: scatter("t", CLOUD, np.arange(300) % 60, ["a long name of a cluster"] * 60),
    "a million dots": lambda: scatter("t", RANDOM.normal(0, 1, (10**6, 2)), np.zeros(10**6), ["a"]),
    "no embeddings": lambda: gap_map("t", [], []),
    "one embedding each": lambda: gap_map("t", [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]),
    "equal embeddings": lambda: gap_map("t", np.ones((5, 4)), np.ones((5, 4))),
    "one dimension": lambda: gap_map("t", [[1.0], [2.0]], [[3.0], [float("inf")]]),
}


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def words(svg: str) -> list[str]:
    return [element.text or "" for element in parse(svg).iter(f"{SVG}text")]


def vertices(svg: str, colour: str) -> list[list[tuple[float, float]]]:
    """Points in px of each path whose stroke is that variable."""
    found = []
    for element in parse(svg).iter(f"{SVG}path"):
        if f"stroke:var(--{colour}," not in element.get("style", ""):
            continue
        points, x, y = [], 0.0, 0.0
        for letter, rest in re.findall(r"([MLHV])([-\d. ]+)", element.get("d", "")):
            numbers = [float(value) for value in rest.split()]
            x = numbers[0] if letter != "V" else x
            y = numbers[-1] if letter != "H" else y
            points.append((x, y))
        found.append(points)
    return found


def text_style(match: re.Match[str]) -> str:
    """The tag without its words, which may say anything."""
    return match[0].partition(">")[0] + ">"


def text_at(svg: str, wanted: str) -> tuple[float, float]:
    element = next(element for element in parse(svg).iter(f"{SVG}text") if element.text == wanted)
    return float(element.attrib["x"]), float(element.attrib["y"])


@pytest.mark.parametrize("name", [*FIGURES, *DEGENERATE])
def test_every_figure_is_one_well_formed_element_in_the_colours_and_font_of_the_page(name: str) -> None:
    svg = (FIGURES | DEGENERATE)[name]()
    root = parse(svg)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert root[0].tag == f"{SVG}title"
    assert root[1].tag == f"{SVG}desc"
    assert root[1].text
    assert not re.search(r"<\?xml|<!DOCTYPE|<style|<script|<metadata|https?://(?!www.w3.org/2000/svg)|dc:date", svg)
    for rule in re.findall(
        r"\b(?:fill|stroke|color):([^;\"]*)", re.sub(r"<title.*?</title>|<text.*?>.*?</text>", text_style, svg)
    ):
        assert rule == "none" or rule.startswith("var(--"), "a colour that the page cannot change"
    assert "font-family:inherit" in svg
    assert svg.count("font-family") == 1
    for element in root.iter(f"{SVG}text"):
        assert element.text
        assert float(re.search(r"font-size:([\d.]+)px", element.attrib["style"])[1]) >= 11  # type: ignore[index]
    for element in root.iter():
        for attribute in ("fill", "stroke"):
            assert attribute not in element.attrib
    assert "NaN" not in svg
    assert " nan" not in re.sub(r"<(text|desc|title)[^<]*</", "", svg)


@pytest.mark.parametrize("name", [*FIGURES, *DEGENERATE])
def test_every_figure_is_small(name: str) -> None:
    assert len((FIGURES | DEGENERATE)[name]()) < (
        120_000 if "dots" in name or name in ("scatter", "forty series") else 40_000
    )


@pytest.mark.parametrize("name", [*FIGURES, *DEGENERATE])
def test_words_stay_inside_the_figure(name: str) -> None:
    svg = (FIGURES | DEGENERATE)[name]()
    _, _, width, height = (float(value) for value in parse(svg).attrib["viewBox"].split())
    assert width == 360
    for element in parse(svg).iter(f"{SVG}text"):
        x, y, style = float(element.attrib["x"]), float(element.attrib["y"]), element.attrib["style"]
        anchor = next((part for part in ("middle", "end") if f"text-anchor:{part}" in style), "start")
        size = float(re.search(r"font-size:([\d.]+)px", style)[1])  # type: ignore[index]
        length = text_width(element.text or "", size)
        before = {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * length
        start, stop = (
            (y - before, y + length - before) if "transform" in element.attrib else (x - before, x + length - before)
        )
        assert start >= -6, element.text
        assert stop <= (height if "transform" in element.attrib else width) + 6, element.text
        assert 0 <= y <= height


@pytest.mark.parametrize("name", ["no series", "only nan", "no similarities", "no scores", "no points", "no classes"])
def test_a_figure_of_nothing_says_so(name: str) -> None:
    assert words(DEGENERATE[name]())[-1] == "no data yet"


@pytest.mark.parametrize("name", ["curve", "confusion", "scatter"])
def test_equal_input_gives_equal_bytes_whatever_the_settings_of_matplotlib(name: str) -> None:
    first = FIGURES[name]()
    with matplotlib.rc_context(
        {"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path", "text.parse_math": True}
    ):
        before = dict(matplotlib.rcParams)
        assert FIGURES[name]() == first
        assert dict(matplotlib.rcParams) == before


def test_figures_are_drawn_without_pyplot_and_imported_without_matplotlib() -> None:
    program = """
import sys
from mmclip_eval.report.figures import Line, curve
assert not any(name.startswith("matplotlib") for name in sys.modules), "matplotlib"
curve("Loss", [Line("loss", [0, 1], [2, 1])])
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_two_figures_share_no_id_and_refer_to_their_own() -> None:
    pages = [
        curve("Spike", [Line("loss", STEPS, np.where(height == STEPS, 1e9, LOSS))]) for height in (500, 900)
    ]  # a curve that leaves its frame is clipped, which takes an id
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in pages]
    assert ids[0]
    assert ids[1]
    assert not set(ids[0]) & set(ids[1])
    for svg, own in zip(pages, ids, strict=True):
        assert len(own) == len(set(own))
        assert set(re.findall(r"url\(#([^)]+)\)|href=\"#", svg)) == set(own)


def test_odd_names_are_escaped_and_read_as_they_are() -> None:
    svg = bars('<b>&"', [Bar('<i>$a_1$ & "b"', 0.5)])
    assert "<b>" not in svg
    assert "<i>" not in svg
    assert '<b>&"' in words(svg)
    assert '<i>$a_1$ & "b"' in words(svg)
    assert "\x00" not in curve(ODD, [Line("a", [0], [1])])


def test_the_style_sheet_gives_every_series_a_colour_in_both_modes() -> None:
    for colour in range(1, 9):
        assert STYLESHEET.count(f"--series-{colour}:") == 4
    assert "prefers-color-scheme:dark" in STYLESHEET


def test_a_curve_passes_through_the_heights_of_its_values() -> None:
    svg = curve("Accuracy", [Line("acc", [0, 100, 200], [0.0, 1.0, 0.5])], y_zero=True)
    (left, low), (middle, high), (right, end) = max(vertices(svg, "series-1"), key=len)
    assert (middle, end) == pytest.approx(((left + right) / 2, (low + high) / 2), abs=0.11)


def test_ticks_stand_at_the_height_of_their_values() -> None:
    svg = curve("Rank", [Line("rank", [0, 1_000_000], [0, 40])], y_zero=True)
    path = max(vertices(svg, "series-1"), key=len)
    (left, bottom), (right, top) = path
    for tick in (0, 20, 40):
        y = next(
            float(e.attrib["y"])
            for e in parse(svg).iter(f"{SVG}text")
            if e.text == str(tick) and "end" in e.attrib["style"]
        )
        assert y - 4 == pytest.approx(bottom + (top - bottom) * tick / 40, abs=1.0)
    assert text_at(svg, "1.00M")[0] == pytest.approx(right, abs=0.2)
    assert text_at(svg, "0.50M")[0] == pytest.approx((left + right) / 2, abs=0.2)


def test_a_reference_is_level_with_its_value_and_one_far_away_is_named_at_the_edge() -> None:
    svg = curve("Loss", [Line("a", [0, 1, 2], [0, 1, 2])], reference=[Reference(1, "chance"), Reference(500, "clamp")])
    line = max(vertices(svg, "series-1"), key=len)
    levels = [
        path for path in vertices(svg, "muted") if len(path) == 2 and path[0][1] == pytest.approx(line[1][1], abs=0.11)
    ]
    assert len(levels) == 1
    assert "chance" in words(svg)
    assert "\u2191 clamp" in words(svg)


def test_marks_stand_at_their_samples_and_touching_labels_become_one() -> None:
    svg = curve(
        "a", [Line("a", [0, 1_000], [0, 1])], marks=[Mark(500, "collapse"), Mark(504, "collapse"), Mark(100, "spike")]
    )
    (left, _), (right, _) = max(vertices(svg, "series-1"), key=len)
    assert [path[0][0] for path in vertices(svg, "alarm")] == pytest.approx(
        [left + (right - left) * share for share in (0.1, 0.5, 0.504)], abs=0.6
    )
    assert {"spike", "collapse \u00d72"} <= set(words(svg))


def test_no_line_has_more_than_600_vertices() -> None:
    svg = curve("a", [Line("a", np.arange(200_000), RANDOM.normal(0, 1, 200_000))])
    assert sum(map(len, vertices(svg, "series-1"))) <= 620  # with the dot at its end


def test_a_spike_that_would_flatten_the_curve_leaves_the_frame_and_is_named() -> None:
    svg = curve("a", [Line("a", STEPS, np.where(STEPS == 1_000, 9e5, LOSS))])
    assert "\u2191 900k" in words(svg)
    clipped = max(vertices(svg, "series-1"), key=len)
    assert min(y for _, y in clipped) < 0, "the spike is there, and runs out of the figure"
    assert max(y for _, y in clipped) - np.median([y for _, y in clipped[:20]]) > 50, "and flattens nothing"
    assert any("clip-path" in element.attrib for element in parse(svg).iter())


def test_gaps_break_the_line() -> None:
    root = parse(curve("a", [Line("a", range(6), [1, 2, "nan", "inf", 3, 4])]))
    line = next(element for element in root.iter(f"{SVG}path") if "--series-1" in element.get("style", ""))
    assert line.attrib["d"].count("M") == 2


def test_a_line_is_drawn_in_the_order_of_its_samples_and_refuses_unequal_lengths() -> None:
    assert prepare(Line("a", [3, 1, 2], [30, 10, 20]), "#0f0d01").y.tolist() == [10, 20, 30]
    with pytest.raises(ValueError, match="line 'a': 2 values of x and 1 of y"):
        curve("t", [Line("a", [1, 2], [1])])


def test_samples_and_counts_give_the_same_histogram_up_to_the_width_of_a_bin() -> None:
    positive, negative = RANDOM.normal(0.4, 0.1, 4_000), RANDOM.normal(0.0, 0.1, 40_000)
    edges = np.linspace(-1, 1, 401)
    counts = [np.histogram(group, edges)[0] for group in (positive, negative)]
    medians = []
    for svg in (histogram("a", positive, negative), histogram("a", *counts, edges=edges)):
        assert {"matching pairs (4,000)", "other pairs (40k)"} <= set(words(svg))
        medians.append(
            [float(word.split()[1].replace("\u2212", "-")) for word in words(svg) if word.startswith("median")]
        )
    assert medians[0] == pytest.approx([np.median(positive), np.median(negative)], abs=0.0006)
    assert medians[1] == pytest.approx(medians[0], abs=0.005)
    with pytest.raises(ValueError, match="3 rising edges need 2 counts"):
        histogram("a", [1], [1, 2], edges=[0, 1, 2])


def test_medians_stand_where_the_axis_has_them() -> None:
    svg = histogram("a", np.linspace(0.3, 0.5, 1_001), np.linspace(0.0, 0.2, 1_001))
    scale = (text_at(svg, "0.4")[0] - text_at(svg, "0.1")[0]) / 0.3
    for colour, median in (("series-1", 0.4), ("series-2", 0.1)):
        dashed = next(
            path for path in vertices(svg, colour) if len(path) == 2 and path[0][0] == path[1][0] and path != path[::-1]
        )
        assert dashed[0][0] == pytest.approx(text_at(svg, "0.1")[0] + scale * (median - 0.1), abs=0.2)


def test_a_confusion_prints_shares_of_the_row_and_names_cells_in_full() -> None:
    name = "a very long class name that no axis has room for"
    svg = confusion("a", [[30, 10], [0, 7]], [name, "dog"])
    assert {"75", "25", "100"} <= set(words(svg))
    assert name not in words(svg)
    tips = [element.text for element in parse(svg).iter(f"{SVG}title")]
    assert tips[1:] == ["dog \u2192 dog: 100 %", f"{name} \u2192 {name}: 75 %", f"{name} \u2192 dog: 25 %"]
    with pytest.raises(ValueError, match=r"expected a \[2, 2\] matrix"):
        confusion("a", [[1, 2, 3]], ["a", "b"])


def test_a_bar_stands_at_its_value_between_its_interval() -> None:
    svg = bars("a", [Bar("x", 0.5, 0.4, 0.7, 0.1)])
    assert "50.0 %" in words(svg)
    scale = (text_at(svg, "80 %")[0] - text_at(svg, "0")[0]) / 0.8
    expected = [text_at(svg, "0")[0] + scale * value for value in (0.4, 0.7, 0.5)]
    interval, dot = vertices(svg, "series-1")[-2:]
    assert [interval[0][0], interval[1][0], dot[0][0]] == pytest.approx(expected, abs=0.2)


def test_a_map_has_a_dot_for_each_image_and_a_cross_for_each_text() -> None:
    svg = scatter("a", CLOUD, [0] * 300, ["all"], is_text=np.arange(300) < 100)
    dots, level, upright = (path for path in vertices(svg, "series-1") if len(path) > 2)
    assert [len(path) for path in (dots, level, upright)] == [2 * 200, 2 * 100, 2 * 100]
    scale = np.linalg.norm(np.subtract(dots[0], dots[198])) / np.linalg.norm(CLOUD[100] - CLOUD[199])
    across, down = np.array(dots[::2]).std(axis=0) / CLOUD[100:].std(axis=0)
    assert across == pytest.approx(scale, rel=0.01)
    assert down == pytest.approx(scale, rel=0.01)


def test_thumbnails_lie_over_their_points_and_come_with_the_page() -> None:
    svg = scatter("a", [[0, 0], [1, 1]], [0, 0], ["all"], thumbnails=[(0.5, 0.5, PIXEL)], thumbnail_px=20)
    image = next(parse(svg).iter(f"{SVG}image"))
    assert image.attrib["href"] == PIXEL
    centre = np.array([float(image.attrib[name]) for name in ("x", "y")]) + 10
    np.testing.assert_allclose(centre, np.mean(vertices(svg, "series-1")[0], axis=0), atol=0.2)
    with pytest.raises(ValueError, match="is not a data:image/ URI"):
        scatter("a", [[0, 0]], [0], ["all"], thumbnails=[(0, 0, "https://example.org/a.png")])
    with pytest.raises(ValueError, match="a name for each group"):
        scatter("a", [[0, 0]], [3], ["all"])


def test_a_gap_is_measured_in_all_dimensions_and_joins_the_means() -> None:
    images, texts = RANDOM.normal(0, 0.1, (500, 8)), RANDOM.normal(0, 0.1, (500, 8))
    texts[:, 3] += 4
    svg = gap_map("a", images, texts)
    gap = float(np.linalg.norm(images.mean(axis=0) - texts.mean(axis=0)))
    assert f"gap {gap:.2f}" in words(svg)
    (start, stop) = vertices(svg, "ink")[0]
    for colour, end in (("series-1", start), ("series-2", stop)):
        dots = next(path for path in vertices(svg, colour) if len(path) == 1_000)
        np.testing.assert_allclose(np.mean(dots, axis=0), end, atol=0.2)
    assert "gap 1.23" in words(gap_map("a", images, texts, gap=1.23))
    with pytest.raises(ValueError, match="images have 2 dimensions and texts 3"):
        gap_map("a", np.ones((2, 2)), np.ones((2, 3)))
