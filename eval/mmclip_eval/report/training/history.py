"""What a run folder tells of its training: figures, ledger, alarms and bad samples.

Strict about the format, tolerant of one thing: a last line that a kill cut short.
"""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmclip.errors import UserError

Points = tuple[tuple[int, ...], tuple[float, ...]]
"""Steps, and a value at each; a value may be NaN or infinite."""


@dataclass(frozen=True)
class Alarm:
    """A moment at which the run warned of itself."""

    step: int
    alarm: str
    message: str


@dataclass(frozen=True)
class History:
    """The figures of a run over its steps; everything is empty for a checkpoint that has no run."""

    config: dict[str, Any] = field(default_factory=dict)
    """The table in `config.toml`."""
    figures: dict[str, Points] = field(default_factory=dict)
    """Every figure of `metrics.jsonl` by its name."""
    samples_at: Points = ((), ())
    """Samples seen at each step that has a line in `metrics.jsonl`."""
    losses: Points = ((), ())
    """The loss of each step, from the ledger."""
    alarms: tuple[Alarm, ...] = ()
    bad_samples: tuple[str, ...] = ()
    """The reasons in the quarantine, one an entry."""
    forgetting: dict[str, Any] | None = None
    """What `forgetting.json` holds, where a suite was to be retained."""
    low_label: dict[str, Any] | None = None
    """What `low_label.json` holds, where the worth of few labels was measured."""

    @property
    def last_step(self) -> int:
        """Optimizer steps taken, as far as the folder knows."""
        return max((*self.losses[0][-1:], *self.samples_at[0][-1:]), default=0)

    @property
    def samples_seen(self) -> int:
        """Samples seen by them."""
        return int(max(self.samples_at[1], default=0))

    @property
    def training_seconds(self) -> float:
        """Time spent on training steps: samples over throughput, line by line, so that pauses and resumes do not count."""
        seen = dict(zip(*self.samples_at, strict=True))
        seconds, before = 0.0, 0.0
        for step, speed in zip(*self.figures.get("train/samples_per_second", ((), ())), strict=True):
            if speed > 0:
                seconds += (seen[step] - before) / speed
            before = seen[step]
        return seconds


def read_history(folder: Path | None) -> History:
    """Read the run at `folder`; files that it lacks leave their part empty.

    Raises:
        UserError: a file holds a line that is not what mmclip writes; names the file and the line.
    """
    if folder is None or not (folder / "config.toml").is_file():
        return History()
    metrics, ledger, alarms = (folder / f"{name}.jsonl" for name in ("metrics", "ledger", "alarms"))
    lines = read_lines_of(metrics)
    quarantine = [entry for path in sorted(folder.glob("quarantine.jsonl*")) for entry in read_lines_of(path)]
    return History(
        config=_read_config(folder / "config.toml"),
        figures=_figures(metrics, lines),
        samples_at=_points(metrics, lines, "samples_seen"),
        losses=_points(ledger, read_lines_of(ledger), "loss"),
        alarms=tuple(
            Alarm(line["step"], str(line.get("alarm", "alarm")), str(line.get("message", "")))
            for line in read_lines_of(alarms)
        ),
        bad_samples=tuple(str(entry.get("reason", "no reason given")) for entry in quarantine),
        forgetting=_read_table(folder / "forgetting.json"),
        low_label=_read_table(folder / "low_label.json"),
    )


def read_lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines, each with an integer `step`; none where there is no file.

    Raises:
        UserError: a line other than a last one without its line break is not such an object.
    """
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    entries: list[dict[str, Any]] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            if number == len(lines):  # no line break after it: the process was stopped while it wrote
                break
            raise UserError(f"{path}, line {number}: not JSON ({error}); remove the line") from error
        if not isinstance(entry, dict) or type(entry.get("step")) is not int:
            raise UserError(f"{path}, line {number}: expected an object with an integer `step`, got {line:.80}")
        entries.append(entry)
    return entries


def _read_table(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); remove the file") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error


def _figures(path: Path, lines: Sequence[dict[str, Any]]) -> dict[str, Points]:
    names = dict.fromkeys(name for line in lines for name in line if name not in ("step", "samples_seen"))
    return {name: _points(path, [line for line in lines if name in line], name) for name in names}


def _points(path: Path, lines: Sequence[dict[str, Any]], name: str) -> Points:
    values = tuple(_number(path, line, name) for line in lines)
    return tuple(line["step"] for line in lines), values


def _number(path: Path, line: dict[str, Any], name: str) -> float:
    try:
        return float(line[name])  # NaN and infinities stand as texts
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}, step {line['step']}: expected a number as {name}, got {line.get(name)!r:.40}"
        ) from error
