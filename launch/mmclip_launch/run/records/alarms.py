"""Alarms: what in the figures of a run asks for a person, said once when it begins and again only after it was over.

State is a function of the logged figures alone, so a resumed run takes it back by reading `metrics.jsonl` again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmclip.training.progress import Progress
from mmclip_launch.run.records import pair_alarms, view_alarms
from mmclip_launch.run.records.alarm_rule import Expected, Figures, Rule

ALARMS = "alarms.jsonl"
RULES: tuple[type[Rule], ...] = (*pair_alarms.RULES, *view_alarms.RULES)


@dataclass(frozen=True)
class Alarm:
    """A line of `alarms.jsonl`."""

    step: int
    samples_seen: int
    alarm: str
    message: str


class Monitor:
    """All rules over one run."""

    def __init__(self, expected: Expected) -> None:
        self.expected = expected
        self.rules = [rule(expected) for rule in RULES]

    def read(self, progress: Progress, metrics: Mapping[str, float]) -> list[Alarm]:
        """The alarms that begin with this logged line."""
        figures, settled = Figures(metrics), progress.samples_seen > self.expected.settled_after
        active = [rule for rule in self.rules if settled or not rule.waits_to_settle]
        found = [(rule.name, rule.read(figures)) for rule in active]
        return [Alarm(progress.step, progress.samples_seen, name, said) for name, said in found if said is not None]

    def replay(self, metrics_file: Path) -> None:
        """Take back the state after the lines of a `metrics.jsonl`; what they set off has been said."""
        if not metrics_file.is_file():
            return
        for line in metrics_file.read_text().splitlines():
            entry = json.loads(line)
            if "train/loss" in entry:  # lines of scores hold no figure that is watched
                step, samples_seen = entry.pop("step"), entry.pop("samples_seen")
                self.read(Progress(step, samples_seen), {name: float(value) for name, value in entry.items()})
