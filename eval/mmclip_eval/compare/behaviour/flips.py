"""Zero-shot answers before and after: agreement, and the pictures whose answer flipped.

A negative flip is a picture that was right and is wrong now (Yan et al. 2021, "Positive-Congruent Training", eq. 1): a new
model that is better on average may still break what worked, and its users meet that first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmclip_eval.compare.anchored import Anchored, floor_words
from mmclip_eval.compare.behaviour.seen import Said, Seen
from mmclip_eval.compare.change import Change
from mmclip_eval.compare.halves import mean_over_halves
from mmclip_eval.metrics.bootstrap import accuracy_interval, ratio_interval


@dataclass(frozen=True)
class Flips:
    """What changed in the answers of a classification set."""

    agreement: Anchored
    """How often both say the same class."""
    accuracy: Change
    negative: Anchored
    """Share of samples that were right and are wrong now; fewer are better."""
    positive: Anchored
    """Share of samples that were wrong and are right now."""
    lost: Int[Tensor, " lost"]
    """Samples of the negative flips, those that B is surest of first."""
    won: Int[Tensor, " won"]
    """Samples of the positive flips, in the same order."""
    moved: int
    """Samples that both get wrong, each in its own way."""


def flips(a: Seen, b: Seen, against: Sequence[Seen] = ()) -> Flips:
    """Compare the answers of two models; both must have classes."""
    negative = lost_by(a.said, b.said)
    positive = lost_by(b.said, a.said)
    sureness = b.likeliest.probabilities[:, 0]
    agree = a.said.predicted == b.said.predicted
    return Flips(
        agreement=_anchored(agree, a, against, _agreement, _chance_agreement(a.said, b.said)),
        accuracy=accuracy_change(a.said.correct, b.said.correct, [one.said.correct for one in against]),
        negative=_anchored(negative, a, against, _negative, _chance_lost(a.said, b.said)),
        positive=_anchored(positive, a, against, _positive, _chance_lost(b.said, a.said)),
        lost=_by_sureness(negative, sureness),
        won=_by_sureness(positive, sureness),
        moved=int((~agree & ~a.said.correct & ~b.said.correct).sum()),
    )


def lost_by(before: Said, after: Said) -> Bool[Tensor, " sample"]:
    """Which samples are right for the first and wrong for the second."""
    return before.correct & ~after.correct


def accuracy_change(
    before: Bool[Tensor, " sample"],
    after: Bool[Tensor, " sample"],
    against: Sequence[Bool[Tensor, " sample"]] = (),
) -> Change:
    """The share of samples that are right, before and after."""
    steps = after.long() - before.long()
    low, high = ratio_interval(steps, torch.ones_like(steps))
    share = before.double()
    others = [abs(_mean(other) - _mean(before)) for other in against]
    return Change(
        before=_mean(before),
        after=_mean(after),
        low=low,
        high=high,
        ceiling=mean_over_halves(len(before), lambda i, j: abs(float(share[i].mean() - share[j].mean())), stream=1),
        floor=sum(others) / len(others) if others else None,
    )


def _anchored(
    hits: Bool[Tensor, " sample"],
    a: Seen,
    against: Sequence[Seen],
    figure: Callable[[Said, Said], float],
    chance: float,
) -> Anchored:
    low, high = accuracy_interval(hits)
    others = [figure(a.said, other.said) for other in against]
    return Anchored(
        value=_mean(hits),
        low=low,
        high=high,
        ceiling=figure(a.said, a.said),
        floor=sum(others) / len(others) if others else chance,
        floor_from=floor_words(len(others)),
    )


def _agreement(one: Said, other: Said) -> float:
    return _mean(one.predicted == other.predicted)


def _negative(before: Said, after: Said) -> float:
    return _mean(lost_by(before, after))


def _positive(before: Said, after: Said) -> float:
    return _mean(lost_by(after, before))


def _chance_agreement(one: Said, other: Said) -> float:
    """Expected over all orders of the second's answers: the chance term of Cohen's kappa."""
    classes = int(max(one.predicted.max(), other.predicted.max())) + 1
    shares = [torch.bincount(said.predicted, minlength=classes).double() / len(said.predicted) for said in (one, other)]
    return float((shares[0] * shares[1]).sum())


def _chance_lost(before: Said, after: Said) -> float:
    return _mean(before.correct) * (1 - _mean(after.correct))


def _by_sureness(chosen: Bool[Tensor, " sample"], sureness: Tensor) -> Int[Tensor, " chosen"]:
    rows = chosen.nonzero()[:, 0]
    return rows[sureness[rows].argsort(descending=True, stable=True)]


def _mean(values: Bool[Tensor, " sample"]) -> float:
    return float(values.double().mean())
