"""Architectures as one line each: as many columns as the terminal is wide, all of them where output is a pipe."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from mmclip_launch.models.records import Measurement
from mmclip_launch.models.rows import Row

GAP = "  "
WEIGHTS_WIDTH = 24
"""Below so many characters, names of weights are cut to nothing: their number is shown instead."""
STYLES = {"no": "red", "hub": "yellow", "?": "yellow"}


@dataclass(frozen=True)
class Column:
    """A heading and what stands under it; the first column and the last are flush left."""

    heading: str
    cell: Callable[[Row], str]
    left: bool = False


def short(value: float | None, unit: float) -> str:
    """Two or three digits, or all before the point; a dash for what is not known."""
    if value is None:
        return "-"
    scaled = value / unit
    if scaled >= 100:
        return f"{scaled:,.0f}"
    return f"{scaled:.1f}" if scaled >= 10 else f"{scaled:.2f}" if scaled >= 1 else f"{scaled:#.2g}"


def _of(figure: Callable[[Measurement], float | None], unit: float = 1) -> Callable[[Row], str]:
    return lambda row: short(figure(row.measurement), unit) if row.measurement is not None else "-"


def _pixels(row: Row) -> str:
    size = row.measurement.image_size if row.measurement else None
    if size is None:
        return "-"
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def _plain(figure: Callable[[Measurement], int | None]) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = figure(row.measurement) if row.measurement else None
        return "-" if value is None else str(value)

    return cell


NAME = Column("architecture", lambda row: row.name, left=True)
PARAMS = Column("params M", _of(lambda m: m.total_params, 1e6))
GFLOPS = Column("GFLOPs", _of(lambda m: m.total_flops, 1e9))
IMAGE_PARAMS = Column("image M", _of(lambda m: m.image_params, 1e6))
TEXT_PARAMS = Column("text M", _of(lambda m: m.text_params, 1e6))
IMAGE_GFLOPS = Column("image GF", _of(lambda m: m.image_flops, 1e9))
TEXT_GFLOPS = Column("text GF", _of(lambda m: m.text_flops, 1e9))
PIXELS = Column("px", _pixels)
TOKENS = Column("tokens", _plain(lambda m: m.context_length))
EMBED = Column("embed", _plain(lambda m: m.embed_dim))
LOADS = Column("loads", lambda row: row.loads.answer, left=True)
COUNT = Column("weights", lambda row: str(len(row.tags)) if row.tags else "-")
WEIGHTS = Column("weights", lambda row: ", ".join(row.tags), left=True)

ORDER = (
    NAME, PARAMS, IMAGE_PARAMS, TEXT_PARAMS, GFLOPS, IMAGE_GFLOPS, TEXT_GFLOPS, PIXELS, TOKENS, EMBED, LOADS, COUNT, WEIGHTS
)  # fmt: skip
BROWSING = (PARAMS, GFLOPS, PIXELS, TOKENS, EMBED, IMAGE_PARAMS, TEXT_PARAMS, IMAGE_GFLOPS, TEXT_GFLOPS)
"""What is added to a narrow table as it gets wider, in this order."""


def listing(rows: Sequence[Row], width: int | None, show_weights: bool) -> list[Text]:
    """A heading and one line a row, none wider than `width` unless the names are; None stands for a pipe.

    `show_weights` prefers names of weights to further figures: they are what a search is for.
    """
    columns = _choose(rows, width, show_weights)
    widths = {column.heading: _width(column, rows) for column in columns}
    taken = sum(widths[column.heading] + len(GAP) for column in columns if column is not WEIGHTS)
    room = None if width is None else width - taken
    lines = [Text(_line([column.heading for column in columns], columns, widths), style="bold")]
    for row in rows:
        cells = [_fitted(row, room) if column is WEIGHTS else column.cell(row) for column in columns]
        lines.append(Text(_line(cells, columns, widths), style=STYLES.get(row.loads.answer, "")))
    return lines


def _choose(rows: Sequence[Row], width: int | None, show_weights: bool) -> list[Column]:
    fixed = (NAME, PARAMS, LOADS, WEIGHTS) if show_weights else (NAME, PARAMS, LOADS, COUNT)
    if width is None:
        return [column for column in ORDER if column is not COUNT]
    chosen = list(fixed)
    for column in BROWSING:
        if column not in chosen and _total(rows, [*chosen, column]) <= width:
            chosen.append(column)
    if COUNT in chosen and _total(rows, named := [c for c in chosen if c is not COUNT] + [WEIGHTS]) <= width:
        chosen = named
    return [column for column in ORDER if column in chosen]


def _total(rows: Sequence[Row], columns: Sequence[Column]) -> int:
    widths = (WEIGHTS_WIDTH if column is WEIGHTS else _width(column, rows) for column in columns)
    return sum(width + len(GAP) for width in widths) - len(GAP)


def _width(column: Column, rows: Sequence[Row]) -> int:
    return max([len(column.heading), *(len(column.cell(row)) for row in rows)])


def _line(cells: Sequence[str], columns: Sequence[Column], widths: dict[str, int]) -> str:
    pairs = zip(cells, columns, strict=True)
    padded = (
        cell if c is WEIGHTS else cell.ljust(widths[c.heading]) if c.left else cell.rjust(widths[c.heading])
        for cell, c in pairs
    )
    return GAP.join(padded).rstrip()


def _fitted(row: Row, room: int | None) -> str:
    """The tags that fit, and how many more there are."""
    tags = list(row.tags)
    for shown in range(len(tags), 0, -1):
        more = f" +{len(tags) - shown}" if shown < len(tags) else ""
        text = ", ".join(tags[:shown]) + more
        if room is None or len(text) <= room:
            return text
    return f"{len(tags)} tags" if tags else ""
