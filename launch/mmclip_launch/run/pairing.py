"""Whether the objectives of a run compare pictures with captions, and whether its data has any."""

from collections.abc import Iterator, Sequence
from typing import Any

from mmclip.errors import UserError
from mmclip_launch.run.fields import RunFields


def objectives_of(config: RunFields) -> Sequence[Any]:
    """The configurations of all objectives of a run, the main one first."""
    return (config.objective, *(one.objective for one in config.auxiliary))


def refuse_unpaired(config: RunFields) -> None:
    """Refuse pictures alone where an objective needs pairs, and what is about captions beside them.

    Raises:
        UserError: naming the objective or the field.
    """
    if not config.data.image_only:
        return
    for objective in objectives_of(config):
        if objective.needs.pairs:
            raise UserError(
                f"objective {objective.type!r} compares pictures with captions, and data.image_only = true reads none: set it "
                "to false, or take objectives of pictures alone (such as simclr, byol or dino)"
            )
    reasons = {
        "image_features": config.image_features is not None,
        "text_features": config.text_features is not None,
    }
    refused = [name for name, applies in reasons.items() if applies]
    if refused:
        raise UserError(
            f"data.image_only = true is for objectives that look at further views of each picture, and {', '.join(refused)} "
            "computes pictures or captions once before the run: remove one of the two"
        )


def told_of_pairs(config: RunFields) -> Iterator[str]:
    """What a person should know where captions make no difference."""
    if not config.data.image_only and not any(objective.needs.pairs for objective in objectives_of(config)):
        yield (
            "captions are ignored: no objective needs pairs, and the text tower rests; data.image_only = true does not even "
            "read them, and takes samples without any"
        )
