"""Every measure of one pair of layers between its anchors: what it is when nothing has changed, and when everything has."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from mmclip_eval.compare.anchored import Anchored, floor_words
from mmclip_eval.compare.representation.grams import Grams
from mmclip_eval.compare.representation.jackknife import groups_of, interval
from mmclip_eval.compare.representation.measures import (
    OF_CANONICAL,
    OF_GRAMS,
    OF_PAIRS,
    Figure,
    figures_of_grams,
    figures_of_pair,
)
from mmclip_eval.compare.representation.pair import Features, NoFigure, Pair

PAIR_ROWS = 5000
"""Rows of measures whose time grows with their number; of more, a fixed draw."""
GRAM_ROWS = 600
"""Rows of measures whose time grows with its square."""
DRAWS = 3
"""Ways to halve units, and ways to permute rows."""

Figures = dict[str, Figure]


@dataclass(frozen=True)
class LayerPair:
    """Two layers: the measures of which there is a figure, and of the others why there is none."""

    names: tuple[str, str]
    """A's and B's."""
    figures: Mapping[str, Anchored]
    notes: Mapping[str, str]


class _Kind(NamedTuple):
    """Measures that share what is made of features first."""

    rows: int
    prepare: Callable[[Features, Features], Any]
    """Makes what `figures` takes, which also gives it without groups of rows."""
    figures: Callable[[Any], Figures]
    names: tuple[str, ...]

    def whole(self, x: Features, y: Features) -> Figures:
        return self.figures(self.prepare(x, y))


KINDS = (
    _Kind(PAIR_ROWS, Pair, figures_of_pair, (*OF_PAIRS, *OF_CANONICAL)),
    _Kind(GRAM_ROWS, Grams.of, figures_of_grams, (*OF_GRAMS,)),
)


def compare_layers(
    names: tuple[str, str], a: Features, b: Features, against: Sequence[Features] = (), seed: int = 0
) -> LayerPair:
    """Every measure between a layer of A and one of B, with its anchors.

    `against` are features of independent models at the layers that stand beside A's. The interval of a measure is over the
    rows that it uses, see `jackknife`; of a layer that has collapsed there are notes alone.

    Raises:
        UserError: features that cannot be compared, see `Pair`.
    """
    found: dict[str, Anchored] = {}
    notes: dict[str, str] = {}
    for kind in KINDS:
        rows = drawn_rows(len(a), kind.rows, seed)
        own, others = a[rows], [other[rows] for other in against]
        try:
            Pair(own, b[rows])  # refuses a layer that has collapsed, whatever the measure
            figures = _anchored(kind, own, b[rows], others, seed)
        except NoFigure as reason:
            figures: Mapping[str, Anchored | NoFigure] = dict.fromkeys(kind.names, reason)
        found |= {name: figure for name, figure in figures.items() if isinstance(figure, Anchored)}
        notes |= {name: str(figure) for name, figure in figures.items() if isinstance(figure, NoFigure)}
    return LayerPair(names, found, notes)


def drawn_rows(rows: int, most: int, seed: int) -> Int[np.ndarray, " row"]:
    """All, or so many of them, in their order; those of a lower `most` are among those of a higher one."""
    return np.sort(_generator(seed, "rows").permutation(rows)[:most])


def _anchored(
    kind: _Kind, a: Features, b: Features, against: Sequence[Features], seed: int
) -> Mapping[str, Anchored | NoFigure]:
    prepared = kind.prepare(a, b)
    value = kind.figures(prepared)
    left_out = [kind.figures(part) for part in prepared.without(groups_of(len(a), _generator(seed, "groups")))]
    ceiling = [kind.whole(a, a)]
    halves = [kind.whole(*parts) for parts in _halves(a, seed)]
    floor = [kind.whole(a, other) for other in against or _permuted(b, seed)]
    floor_from = floor_words(len(against))
    found: dict[str, Anchored | NoFigure] = {}
    for name in value:
        try:
            figure = _number(value[name])
            low, high = interval(figure, [_number(part[name]) for part in left_out])
            anchors = [float(np.mean([_number(part[name]) for part in parts])) for parts in (ceiling, floor)]
            inner = [part[name] for part in halves]
            apart = [part for part in inner if not isinstance(part, NoFigure)]
        except NoFigure as reason:
            found[name] = reason
        else:
            of_halves = float(np.mean(apart)) if len(apart) == len(inner) else None
            found[name] = Anchored(figure, low, high, anchors[0], anchors[1], floor_from, of_halves)
    return found


def _number(figure: Figure) -> float:
    if isinstance(figure, NoFigure):
        raise figure
    return figure


def _halves(features: Features, seed: int) -> Iterator[tuple[Features, Features]]:
    """Two halves of the units, several times."""
    generator = _generator(seed, "halves")
    for _ in range(DRAWS):
        order = generator.permutation(features.shape[1])
        half = len(order) // 2
        yield features[:, order[:half]], features[:, order[half : 2 * half]]


def _permuted(features: Features, seed: int) -> list[Features]:
    generator = _generator(seed, "permuted")
    return [features[generator.permutation(len(features))] for _ in range(DRAWS)]


def _generator(seed: int, purpose: str) -> np.random.Generator:
    """One for each purpose, so that one more moves no other."""
    return np.random.Generator(np.random.Philox(key=[seed, int.from_bytes(purpose.encode()[:8], "big")]))
