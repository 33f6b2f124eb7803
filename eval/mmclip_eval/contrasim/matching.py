"""`PairMatching`: which set of captions belongs to a set of pictures, the second published task, and its result."""

from dataclasses import asdict, dataclass
from typing import Any

from mmclip_eval.contrasim.closed_form import CKA
from mmclip_eval.contrasim.verdict import Refusal, refusal_of_pairs
from mmclip_eval.metrics.bootstrap import Interval
from mmclip_eval.metrics.wilson import wilson_interval

TRUE = "true pairs"
WRONG_OWN, WRONG_TRUE = "wrong pairs, asked for such", "wrong pairs, asked for true ones"
WRONG_SEEN = "wrong pairs, asked for those it saw"
CLOSED = "no training"
"""What a measure was trained on, and what it is asked for where that is not the same."""


@dataclass(frozen=True)
class Share:
    """How often the true set was the most similar one."""

    value: float
    interval: Interval
    """95 %, of as many questions as have no row in common."""
    questions: int


@dataclass(frozen=True)
class MatchRow:
    """A measure in one case."""

    measure: str
    case: str
    random: Share
    """Against sets drawn at random."""
    nearest: Share
    """Against sets of nearest neighbours, which are the hard ones."""


@dataclass(frozen=True)
class PairMatching:
    """For sets of rows of one side, whether the set of the other side that belongs to them is found."""

    left: str
    right: str
    train_pairs: int
    test_pairs: int
    set_size: int
    wrong_sets: int
    rows: tuple[MatchRow, ...]
    settings: dict[str, Any]

    @property
    def chance(self) -> float:
        """What guessing would score."""
        return 1 / (1 + self.wrong_sets)

    @property
    def selectivity(self) -> float:
        """Share of hard questions that true pairs teach to answer beyond what wrong ones do, on either kind of them."""
        return self.of(TRUE).nearest.value - max(self.of(case).nearest.value for case in (WRONG_OWN, WRONG_TRUE))

    @property
    def refusal(self) -> Refusal | None:
        """Why no verdict is given; None where the figures may be read."""
        learned, cka = self.of(TRUE).nearest, self.of(CLOSED, CKA).nearest
        return refusal_of_pairs(self.selectivity, learned.value, learned.interval[0], self.chance, cka.value)

    @property
    def verdict(self) -> str:
        """What may be said, or why nothing may be."""
        if self.refusal is not None:
            return f"no verdict: {self.refusal}"
        learned, cka = self.of(TRUE).nearest.value, self.of(CLOSED, CKA).nearest.value
        return (
            f"among nearest neighbours the true set is found in {learned:.1%} of the questions (guessing: {self.chance:.1%}, "
            f"debiased CKA: {cka:.1%}), and {100 * self.selectivity:.0f} points of it need true pairs"
        )

    def of(self, case: str, measure: str = "ContraSim") -> MatchRow:
        """The figures of a measure in a case.

        Raises:
            KeyError: it was not measured.
        """
        for row in self.rows:
            if (row.case, row.measure) == (case, measure):
                return row
        raise KeyError((case, measure))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        judged = {
            "chance": self.chance,
            "selectivity": self.selectivity,
            "verdict": self.verdict,
            "refused": self.refusal,
        }
        return {"task": "pair_matching"} | judged | asdict(self)


def share_of(hits: int, questions: int, disjoint: int) -> Share:
    """Of all questions, with the interval of those that are independent."""
    value = hits / questions
    return Share(value, wilson_interval(round(value * disjoint), disjoint), questions)
