"""Pictures whose answer flipped: what they show, what A said of them, and what B says."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from mmclip_eval.analysis.predictions import best_of_gallery
from mmclip_eval.compare.behaviour.flips import Flips
from mmclip_eval.compare.behaviour.retrieved import Retrieved
from mmclip_eval.compare.behaviour.seen import Seen
from mmclip_eval.report.pictures import Album, Picture
from mmclip_eval.report.words import percent, shorten

SIDE = 104
"""CSS pixels of a picture."""


@dataclass(frozen=True)
class Answer:
    """What one model says."""

    model: str
    text: str
    figure: str
    right: bool


@dataclass(frozen=True)
class FlipCard:
    """One picture with the answers of both."""

    picture: Picture
    truth: str
    answers: tuple[Answer, Answer]


@dataclass(frozen=True)
class FlipWall:
    """Pictures that flipped one way."""

    anchor: str
    title: str
    intro: str
    cards: tuple[FlipCard, ...]


def flip_walls(a: Seen, b: Seen, found: Flips, album: Album, most: int) -> list[FlipWall]:
    """What was lost before what was won; a way that no picture went has no wall."""
    lost, won = len(found.lost), len(found.won)
    order = "those that B is surest of first"
    walls = [
        FlipWall(
            "lost",
            f"Right before, wrong now: {_pictures(lost)}",
            f"What breaks for people who relied on A. Shown are {min(most, lost)} of {lost:,}, {order}.",
            _class_cards(a, b, found.lost, album, most),
        ),
        FlipWall(
            "won",
            f"Wrong before, right now: {_pictures(won)}",
            f"What the switch brings. Shown are {min(most, won)} of {won:,}, {order}.",
            _class_cards(a, b, found.won, album, most),
        ),
    ]
    return [wall for wall in walls if wall.cards]


def retrieval_walls(a: Seen, b: Seen, found: Retrieved, album: Album, most: int) -> list[FlipWall]:
    """Pictures whose own caption came first and does not any more, and the other way round."""
    lost, won = len(found.lost), len(found.won)
    walls = [
        FlipWall(
            "caption-lost",
            f"Caption found before, not now: {_pictures(lost)}",
            f"The caption that each model puts first. Shown are {min(most, lost)} of {lost:,}, in the order of the set.",
            _caption_cards(a, b, found.lost, album, most),
        ),
        FlipWall(
            "caption-won",
            f"Caption found now, not before: {_pictures(won)}",
            f"The caption that each model puts first. Shown are {min(most, won)} of {won:,}, in the order of the set.",
            _caption_cards(a, b, found.won, album, most),
        ),
    ]
    return [wall for wall in walls if wall.cards]


def _class_cards(a: Seen, b: Seen, rows: Int[Tensor, " sample"], album: Album, most: int) -> tuple[FlipCard, ...]:
    part = a.dataset.labelled

    def answer(model: str, seen: Seen, row: int) -> Answer:
        said = int(seen.said.predicted[row])
        shown = (seen.likeliest.classes[row] == said).nonzero()[:, 0]
        # On a tie the answer may stand behind the three likeliest: then its figure is not known here.
        chance = percent(float(seen.likeliest.probabilities[row, int(shown[0])])) if len(shown) else ""
        return Answer(model, part.class_names[said], chance, bool(seen.said.correct[row]))

    return tuple(
        FlipCard(
            album.picture(row, SIDE),
            part.class_names[int(part.labels[row])],
            (answer("A", a, row), answer("B", b, row)),
        )
        for row in rows[:most].tolist()
    )


def _caption_cards(a: Seen, b: Seen, rows: Int[Tensor, " sample"], album: Album, most: int) -> tuple[FlipCard, ...]:
    part, shown = a.dataset.captioned, rows[:most]
    if not len(shown):
        return ()
    first = {int(owner): i for i, owner in reversed(list(enumerate(part.image_of_caption.tolist())))}
    sides = [_first_captions(one, shown) for one in (a, b)]
    cards = []
    for place, row in enumerate(shown.tolist()):
        answers = [
            Answer(
                model,
                shorten(part.captions[said[place]]),
                f"{cosines[place]:.2f}",
                int(part.image_of_caption[said[place]]) == row,
            )
            for model, (cosines, said) in zip("AB", sides, strict=True)
        ]
        cards.append(FlipCard(album.picture(row, SIDE), shorten(part.captions[first[row]]), (answers[0], answers[1])))
    return tuple(cards)


def _first_captions(seen: Seen, rows: Int[Tensor, " sample"]) -> tuple[Sequence[float], Sequence[int]]:
    assert seen.caption_embed is not None
    cosines, columns = best_of_gallery(seen.image_embed[rows], seen.caption_embed, 1)
    return cosines[:, 0].tolist(), columns[:, 0].tolist()


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count:,} pictures"
