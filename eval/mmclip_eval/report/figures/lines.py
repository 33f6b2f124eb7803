"""`curve` and `twin_curve`: how a figure went over training."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mmclip_eval.report.figures.canvas import Canvas, canvas, even_ticks
from mmclip_eval.report.figures.labels import Box, fit, number, spread, text_width
from mmclip_eval.report.figures.series import Line, Mark, Reference, Series, Span, prepare, span_of, y_ticks
from mmclip_eval.report.figures.style import ALARM, GAP, INK, LINE, MUTED, SERIES, TEXT, WIDTH, Px
from mmclip_eval.report.figures.thinning import runs, thin

HEIGHT = 186.0
BOTTOM = 38.0
ALL_VERTICES = 2_400
"""Of a figure's lines together: what keeps a figure of many series under 40 KB."""
FEW = 12
"""Points of a line up to which each of them is shown."""


def curve(
    title: str,
    series: Sequence[Line],
    *,
    x_label: str = "samples seen",
    y_label: str = "",
    log_y: bool = False,
    reference: Sequence[Reference] = (),
    marks: Sequence[Mark] = (),
    y_zero: bool = False,
) -> str:
    """Series over training, each named at its end (or in a row above, if the names are long) with its last value.

    A noisy series is faint with its running mean bold; intervals are shaded. A spike that would flatten all else
    runs out of the frame, with its value beside it. A reference far outside the data is named at the edge instead of
    stretching the axis.

    Args:
        title: Above the figure, and its accessible name.
        series: In the order of the palette; one without a finite point is left out.
        x_label: Below the axis.
        y_label: Under the title.
        log_y: Leaves out what is not positive.
        reference: Levels, as dashed lines.
        marks: Moments, as upright lines.
        y_zero: The axis starts at zero.
    """
    ready = [prepare(line, SERIES[place % len(SERIES)], log_y=log_y) for place, line in enumerate(series)]
    drawn = [line for line in ready if line.drawable]
    with canvas(title, HEIGHT, y_label) as sheet:
        if not drawn:
            return sheet.nothing()
        span = span_of(drawn, reference, log_y=log_y, zero=y_zero)
        labels = _end_labels(drawn)
        if not labels:
            sheet.legend([(line.name, line.colour) for line in drawn])
        _room_for(sheet, marks)
        ticks = y_ticks(span)
        right = max((text_width(label, bold=True) for label in labels), default=0) + GAP + 4
        sheet.frame(_side(ticks[1]), max(right, 18), BOTTOM)
        _limits(sheet, drawn, marks, span)
        sheet.y_axis(*ticks)
        _x_axis(sheet, x_label)
        taken = [box for line in drawn for box in _draw(sheet, line, span, ALL_VERTICES // len(drawn))]
        _draw_references(sheet, drawn, reference, span, taken)
        _draw_marks(sheet, marks)
        _draw_ends(sheet, drawn, span, labels)
        return sheet.svg(_describe(drawn, reference, marks, x_label))


def twin_curve(
    title: str, left: Line, right: Line, *, x_label: str = "samples seen", marks: Sequence[Mark] = ()
) -> str:
    """Two figures of different units that belong together, each with its own axis in its own colour."""
    ready = [prepare(left, SERIES[0]), prepare(right, SERIES[1])]
    drawn = [line for line in ready if line.drawable]
    with canvas(title, HEIGHT) as sheet:
        if not drawn:
            return sheet.nothing()
        sheet.grow(16)
        for line, x, align in zip(ready, (0, WIDTH), ("left", "right"), strict=True):
            sheet.text(x, sheet.top - 6, fit(line.name, WIDTH / 2 - 8), colour=line.colour, bold=True, align=align)
        _room_for(sheet, marks)
        spans = [span_of([line] if line.drawable else drawn, log_y=False) for line in ready]
        ticks = [y_ticks(span) for span in spans]
        sheet.frame(_side(ticks[0][1]), _side(ticks[1][1]), BOTTOM)
        panes = (sheet, sheet.beside())
        for pane, line, span, (values, texts) in zip(panes, ready, spans, ticks, strict=True):
            _limits(pane, drawn, marks, span)
            texts = texts if line.drawable else [""] * len(values)
            pane.y_axis(values, texts, colour=line.colour, grid=pane is sheet)
            if line.drawable:
                _draw(pane, line, span, ALL_VERTICES // 2)
                _draw_ends(pane, [line], span, [])
        _x_axis(sheet, x_label)
        _draw_marks(sheet, marks)
        return sheet.svg(_describe(drawn, (), marks, x_label))


def _side(texts: Sequence[str]) -> float:
    """Margin for tick labels."""
    return max(map(text_width, texts), default=0) + GAP + 2


def _end_labels(drawn: Sequence[Series]) -> list[str]:
    """What stands at each line's end; empty if the names need a row of their own."""
    if len(drawn) == 1:
        return [_last_value(drawn[0])]
    labels = [fit(f"{line.name} {_last_value(line)}", WIDTH) for line in drawn]
    return labels if len(labels) <= 4 and max(map(text_width, labels)) <= 0.3 * WIDTH else []


def _last_value(line: Series) -> str:
    value = line.last[1]
    return "0" if abs(value) < 1e-4 * np.nanmax(np.abs(line.bold)) else number(value)


def _limits(sheet: Canvas, drawn: Sequence[Series], marks: Sequence[Mark], span: Span) -> None:
    ends = [end for line in drawn for end in (line.first[0], line.last[0])] + [float(mark.x) for mark in marks]
    ends = [end for end in ends if np.isfinite(end)]
    low, high = min(ends), max(ends)
    low = 0.0 if 0 <= low <= 0.2 * high or low == high > 0 else low
    if span.log:
        sheet.axes.set_yscale("log")
    sheet.axes.set_xlim(low, high if high > low else low + 1)
    sheet.axes.set_ylim(span.low, span.high)


def _x_axis(sheet: Canvas, label: str) -> None:
    low, high = sheet.axes.get_xlim()
    sheet.x_axis(even_ticks(low, high, 4), label)
    pane = sheet.pane
    sheet.stroke([(pane.left, pane.bottom), (pane.right, pane.bottom)], MUTED, 1, alpha=0.6)


def _draw(sheet: Canvas, line: Series, span: Span, budget: int) -> list[Box]:
    """The line in at most `budget` and 600 vertices; where its spikes are named."""
    budget = max(24, min(600, budget))
    if line.band is not None:
        _draw_band(sheet, line, *line.band)
    if line.noisy:
        _draw_path(sheet, line, line.y, span, budget * 2 // 3, width=1, alpha=0.3)
        _draw_path(sheet, line, line.bold, span, budget // 3, width=LINE + 0.3)
    else:
        _draw_path(sheet, line, line.bold, span, budget, width=LINE)
    return _name_spikes(sheet, line, span)


def _draw_band(
    sheet: Canvas, line: Series, low: Float[np.ndarray, " point"], high: Float[np.ndarray, " point"]
) -> None:
    """The intervals, shaded; where one is missing the shade has a gap."""
    for start, stop in runs(np.isfinite(low) & np.isfinite(high)):
        x = np.concatenate([line.x[start:stop], line.x[start:stop][::-1]])
        y = np.concatenate([low[start:stop], high[start:stop][::-1]])
        sheet.axes.fill(x, y, facecolor=line.colour, alpha=0.16, linewidth=0, zorder=1.5)


def _draw_path(
    sheet: Canvas, line: Series, y: Float[np.ndarray, " point"], span: Span, budget: int, width: Px, alpha: Px = 1
) -> None:
    kept = thin(y, budget)
    x, y = line.x[kept], y[kept]
    good = y[np.isfinite(y)]
    out = good.min() < span.low or good.max() > span.high
    sheet.axes.plot(x, y, color=line.colour, linewidth=width, alpha=alpha, clip_on=bool(out), zorder=2)
    shown = np.isfinite(y)
    lonely = np.isfinite(y) if shown.sum() <= FEW else np.zeros(len(y), dtype=bool)
    for start, stop in runs(shown):
        lonely[start] |= stop - start == 1  # a line needs two points
    inside = lonely & (y >= span.low) & (y <= span.high)
    for place in sheet.px(np.stack([x[inside], y[inside]], axis=1)).tolist():
        sheet.dot(place[0], place[1], line.colour, width + 2.5)


def _name_spikes(sheet: Canvas, line: Series, span: Span) -> list[Box]:
    """Says how high the curve goes where it leaves the frame."""
    pane, named = sheet.pane, list[Box]()
    good = np.isfinite(line.y)
    for place, arrow, baseline in (
        (int(np.argmax(np.where(good, line.y, -np.inf))), "↑", pane.top + TEXT),
        (int(np.argmin(np.where(good, line.y, np.inf))), "↓", pane.bottom - 4),
    ):
        value = line.y[place]
        if span.low <= value <= span.high:
            continue
        words = f"{arrow} {number(float(value))}"
        x = float(sheet.px(np.array([[line.x[place], span.high]]))[0, 0])
        width = text_width(words)
        left = x - 5 - width if x + 5 + width > pane.right else x + 5
        sheet.text(left, baseline, words, halo=True)
        named.append(Box(left, baseline - TEXT, left + width, baseline + 3))
    return named


def _draw_ends(sheet: Canvas, drawn: Sequence[Series], span: Span, labels: Sequence[str]) -> None:
    """A dot where each line ends, and its label beside the frame."""
    lasts = [(x, min(max(y, span.low), span.high)) for x, y in (line.last for line in drawn)]
    ends = sheet.px(np.array(lasts)).tolist()
    for line, (x, y) in zip(drawn, ends, strict=True):
        sheet.dot(x, y, line.colour, 6)
    if not labels:
        return
    pane = sheet.pane
    places = spread([y for _, y in ends], TEXT + 2, pane.top + 4, pane.bottom - 4)
    for line, label, y in zip(drawn, labels, places, strict=True):
        colour = line.colour if len(drawn) > 1 else INK
        sheet.text(pane.right + GAP + 1, y + 4, label, colour=colour, bold=len(drawn) == 1)


def _draw_references(
    sheet: Canvas, drawn: Sequence[Series], references: Sequence[Reference], span: Span, taken: Sequence[Box]
) -> None:
    """Dashed levels, each named where the fewest points of the curves lie and no other label is."""
    pane, named = sheet.pane, list(taken)
    points = np.concatenate([np.stack([line.x, line.y], axis=1)[thin(line.y, 400)] for line in drawn])
    dots = sheet.px(points[np.isfinite(points[:, 1])])
    for reference in references:
        value, label = float(reference.value), fit(reference.label, 0.8 * (pane.right - pane.left))
        if span.low <= value <= span.high:
            y = float(sheet.px(np.array([[drawn[0].x[0], value]]))[0, 1])
            sheet.stroke([(pane.left, y), (pane.right, y)], MUTED, 1, dashes=(3, 3))
            boxes = _places(pane, text_width(label), (y - TEXT - 5, y + 2))
        else:
            label = f"{'↑' if value > span.high else '↓'} {label}"
            boxes = _places(pane, text_width(label), (pane.top if value > span.high else pane.bottom - TEXT - 4,))
        box = min(boxes, key=lambda place: _crowd(place, dots, named, pane))
        named.append(box)
        at_right = box.right == pane.right - 3
        x, align = (box.right, "right") if at_right else (box.left, "left")
        sheet.text(x, box.bottom - 4, label, colour=MUTED, align=align, halo=True)


def _places(pane: Box, width: float, tops: Sequence[float]) -> list[Box]:
    rights = (pane.right - 3, pane.left + 3 + width, (pane.left + pane.right + width) / 2)
    return [Box(right - width, top, right, top + TEXT + 4) for top in tops for right in rights]


def _crowd(box: Box, dots: Float[np.ndarray, "point 2"], named: Sequence[Box], pane: Box) -> float:
    x, y = dots.T
    inside = (x > box.left - 3) & (x < box.right + 3) & (y > box.top) & (y < box.bottom)
    outside = box.top < pane.top - 3 or box.bottom > pane.bottom + 3
    return float(inside.sum()) + 1e6 * outside + 1e5 * sum(box.meets(other) for other in named)


def _room_for(sheet: Canvas, marks: Sequence[Mark]) -> None:
    if marks:
        sheet.grow(16)


def _draw_marks(sheet: Canvas, marks: Sequence[Mark]) -> None:
    """Upright lines with their labels above the frame; labels that would touch become one."""
    pane = sheet.pane
    moments = sorted((float(mark.x), mark.label) for mark in marks if np.isfinite(float(mark.x)))
    places = sheet.px(np.array([[x, 1.0] for x, _ in moments]).reshape(-1, 2))[:, 0].round(0).tolist()
    for x in sorted(set(places)):
        sheet.stroke([(x, pane.top - 3), (x, pane.bottom)], ALARM, 1, alpha=0.75)
    groups: list[tuple[float, list[str]]] = []
    for x, (_, label) in zip(places, moments, strict=True):
        if groups and x - text_width(label) / 2 < _extent(pane, *groups[-1])[1] + 6:
            groups[-1][1].append(label)
        else:
            groups.append((x, [label]))
    for x, labels in groups:
        sheet.text(_extent(pane, x, labels)[0], pane.top - 6, _joined(labels), colour=ALARM)


def _joined(labels: Sequence[str]) -> str:
    more = f" \u00d7{len(labels)}" if len(set(labels)) == 1 else f" +{len(labels) - 1}"
    return fit(labels[0], 0.5 * WIDTH) + (more if len(labels) > 1 else "")


def _extent(pane: Box, x: float, labels: Sequence[str]) -> tuple[float, float]:
    """Where the label of a mark begins and ends: centred on it, inside the figure."""
    width = text_width(_joined(labels))
    start = min(max(x - width / 2, 0.0), WIDTH - width)
    return start, start + width


def _describe(drawn: Sequence[Series], references: Sequence[Reference], marks: Sequence[Mark], x_label: str) -> str:
    parts = []
    for line in drawn:
        (start, first), (stop, last) = line.first, line.last
        missing = int((~np.isfinite(line.y)).sum())
        gaps = f" ({missing:,} of {len(line.y):,} points missing)" if missing else ""
        parts.append(
            f"{line.name} from {number(first)} at {number(start)} to {number(last)} at {number(stop)} {x_label}{gaps}"
        )
    parts += [f"{reference.label} at {number(float(reference.value))}" for reference in references]
    parts += [f"{mark.label} at {number(float(mark.x))} {x_label}" for mark in marks[:20]]
    return "; ".join(parts) + "."
