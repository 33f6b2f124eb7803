"""What a chaos run has come to: its ledger beside that of the undisturbed run, and the table that people read."""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import xxhash
from chaos_arena import ledger

from mmclip_data.loading.mixture import order_of
from mmclip_data.loading.opening import open_source
from mmclip_launch.doctor.processor import read_processor
from mmclip_launch.run.config import load_run_config
from mmclip_launch.run.records.ledger import HASH_SPACE


@dataclass
class Outcome:
    """One fault that was injected."""

    kind: str
    step: int
    survived: bool
    exact: bool
    restarts: int
    seconds: float
    notes: list[str] = field(default_factory=list)


def hash_at(place: int, name: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{place}:{name}".encode())


def declared(run: Path) -> dict[int, list[dict[str, object]]]:
    """The samples that the quarantine names, by step."""
    found: dict[int, list[dict[str, object]]] = {}
    for path in run.glob("quarantine.jsonl*"):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            found.setdefault(entry["step"], []).append(entry)
    return found


def unexplained_steps(run: Path, clean: Path, steps: Iterable[int]) -> list[int]:
    """Steps whose samples are neither those of the undisturbed run nor those with the declared replacements in it."""
    ours, theirs, named = ledger(run), ledger(clean), declared(run)
    config = load_run_config(clean / "config.toml")
    source = open_source(config.data.source, config.data.caption_fields).source
    order, size = order_of(source, config.data.plan, config.seed), config.global_batch_size
    wrong = []
    for step in steps:
        first = (step - 1) * size
        places = {position: first + place for place, position in enumerate(order.batch(first, size).tolist())}
        expected = int(str(theirs[step]["ids"]), 16)
        for entry in named.get(step, []):
            place = places[int(str(entry["position"]))]
            expected += hash_at(place, str(entry["replaced_by"])) - hash_at(place, str(entry["sample_id"]))
        if step not in ours or int(str(ours[step]["ids"]), 16) != expected % HASH_SPACE:
            wrong.append(step)
    return wrong


def table(outcomes: Sequence[Outcome]) -> str:
    """A line a kind, in the order in which they came first."""
    lines = [
        "| fault | injected | survived | exact | starts anew | seconds to a checkpoint |",
        "|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(one.kind for one in outcomes):
        of_kind = [one for one in outcomes if one.kind == kind]
        slowest = max(one.seconds for one in of_kind)
        counts = (len(of_kind), sum(one.survived for one in of_kind), sum(one.exact for one in of_kind))
        restarts = sum(one.restarts for one in of_kind)
        lines.append(f"| {kind} | {' | '.join(map(str, counts))} | {restarts} | {slowest:.0f} |")
    sums = (len(outcomes), sum(one.survived for one in outcomes), sum(one.exact for one in outcomes))
    lines.append(
        f"| **all** | {' | '.join(f'**{count}**' for count in sums)} | {sum(one.restarts for one in outcomes)} | |"
    )
    return "\n".join(lines)


def machine() -> str:
    return f"{date.today().isoformat()}, {read_processor().model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def write_between_markers(page: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->`."""
    before, start, rest = page.read_text().partition(f"<!-- {name} -->")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    assert start, f"{page} has no place for {name}"
    assert end, f"{page}: {name} has no end"
    page.write_text(f"{before}{start}\n{text}\n{end}{after}")
