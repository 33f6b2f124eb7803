"""Early stopping: a run ends when the figure that it is chosen by no longer improves, and its best weights are its result."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mmclip.config import config
from mmclip.errors import UserError


@config
class EarlyStoppingConfig:
    """Which figure a run is chosen by, and how long it may go without a better one."""

    metric: str | None = None
    """`SET/METRIC` as in metrics.jsonl, such as `dev/acc1`; with `*`, the mean of all that fit (`dev/*_recall@*`). Without one
    the run goes to its end and its last weights count."""
    patience: int = 3
    """Evaluations in a row without a better figure after which the run ends."""
    min_delta: float = 0.0
    """How much better a figure has to be to count as better."""
    lower_is_better: bool = False
    """For figures such as a rank or an error."""

    def __post_init__(self) -> None:
        if self.metric is not None and "/" not in self.metric:
            raise UserError(
                f"early_stopping.metric={self.metric!r}: expected SET/METRIC as in metrics.jsonl, such as dev/acc1"
            )
        if self.patience < 1:
            raise UserError(f"early_stopping.patience={self.patience}: expected at least 1 evaluation")
        if not self.min_delta >= 0:
            raise UserError(f"early_stopping.min_delta={self.min_delta}: expected 0 or more")


@dataclass(frozen=True)
class Watched:
    """The figure at one evaluation."""

    step: int
    value: float


def watched_names(metric: str, names: Iterable[str]) -> list[str]:
    """Those of the names that `metric` means: itself, or what fits its `*`."""
    return [name for name in names if fnmatchcase(name, metric)]


class EarlyStopping:
    """A fold over the evaluations of a run, in their order: the same ones give the same answer, also after a resume."""

    def __init__(self, settings: EarlyStoppingConfig, before: Iterable[Watched] = ()) -> None:
        self.settings = settings
        self.evaluations = 0
        self.best: Watched | None = None
        """The first of the best: nothing later is better by more than `min_delta`."""
        self.without_better = 0
        for watched in before:
            self.note(watched)

    def note(self, watched: Watched) -> bool:
        """Take in an evaluation; whether it is the best so far. A figure that is not finite never is."""
        self.evaluations += 1
        is_best = self._improves(watched.value)
        self.without_better = 0 if is_best else self.without_better + 1
        self.best = watched if is_best else self.best
        return is_best

    @property
    def is_over(self) -> bool:
        """Whether the run has waited long enough."""
        return self.without_better >= self.settings.patience

    def _improves(self, value: float) -> bool:
        if self.best is None or not math.isfinite(value):
            return math.isfinite(value)
        gain = self.best.value - value if self.settings.lower_is_better else value - self.best.value
        return gain > self.settings.min_delta
