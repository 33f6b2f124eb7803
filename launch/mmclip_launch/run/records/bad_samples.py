"""What a person is told of the samples that a run could not read: how many, why, and where each is named."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from mmclip_launch.run.records.ledger import QUARANTINE

REASONS_SAID = 3
PLACE = re.compile(r"^shard .*?, key '.*?', ")
CHECKSUM = re.compile(r"\b[0-9a-f]{16}\b")


def told_of_bad_samples(folder: Path) -> str | None:
    """The commonest reasons in a run's quarantine, each with one of its samples; None where there is none."""
    samples: dict[str, list[str]] = {}
    for reason, sample in _entries(folder):
        samples.setdefault(CHECKSUM.sub("...", PLACE.sub("", reason)), []).append(sample)
    if not samples:
        return None
    common = sorted(samples.items(), key=lambda found: -len(found[1]))
    said = ", ".join(f"{reason} ({len(names):,}, such as {names[0]})" for reason, names in common[:REASONS_SAID])
    more = f" and {len(common) - REASONS_SAID} more reasons" if common[REASONS_SAID:] else ""
    return f"{said}{more}; each is named in {folder / QUARANTINE}*"


def count_bad_samples(folder: Path) -> int:
    """How many the quarantine of all ranks names."""
    return sum(1 for _ in _entries(folder))


def _entries(folder: Path) -> Iterator[tuple[str, str]]:
    """Reason and identity of each; a line that a kill has cut is none."""
    for path in sorted(folder.glob(f"{QUARANTINE}*")):
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            yield entry["reason"], entry["sample_id"]
