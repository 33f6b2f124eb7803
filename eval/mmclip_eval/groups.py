"""Categories of samples, coarser than their classes: what the report's table of confusions and its map go by."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mmclip_eval.fields import parse_field, read_label
from mmclip_eval.samples import Samples
from mmclip_eval.some_samples import read_each


@dataclass(frozen=True)
class Groups:
    """The category of each sample."""

    names: tuple[str, ...]
    of_sample: Int[Tensor, " sample"]
    """Index into `names`."""


def read_groups(samples: Samples, place: str, bad: dict[int, str] | None = None) -> Groups:
    """Read the category of every sample from `place`, a field as in `EvalDatasetConfig.label`; the names are sorted.

    Samples without one go to `bad` where it is given.

    Raises:
        UserError: a sample has none, and `bad` is None.
    """
    field = parse_field(place, f"{samples.name}.group")

    def read(index: int) -> str:
        return str(read_label(field, samples.members(index, (field.extension,)), samples.sample_id(index)))

    return group_by_name([name for _, name in read_each(samples, read, bad)])


def group_by_name(names_of_samples: Sequence[str]) -> Groups:
    """The categories of samples that each carry a name."""
    names = tuple(sorted(set(names_of_samples)))
    index_of = {name: index for index, name in enumerate(names)}
    return Groups(names, torch.tensor([index_of[name] for name in names_of_samples], dtype=torch.long))
