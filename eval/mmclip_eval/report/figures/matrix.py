"""`confusion`: what each class was taken for, as a heat map."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from mmclip_eval.report.figures.canvas import Canvas, canvas
from mmclip_eval.report.figures.labels import fit, text_width
from mmclip_eval.report.figures.style import GAP, GRID, INK, MUTED, SERIES, SURFACE, TEXT, WIDTH

FEW = 14
"""Classes up to which the columns are named and the shares are printed; beyond, rows are numbered and columns refer."""
NUMBER_WIDTH = 20.0
LEVELS = 24
"""Steps of the colour scale; each is one path, whatever the number of cells."""
MOST_TIPS = 180
HIDDEN = 0.005
"""Shares below are not drawn."""


def confusion(title: str, matrix: Sequence[Sequence[Any]] | np.ndarray, names: Sequence[str]) -> str:
    """Shares of each true class (a row) that went to each predicted class (a column).

    The colour is the first series' at an opacity that grows with the share, so it works on a light and on a dark card.

    Args:
        title: Above the figure, and its accessible name.
        matrix: Counts (or shares), [true class, predicted class]; what is negative or not finite counts as 0.
        names: Of the classes; shortened where needed, in full in the tool tip of each larger cell.

    Raises:
        ValueError: The matrix is not square, or the names are not as many.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    counts = counts.reshape(0, 0) if counts.size == 0 else counts
    if counts.ndim != 2 or counts.shape != (len(names), len(names)):
        raise ValueError(
            f"confusion: expected a [{len(names)}, {len(names)}] matrix for as many names; got {counts.shape}"
        )
    counts = np.where(np.isfinite(counts) & (counts > 0), counts, 0.0)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-300)
    layout = _layout(names)
    height = layout.tall * len(names) + layout.below + 4
    with canvas(title, height, "true class in rows, predicted in columns, % of the row") as sheet:
        if not counts.any():
            return sheet.nothing()
        sheet.top += 4
        sheet.frame(layout.left, WIDTH - layout.left - layout.wide * len(names), layout.below)
        sheet.axes.set_axis_off()
        sheet.axes.set_xlim(0, len(names))
        sheet.axes.set_ylim(len(names), 0)
        _draw_cells(sheet, shares)
        _draw_tips(sheet, shares, names)
        _draw_names(sheet, names, layout)
        if not layout.numbered:
            _print_shares(sheet, shares, layout)
        return sheet.svg(_describe(shares, names))


class Layout(NamedTuple):
    """Sizes in px: margins left of and below the cells, a cell's sides, and how the classes are named."""

    left: float
    below: float
    wide: float
    tall: float
    numbered: bool
    turned: bool


def _layout(names: Sequence[str]) -> Layout:
    numbered = len(names) > FEW
    longest = max(map(text_width, names), default=0)
    left = min(longest, 92 if numbered else 110) + GAP + (NUMBER_WIDTH if numbered else 0)
    wide = min((WIDTH - left) / max(len(names), 1), 100 if len(names) <= 3 else 44)
    tall = min(max(wide, TEXT + 2), 26)
    turned = not numbered and longest > wide - 4 and len(names) > 3
    return Layout(left, min(longest, 90) + 2 * GAP if turned else 20, wide, tall, numbered, turned)


def _opacity(share: Shaped[np.ndarray, "..."] | np.float64) -> Any:
    """Steeper for small shares: a confusion of a few per cent is what one looks for."""
    return np.round(LEVELS * share**0.65) / LEVELS


def _draw_cells(sheet: Canvas, shares: Float[np.ndarray, "row column"]) -> None:
    from matplotlib.patches import PathPatch, Rectangle
    from matplotlib.path import Path

    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]) * 0.94 + 0.03
    levels = np.where(shares >= HIDDEN, np.maximum(_opacity(shares), 1 / LEVELS), 0.0)
    sheet.axes.add_patch(Rectangle((0, 0), len(shares), len(shares), facecolor="none", edgecolor=GRID, linewidth=1))
    for level in np.unique(levels[levels > 0]):
        cells = [square + (column, row) for row, column in np.argwhere(levels == level)]
        codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(cells)
        path = Path(np.concatenate(cells), codes)
        sheet.axes.add_patch(PathPatch(path, facecolor=SERIES[0], alpha=float(level), linewidth=0, clip_on=False))


def _draw_tips(sheet: Canvas, shares: Float[np.ndarray, "row column"], names: Sequence[str]) -> None:
    """Unpainted rectangles that say their cell in full: the largest shares, at most `MOST_TIPS`."""
    from matplotlib.patches import Rectangle

    for flat in np.argsort(-shares, axis=None, kind="stable")[:MOST_TIPS]:
        row, column = (int(value) for value in np.unravel_index(flat, shares.shape))
        if shares[row, column] < 0.02:
            break
        words = f"{names[row]} \u2192 {names[column]}: {100 * shares[row, column]:.0f} %"
        cell = Rectangle((column, row), 1, 1, facecolor="none", edgecolor="none", clip_on=False, gid=sheet.tip(words))
        sheet.axes.add_patch(cell)


def _draw_names(sheet: Canvas, names: Sequence[str], layout: Layout) -> None:
    """Rows beside the cells, columns below them; many classes are numbered, and their columns show the numbers."""
    pane = sheet.pane
    name_end = pane.left - GAP - (NUMBER_WIDTH if layout.numbered else 0)
    every = 1 if layout.wide >= 17 else 5
    for index, name in enumerate(names):
        x, y = pane.left + (index + 0.5) * layout.wide, pane.top + (index + 0.5) * layout.tall + 4
        sheet.text(name_end, y, fit(name, name_end), colour=MUTED, align="right")
        if layout.numbered:
            sheet.text(pane.left - GAP, y, str(index + 1), colour=MUTED, align="right")
            if index == 0 or (index + 1) % every == 0:
                sheet.text(x, pane.bottom + 14, str(index + 1), colour=MUTED, align="center")
        elif layout.turned:
            words = fit(name, layout.below - 2 * GAP)
            sheet.text(x + 4, pane.bottom + GAP, words, colour=MUTED, align="right", turned=True)
        else:
            sheet.text(x, pane.bottom + 15, fit(name, layout.wide - 4), colour=MUTED, align="center")


def _print_shares(sheet: Canvas, shares: Float[np.ndarray, "row column"], layout: Layout) -> None:
    pane = sheet.pane
    for row, column in np.argwhere(shares >= 0.01):
        words = f"{100 * shares[row, column]:.0f}"
        if text_width(words) <= layout.wide:
            colour = SURFACE if _opacity(shares[row, column]) > 0.6 else INK
            x, y = pane.left + (column + 0.5) * layout.wide, pane.top + (row + 0.5) * layout.tall + 4
            sheet.text(x, y, words, colour=colour, align="center")


def _describe(shares: Float[np.ndarray, "row column"], names: Sequence[str]) -> str:
    filled = shares.sum(axis=1) > 0
    parts = [f"{len(names)} classes, on average {100 * np.diag(shares)[filled].mean():.0f} % right"]
    wrong = shares * (1 - np.eye(len(names)))
    for flat in np.argsort(-wrong, axis=None, kind="stable")[:5]:
        row, column = np.unravel_index(flat, wrong.shape)
        if wrong[row, column] >= 0.01:
            parts.append(f"{names[row]} taken for {names[column]}: {100 * wrong[row, column]:.0f} %")
    return "; ".join(parts) + "."
