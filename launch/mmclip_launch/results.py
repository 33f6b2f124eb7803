"""`mmclip results PATH...`: result files of any origin as one table.

mmclip results runs/a/results runs/b/results
mmclip results results/ eval_results.jsonl benchmark.csv --group 'vtab=vtab*' --csv all.csv --html all.html
"""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from mmclip.errors import UserError
from mmclip_data.shards.atomic import atomic_file
from mmclip_eval.results.collect import collect
from mmclip_eval.results.comparison import Cell, Comparison, compare
from mmclip_eval.results.export import to_csv, to_html, to_markdown
from mmclip_eval.results.record import distinct
from mmclip_launch.flags import Arguments
from mmclip_launch.screen import Screen

COLUMNS_ON_SCREEN = 3
"""Checkpoints beside each other on a terminal; more go below."""


def main(arguments: Sequence[str]) -> None:
    """Collect, and show or write."""
    parser = Arguments(
        prog="mmclip results", description="Results of mmclip, CLIP_benchmark and DataComp in one table."
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="result files, or folders of them")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="in the columns of CLIP_benchmark's benchmark.csv, and ours"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--html", type=Path, metavar="FILE", help="one self-contained page")
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME=PATTERN,...",
        help="mean over the sets of such names, such as vtab=vtab*; may be repeated (default: over all sets)",
    )
    options = parser.parse_args(arguments)
    groups = dict(group_of(text) for text in options.group)
    found = collect(options.paths)
    kept = distinct(found.records)
    comparison = compare(kept.records, groups or None)
    screen = Screen()
    written = {
        options.csv: to_csv(kept.records),
        options.markdown: to_markdown(comparison),
        options.html: to_html(comparison),
    }
    written.pop(None, None)
    for path, text in written.items():
        write(path, text)
    if not written:
        show(screen, comparison)
    screen.say(f"{len(kept.records)} results of {len(comparison.checkpoints)} checkpoints")
    if kept.repeated:
        screen.say(f"{kept.repeated} that say the same again were left out")
    for text in kept.contradicted:
        screen.warn(text)
    if found.others:
        screen.say(f"{len(found.others)} JSON files are no results, such as {found.others[0]}")
    if written:
        screen.say(f"written: {', '.join(map(str, written))}")


def group_of(text: str) -> tuple[str, list[str]]:
    """`NAME=PATTERN,PATTERN`.

    Raises:
        UserError: it is not.
    """
    name, equals, patterns = text.partition("=")
    if not (name and equals and patterns):
        raise UserError(f"--group {text!r}: expected a name and patterns of data sets, such as vtab=vtab*,wds/vtab*")
    return name, patterns.split(",")


def write(path: Path, text: str) -> None:
    """A file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as handle:
        handle.write(text.encode())


def show(screen: Screen, comparison: Comparison) -> None:
    """Tables of a few checkpoints each."""
    for start in range(0, len(comparison.checkpoints), COLUMNS_ON_SCREEN):
        screen.show(_table(comparison, slice(start, start + COLUMNS_ON_SCREEN)))
    for section in comparison.means:
        screen.show(Text(f"{section.title}: {section.note}"), wrap=False)


def _table(comparison: Comparison, shown: slice) -> Table:
    table = Table("data set and metric")
    for name in comparison.checkpoints[shown]:
        table.add_column(Text(name), justify="right")
    table.add_column("chance", justify="right", style="dim")
    for section in (*comparison.sections, *comparison.means):
        lines = [line for line in section.lines if any(line.cells[shown])]
        if lines:
            note = section.note if section in comparison.sections else ""
            table.add_row(Text(section.title, style="bold"), *("" for _ in comparison.checkpoints[shown]), note)
        for line in lines:
            table.add_row(Text(f"  {line.metric}"), *map(_cell, line.cells[shown]), line.chance)
        table.add_section()
    return table


def _cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text("-", style="dim")
    text = f"{cell.value}\n{cell.interval}" if cell.interval else cell.value
    return Text(text, style="" if cell.beats_chance else "dim", justify="right")
