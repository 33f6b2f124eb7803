"""Means over data sets: of one metric of one task, over the same sets for every checkpoint, and saying over which.

A mean over different metrics would be a number without a unit, and one over other sets for each checkpoint a comparison
of nothing; neither is made.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import fmean

from mmclip_eval.results.foreign import MAIN_METRIC
from mmclip_eval.results.record import Record

ALL = "all"


@dataclass(frozen=True)
class GroupMean:
    """The mean of a metric over the sets of a group."""

    group: str
    task: str
    language: str
    metric: str
    by_checkpoint: Mapping[str, float]
    over: tuple[str, ...]
    """The sets that are in it."""
    excluded: Mapping[str, str]
    """The others of the group, with the reason."""

    @property
    def words(self) -> str:
        """What is in it and what is not, in one line."""
        left = "; ".join(f"without {name} ({reason})" for name, reason in self.excluded.items())
        return f"mean over {len(self.over)} sets: {', '.join(self.over)}{f'; {left}' if left else ''}"


def group_means(records: Sequence[Record], groups: Mapping[str, Sequence[str]] | None = None) -> list[GroupMean]:
    """Means for each task, language and metric that has two sets at least, over all sets or over those of `groups`.

    `groups` are patterns of names of sets, such as `{"vtab": ["vtab*"]}`.
    """
    wanted = groups or {ALL: ["*"]}
    checkpoints = list(dict.fromkeys(record.checkpoint for record in records))
    measured: dict[tuple[str, str, str], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        for metric in record.scores:
            if metric != MAIN_METRIC:
                measured[record.task, record.language, metric][record.dataset].append(record)
    means = []
    for group, patterns in wanted.items():
        for (task, language, metric), by_dataset in measured.items():
            own = {name: found for name, found in by_dataset.items() if any(fnmatchcase(name, p) for p in patterns)}
            reasons = {name: _why_not(found, checkpoints) for name, found in own.items()}
            over = [name for name, reason in reasons.items() if not reason]
            if len(over) > 1:
                by_checkpoint = {one: _mean([own[name] for name in over], one, metric) for one in checkpoints}
                excluded = {name: reason for name, reason in reasons.items() if reason}
                means.append(GroupMean(group, task, language, metric, by_checkpoint, tuple(over), excluded))
    return means


def _why_not(found: Sequence[Record], checkpoints: Sequence[str]) -> str:
    if len({record.case for record in found}) > 1:
        return "measured in several ways"
    missing = len(set(checkpoints) - {record.checkpoint for record in found})
    return f"not measured for {missing} of {len(checkpoints)} checkpoints" if missing else ""


def _mean(by_dataset: Sequence[Sequence[Record]], checkpoint: str, metric: str) -> float:
    return fmean(next(r.scores[metric] for r in found if r.checkpoint == checkpoint) for found in by_dataset)
