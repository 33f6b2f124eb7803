"""A page over several checkpoints: from results alone, without a model, a set or a picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmclip_data.shards.atomic import atomic_file
from mmclip_eval.report.cards import Card
from mmclip_eval.report.environment import environment, stylesheet
from mmclip_eval.report.figures import Dot, Row, dots
from mmclip_eval.report.scores.matrices import Cell, Matrix, SetRows, matrices
from mmclip_eval.results.comparison import Section, compare
from mmclip_eval.results.record import Record
from mmclip_eval.results.result import recorded_versions

COMPARISON = Path("report") / "comparison.html"
MOST_BYTES = 3_000_000
"""Of a page: drawings end before it is reached, and the tables say everything that they do."""
MOST_CHECKPOINTS = 8
"""In a drawing, as many as there are colours that are told apart."""
MOST_SETS = 24
"""In a drawing."""


@dataclass(frozen=True)
class Chapter:
    """The drawings of one task."""

    matrix: Matrix
    cards: tuple[Card, ...]


def write_comparison(path: Path, records: Sequence[Record], command: str, machine: str) -> int:
    """Put the page of distinct records at `path`, atomically; its size in bytes is returned."""
    data = render_comparison(records, command, machine).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as handle:
        handle.write(data)
    return len(data)


def render_comparison(records: Sequence[Record], command: str, machine: str, most_bytes: int = MOST_BYTES) -> str:
    """The page as text, the same for the same records; drawings that would make it larger than `most_bytes` are left out."""
    table = compare(records)
    found = matrices(records)
    bare = _render(records, found, [Chapter(matrix, ()) for matrix in found], table.means, command, machine, 0)
    room, chapters, left_out = most_bytes - len(bare.encode("utf-8")) - 10_000, list[Chapter](), 0
    for matrix in found:
        cards = []
        for card in _cards(matrix, table.checkpoints):
            size = len(card.svg.encode("utf-8")) + 500
            if size > room:
                left_out += 1
                continue
            cards.append(card)
            room -= size
        chapters.append(Chapter(matrix, tuple(cards)))
    return _render(records, found, chapters, table.means, command, machine, left_out)


def _render(
    records: Sequence[Record],
    found: Sequence[Matrix],
    chapters: Sequence[Chapter],
    means: Sequence[Section],
    command: str,
    machine: str,
    left_out: int,
) -> str:
    versions = recorded_versions()
    checkpoints = compare(records).checkpoints
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            checkpoints=checkpoints,
            datasets=sorted({record.dataset for record in records}),
            results=len(records),
            chapters=chapters,
            means=means,
            several=len(checkpoints) > 1,
            clear=clear_wins(found, checkpoints),
            left_out=left_out,
            command=command,
            machine=machine,
            versions=versions,
            version=versions["mmclip"],
            stylesheet=stylesheet(),
        )
    )


def clear_wins(found: Sequence[Matrix], checkpoints: Sequence[str]) -> list[tuple[str, int, int]]:
    """Each checkpoint with the figures in which it is marked as the best, and those in which it could be."""
    rows = [row for matrix in found for own in matrix.sets for row in own.rows if sum(map(bool, row.cells)) > 1]
    cells = [[row.cells[place] for row in rows] for place in range(len(checkpoints))]
    return [
        (name, sum(cell is not None and cell.best for cell in own), sum(cell is not None for cell in own))
        for name, own in zip(checkpoints, cells, strict=True)
    ]


def _cards(matrix: Matrix, checkpoints: Sequence[str]) -> list[Card]:
    """A figure a metric, over the sets that have it."""
    names = dict.fromkeys(row.metric for own in matrix.sets for row in own.rows)
    return [_card(metric, matrix.sets, checkpoints[:MOST_CHECKPOINTS]) for metric in names]


def _card(metric: str, sets: Sequence[SetRows], checkpoints: Sequence[str]) -> Card:
    found = [(own.title, row) for own in sets for row in own.rows if row.metric == metric]
    rows = [
        Row(
            title,
            [_dot(cell) for cell in row.cells[: len(checkpoints)]],
            math.nan if row.chance is None else row.chance,
        )
        for title, row in found[:MOST_SETS]
    ]
    first = found[0][1]
    notes = ["Less is better."] if first.lower_is_better else []
    notes += ["The dashed stroke is chance."] if any(math.isfinite(row.chance) for row in rows) else []
    left = len(first.cells) - len(checkpoints)
    notes += [f"{left} more checkpoints are in the table alone."] if left else []
    notes += [f"{len(found) - MOST_SETS} more sets are in the table alone."] if len(found) > MOST_SETS else []
    title = f"{first.words[:1].upper()}{first.words[1:]}"
    return Card(dots(title, rows, checkpoints, percent=first.in_percent), " ".join(notes))


def _dot(cell: Cell | None) -> Dot | None:
    return None if cell is None else Dot(cell.value, cell.low, cell.high)
