"""The part of the page about one evaluation set: pictures that flipped, groups, retrieval, confidence."""

from dataclasses import dataclass

from mmclip_eval.compare.behaviour.behaviour import Behaviour
from mmclip_eval.compare.behaviour.by_group import ByGroup
from mmclip_eval.compare.behaviour.seen import Seen
from mmclip_eval.compare.page.flip_cards import FlipWall, flip_walls, retrieval_walls
from mmclip_eval.metrics.calibration import Reliability
from mmclip_eval.metrics.wilson import wilson_interval
from mmclip_eval.report.cards import Card
from mmclip_eval.report.figures import Bar, Bin, bars, reliability
from mmclip_eval.report.pictures import Album
from mmclip_eval.report.words import percent

MOST_CARDS = 12
MOST_GROUPS = 16
PICTURE_BYTES = 900_000
"""Of all pictures of a set together."""


@dataclass(frozen=True)
class SetSection:
    """What a set shows of the two models."""

    anchor: str
    name: str
    about: str
    walls: tuple[FlipWall, ...]
    cards: tuple[Card, ...]
    problems: tuple[str, ...]


def set_section(found: Behaviour, a: Seen, b: Seen, number: int, most: int = MOST_CARDS) -> SetSection:
    """Read the pictures and draw; the same findings give the same section."""
    album = Album(a.dataset.samples, PICTURE_BYTES)
    walls: list[FlipWall] = []
    cards: list[Card] = []
    if found.flips is not None:
        walls += flip_walls(a, b, found.flips, album, most)
    for part in found.retrieved:
        walls += retrieval_walls(a, b, part, album, most // 2) if part.way == "text" else []
    if found.by_group is not None and len(found.by_group.rows) > 1:
        cards.append(_groups(found.by_group))
    if found.confidence is not None:
        cards += [
            _reliability("Confidence of A", found.confidence.before),
            _reliability("Confidence of B", found.confidence.after),
        ]
    album.samples.close()
    return SetSection(
        anchor=f"set-{number}",
        name=found.dataset,
        about=_about(found),
        walls=tuple(walls),
        cards=tuple(cards),
        problems=tuple(album.problems.values()),
    )


def _about(found: Behaviour) -> str:
    parts = [f"{found.samples:,} pictures"]
    if found.flips is not None:
        flips = found.flips
        parts.append(
            f"A is right of {percent(flips.accuracy.before)} and B of {percent(flips.accuracy.after)}; "
            f"{len(flips.lost):,} were right before and are wrong now, {len(flips.won):,} the other way round, and of "
            f"{flips.moved:,} both are wrong, each in its own way"
        )
    for part in found.retrieved:
        what = "caption of a picture" if part.way == "text" else "picture of a caption"
        parts.append(
            f"the right {what} comes first in {percent(part.recall.before)} with A and {percent(part.recall.after)} with B"
        )
    return "; ".join(parts) + "."


def _groups(found: ByGroup) -> Card:
    """The groups that lost most and those that won most; of many the middle is left out."""
    rows = found.rows
    shown = rows if len(rows) <= MOST_GROUPS else (*rows[: MOST_GROUPS // 2], *rows[-MOST_GROUPS // 2 :])
    drawn = [
        Bar(
            f"{row.name} ({row.samples:,})",
            row.accuracy.value,
            row.accuracy.low,
            row.accuracy.high,
            marked=row.accuracy.high < 0,
        )
        for row in shown
    ]
    left_out = f" {len(rows) - len(shown)} between them are left out." if len(shown) < len(rows) else ""
    small = f" {len(found.left_out)} of a single sample too." if found.left_out else ""
    return Card(
        bars(f"Accuracy by {found.kind}, B \u2212 A", drawn, y_label="in points, with 95 % intervals"),
        f"The {found.kind} that lost most stand above; in the colour of alarms those that surely lost.{left_out}{small}",
    )


def _reliability(title: str, found: Reliability) -> Card:
    count = len(found.size)
    bins = []
    for place, (size, confidence, accuracy) in enumerate(
        zip(found.size.tolist(), found.confidence.tolist(), found.accuracy.tolist(), strict=True)
    ):
        low, high = wilson_interval(round(accuracy * size), size) if size else (0.0, 0.0)
        bins.append(Bin(place / count, (place + 1) / count, size, confidence, accuracy, low, high))
    return Card(
        reliability(title, bins),
        f"Expected calibration error {percent(found.expected_error)}: the mean distance of the dots from the line.",
    )
