"""The captions that a picture, or a few pictures, choose among."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mmclip.errors import UserError
from mmclip_eval.fields import parse_field, read_captions
from mmclip_eval.samples import Samples
from mmclip_eval.some_samples import read_each


@dataclass(frozen=True)
class Choices:
    """Captions of each sample: the i-th belongs to its i-th picture, and what is left over to none."""

    texts: tuple[str, ...]
    sample_of_text: Int[Tensor, " text"]
    """Index of the sample that each caption stands in."""


def read_choices(samples: Samples, places: Sequence[str], bad: dict[int, str] | None = None) -> Choices:
    """Read the captions of every sample from all of `places`, one place after the other.

    Samples without captions, or with a blank one, whose place in the list would be lost, go to `bad` where it is given.

    Raises:
        UserError: there is such a sample, and `bad` is None.
    """
    fields = [parse_field(place, f"{samples.name}.captions") for place in places]
    extensions = {field.extension for field in fields}
    texts: list[str] = []
    owners: list[int] = []

    def read(index: int) -> list[str]:
        members, sample_id = samples.members(index, extensions), samples.sample_id(index)
        own = [text for field in fields for text in read_captions(field, members, sample_id)]
        if not all(own) or not own:
            raise UserError(
                f"sample {sample_id}: expected captions at {', '.join(places)}, the right one first and none blank, got "
                f"{own!r:.120}"
            )
        return own

    for position, (_, own) in enumerate(read_each(samples, read, bad)):
        texts.extend(own)
        owners.extend([position] * len(own))
    return Choices(tuple(texts), torch.tensor(owners))
