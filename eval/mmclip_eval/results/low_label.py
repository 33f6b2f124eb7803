"""What few labels are worth: accuracy by labels a class and by method, with intervals over draws and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Bool
from rich.table import Table
from rich.text import Text
from torch import Tensor

from mmclip_eval.metrics.bootstrap import runs_interval


@dataclass(frozen=True)
class Point:
    """One method at one number of labels."""

    shots: int
    method: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LowLabelCurve:
    """All points, and what they were measured on."""

    dataset: str
    num_samples: int
    chance: float
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    points: tuple[Point, ...]
    drops: Mapping[str, float]
    """Of each fine-tuned run, what its retained suite lost in the mean."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def point(shots: int, method: str, correct: Bool[Tensor, "draw sample"]) -> Point:
    """The mean over draws, with the interval over draws and samples."""
    return Point(shots, method, float(correct.double().mean()), *runs_interval(correct))


def low_label_table(curve: LowLabelCurve) -> Table:
    """A row a number of labels, a column a method."""
    table = Table(title=f"{curve.dataset}: accuracy (%) by labels a class, {len(curve.seeds)} draws, 95 % intervals")
    for name in ("labels", *curve.methods):
        table.add_column(name, justify="right", no_wrap=True)
    at = {(one.shots, one.method): one for one in curve.points}
    for shots in sorted({one.shots for one in curve.points}):
        cells = [_cell(at[shots, method], [at[shots, other] for other in curve.methods]) for method in curve.methods]
        table.add_row(str(shots), *cells)
    return table


def _cell(one: Point, row: Sequence[Point]) -> Text:
    best = one.value == max(other.value for other in row)
    return Text(f"{100 * one.value:.1f} ({100 * one.low:.1f} to {100 * one.high:.1f})", style="bold" if best else "")
