"""`bars`: scores with their intervals, beside what guessing would give."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np

from mmclip_eval.report.figures.canvas import Canvas, canvas, even_ticks
from mmclip_eval.report.figures.labels import fit, number, text_width, tick_texts
from mmclip_eval.report.figures.style import ALARM, GAP, GRID, MUTED, SERIES, WIDTH

ROW = 24.0
BOTTOM = 22.0


@dataclass(frozen=True)
class Bar:
    """One score; `low`, `high` and `chance` may be nan where they are not known."""

    name: str
    value: SupportsFloat
    low: SupportsFloat = math.nan
    high: SupportsFloat = math.nan
    chance: SupportsFloat = math.nan
    marked: bool = False
    """Drawn in the colour of alarms, with its name in bold: the one to look at."""


def bars(title: str, rows: Sequence[Bar], *, percent: bool = True, y_label: str = "", stroke: str = "chance") -> str:
    """One row a score: a dot, its interval as a line, chance as an upright stroke, and the value in print.

    Args:
        title: Above the figure, and its accessible name.
        rows: From top to bottom; a value that is not finite is printed as a dash.
        percent: Values are fractions, shown in per cent.
        y_label: Under the title.
        stroke: What the upright stroke stands for, where that is not chance.
    """
    with canvas(title, ROW * len(rows) + BOTTOM if rows else 80, y_label) as sheet:
        if not rows:
            return sheet.nothing()
        _legend(sheet, rows, stroke)
        values = [_show(float(row.value), percent) for row in rows]
        left = min(max(text_width(row.name, bold=row.marked) for row in rows), 0.42 * WIDTH) + 2 * GAP
        right = max(text_width(value, bold=True) for value in values) + 2 * GAP
        sheet.frame(left, right, BOTTOM)
        low, high = _range(rows, percent)
        sheet.axes.set_xlim(low, high)
        sheet.axes.set_ylim(len(rows), 0)
        ticks = even_ticks(low, high, 4)
        sheet.axes.grid(axis="x", color=GRID, linewidth=1)
        sheet.axes.set_axisbelow(True)
        sheet.y_axis([], [], grid=False)
        texts = tick_texts([100 * tick for tick in ticks] if percent else ticks)
        sheet.x_axis(ticks, "", [*texts[:-1], f"{texts[-1]} %"] if percent else texts)
        for place, row in enumerate(rows):
            _draw(sheet, row, place + 0.5, left, values[place])
        return sheet.svg("; ".join(_say(row, percent, stroke) for row in rows) + ".")


def _range(rows: Sequence[Bar], percent: bool) -> tuple[float, float]:
    values = [float(value) for row in rows for value in (row.value, row.low, row.high, row.chance)]
    values = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(0.0, *values), max(0.0, *values)
    if percent and low == 0 and high <= 1:
        return 0.0, next(limit for limit in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0) if high <= limit)
    return (low, high + 0.04 * (high - low)) if high > low else (0.0, 1.0)


def _legend(sheet: Canvas, rows: Sequence[Bar], stroke: str) -> None:
    interval = any(math.isfinite(float(row.low)) for row in rows)
    chance = any(math.isfinite(float(row.chance)) for row in rows)
    if not interval and not chance:
        return
    sheet.grow(18)
    x, y = 0.0, sheet.top - 8
    if interval:
        sheet.stroke([(x + 1, y - 4), (x + 19, y - 4)], SERIES[0], 2)
        sheet.dot(x + 10, y - 4, SERIES[0], 7)
        sheet.text(x + 25, y, "score, 95 % interval", colour=MUTED)
        x += 25 + text_width("score, 95 % interval") + 14
    if chance:
        sheet.stroke([(x + 2, y - 9), (x + 2, y + 1)], MUTED, 2)
        sheet.text(x + 8, y, stroke, colour=MUTED)


def _draw(sheet: Canvas, row: Bar, y: float, left: float, value: str) -> None:
    def across(x: SupportsFloat) -> float:
        return float(sheet.px(np.array([[float(x), y]]))[0, 0])

    middle = float(sheet.px(np.array([[0.0, y]]))[0, 1])
    colour = ALARM if row.marked else SERIES[0]
    sheet.text(0, middle + 4, fit(row.name, left - 2 * GAP, bold=row.marked), bold=row.marked)
    sheet.text(WIDTH, middle + 4, value, bold=True, align="right")
    if math.isfinite(float(row.chance)):
        sheet.stroke([(across(row.chance), middle - 6), (across(row.chance), middle + 6)], MUTED, 2)
    if math.isfinite(float(row.low)) and math.isfinite(float(row.high)):
        sheet.stroke([(across(row.low), middle), (across(row.high), middle)], colour, 2)
    if math.isfinite(float(row.value)):
        sheet.dot(across(row.value), middle, colour, 8)


def _show(value: float, percent: bool) -> str:
    if not math.isfinite(value):
        return "\u2013"
    return f"{100 * value:.1f} %" if percent else number(value)


def _say(row: Bar, percent: bool, stroke: str) -> str:
    text = f"{row.name}: {_show(float(row.value), percent)}"
    if math.isfinite(float(row.low)):
        text += f" ({_show(float(row.low), percent)} to {_show(float(row.high), percent)})"
    return text + (f", {stroke} {_show(float(row.chance), percent)}" if math.isfinite(float(row.chance)) else "")
