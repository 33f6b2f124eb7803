"""What changed, in a few sentences: for people who read nothing else of the page."""

from collections.abc import Iterator

from mmclip_eval.compare.behaviour.behaviour import Behaviour
from mmclip_eval.compare.comparison import Comparison
from mmclip_eval.compare.representation.panel import Panel
from mmclip_eval.report.words import percent

NEAR, FAR = 0.8, 0.3
"""Positions from which on two models are called near each other, and up to which they are called as strangers."""


def story(found: Comparison) -> list[str]:
    """A sentence or two for each set, then one about the insides."""
    return [*(_of_set(one.behaviour) for one in found.sets), *_of_layers(found.panels)]


def _of_set(found: Behaviour) -> str:
    parts: list[str] = []
    if found.flips is not None:
        accuracy, flips = found.flips.accuracy, found.flips
        sure = accuracy.low > 0 or accuracy.high < 0
        how = "better" if accuracy.value > 0 else "worse"
        verdict = f"B is {how}" if sure else "neither is clearly better"
        parts.append(
            f"{verdict}: A names {percent(accuracy.before)} of {found.samples:,} pictures rightly, B {percent(accuracy.after)} "
            f"({_points(accuracy.low)} to {_points(accuracy.high)} points)"
        )
        parts.append(f"{_pictures(len(flips.lost))} that A had right went wrong, {len(flips.won):,} came right")
    for part in found.retrieved:
        what = "the right text of a picture" if part.way == "text" else "the right picture of a text"
        parts.append(f"{what} comes first in {percent(part.recall.before)} with A, {percent(part.recall.after)} with B")
    return f"{found.dataset}: {'; '.join(parts)}."


def _of_layers(panels: tuple[Panel, ...]) -> Iterator[str]:
    for panel in panels:
        cka = panel.pairs[-1].figures.get("cka")
        if cka is None:
            continue
        place = cka.position
        near = "near the same model" if place >= NEAR else "as far apart as strangers" if place <= FAR else "related"
        kind = "pictures" if panel.tower == "image" else "texts"
        yield (
            f"What both make of {kind} is {near}: CKA {cka.value:.2f} between a floor of {cka.floor:.2f} ({cka.floor_from}) "
            f"and a ceiling of {cka.ceiling:.2f}."
        )


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count:,} pictures"
