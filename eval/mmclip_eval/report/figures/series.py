"""What a curve is before it is drawn: its points in order, its running mean, and the range that shows it best."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np
from jaxtyping import Float, Int

from mmclip_eval.report.figures.canvas import even_ticks
from mmclip_eval.report.figures.labels import number, tick_texts
from mmclip_eval.report.figures.thinning import Numbers, floats, noisy, smooth

FAR_OUT = 8.0
"""Points that would stretch the range by more than this factor leave the frame instead."""
LEAST_SHARE = 0.3
"""Of the axis that the data keep when references are drawn in."""


@dataclass(frozen=True)
class Line:
    """One series; where y is not finite the line has a gap."""

    name: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    """Lower ends of the intervals of y, which are shaded; given together with `high`."""
    high: Numbers | None = None


@dataclass(frozen=True)
class Reference:
    """A level to compare with, such as chance, ln N or a clamp."""

    value: SupportsFloat
    label: str


@dataclass(frozen=True)
class Mark:
    """A moment worth pointing at, such as an alarm."""

    x: SupportsFloat
    label: str


@dataclass(frozen=True)
class Series:
    """A line made ready: by x, with nan for what cannot be drawn, and its running mean where it is noisy."""

    name: str
    x: Float[np.ndarray, " point"]
    y: Float[np.ndarray, " point"]
    bold: Float[np.ndarray, " point"]
    colour: str
    noisy: bool
    band: tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]] | None = None
    """Lower and upper ends of the intervals, at every point."""

    @property
    def drawable(self) -> bool:
        """Whether it has a point."""
        return bool(np.isfinite(self.bold).any())

    @property
    def first(self) -> tuple[float, float]:
        """Where the drawn line starts."""
        place = int(np.flatnonzero(np.isfinite(self.bold))[0])
        return float(self.x[place]), float(self.bold[place])

    @property
    def last(self) -> tuple[float, float]:
        """Where the drawn line ends."""
        place = int(np.flatnonzero(np.isfinite(self.bold))[-1])
        return float(self.x[place]), float(self.bold[place])


@dataclass(frozen=True)
class Span:
    """The range of the y axis."""

    low: float
    high: float
    log: bool = False


def prepare(line: Line, colour: str, *, log_y: bool = False) -> Series:
    """The line sorted by x; raises ValueError if x and y, or an interval's ends, differ in length."""
    x, y = floats(line.x), floats(line.y)
    if len(x) != len(y):
        raise ValueError(f"line {line.name!r}: {len(x)} values of x and {len(y)} of y; expected as many")
    order = np.argsort(x, kind="stable")
    order = order[np.isfinite(x[order])]
    x, y = x[order], y[order]
    y = np.where(np.isfinite(y) & ((y > 0) | (not log_y)), y, np.nan)
    rough = noisy(y)
    bold = smooth(np.clip(y, *_body(y)), max(3, len(y) // 40)) if rough else y
    return Series(line.name, x, y, bold, colour, rough, _band(line, order))


def _band(
    line: Line, order: Int[np.ndarray, " point"]
) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]] | None:
    if line.low is None or line.high is None:
        return None
    low, high = floats(line.low), floats(line.high)
    if not len(low) == len(high) == len(floats(line.x)):
        raise ValueError(f"line {line.name!r}: {len(low)} and {len(high)} ends of intervals; expected one each a point")
    return low[order], high[order]


def _body(y: Float[np.ndarray, " point"]) -> tuple[float, float]:
    """The range of a series, without the few points that lie absurdly far out."""
    good = y[np.isfinite(y)]
    if not len(good):
        return -np.inf, np.inf
    low, high = float(good.min()), float(good.max())
    inner_low, inner_high = (float(value) for value in np.quantile(good, [0.01, 0.99]))
    inner = inner_high - inner_low
    if len(good) < 30 or not 0 < inner * FAR_OUT < high - low:
        return low, high
    kept = good[(good > inner_low - FAR_OUT / 2 * inner) & (good < inner_high + FAR_OUT / 2 * inner)]
    return float(kept.min()), float(kept.max())


def span_of(series: Sequence[Series], references: Sequence[Reference] = (), *, log_y: bool, zero: bool = False) -> Span:
    """A range that holds the body of every series and those references that leave room for the data."""
    bodies = [_body(line.y) for line in series] + [_body(end) for line in series if line.band for end in line.band]
    low, high = min(body[0] for body in bodies), max(body[1] for body in bodies)
    if log_y:
        low, high = np.log10(low), np.log10(high)
    if zero and not log_y:
        low, high = min(low, 0.0), max(high, 0.0)
    if high <= low:  # a flat line stands in the middle of its axis
        half = 0.5 if log_y else 0.1 * abs(low) or 1.0
        low, high = low - half, high + half
    for reference in references:
        value = float(reference.value)
        value = np.log10(value) if log_y and value > 0 else value
        wider = min(low, value), max(high, value)
        if np.isfinite(value) and (high - low) >= LEAST_SHARE * (wider[1] - wider[0]):
            low, high = wider
    pad = 0.05 * (high - low)
    low, high = (low if zero and low == 0 else low - pad), high + pad
    return Span(float(10**low), float(10**high), True) if log_y else Span(float(low), float(high))


def y_ticks(span: Span) -> tuple[list[float], list[str]]:
    """Where the horizontal lines go, and their labels."""
    if not span.log:
        ticks = even_ticks(span.low, span.high, 4)
        return ticks, tick_texts(ticks)
    decades = np.arange(np.ceil(np.log10(span.low)), np.floor(np.log10(span.high)) + 1)
    ticks = [float(10**decade) for decade in decades[:: max(1, -(-len(decades) // 5))]]
    if len(ticks) < 2:
        ticks = [tick for tick in even_ticks(span.low, span.high, 4) if tick > 0]
    return ticks, [f"{tick:g}" if 1e-3 <= tick < 1e4 else number(tick) for tick in ticks]
