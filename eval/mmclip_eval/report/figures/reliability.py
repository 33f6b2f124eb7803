"""`reliability`: whether a classifier is right as often as it says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmclip_eval.report.figures.canvas import Canvas, canvas, even_ticks
from mmclip_eval.report.figures.labels import tick_texts
from mmclip_eval.report.figures.style import GAP, MUTED, SERIES, TEXT
from mmclip_eval.report.words import percent

HEIGHT = 230.0
BOTTOM = 38.0
STRIP = 0.22
"""Of the height, for the bars that say how many samples a bin has."""
ENDS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Bin:
    """Samples of about the same confidence."""

    above: float
    up_to: float
    samples: int
    confidence: float
    accuracy: float
    low: float
    high: float
    """Ends of the interval of the accuracy."""


def reliability(title: str, bins: Sequence[Bin]) -> str:
    """A dot a bin at its confidence and accuracy, the line of a classifier that is as right as it is sure, bars of sizes.

    Both axes end at the first round number above everything that is drawn; bins without a sample are left out.
    """
    filled = [one for one in bins if one.samples]
    with canvas(title, HEIGHT, "share that is right, by how sure the model is") as sheet:
        if not filled:
            return sheet.nothing()
        most = max(max(one.confidence, one.high) for one in filled)
        end = next((limit for limit in ENDS if most <= limit), 1.0)
        ticks = even_ticks(0, end, 4)
        texts = [f"{text} %" for text in tick_texts([100 * tick for tick in ticks])]
        sheet.grow(8)
        sheet.frame(max(len(text) for text in texts) * 6.5 + GAP, 18, BOTTOM)
        sheet.axes.set_xlim(0, end)
        sheet.axes.set_ylim(0, end)
        sheet.y_axis(ticks, texts)
        sheet.x_axis(ticks, "confidence: probability of the likeliest class", texts)
        _draw_sizes(sheet, filled, end)
        _draw_diagonal(sheet, end)
        for one in filled:
            _draw_bin(sheet, one, sum(other.samples for other in filled))
        return sheet.svg(_describe(filled))


def _draw_sizes(sheet: Canvas, bins: Sequence[Bin], end: float) -> None:
    most = max(one.samples for one in bins)
    for one in bins:
        right, height = min(one.up_to, end), STRIP * end * one.samples / most
        gap = 0.04 * (one.up_to - one.above)
        x, y = [one.above + gap, one.above + gap, right - gap, right - gap], [0.0, height, height, 0.0]
        words = f"{percent(one.above)} to {percent(one.up_to)}: {one.samples:,} samples"
        sheet.axes.fill(x, y, facecolor=MUTED, alpha=0.25, edgecolor="none", zorder=1, gid=sheet.tip(words))
    pane = sheet.pane
    sheet.stroke([(pane.left, pane.bottom), (pane.right, pane.bottom)], MUTED, 1, alpha=0.6)


def _draw_diagonal(sheet: Canvas, end: float) -> None:
    (x0, y0), (x1, y1) = sheet.px(np.array([[0.0, 0.0], [end, end]])).tolist()
    sheet.stroke([(x0, y0), (x1, y1)], MUTED, 1, dashes=(3, 3))
    pane = sheet.pane
    below = pane.bottom - STRIP * (pane.bottom - pane.top) - GAP
    sheet.text(pane.left + GAP, pane.top + TEXT + 4, "right more often than sure", colour=MUTED, halo=True)
    sheet.text(pane.right - GAP, below, "surer than right", colour=MUTED, align="right", halo=True)


def _draw_bin(sheet: Canvas, one: Bin, total: int) -> None:
    ends = np.array([[one.confidence, one.low], [one.confidence, one.high], [one.confidence, one.accuracy]])
    (x, low), (_, high), (_, middle) = sheet.px(ends).tolist()
    sheet.stroke([(x, low), (x, high)], SERIES[0], 1.5, alpha=0.55)
    sheet.dot(x, middle, SERIES[0], 5 + 6 * math.sqrt(one.samples / total))


def _describe(bins: Sequence[Bin]) -> str:
    return (
        "; ".join(
            f"{one.samples:,} samples of mean confidence {percent(one.confidence)}: {percent(one.accuracy)} right"
            for one in bins
        )
        + "."
    )
