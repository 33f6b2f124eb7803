"""A comparison for other programs and people: CSV in CLIP_benchmark's columns, Markdown, and a page of its own."""

import csv
import io
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files

from mmclip_eval.markdown import escaped, table
from mmclip_eval.results.comparison import Cell, Comparison, Section, metric_order
from mmclip_eval.results.record import Record

FIRST = ("dataset", "model", "pretrained", "task", "language", "model_fullname")
FACTS = (
    "variant",
    "split",
    "n_seen",
    "n_skipped",
    "n_expected",
    "prompts_source",
    "prompts_sha256",
    "weights_sha256",
    "precision",
    "device",
    "origin",
    "path",
)


def to_csv(records: Sequence[Record]) -> str:
    """A row a record, in the columns of CLIP_benchmark's benchmark.csv and then ours, always in one order.

    Ours hold a dot: `acc1.low`, `acc1.high`, `acc1.chance`, `mmclip.weights_sha256`. An empty cell is a figure that is none.
    """
    metrics = metric_order([name for record in records for name in record.metrics])
    measured = {name for record in records for name in record.intervals}
    ends = [f"{name}.{end}" for name in metrics if name in measured for end in ("low", "high", "chance")]
    columns = [*FIRST, *metrics, *ends, *(f"mmclip.{fact}" for fact in FACTS)]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for record in sorted(records, key=lambda r: (r.case, r.model, r.pretrained)):
        writer.writerow({name: "" if value is None else value for name, value in _row(record).items()})
    return out.getvalue()


def _row(record: Record) -> dict[str, object]:
    row: dict[str, object] = {key: getattr(record, key) for key in FIRST[:-1]}
    row["model_fullname"] = f"{record.model} {record.pretrained}"  # as CLIP_benchmark joins them
    row |= dict(record.metrics)
    for name, (low, high) in record.intervals.items():
        row |= {f"{name}.low": low, f"{name}.high": high, f"{name}.chance": record.chance.get(name)}
    facts = {**record.facts, "variant": record.variant, "origin": record.origin, "path": record.path}
    return row | {f"mmclip.{fact}": facts.get(fact) for fact in FACTS}


def to_markdown(comparison: Comparison) -> str:
    """One table, a heading row for each case; intervals in brackets."""
    columns = ("data set and metric", *map(escaped, comparison.checkpoints), "chance")
    rows: list[tuple[str, ...]] = []
    for section in (*comparison.sections, *comparison.means):
        rows.append((f"**{escaped(section.title)}**", *("" for _ in comparison.checkpoints), escaped(section.note)))
        rows += [(escaped(line.metric), *map(_markdown, line.cells), line.chance) for line in section.lines]
    body = table(columns, _notes_below(rows, comparison.means), right=columns[1:])
    notes = [f"- {escaped(section.title)}: {escaped(section.note)}" for section in comparison.means]
    return body + "\n" + ("\n" + "\n".join(notes) + "\n" if notes else "")


def _notes_below(rows: Sequence[tuple[str, ...]], means: Sequence[Section]) -> list[tuple[str, ...]]:
    """What a mean is over is too long for a cell."""
    long = {escaped(section.note) for section in means}
    return [(*row[:-1], "") if row[-1] in long and row[0].startswith("**") else row for row in rows]


def _markdown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return f"{cell.value} ({cell.interval})" if cell.interval else cell.value


def to_html(comparison: Comparison) -> str:
    """One self-contained page."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def read(name: str) -> str:
        return (files("mmclip_eval") / "results" / "templates" / name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("results.html.j2").render(table=comparison, version=version("mmclip"))
