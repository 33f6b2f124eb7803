"""Files of one line a step or a sample: `ledger.jsonl`, `quarantine.jsonl`, and how a resumed run continues them."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import xxhash

LEDGER, QUARANTINE, SKIPPED = "ledger.jsonl", "quarantine.jsonl", "skipped.jsonl"
STREAMED = "streamed.jsonl"
"""A line a shard: how often it was read, how many samples came, and damages; for streams only."""
HASH_SPACE = 2**62
"""Per-sample hashes are summed modulo this, so that the sum over ranks fits a signed 64-bit all-reduce."""

Append: TypeAlias = Callable[[Path, Sequence[Mapping[str, object]]], None]
"""Puts lines behind those of a file: `append_lines`, or a run's `Journal`."""


def file_of_rank(name: str, rank: int, ranks: int) -> str:
    """Its own name where one process writes it, else one for each, since every rank speaks of its own samples."""
    return name if ranks == 1 else f"{name}.rank{rank}"


def hash_of_ids(ids: tuple[str, ...], first_position: int) -> int:
    """A hash of which sample stands at which place of the global batch; those of the ranks add up to that of the batch."""
    return (
        sum(xxhash.xxh3_64_intdigest(f"{first_position + i}:{name}".encode()) for i, name in enumerate(ids))
        % HASH_SPACE
    )


def append_lines(path: Path, entries: Sequence[Mapping[str, object]]) -> None:
    """Append strict JSON lines."""
    with path.open("a") as file:
        file.writelines(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)


def truncate_lines(path: Path, after_step: int) -> None:
    """Drop the lines of later steps, and a last line that a kill cut short: a resumed run writes them again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if entry["step"] <= after_step:
            kept.append(line + "\n")
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)
