"""What changed for each group of samples: an average hides that one group pays for another."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmclip_eval.compare.behaviour.flips import accuracy_change
from mmclip_eval.compare.behaviour.seen import Seen
from mmclip_eval.compare.change import Change
from mmclip_eval.groups import Groups

FEWEST = 2
"""Samples below which a group has no halves, and says nothing."""


@dataclass(frozen=True)
class GroupChange:
    """The accuracy of one group, and how often both models agree on it."""

    name: str
    samples: int
    accuracy: Change
    agreement: float


@dataclass(frozen=True)
class ByGroup:
    """All groups that are large enough, the one that lost most first."""

    kind: str
    """What the groups are: groups of the set, or its classes."""
    rows: tuple[GroupChange, ...]
    left_out: tuple[str, ...]
    """Groups of fewer than `FEWEST` samples."""


def by_group(a: Seen, b: Seen, against: Sequence[Seen] = ()) -> ByGroup:
    """By the groups that the set names, else by its classes."""
    dataset = a.dataset
    groups = dataset.groups or Groups(dataset.labelled.class_names, dataset.labelled.labels)
    rows: list[GroupChange] = []
    left_out: list[str] = []
    for number in torch.unique(groups.of_sample).tolist():
        own = groups.of_sample == number
        if int(own.sum()) < FEWEST:
            left_out.append(groups.names[number])
            continue
        change = accuracy_change(a.said.correct[own], b.said.correct[own], [one.said.correct[own] for one in against])
        agreement = float((a.said.predicted[own] == b.said.predicted[own]).double().mean())
        rows.append(GroupChange(groups.names[number], int(own.sum()), change, agreement))
    rows.sort(key=lambda row: (row.accuracy.value, row.name))
    return ByGroup("groups" if dataset.groups else "classes", tuple(rows), tuple(left_out))
