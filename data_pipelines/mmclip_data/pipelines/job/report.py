"""What a job tells at its end."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmclip_data.pipelines.job.outcome import Dropped

SHOWN_NAMES = 5
SHOWN_CHARACTERS = 60


@dataclass
class Tally:
    """Counts of what was dropped, by reason, with the first names of each."""

    counts: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, dropped: Iterable[Dropped]) -> None:
        for drop in dropped:
            self.counts[drop.reason] = self.counts.get(drop.reason, 0) + 1
            if self.counts[drop.reason] <= SHOWN_NAMES:
                detail = f" ({_cut(drop.detail)})" if drop.detail else f" (of {drop.of})" if drop.of else ""
                self.names.setdefault(drop.reason, []).append(drop.source + detail)

    def count(self, reason: str, count: int, names: Iterable[str]) -> None:
        """Add what is only known by its number, with some names."""
        self.counts[reason] = self.counts.get(reason, 0) + count
        shown = self.names.setdefault(reason, [])
        shown += [*names][: SHOWN_NAMES - len(shown)]

    def join(self, other: "Tally") -> None:
        for reason, count in other.counts.items():
            self.count(reason, count, other.names[reason])

    def lines(self) -> list[str]:
        return [
            f"dropped {count:,} ({reason}): {', '.join(self.names[reason])}"
            + (f", and {count - SHOWN_NAMES:,} more" if count > SHOWN_NAMES else "")
            for reason, count in self.counts.items()
        ]


def _cut(detail: str) -> str:
    return detail if len(detail) <= SHOWN_CHARACTERS else f"{detail[:SHOWN_CHARACTERS]}..."


@dataclass(frozen=True)
class JobReport:
    """Counts by name, and what was left out; every one of them is named in the `dropped.jsonl` of its folder."""

    output: Path
    counts: Mapping[str, int]
    dropped: Tally
    notes: Sequence[str] = ()

    def lines(self) -> list[str]:
        """The report for a terminal."""
        lines = [str(self.output), *(f"{name}: {count:,}" for name, count in self.counts.items())]
        return [*lines, *self.dropped.lines(), *self.notes]
