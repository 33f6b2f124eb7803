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
    in_places: set[str] = field(default_factory=set)
    """Reasons whose names are places, each of several items."""

    def add(self, dropped: Iterable[Dropped]) -> None:
        for drop in dropped:
            self.counts[drop.reason] = self.counts.get(drop.reason, 0) + 1
            if self.counts[drop.reason] <= SHOWN_NAMES:
                detail = f" ({_cut(drop.detail)})" if drop.detail else f" (of {drop.of})" if drop.of else ""
                self.names.setdefault(drop.reason, []).append(drop.source + detail)

    def count(self, reason: str, count: int, names: Iterable[str]) -> None:
        """Add what is only known by its number, with some names: of each, or of the places where several are."""
        self.counts[reason] = self.counts.get(reason, 0) + count
        shown, names = self.names.setdefault(reason, []), [*names]
        shown += names[: SHOWN_NAMES - len(shown)]
        if count > len(names):
            self.in_places.add(reason)

    def join(self, other: "Tally") -> None:
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            self.names[reason] = (self.names.get(reason, []) + other.names[reason])[:SHOWN_NAMES]
        self.in_places |= other.in_places

    def _more(self, reason: str, count: int) -> str:
        left = count - len(self.names[reason])
        if reason in self.in_places:
            return ", ..." if len(self.names[reason]) == SHOWN_NAMES else ""
        return f", and {left:,} more" if left else ""

    def lines(self) -> list[str]:
        return [
            f"dropped {count:,} ({reason}): {', '.join(self.names[reason])}" + self._more(reason, count)
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
