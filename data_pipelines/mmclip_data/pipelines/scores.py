"""How well picture and caption fit, by a model that whoever calls brings: the scores of all samples before any is filtered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from mmclip.errors import BadSampleError, UserError
from mmclip_data.pipelines.job import Track
from mmclip_data.pipelines.rewrite import Inputs

CLIP_SCORE = "clip_score"
SHOWN_SHARES = (0.05, 0.5, 0.95)


@runtime_checkable
class Scorer(Protocol):
    """A model that scores samples."""

    def name(self) -> str:
        """Of the weights and their arithmetic: another one is another job. May load them."""
        ...

    def __call__(
        self, inputs: Inputs, captions: Sequence[str], track: Track
    ) -> tuple[Float[np.ndarray, " sample"], Mapping[int, str]]:
        """The score of each sample, and why some have none."""
        ...


@dataclass(frozen=True)
class Scores:
    """The scores of all samples; travels to each process once."""

    values: Float[np.ndarray, " sample"]
    bad: Mapping[int, str]
    """Samples without a score, with the reason."""
    kept: Bool[np.ndarray, " sample"] | None = None
    """Those with the highest scores, where only a share is asked for."""

    @classmethod
    def made(
        cls, scorer: Scorer, inputs: Inputs, captions: Sequence[str], keep_fraction: float | None, track: Track
    ) -> "Scores":
        """Score all samples."""
        values, bad = scorer(inputs, captions, track)
        kept = None if keep_fraction is None else highest(values, bad, keep_fraction)
        return cls(values, bad, kept)

    def of(self, row: int) -> float:
        """The score of a sample.

        Raises:
            BadSampleError: it has none.
        """
        if row in self.bad:
            raise BadSampleError(self.bad[row])
        return float(self.values[row])

    def keeps(self, row: int) -> bool:
        """Whether a sample has a score that is among the highest.

        Raises:
            BadSampleError: it has none.
        """
        self.of(row)
        return self.kept is None or bool(self.kept[row])

    @property
    def note(self) -> str:
        """How the scores lie, for whoever chooses a threshold."""
        there = np.delete(self.values, [*self.bad])
        if not len(there):
            return f"{CLIP_SCORE}: of no sample"
        told = [f"{share:.0%} below {np.quantile(there, share):.3f}" for share in SHOWN_SHARES]
        cut = [] if self.kept is None else [f"kept from {self.values[self.kept].min():.4f} on"]
        return f"{CLIP_SCORE} of {len(there):,} samples: {', '.join([*told, *cut])}"


def highest(values: Float[np.ndarray, " sample"], bad: Mapping[int, str], share: float) -> Bool[np.ndarray, " sample"]:
    """Marks this share of the samples that have a score, one at least; of equal ones those that come first."""
    order = [row for row in np.argsort(-values, kind="stable").tolist() if row not in bad]
    kept = np.zeros(len(values), dtype=bool)
    kept[order[: max(1, round(share * len(order)))]] = True
    return kept


def refuse_bad_fraction(share: float | None, scored: bool) -> None:
    """Refuse a share that is none, or of scores that nobody makes.

    Raises:
        UserError: it is.
    """
    if share is None:
        return
    if not scored:
        raise UserError(f"keep_fraction={share}: of the highest scores of which model? give --score CHECKPOINT")
    if not 0 < share < 1:
        raise UserError(f"keep_fraction={share}: expected a share between 0 and 1, such as 0.3")
