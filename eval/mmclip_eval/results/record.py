"""`Record`: one evaluation out of a result file, whoever wrote it, and which of two about the same is kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Origin = Literal["mmclip", "CLIP_benchmark", "DataComp"]
Case = tuple[str, str, str, str, str]
"""Task, data set, split, language and variant."""
Value = float | int | bool | str | None
SETTINGS = frozenset({"weight_decay", "epochs", "seed", "fewshot_k", "normalized"})
"""What CLIP_benchmark keeps among its metrics, and is none."""
TOLERANCE = 1e-9
"""Two figures that differ by less are the same, printed by two programs."""


@dataclass(frozen=True)
class Record:
    """What one (checkpoint, data set, task) gave."""

    dataset: str
    task: str
    """In CLIP_benchmark's spelling."""
    model: str
    pretrained: str
    language: str
    metrics: Mapping[str, Value]
    """None where a figure is not a number."""
    origin: Origin
    path: str
    """The file that it stands in."""
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    chance: Mapping[str, float | None] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    lower_is_better: frozenset[str] = frozenset()
    """Metrics of which less is better, beside ranks, which always are so."""
    fingerprint: str = ""
    """Of the samples; empty where the file does not say."""
    facts: Mapping[str, Value] = field(default_factory=dict)
    """What else the file says that a table may hold, such as the hash of the prompts."""
    variant: str = ""
    """What tells evaluations of one task on one set apart: the prompts, or options of the task; empty: nothing."""
    finished: str = ""
    """When, in UTC; empty where the file does not say."""

    @cached_property
    def checkpoint(self) -> str:
        """What two records of the same weights share."""
        found = self.facts.get("weights_sha256")
        return str(found) if found else json.dumps([self.model, self.pretrained])

    @property
    def case(self) -> Case:
        """What was measured, whatever the checkpoint."""
        split = str(self.facts.get("split") or "test")
        return self.task, self.dataset, split, self.language, self.variant

    def less_is_better(self, metric: str) -> bool:
        """Whether the better of two figures is the lower one."""
        return metric in self.lower_is_better or metric.endswith("_rank")

    @property
    def scores(self) -> dict[str, float]:
        """The metrics that are figures."""
        return {
            name: float(value)
            for name, value in self.metrics.items()
            if name not in SETTINGS and isinstance(value, int | float) and not isinstance(value, bool)
        }


@dataclass(frozen=True)
class Distinct:
    """Records of which no two are about the same, and what was left out for it."""

    records: tuple[Record, ...]
    repeated: int
    """Records that say again what another one says."""
    contradicted: tuple[str, ...]
    """Records whose figures are others than those that were kept, in words."""


def distinct(records: Sequence[Record]) -> Distinct:
    """One record for each (checkpoint, case): the one that was finished last, else the last one given."""
    kept: dict[tuple[str, ...], Record] = {}
    repeated, contradicted = 0, []
    for record in records:
        key = (record.checkpoint, *record.case)
        other = kept.get(key)
        if other is None:
            kept[key] = record
            continue
        last, first = (record, other) if record.finished >= other.finished else (other, record)
        kept[key] = last
        repeated += 1
        if _differ(last, first):
            contradicted.append(
                f"{first.path}: other figures for {first.dataset}, {first.task} than {last.path}, which is the later one"
            )
    return Distinct(tuple(kept.values()), repeated, tuple(contradicted))


def _differ(one: Record, other: Record) -> bool:
    """Whether they disagree in a figure that both have."""
    return any(
        abs(value - other.scores[name]) > TOLERANCE for name, value in one.scores.items() if name in other.scores
    )
