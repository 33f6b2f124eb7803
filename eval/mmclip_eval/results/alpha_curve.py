"""`AlphaCurve`: the scores of the models between two, and which of them is the best (WiSE-FT, Wortsman et al. 2022)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmclip_eval.results.headline import Headline, mean_of

PAPER_ALPHA = 0.5
"""The paper's default, which wins among equals."""


@dataclass(frozen=True)
class AlphaPoint:
    """One model between the two."""

    alpha: float
    figures: tuple[Headline, ...]
    weights_sha256: str

    @property
    def mean(self) -> Headline:
        """Of its figures."""
        return mean_of(self.figures)

    @property
    def total(self) -> float:
        """Sum of its figures."""
        return sum(figure.value for figure in self.figures)


@dataclass(frozen=True)
class AlphaCurve:
    """The models from A (0) to B (1), both included."""

    a: str
    b: str
    points: tuple[AlphaPoint, ...]

    @property
    def best(self) -> AlphaPoint:
        """Of the highest mean; among equals the one nearest to the middle."""
        return max(self.points, key=lambda point: (point.mean.value, -abs(point.alpha - PAPER_ALPHA)))

    @property
    def ends(self) -> tuple[AlphaPoint, AlphaPoint]:
        """A and B themselves."""
        by_alpha = {point.alpha: point for point in self.points}
        return by_alpha[0.0], by_alpha[1.0]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the figures, each a set and task."""
        return tuple(figure.name for figure in self.points[0].figures)

    def of(self, name: str) -> list[Headline]:
        """One figure along the curve."""
        return [figure for point in self.points for figure in point.figures if figure.name == name]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the file has them."""
        return {
            "schema_version": 1,
            "method": "theta = (1 - alpha) A + alpha B",
            "a": self.a,
            "b": self.b,
            "points": [_plain(point) for point in self.points],
            "ends": [_plain(point) for point in self.ends],
            "best": _plain(self.best),
        }


def best_line(curve: AlphaCurve) -> str:
    """What the curve says, in one line."""
    best, (a, b) = curve.best, curve.ends
    return (
        f"best by the mean: alpha {best.alpha:g} with {_with_interval(best.mean)}; "
        f"A (0) {_with_interval(a.mean)}, B (1) {_with_interval(b.mean)}"
    )


def rows_of(points: Sequence[AlphaPoint]) -> list[tuple[str, ...]]:
    """A row a model: alpha, each figure, the mean and the sum, as printed."""
    return [
        (
            f"{point.alpha:g}",
            *map(_with_interval, point.figures),
            _with_interval(point.mean),
            f"{point.total:.4f}",
        )
        for point in points
    ]


def _with_interval(figure: Headline) -> str:
    return f"{figure.value:.4f} ({figure.low:.4f} to {figure.high:.4f})"


def _plain(point: AlphaPoint) -> dict[str, Any]:
    mean = point.mean
    return {
        "alpha": point.alpha,
        "weights_sha256": point.weights_sha256,
        "figures": [asdict(figure) for figure in point.figures],
        "mean": {"value": mean.value, "low": mean.low, "high": mean.high},
        "sum": point.total,
    }
