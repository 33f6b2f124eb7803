"""`heatmap`: values in [0, 1] over two lists, such as how alike the layers of two models are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mmclip_eval.report.figures.canvas import Canvas, canvas
from mmclip_eval.report.figures.labels import fit, text_width
from mmclip_eval.report.figures.style import GAP, GRID, INK, MUTED, SERIES, SURFACE, TEXT, WIDTH

LEVELS = 24
"""Steps of the colour scale; each is one path, whatever the number of cells."""
MOST_TIPS = 700
PRINTED = 10
"""Columns up to which values stand in the cells."""


def heatmap(
    title: str,
    values: Sequence[Sequence[Any]] | np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    y_label: str = "",
) -> str:
    """A cell a pair, the fuller its colour the higher its value; the best of each row has a frame.

    Args:
        title: Above the figure, and its accessible name.
        values: [row, column]; what is not finite is drawn as an empty cell, what is negative as 0.
        rows: Their names, from top to bottom.
        columns: Their names, from left to right.
        y_label: Under the title.

    Raises:
        ValueError: The names are not as many as the values.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.shape != (len(rows), len(columns)):
        raise ValueError(f"heatmap: expected [{len(rows)}, {len(columns)}] values for the names; got {table.shape}")
    left = min(max(map(text_width, rows), default=0), 100) + GAP
    wide = min((WIDTH - left) / max(len(columns), 1), 44.0)
    tall = min(max(wide, TEXT + 2), 24.0)
    turned = max(map(text_width, columns), default=0) > wide - 4
    below = min(max(map(text_width, columns), default=0), 90) + 2 * GAP if turned else 20
    with canvas(title, tall * len(rows) + below + 4, y_label) as sheet:
        if not table.size:
            return sheet.nothing()
        sheet.top += 4
        sheet.frame(left, WIDTH - left - wide * len(columns), below)
        sheet.axes.set_axis_off()
        sheet.axes.set_xlim(0, len(columns))
        sheet.axes.set_ylim(len(rows), 0)
        _draw_cells(sheet, table)
        _draw_tips(sheet, table, rows, columns)
        _draw_names(sheet, rows, columns, wide, tall, turned)
        if len(columns) <= PRINTED:
            _print_values(sheet, table, wide, tall)
        return sheet.svg(_describe(table, rows, columns))


def _opacity(values: Any) -> Any:
    return np.round(LEVELS * np.clip(np.nan_to_num(values), 0, 1) ** 1.5) / LEVELS


def _draw_cells(sheet: Canvas, table: Float[np.ndarray, "row column"]) -> None:
    from matplotlib.patches import PathPatch, Rectangle
    from matplotlib.path import Path

    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]) * 0.94 + 0.03
    levels = _opacity(table)
    outline = Rectangle((0, 0), table.shape[1], table.shape[0], facecolor="none", edgecolor=GRID, linewidth=1)
    sheet.axes.add_patch(outline)
    for level in np.unique(levels[levels > 0]):
        cells = [square + (column, row) for row, column in np.argwhere(levels == level)]
        codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(cells)
        path = Path(np.concatenate(cells), codes)
        sheet.axes.add_patch(PathPatch(path, facecolor=SERIES[0], alpha=float(level), linewidth=0, clip_on=False))
    for row, line in enumerate(table):
        if np.isfinite(line).any():
            best = Rectangle(
                (int(np.nanargmax(line)) + 0.06, row + 0.06), 0.88, 0.88, facecolor="none", edgecolor=INK, linewidth=1
            )
            sheet.axes.add_patch(best)


def _draw_tips(
    sheet: Canvas, table: Float[np.ndarray, "row column"], rows: Sequence[str], columns: Sequence[str]
) -> None:
    """Unpainted rectangles that say their cell in full."""
    from matplotlib.patches import Rectangle

    for row, column in np.argwhere(np.isfinite(table))[:MOST_TIPS]:
        words = f"{rows[row]} \u00b7 {columns[column]}: {table[row, column]:.3f}"
        cell = Rectangle((column, row), 1, 1, facecolor="none", edgecolor="none", clip_on=False, gid=sheet.tip(words))
        sheet.axes.add_patch(cell)


def _draw_names(
    sheet: Canvas, rows: Sequence[str], columns: Sequence[str], wide: float, tall: float, turned: bool
) -> None:
    pane = sheet.pane
    for index, name in enumerate(rows):
        y = pane.top + (index + 0.5) * tall + 4
        sheet.text(pane.left - GAP, y, fit(name, pane.left - GAP), colour=MUTED, align="right")
    for index, name in enumerate(columns):
        x = pane.left + (index + 0.5) * wide
        if turned:
            sheet.text(x + 4, pane.bottom + GAP, fit(name, 90), colour=MUTED, align="right", turned=True)
        else:
            sheet.text(x, pane.bottom + 15, fit(name, wide - 4), colour=MUTED, align="center")


def _print_values(sheet: Canvas, table: Float[np.ndarray, "row column"], wide: float, tall: float) -> None:
    pane = sheet.pane
    for row, column in np.argwhere(np.isfinite(table)):
        words = f"{table[row, column]:.2f}".removeprefix("0")
        if text_width(words) <= wide:
            colour = SURFACE if _opacity(table[row, column]) > 0.6 else INK
            x, y = pane.left + (column + 0.5) * wide, pane.top + (row + 0.5) * tall + 4
            sheet.text(x, y, words, colour=colour, align="center")


def _describe(table: Float[np.ndarray, "row column"], rows: Sequence[str], columns: Sequence[str]) -> str:
    parts = [f"{len(rows)} by {len(columns)} values"]
    for name, line in zip(rows, table, strict=True):
        if np.isfinite(line).any():
            best = int(np.nanargmax(line))
            parts.append(f"{name} is most like {columns[best]}: {line[best]:.2f}")
    return "; ".join(parts) + "."
