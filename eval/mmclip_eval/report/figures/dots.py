"""`dots`: the same score of several models on several sets, each with its interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmclip_eval.report.figures.canvas import Canvas, canvas, even_ticks
from mmclip_eval.report.figures.labels import fit, number, text_width, tick_texts
from mmclip_eval.report.figures.style import GAP, GRID, MUTED, SERIES, TEXT, WIDTH

PITCH = 15.0
"""Between the models of a set."""
BETWEEN = 9.0
"""Between two sets."""
BOTTOM = 22.0
NAME = 18.0
"""A set's name has a line of its own, above its models."""
ENDS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Dot:
    """A figure; nan ends where it has no interval."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Row:
    """A set with the figure of each model, None where it was not measured."""

    name: str
    dots: Sequence[Dot | None]
    chance: float = math.nan


def dots(title: str, rows: Sequence[Row], models: Sequence[str], *, percent: bool = True, subtitle: str = "") -> str:
    """A block a set, a line a model in its colour, chance as an upright stroke through the block.

    At most as many models as there are colours.

    Raises:
        ValueError: there are more, or a row has not one dot a model.
    """
    if len(models) > len(SERIES) or any(len(row.dots) != len(models) for row in rows):
        raise ValueError(f"{len(models)} models: expected at most {len(SERIES)}, and one dot of each in every row")
    block = NAME + PITCH * len(models) + BETWEEN
    with canvas(title, block * len(rows) + BOTTOM if rows else 80, subtitle) as sheet:
        if not rows:
            return sheet.nothing()
        sheet.legend([(name, SERIES[place]) for place, name in enumerate(models)])
        known = [dot for row in rows for dot in row.dots if dot is not None]
        right = max((text_width(_show(dot.value, percent), bold=True) for dot in known), default=0) + 2 * GAP
        sheet.grow(4)
        sheet.frame(GAP, right, BOTTOM)
        low, high = _range(known, rows, percent)
        sheet.axes.set_xlim(low, high)
        sheet.axes.set_ylim(len(rows), 0)
        ticks = even_ticks(low, high, 4)
        sheet.axes.grid(axis="x", color=GRID, linewidth=1)
        sheet.y_axis([], [], grid=False)
        texts = tick_texts([100 * tick for tick in ticks] if percent else ticks)
        sheet.x_axis(ticks, "", [*texts[:-1], f"{texts[-1]} %"] if percent else texts)
        for place, row in enumerate(rows):
            _draw(sheet, row, sheet.pane.top + place * block, percent)
        return sheet.svg("; ".join(_say(row, models, percent) for row in rows) + ".")


def _range(known: Sequence[Dot], rows: Sequence[Row], percent: bool) -> tuple[float, float]:
    values = [value for dot in known for value in (dot.value, dot.low, dot.high)] + [row.chance for row in rows]
    values = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(0.0, *values), max(0.0, *values)
    if percent and low == 0 and high <= 1:
        return 0.0, next(limit for limit in ENDS if high <= limit)
    return (low, high + 0.04 * (high - low)) if high > low else (0.0, 1.0)


def _draw(sheet: Canvas, row: Row, top: float, percent: bool) -> None:
    def across(x: float) -> float:
        return float(sheet.px(np.array([[x, 0.0]]))[0, 0])

    sheet.text(0, top + NAME - 5, fit(row.name, WIDTH), halo=True)
    first = top + NAME
    if math.isfinite(row.chance):
        x = across(row.chance)
        sheet.stroke([(x, first), (x, first + PITCH * len(row.dots))], MUTED, 1.5, dashes=(2, 2))
    for place, dot in enumerate(row.dots):
        middle, colour = first + PITCH * (place + 0.5), SERIES[place]
        if dot is None:
            sheet.text(WIDTH, middle + 4, "\u2013", colour=MUTED, align="right")
            continue
        if math.isfinite(dot.low) and math.isfinite(dot.high):
            sheet.stroke([(across(dot.low), middle), (across(dot.high), middle)], colour, 2)
        sheet.dot(across(dot.value), middle, colour, 8)
        sheet.text(WIDTH, middle + 0.36 * TEXT, _show(dot.value, percent), align="right")


def _show(value: float, percent: bool) -> str:
    return f"{100 * value:.1f} %".replace("-", "\u2212") if percent else number(value)


def _say(row: Row, models: Sequence[str], percent: bool) -> str:
    parts = [
        f"{name} {_show(dot.value, percent)}" for name, dot in zip(models, row.dots, strict=True) if dot is not None
    ]
    return f"{row.name}: {', '.join(parts)}"
