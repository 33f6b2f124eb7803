"""The measures by name, with the words for a page, and all figures of one pair of layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mmclip_eval.compare.representation.cca import Canonical, canonical, mean_cca_of, pwcca_of, svcca_of
from mmclip_eval.compare.representation.cka import cka_of
from mmclip_eval.compare.representation.grams import Grams
from mmclip_eval.compare.representation.neighbours import NEIGHBOURS, neighbours_of
from mmclip_eval.compare.representation.pair import NoFigure, Pair
from mmclip_eval.compare.representation.procrustes import procrustes_of
from mmclip_eval.compare.representation.rsa import rsa_of


@dataclass(frozen=True)
class Measure:
    """A similarity of two models' features: 1 where they are the same."""

    title: str
    words: str
    """What it asks, for who has not heard of it."""


MEASURES: Mapping[str, Measure] = {
    "cka": Measure(
        "Linear CKA (debiased)",
        "Are the similarities between examples alike? Blind to rotation and scale; strong directions count most.",
    ),
    "procrustes": Measure(
        "Orthogonal Procrustes",
        "How near do the features come after the best rotation? Blind to rotation and scale; weak directions count too.",
    ),
    "neighbours": Measure(
        "Mutual nearest neighbours",
        f"Of an example's {NEIGHBOURS} nearest, how many does the other model find too? What retrieval notices first.",
    ),
    "rsa": Measure(
        "RSA (Spearman)", "Do the two rank all pairs of examples alike, from near to far? Blind to rotation and scale."
    ),
    "cca": Measure(
        "Mean CCA",
        "Does the one hold linearly what the other holds? Blind to any invertible map; noise counts as much.",
    ),
    "svcca": Measure("SVCCA", "As mean CCA, of the directions that hold 99 % of the variance alone."),
    "pwcca": Measure("PWCCA", "As mean CCA, each direction weighted by how much of the first model it accounts for."),
}

Figure = float | NoFigure
"""A figure, or why there is none."""
OF_PAIRS: Mapping[str, Callable[[Pair], float]] = {"cka": cka_of, "procrustes": procrustes_of}
OF_CANONICAL: Mapping[str, Callable[[Canonical], float]] = {"cca": mean_cca_of, "svcca": svcca_of, "pwcca": pwcca_of}
OF_GRAMS: Mapping[str, Callable[[Grams], float]] = {"neighbours": neighbours_of, "rsa": rsa_of}


def figures_of_pair(pair: Pair) -> dict[str, Figure]:
    """Those that are made of products over rows."""
    found = {name: _tried(lambda measure=measure: measure(pair)) for name, measure in OF_PAIRS.items()}
    white = canonical(pair)
    return found | {name: _tried(lambda measure=measure: measure(white)) for name, measure in OF_CANONICAL.items()}


def figures_of_grams(grams: Grams) -> dict[str, Figure]:
    """Those that are made of products of rows."""
    return {name: _tried(lambda measure=measure: measure(grams)) for name, measure in OF_GRAMS.items()}


def _tried(measure: Callable[[], float]) -> Figure:
    try:
        return measure()
    except NoFigure as reason:
        return reason
