"""Categories of samples, coarser than their classes: what the report's table of confusions and its map go by."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mmclip_eval.fields import parse_field, read_label
from mmclip_eval.samples import Samples


@dataclass(frozen=True)
class Groups:
    """The category of each sample."""

    names: tuple[str, ...]
    of_sample: Int[Tensor, " sample"]
    """Index into `names`."""


def read_groups(samples: Samples, place: str) -> Groups:
    """Read the category of every sample from `place`, a field as in `EvalDatasetConfig.label`; the names are sorted.

    Raises:
        UserError: a sample has none.
    """
    field = parse_field(place, f"{samples.name}.group")
    members = (samples.members(i, (field.extension,)) for i in range(len(samples)))
    return group_by_name([str(read_label(field, found, samples.sample_id(i))) for i, found in enumerate(members)])


def group_by_name(names_of_samples: Sequence[str]) -> Groups:
    """The categories of samples that each carry a name."""
    names = tuple(sorted(set(names_of_samples)))
    index_of = {name: index for index, name in enumerate(names)}
    return Groups(names, torch.tensor([index_of[name] for name in names_of_samples], dtype=torch.long))
