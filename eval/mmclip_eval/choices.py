"""The captions that a picture, or a few pictures, choose among."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mmclip.errors import UserError
from mmclip_eval.fields import parse_field, read_captions
from mmclip_eval.samples import Samples


@dataclass(frozen=True)
class Choices:
    """Captions of each sample: the i-th belongs to its i-th picture, and what is left over to none."""

    texts: tuple[str, ...]
    sample_of_text: Int[Tensor, " text"]
    """Index of the sample that each caption stands in."""


def read_choices(samples: Samples, places: Sequence[str]) -> Choices:
    """Read the captions of every sample from all of `places`, one place after the other.

    Raises:
        UserError: a sample has no caption, or a blank one, whose place in the list would be lost.
    """
    fields = [parse_field(place, f"{samples.name}.captions") for place in places]
    extensions = {field.extension for field in fields}
    texts: list[str] = []
    owners: list[int] = []
    for i in range(len(samples)):
        members, sample_id = samples.members(i, extensions), samples.sample_id(i)
        own = [text for field in fields for text in read_captions(field, members, sample_id)]
        if not all(own) or not own:
            raise UserError(
                f"sample {sample_id}: expected captions at {', '.join(places)}, the right one first and none blank, got "
                f"{own!r:.120}"
            )
        texts.extend(own)
        owners.extend([i] * len(own))
    return Choices(tuple(texts), torch.tensor(owners))
