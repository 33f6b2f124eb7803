"""`growth`: how a score rises with the number of examples, beside what it is without any."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmclip_eval.report.figures.canvas import Canvas, canvas, even_ticks
from mmclip_eval.report.figures.labels import fit, spread, text_width, tick_texts
from mmclip_eval.report.figures.series import Reference
from mmclip_eval.report.figures.style import GAP, LINE, MUTED, SERIES, TEXT, WIDTH
from mmclip_eval.report.words import percent

HEIGHT = 200.0
BOTTOM = 38.0
ENDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Stage:
    """The score at one number of examples."""

    examples: int
    value: float
    low: float
    high: float
    runs: tuple[float, ...] = ()
    """Of the single draws, whose mean the value is."""


def growth(title: str, stages: Sequence[Stage], references: Sequence[Reference] = (), *, x_label: str) -> str:
    """Dots with their intervals along a doubling axis; references are dashed and named beside the frame."""
    rising = sorted(stages, key=lambda stage: stage.examples)
    with canvas(title, HEIGHT) as sheet:
        if not rising:
            return sheet.nothing()
        most = max(*(max(stage.high, *stage.runs, 0) for stage in rising), *(float(r.value) for r in references), 0)
        end = next((limit for limit in ENDS if most <= limit), 1.0)
        ticks = even_ticks(0, end, 4)
        texts = [f"{text} %" for text in tick_texts([100 * tick for tick in ticks])]
        labels = [fit(f"{one.label} {percent(float(one.value))}", 0.36 * WIDTH) for one in references]
        sheet.grow(8)
        right = max((text_width(label) for label in labels), default=12.0) + GAP
        sheet.frame(max(map(text_width, texts)) + GAP, right, BOTTOM)
        sheet.axes.set_xscale("log", base=2)
        sheet.axes.set_xlim(rising[0].examples / 1.35, rising[-1].examples * 1.35)
        sheet.axes.set_ylim(0, end)
        sheet.y_axis(ticks, texts)
        places = [float(stage.examples) for stage in rising]
        sheet.x_axis(places, x_label, [f"{stage.examples:,}" for stage in rising])
        _draw_references(sheet, references, labels)
        _draw_stages(sheet, rising)
        return sheet.svg(_describe(rising, references))


def _draw_references(sheet: Canvas, references: Sequence[Reference], labels: Sequence[str]) -> None:
    pane = sheet.pane
    sheet.stroke([(pane.left, pane.bottom), (pane.right, pane.bottom)], MUTED, 1, alpha=0.6)
    heights = [float(sheet.px(np.array([[1.0, float(one.value)]]))[0, 1]) for one in references]
    for height, place, label in zip(heights, spread(heights, TEXT + 2, pane.top, pane.bottom), labels, strict=True):
        sheet.stroke([(pane.left, height), (pane.right, height)], MUTED, 1, dashes=(3, 3))
        sheet.text(pane.right + GAP, place + 4, label, colour=MUTED)


def _draw_stages(sheet: Canvas, stages: Sequence[Stage]) -> None:
    middles = sheet.px(np.array([[stage.examples, stage.value] for stage in stages]))
    sheet.stroke([(x, y) for x, y in middles.tolist()], SERIES[0], LINE)
    for stage, (x, middle) in zip(stages, middles.tolist(), strict=True):
        rows = np.array([[stage.examples, value] for value in (stage.low, stage.high, *stage.runs)])
        low, high, *runs = sheet.px(rows)[:, 1].tolist()
        sheet.stroke([(x, low), (x, high)], SERIES[0], 1.5, alpha=0.55)
        for y in runs:
            sheet.stroke([(x - 5, y), (x + 5, y)], SERIES[0], 1, alpha=0.55)
        sheet.dot(x, middle, SERIES[0], 7)


def _describe(stages: Sequence[Stage], references: Sequence[Reference]) -> str:
    parts = [
        f"{stage.examples:,} examples: {percent(stage.value)} ({percent(stage.low)} to {percent(stage.high)})"
        for stage in stages
    ]
    return "; ".join([*parts, *(f"{one.label}: {percent(float(one.value))}" for one in references)]) + "."
