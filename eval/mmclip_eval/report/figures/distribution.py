"""`histogram`: how alike matching pairs are beside pairs that do not match."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mmclip_eval.report.figures.canvas import Canvas, canvas, even_ticks
from mmclip_eval.report.figures.labels import count, spread, text_width
from mmclip_eval.report.figures.style import GAP, MUTED, SERIES, WIDTH
from mmclip_eval.report.figures.thinning import Numbers, floats

HEIGHT = 186.0
BOTTOM = 38.0
BINS = 61
TAIL = 0.0005
"""Of each density that may lie outside the frame."""


def histogram(
    title: str,
    positive: Numbers,
    negative: Numbers,
    *,
    edges: Numbers | None = None,
    names: tuple[str, str] = ("matching pairs", "other pairs"),
    x_label: str = "cosine similarity",
) -> str:
    """Two densities over each other, each with its median; the height of a density says nothing but its shape.

    Args:
        title: Above the figure, and its accessible name.
        positive: Similarities; with `edges`, counts a bin instead.
        negative: The same, of the pairs that do not match.
        edges: Of the bins (one more than there are counts); then medians are interpolated inside their bin.
        names: Of the two.
        x_label: Below the axis.

    Raises:
        ValueError: The counts do not fit the edges, or the edges do not rise.
    """
    counts, bins, medians = _binned(floats(positive), floats(negative), None if edges is None else floats(edges))
    groups = [place for place in range(2) if counts[place].sum() > 0]
    with canvas(title, HEIGHT) as sheet:
        if not groups:
            return sheet.nothing()
        sheet.legend([(f"{names[place]} ({count(counts[place].sum())})", SERIES[place]) for place in groups])
        sheet.grow(18)
        sheet.frame(8, 8, BOTTOM)
        low, high = _limits(counts, bins)
        sheet.axes.set_xlim(low, high)
        densities = [_density(counts[place], bins) for place in groups]
        sheet.axes.set_ylim(0, 1.04 * max(density.max() for density in densities))
        sheet.y_axis([], [], grid=False)
        sheet.x_axis(even_ticks(low, high, 5), x_label)
        for place, density in zip(groups, densities, strict=True):
            _draw(sheet, bins, density, SERIES[place])
        sheet.stroke([(sheet.pane.left, sheet.pane.bottom), (sheet.pane.right, sheet.pane.bottom)], MUTED, alpha=0.6)
        _draw_medians(sheet, [(medians[place], SERIES[place]) for place in groups])
        said = [f"{names[place]}: {counts[place].sum():,.0f}, median {medians[place]:.3f}" for place in groups]
        return sheet.svg("; ".join(said) + ".")


def _binned(
    positive: Float[np.ndarray, " a"], negative: Float[np.ndarray, " b"], edges: Float[np.ndarray, " edge"] | None
) -> tuple[list[Float[np.ndarray, " bin"]], Float[np.ndarray, " edge"], list[float]]:
    """Counts of both on the same bins, the edges, and the medians."""
    if edges is not None:
        counts = [np.where(np.isfinite(group), group, 0.0) for group in (positive, negative)]
        wrong = [len(group) for group in counts if len(group) != len(edges) - 1]
        if wrong or not (np.diff(edges) > 0).all():
            raise ValueError(
                f"{len(edges)} rising edges need {len(edges) - 1} counts; got {wrong or 'edges that fall'}"
            )
        return counts, edges, [_median(group, edges) for group in counts]
    groups = [group[np.isfinite(group)] for group in (positive, negative)]
    ends = [np.quantile(group, [TAIL, 1 - TAIL]) for group in groups if len(group)] or [np.array([0.0, 1.0])]
    low, high = float(min(end[0] for end in ends)), float(max(end[1] for end in ends))
    pad = 0.5 * max(0.02 - (high - low), 1e-9 * abs(low))  # equal values still get a bar of some width
    edges = np.linspace(low - max(pad, 0), high + max(pad, 0), BINS + 1)
    counts = [np.histogram(np.clip(group, edges[0], edges[-1]), edges)[0].astype(np.float64) for group in groups]
    return counts, edges, [float(np.median(group)) if len(group) else float("nan") for group in groups]


def _median(counts: Float[np.ndarray, " bin"], edges: Float[np.ndarray, " edge"]) -> float:
    total = np.concatenate([[0.0], np.cumsum(counts)])
    return float(np.interp(total[-1] / 2, total, edges)) if total[-1] > 0 else float("nan")


def _density(counts: Float[np.ndarray, " bin"], edges: Float[np.ndarray, " edge"]) -> Float[np.ndarray, " bin"]:
    return counts / counts.sum() / np.diff(edges)


def _limits(counts: Sequence[Float[np.ndarray, " bin"]], edges: Float[np.ndarray, " edge"]) -> tuple[float, float]:
    """The bins that hold nearly all, with one more on each side; never fewer than a dozen."""
    rising = [np.cumsum(group) / group.sum() for group in counts if group.sum() > 0]
    first = min(int(np.searchsorted(share, TAIL)) for share in rising) - 1
    last = max(int(np.searchsorted(share, 1 - TAIL)) for share in rising) + 2
    room = max(0, (12 - (last - first)) // 2)
    return float(edges[max(first - room, 0)]), float(edges[min(last + room, len(edges) - 1)])


def _draw(sheet: Canvas, edges: Float[np.ndarray, " edge"], density: Float[np.ndarray, " bin"], colour: str) -> None:
    low, high = sheet.axes.get_xlim()
    filled = np.flatnonzero((density > 0) & (edges[1:] > low) & (edges[:-1] < high))
    first, last = filled[0], filled[-1] + 1
    x = np.repeat(edges[first : last + 1], 2)
    y = np.concatenate([[0.0], np.repeat(density[first:last], 2), [0.0]])
    sheet.axes.fill(x, y, facecolor=colour, alpha=0.22, edgecolor="none", zorder=2)
    sheet.axes.plot(x, y, color=colour, linewidth=1.4, zorder=3)


def _draw_medians(sheet: Canvas, medians: Sequence[tuple[float, str]]) -> None:
    """An upright line at each median, with its value above the frame."""
    pane = sheet.pane
    places = sheet.px(np.array([[value, 0.0] for value, _ in medians]))[:, 0].tolist()
    texts = [f"median {value:.3f}".replace("-", "\u2212") for value, _ in medians]
    wide = max(map(text_width, texts))
    centres = spread(places, wide + GAP, wide / 2, WIDTH - wide / 2)
    for (_, colour), x, centre, text in zip(medians, places, centres, texts, strict=True):
        sheet.stroke([(x, pane.top - 2), (x, pane.bottom)], colour, 1.4, dashes=(3, 2))
        sheet.text(centre, pane.top - 7, text, colour=colour, align="center")
