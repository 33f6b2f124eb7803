"""Captions of a retrieval set, and which picture each belongs to."""

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
class Captioned:
    """The captions of each sample."""

    captions: tuple[str, ...]
    image_of_caption: Int[Tensor, " caption"]
    """Index of the sample that each caption describes."""
    notes: tuple[str, ...]


def read_captioned(
    samples: Samples, places: Sequence[str], newline_escapes: bool = False, bad: dict[int, str] | None = None
) -> Captioned:
    r"""Read the captions of every sample from all of `places`; blank ones are left out and counted.

    With `newline_escapes` the two characters `\n` in a caption stand for a line break. Samples without a caption go to
    `bad` where it is given.

    Raises:
        UserError: a sample has no caption, and `bad` is None.
    """
    fields = [parse_field(place, f"{samples.name}.captions") for place in places]
    extensions = {field.extension for field in fields}
    captions: list[str] = []
    owners: list[int] = []
    blank = 0

    def read(index: int) -> list[str]:
        members, sample_id = samples.members(index, extensions), samples.sample_id(index)
        found = [caption for field in fields for caption in read_captions(field, members, sample_id)]
        if not any(found):
            raise UserError(
                f"sample {sample_id} has no caption at {', '.join(places)}: add one, set captions to where it stands (txt, "
                'json:FIELD), or set on_bad = "skip" to leave out samples without'
            )
        return found

    for position, (_, found) in enumerate(read_each(samples, read, bad)):
        own = [caption.replace("\\n", "\n") if newline_escapes else caption for caption in found if caption]
        blank += len(found) - len(own)
        captions.extend(own)
        owners.extend([position] * len(own))
    return Captioned(tuple(captions), torch.tensor(owners), tuple(_notes(captions, blank)))


def _notes(captions: Sequence[str], blank: int) -> list[str]:
    notes = [f"blank captions left out: {blank}"] if blank else []
    twins = len(captions) - len(set(captions))
    if twins:
        notes.append(f"{twins} of {len(captions)} captions repeat an earlier one; a tie is never a hit")
    return notes
