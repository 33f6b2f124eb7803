"""When the learned similarity may not be read. It is commentary in any case: no release is judged by it."""

LEAST_SELECTIVITY = 0.10
"""Points, as a share, by which true correspondences must be found more often than invented ones."""

Refusal = str
"""A reason in words."""


def refusal_of_layers(
    selectivity: float, control: float, held_out: float, low: float, chance: float, cka: float
) -> Refusal | None:
    """Why layer prediction allows no verdict, or None. All figures are shares.

    `held_out` and `cka` are accuracies on the same pairs of models that training did not see; `low` is the lower end of the
    first one's interval.
    """
    reasons = []
    if selectivity < LEAST_SELECTIVITY:
        reasons.append(
            f"trained on layers matched at random it finds these wrong matches in {control:.1%}, so selectivity is "
            f"{100 * selectivity:.1f} points (at least {100 * LEAST_SELECTIVITY:.0f} are needed): it learns whatever it is told"
        )
    if held_out <= cka:
        reasons.append(
            f"on models that training did not see it finds {held_out:.1%} of the layers, and debiased CKA, which learns "
            f"nothing, {cka:.1%}"
        )
    if low <= chance:
        reasons.append(f"its {held_out:.1%} on such models cannot be told from guessing, which finds {chance:.1%}")
    return "; ".join(reasons) or None


def refusal_of_pairs(selectivity: float, learned: float, low: float, chance: float, cka: float) -> Refusal | None:
    """Why the matching of pairs allows no verdict, or None. All figures are shares, of the hard wrong sets."""
    reasons = []
    if selectivity < LEAST_SELECTIVITY:
        reasons.append(
            f"trained on pairs matched at random it finds the true set nearly as often: selectivity is {100 * selectivity:.1f} "
            f"points (at least {100 * LEAST_SELECTIVITY:.0f} are needed)"
        )
    if learned <= cka:
        reasons.append(f"it finds {learned:.1%} of the true sets, and debiased CKA, which learns nothing, {cka:.1%}")
    if low <= chance:
        reasons.append(f"its {learned:.1%} cannot be told from guessing, which finds {chance:.1%}")
    return "; ".join(reasons) or None
