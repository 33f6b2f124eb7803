"""`Behaviour`: how two models act on one evaluation set, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmclip.errors import UserError
from mmclip_eval.compare.behaviour.by_group import ByGroup, by_group
from mmclip_eval.compare.behaviour.confidence import Confidence, confidence
from mmclip_eval.compare.behaviour.flips import Flips, flips
from mmclip_eval.compare.behaviour.retrieved import Retrieved, retrieved
from mmclip_eval.compare.behaviour.seen import Seen, refuse_other_samples
from mmclip_eval.compare.behaviour.space import Space, space

FEWEST = 20
"""Samples below which an interval over them says nothing."""


@dataclass(frozen=True)
class Behaviour:
    """What a user of the models would notice on one set; None where the set does not ask for it."""

    dataset: str
    samples: int
    flips: Flips | None
    by_group: ByGroup | None
    confidence: Confidence | None
    retrieved: tuple[Retrieved, ...]
    space: Space


def behaviour(a: Seen, b: Seen, against: Sequence[Seen] = ()) -> Behaviour:
    """Compare two models on a set that both have seen, `against` independent ones.

    Raises:
        UserError: the set has neither classes nor captions, has too few samples, or the models saw different ones.
    """
    for other in (b, *against):
        refuse_other_samples(a, other)
    name, samples = a.dataset.config.name, len(a.image_embed)
    refuse_few(name, samples)
    if a.class_embed is None and a.caption_embed is None:
        raise UserError(f"{name}: samples have neither classes with names nor captions: nothing can be asked of them")
    labelled = a.class_embed is not None
    return Behaviour(
        dataset=name,
        samples=samples,
        flips=flips(a, b, against) if labelled else None,
        by_group=by_group(a, b, against) if labelled else None,
        confidence=confidence(a, b, against) if labelled else None,
        retrieved=()
        if a.caption_embed is None
        else (retrieved("text", a, b, against), retrieved("image", a, b, against)),
        space=space(a, b, against),
    )


def refuse_few(name: str, samples: int) -> None:
    """Refuse a set that is too small.

    Raises:
        UserError: an interval over it would say nothing.
    """
    if samples < FEWEST:
        raise UserError(f"{name}: {samples} samples; expected at least {FEWEST} to tell two models apart")
