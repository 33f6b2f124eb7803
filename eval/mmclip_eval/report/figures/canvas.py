"""`Canvas`: one figure in the house style, laid out in px from the top left, drawn by matplotlib.

matplotlib is imported when a figure is drawn, so importing this costs nothing. Only its object API is used: no pyplot, no
backend, and its settings are as before afterwards.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Float, Real

from mmclip_eval.report.figures import style
from mmclip_eval.report.figures.labels import Box, clean, fit, text_width, tick_texts, wrap
from mmclip_eval.report.figures.style import Px
from mmclip_eval.report.figures.svg import render

Align = Literal["left", "center", "right"]


class Canvas:
    """A title, an optional subtitle, and one pair of axes whose place the figure sets with `frame`.

    `height` is what lies below title and subtitle, in px.
    """

    def __init__(self, title: str, height: Px, subtitle: str = ""):
        from matplotlib.figure import Figure
        from matplotlib.transforms import Affine2D

        self.title, self.tips = clean(title), dict[str, str]()
        self.figure = Figure(dpi=72, facecolor="none")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.figure.patch.set_visible(False)
        self.pixels = Affine2D()
        self.height, self.top = height, 0.0
        """Of the whole figure, and where the next thing may begin, in px."""
        _strip(self.axes)
        for line in wrap(title, style.WIDTH, style.TITLE, 2):
            self.grow(17)
            self.text(0, self.top - 4, line, size=style.TITLE, bold=True)
        self.grow(5)
        if subtitle:
            self.grow(16)
            self.text(0, self.top - 6, fit(subtitle, style.WIDTH), colour=style.MUTED)

    def grow(self, by: Px) -> None:
        """Makes room of `by` px below what is on top."""
        self.height += by
        self.top += by
        self.figure.set_size_inches(style.WIDTH / 72, self.height / 72)
        self.pixels.clear().scale(1, -1).translate(0, self.height)

    def beside(self) -> "Canvas":
        """The same figure with a second y axis on the right."""
        other = copy(self)
        other.axes = cast("Any", self.axes.twinx())
        _strip(other.axes)
        return other

    def frame(self, left: Px, right: Px, bottom: Px) -> None:
        """Puts the axes below what is on top, with margins in px."""
        width, height = style.WIDTH - left - right, self.height - self.top - bottom
        self.axes.set_position((left / style.WIDTH, bottom / self.height, width / style.WIDTH, height / self.height))

    @property
    def pane(self) -> Box:
        """Where the axes are."""
        place = self.axes.get_position()
        top, bottom = (1 - place.y1) * self.height, (1 - place.y0) * self.height
        return Box(place.x0 * style.WIDTH, top, place.x1 * style.WIDTH, bottom)

    def text(
        self,
        x: Px,
        y: Px,
        words: str,
        *,
        colour: str = style.INK,
        size: Px = style.TEXT,
        bold: bool = False,
        align: Align = "left",
        halo: bool = False,
        turned: bool = False,
        opacity: float = 1.0,
    ) -> None:
        """Words whose baseline starts, is centred or ends at (x, y) px; `turned` ones read upwards."""
        self.figure.text(
            x,
            y,
            clean(words),
            color=colour,
            alpha=opacity,
            fontsize=size,
            fontweight="bold" if bold else "normal",
            ha=align,
            va="baseline",
            rotation=90 if turned else 0,
            rotation_mode="anchor",
            transform=self.pixels,
            gid="halo" if halo else None,
        )

    def stroke(self, points: Sequence[tuple[Px, Px]], colour: str, width: Px = 1, **looks: Any) -> None:
        """A line through points in px; a point twice makes a round dot."""
        from matplotlib.lines import Line2D

        x, y = np.array(points, dtype=float).T
        self.figure.add_artist(Line2D(x, y, color=colour, linewidth=width, transform=self.pixels, **looks))

    def dot(self, x: Px, y: Px, colour: str, size: Px = 6) -> None:
        """A filled circle of `size` px across."""
        self.stroke([(x, y), (x, y)], colour, size)

    def px(self, points: Real[np.ndarray, "point 2"]) -> Float[np.ndarray, "point 2"]:
        """Data coordinates as px from the top left."""
        x, y = np.asarray(self.axes.transData.transform(points)).reshape(-1, 2).T
        return np.stack([x, self.height - y], axis=1)

    def legend(self, entries: Sequence[tuple[str, str]]) -> None:
        """Names with a dot in their colour, in as many rows as they need."""
        x = style.WIDTH
        for name, colour in entries:
            name = fit(name, style.WIDTH - 14)
            if x + text_width(name) + 12 > style.WIDTH and x > 0:
                self.grow(16)
                x = 0
            self.dot(x + 4, self.top - 10, colour, 7)
            self.text(x + 12, self.top - 6, name, colour=style.MUTED)
            x += text_width(name) + 24

    def tip(self, text: str, kind: str = "tip") -> str:
        """A gid that gives its artist a tool tip, or with kind `image` makes it show the picture of that URI."""
        gid = f"{kind}-{len(self.tips)}"
        self.tips[gid] = clean(text) if kind == "tip" else text
        return gid

    def x_axis(self, ticks: Sequence[Px], label: str, texts: Sequence[str] | None = None) -> None:
        """Tick labels below the axes, then what they mean."""
        texts = tick_texts(ticks) if texts is None else list(texts)
        places = self.px(np.array([[tick, 0.0] for tick in ticks]).reshape(-1, 2))[:, 0].tolist()
        shown = [  # a label that would leave the figure is left out
            (tick, text)
            for tick, text, x in zip(ticks, texts, places, strict=True)
            if x - text_width(text) / 2 >= -3 and x + text_width(text) / 2 <= style.WIDTH + 3
        ]
        _ticks(self.axes.xaxis, [tick for tick, _ in shown], [text for _, text in shown])
        if label:
            middle = (self.pane.left + self.pane.right) / 2
            self.text(middle, self.height - 4, fit(label, style.WIDTH), colour=style.MUTED, align="center")

    def y_axis(
        self, ticks: Sequence[Px], texts: Sequence[str], *, colour: str = style.MUTED, grid: bool = True
    ) -> None:
        """Tick labels at the side of the axes, and thin lines through them."""
        _ticks(self.axes.yaxis, ticks, list(texts), colour)
        if grid:
            self.axes.grid(axis="y", color=style.GRID, linewidth=1)
        self.axes.set_axisbelow(True)

    def nothing(self, words: str = "no data yet") -> str:
        """The figure when there is nothing to draw."""
        self.frame(0, 0, 0)
        self.axes.set_axis_off()
        middle = (self.top + self.height) / 2
        self.text(style.WIDTH / 2, middle + 4, words, colour=style.MUTED, align="center")
        return self.svg(words)

    def svg(self, description: str) -> str:
        """The figure as text for the page; see `svg.render`."""
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        buffer = io.StringIO()
        with warnings.catch_warnings():
            # The page's font shows what matplotlib's, which only measures here, lacks.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            FigureCanvasSVG(self.figure).print_svg(buffer, metadata={"Date": None})
        return render(buffer.getvalue(), self.title, clean(description), self.tips)


def _strip(axes: Any) -> None:
    axes.set_facecolor("none")  # a twin's frame would be drawn for all that it is not visible
    axes.patch.set_visible(False)
    for side in axes.spines.values():
        side.set_visible(False)


def _ticks(axis: Any, ticks: Sequence[Px], texts: list[str], colour: str = style.MUTED) -> None:
    from matplotlib.ticker import NullLocator

    axis.set_ticks(list(ticks), texts)
    axis.set_minor_locator(NullLocator())
    axis.set_tick_params(length=0, pad=style.GAP, labelsize=style.TEXT, labelcolor=colour)


@contextmanager
def canvas(title: str, height: Px, subtitle: str = "") -> Iterator[Canvas]:
    """A canvas under the house style, from its creation until it is written."""
    from matplotlib.style import context

    with context(["default", style.SETTINGS]):
        yield Canvas(title, height, subtitle)


def even_ticks(low: Px, high: Px, most: int) -> list[float]:
    """At most `most` + 1 round numbers inside [low, high]."""
    from matplotlib.ticker import MaxNLocator

    values = MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return [float(value) for value in values if low - slack <= value <= high + slack]
