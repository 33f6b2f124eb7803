"""What a section hands on: a line a figure, written as soon as it is known."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from measure.ratios import compare

PEER = f"open_clip_torch {version('open_clip_torch')}"
Kind = Literal["rows", "figures", "absent"]
KINDS: tuple[Kind, ...] = ("rows", "figures", "absent")


@dataclass(frozen=True)
class Notes:
    """The file of one section."""

    path: Path

    def row(
        self, case: str, metric: str, ours: Sequence[float], peer: Sequence[float], *, higher_is_better: bool
    ) -> None:
        """Both sides."""
        self._write("rows", asdict(compare(case, metric, ours, peer, PEER, higher_is_better=higher_is_better)))

    def figure(self, case: str, metric: str, value: float) -> None:
        """A figure that has no other side, or not yet."""
        self._write("figures", {"case": case, "metric": metric, "value": value})

    def absent(self, case: str, reason: str) -> None:
        """Why there is no figure."""
        self._write("absent", {"case": case, "reason": reason})

    @contextmanager
    def unless_too_large(self, case: str) -> Iterator[None]:
        """What does not fit the device's memory is noted, and the section goes on."""
        try:
            yield
        except torch.OutOfMemoryError:
            self.absent(case, "does not fit the device's memory")
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _write(self, kind: Kind, note: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"kind": kind, **note}, allow_nan=False) + "\n")
        print(f"  {' · '.join(_shown(value) for value in note.values())}", flush=True)


def read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The notes by kind; none where the section had no time for any."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for line in path.read_text().splitlines() if path.is_file() else ():
        note = json.loads(line)
        found[note.pop("kind")].append(note)
    return found


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
