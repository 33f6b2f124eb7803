"""Pictures with the model's answers, and questions with the pictures that answer them: the parts of a page to look at."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmclip_eval.analysis.predictions import Predictions, best_of_gallery
from mmclip_eval.analysis.sampling import draw
from mmclip_eval.captioned import Captioned
from mmclip_eval.labelled import Labelled
from mmclip_eval.report.pictures import Album, Picture
from mmclip_eval.report.words import percent, shorten

TOP = 5


@dataclass(frozen=True)
class Answer:
    """One thing the model says of a picture."""

    text: str
    figure: str
    share: float
    """Length of the bar, 0 to 1."""
    right: bool


@dataclass(frozen=True)
class Exhibit:
    """A picture, what it shows, and what the model says, best first."""

    picture: Picture
    truth: tuple[str, ...]
    answers: tuple[Answer, ...]
    options: int
    """How many answers there could be."""

    @property
    def verdict(self) -> str:
        """Right (the first answer), close (one of the others, where there are more than are listed) or wrong."""
        hits = [answer.right for answer in self.answers]
        close = any(hits) and self.options > len(hits)
        return "right" if hits[:1] == [True] else "close" if close else "wrong"


@dataclass(frozen=True)
class Hit:
    """A picture that answers a question."""

    picture: Picture
    label: str
    figure: str
    right: bool


@dataclass(frozen=True)
class Query:
    """A text and the pictures that the model finds most like it, best first."""

    text: str
    about: str
    """How many pictures would be right."""
    hits: tuple[Hit, ...]
    series: int = 0
    """Colour of the figures that stands for it; 0 for none."""


def classified(
    album: Album, part: Labelled, predictions: Predictions, samples: Sequence[int], side: int
) -> list[Exhibit]:
    """Pictures with their likeliest classes; a full bar is the largest probability among them all."""
    most = float(predictions.probabilities[torch.tensor(samples)].max()) if samples else 1.0
    exhibits = []
    for index in samples:
        label = int(part.labels[index])
        rows = zip(predictions.classes[index].tolist(), predictions.probabilities[index].tolist(), strict=True)
        # Two classes of one name are one answer to a reader.
        answers = [
            Answer(part.class_names[c], percent(p), p / most, part.class_names[c] == part.class_names[label])
            for c, p in rows
        ]
        truth = (part.class_names[label],)
        exhibits.append(Exhibit(album.picture(index, side), truth, tuple(answers), len(part.class_names)))
    return exhibits


def captions_for(
    album: Album,
    part: Captioned,
    image_embed: Float[Tensor, "sample embed"],
    caption_embed: Float[Tensor, "caption embed"],
    samples: Sequence[int],
    side: int,
) -> list[Exhibit]:
    """Pictures with the captions most like them, by cosine; a full bar is the largest cosine among them all."""
    cosines, columns = best_of_gallery(image_embed[torch.tensor(samples)], caption_embed, TOP)
    most = max(float(cosines.max()), 1e-6)
    exhibits = []
    for index, row, values in zip(samples, columns.tolist(), cosines.tolist(), strict=True):
        own = (part.image_of_caption == index).nonzero()[:, 0].tolist()
        answers = [
            Answer(shorten(part.captions[c]), f"{v:.2f}", max(0.0, v / most), c in own)
            for c, v in zip(row, values, strict=True)
        ]
        truth = tuple(shorten(part.captions[c]) for c in own[:2])
        exhibits.append(Exhibit(album.picture(index, side), truth, tuple(answers), len(part.captions)))
    return exhibits


def class_queries(
    album: Album,
    part: Labelled,
    image_embed: Float[Tensor, "sample embed"],
    class_embed: Float[Tensor, "class embed"],
    count: int,
    hits: int,
    side: int,
) -> list[Query]:
    """A fixed draw of the classes that have a picture, each with the pictures most like it."""
    present = torch.unique(part.labels)
    classes = present[torch.tensor(draw(count, len(present), stream=5))]
    cosines, columns = best_of_gallery(class_embed[classes], image_embed, hits)
    totals = torch.bincount(part.labels, minlength=len(part.class_names))
    queries = []
    for label, row, values in zip(classes.tolist(), columns.tolist(), cosines.tolist(), strict=True):
        found = tuple(
            Hit(album.picture(i, side), part.class_names[int(part.labels[i])], f"{v:.2f}", int(part.labels[i]) == label)
            for i, v in zip(row, values, strict=True)
        )
        queries.append(Query(part.class_names[label], _there_are(int(totals[label])), found))
    return queries


def caption_queries(
    album: Album,
    part: Captioned,
    image_embed: Float[Tensor, "sample embed"],
    caption_embed: Float[Tensor, "caption embed"],
    count: int,
    hits: int,
    side: int,
) -> list[Query]:
    """A fixed draw of captions, each with the pictures most like it."""
    chosen: Int[Tensor, " query"] = torch.tensor(draw(count, len(part.captions), stream=6))
    first = {int(owner): i for i, owner in reversed(list(enumerate(part.image_of_caption.tolist())))}
    cosines, columns = best_of_gallery(caption_embed[chosen], image_embed, hits)
    queries = []
    for query, row, values in zip(chosen.tolist(), columns.tolist(), cosines.tolist(), strict=True):
        own = int(part.image_of_caption[query])
        found = tuple(
            Hit(album.picture(i, side), shorten(part.captions[first[i]]), f"{v:.2f}", i == own)
            for i, v in zip(row, values, strict=True)
        )
        queries.append(Query(shorten(part.captions[query]), _there_are(1), found))
    return queries


def _there_are(pictures: int) -> str:
    return "1 picture is right" if pictures == 1 else f"{pictures:,} pictures are right"
