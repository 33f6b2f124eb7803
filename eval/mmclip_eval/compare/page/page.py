"""The page of `mmclip compare`: the verdict, why, what flipped, and what changed inside."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from mmclip_data.shards.atomic import atomic_file
from mmclip_eval.compare.assemble import texts_of
from mmclip_eval.compare.comparison import Comparison
from mmclip_eval.compare.page.chapters import chapters
from mmclip_eval.compare.page.contrasim_table import contrasim_table
from mmclip_eval.compare.page.set_section import set_section
from mmclip_eval.compare.page.story import story
from mmclip_eval.compare.readings import Reading
from mmclip_eval.report.environment import environment, stylesheet
from mmclip_eval.report.pages.overview import Tile
from mmclip_eval.report.pictures import Album
from mmclip_eval.report.words import figure, percent
from mmclip_eval.results.result import recorded_versions
from mmclip_eval.sparse.changes import Side, SparseChanges, sparse_changes

PAGE = Path("index.html")
PICTURE_BYTES = 600_000
"""Of the pictures beside units."""
MARKS = {"safe": "✓", "look": "!", "unsafe": "✗"}
MEANING = {
    "safe": "Every figure that a rule names is within its bound, with its whole interval.",
    "look": "Nothing forbids the switch, and somebody should look first.",
    "unsafe": "At least one figure is beyond the bound that forbids the switch.",
}


@dataclass(frozen=True)
class Row:
    """A line of the table of figures."""

    reading: Reading
    word: str
    """What the rule says; empty where no rule names the figure."""
    rule: str

    @property
    def cells(self) -> tuple[str, ...]:
        """Value, interval, ceiling, floor, rule."""
        one = self.reading
        anchors = ["–" if anchor is None else figure(anchor) for anchor in (one.ceiling, one.floor)]
        return (figure(one.value), f"{figure(one.low)} to {figure(one.high)}", *anchors, self.rule)


def write_compare_page(path: Path, found: Comparison, command: str, machine: str) -> int:
    """Put the page at `path`, atomically; its size in bytes is returned."""
    data = render_compare_page(found, command, machine).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as handle:
        handle.write(data)
    return len(data)


def render_compare_page(found: Comparison, command: str, machine: str) -> str:
    """The page as text, the same for the same comparison."""
    versions = recorded_versions()
    sections = [set_section(one.behaviour, one.a, one.b, number) for number, one in enumerate(found.sets, start=1)]
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            found=found,
            mark=MARKS[found.verdict.word],
            meaning=MEANING[found.verdict.word],
            story=story(found),
            tiles=tiles(found),
            rows=rows(found),
            sections=sections,
            chapters=chapters(found),
            units=_units(found),
            contrasim=None if found.contrasim is None else contrasim_table(found.contrasim),
            command=command,
            machine=machine,
            version=versions["mmclip"],
            stylesheet=stylesheet(),
        )
    )


def tiles(found: Comparison) -> list[Tile]:
    """The figures that tell most, of the first set, and of what is inside."""
    chosen = [
        _tile(found, "zero_shot.accuracy.change", "Accuracy", lambda one: f"{100 * one.value:+.1f} points"),
        _tile(found, "zero_shot.negative_flips", "Right before, wrong now", lambda one: percent(one.value)),
        _tile(found, "zero_shot.agreement", "Same answer", lambda one: percent(one.value)),
        _tile(found, "retrieval.text.recall.change", "Right text first", lambda one: f"{100 * one.value:+.1f} points"),
        _tile(found, "representation.image.cka", "Pictures, CKA", lambda one: figure(one.value)),
        _tile(found, "representation.text.cka", "Texts, CKA", lambda one: figure(one.value)),
    ]
    return [tile for tile in chosen if tile is not None]


def _tile(found: Comparison, name: str, title: str, shown: Callable[[Reading], str]) -> Tile | None:
    reading = next((one for one in found.readings if one.figure == name), None)
    if reading is None:
        return None
    interval = f"95 % interval {figure(reading.low)} to {figure(reading.high)}"
    return Tile(title, shown(reading), (reading.about, interval, _anchors(reading)))


def _anchors(reading: Reading) -> str:
    if reading.figure.endswith(".change"):
        return f"two halves of the samples differ by {figure(abs(reading.ceiling or 0.0))}"
    anchors = (("ceiling", reading.ceiling), ("floor", reading.floor))
    return ", ".join(f"{word} {figure(anchor)}" for word, anchor in anchors if anchor is not None)


def rows(found: Comparison) -> list[Row]:
    """Every figure, with what its rule says."""
    judged = {id(one.reading): one for one in found.verdict.judged}
    lines = []
    for reading in found.readings:
        one = judged.get(id(reading))
        rule = "" if one is None else f"safe {one.rule.safe:g}"
        if one is not None and one.rule.unsafe is not None:
            rule += f", unsafe {one.rule.unsafe:g}"
        lines.append(Row(reading, "" if one is None else one.word, rule))
    return lines


def _units(found: Comparison) -> SparseChanges | None:
    if found.units is None:
        return None
    first = found.sets[0]
    album = Album(first.a.dataset.samples, PICTURE_BYTES)
    sides = [Side(seen.image_embed, texts_of(seen)) for seen in (first.a, first.b)]
    rows = torch.arange(len(first.a.image_embed))
    drawn = sparse_changes(found.units, sides[0], sides[1], album, rows)
    first.a.dataset.samples.close()
    return drawn
