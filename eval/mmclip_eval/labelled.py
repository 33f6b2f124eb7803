"""Labels and class names of a classification set, checked against each other."""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from mmclip.errors import UserError
from mmclip_eval.fields import parse_field, read_label
from mmclip_eval.own_classes import classes_of_own
from mmclip_eval.samples import Samples
from mmclip_eval.some_samples import read_each
from mmclip_eval.text_lines import Lines, read_lines

INDICES = "indices alone"
"""Where class names came from if there are none: they are the numbers, which a probe can do with and a prompt cannot."""


@dataclass(frozen=True)
class Labelled:
    """The class of each sample."""

    labels: Int[Tensor, " sample"]
    class_names: tuple[str, ...]
    class_names_source: str
    notes: tuple[str, ...]

    @property
    def is_named(self) -> bool:
        """Whether the classes have names to be put into prompts."""
        return self.class_names_source != INDICES


def read_labelled(
    samples: Samples,
    label: str,
    class_names: str | Lines | Sequence[str] | None,
    own_classes: Lines | None = None,
    bad: dict[int, str] | None = None,
) -> Labelled:
    """Read every label of `samples`.

    `class_names` None takes the set's own (`own_classes`, which its indices stand for), or the sorted names that stand in
    the labels, or the indices. Samples without a label go to `bad` where it is given.

    Raises:
        UserError: a label is missing or names no class, or labels are indices for some and names for others.
    """
    field = parse_field(label, f"{samples.name}.label")

    def read(index: int) -> int | str:
        return read_label(field, samples.members(index, (field.extension,)), samples.sample_id(index))

    raw = [value for _, value in read_each(samples, read, bad)]
    if bad and not raw:
        raise UserError(f"{samples.name}: no sample has a label: {next(iter(bad.values()))}")
    names, source, notes = _class_names(samples.name, own_classes if class_names is None else class_names, raw, label)
    if own_classes is not None and class_names is not None:
        raw, note = classes_of_own(raw, own_classes, names, source, samples.name)
        notes += note
    labels = _label_indices(raw, names, source, samples)
    return Labelled(torch.tensor(labels), names, source, (*notes, *_notes(labels, names)))


def _class_names(
    where: str, choice: str | Lines | Sequence[str] | None, raw: Sequence[int | str], label: str
) -> tuple[tuple[str, ...], str, list[str]]:
    notes: list[str] = []
    if isinstance(choice, str):
        choice = read_lines(Path(choice))
    if isinstance(choice, Lines):
        names, source, notes = choice.lines, choice.source, [*choice.notes]
    elif choice is not None:
        names, source = tuple(choice), "given in the configuration"
    elif all(isinstance(value, str) for value in raw):
        names, source = tuple(sorted({str(value) for value in raw})), f"labels at {label}"
    elif all(isinstance(value, int) for value in raw):
        names, source = tuple(map(str, range(max(2, 1 + max(int(value) for value in raw))))), INDICES
    else:
        raise UserError(
            f"{where}: some labels are indices and some are names, and there are no class names: set class_names"
        )
    if len(names) < 2 or not all(name.strip() for name in names):
        raise UserError(f"{where}: class names from {source}: expected at least 2, none of them blank, got {names[:5]}")
    return names, source, notes


def _label_indices(raw: Sequence[int | str], names: tuple[str, ...], source: str, samples: Samples) -> list[int]:
    index_of = {name: index for index, name in enumerate(names)}
    indices: list[int] = []
    for i, label in enumerate(raw):
        index = label if isinstance(label, int) else index_of.get(label, -1)
        if not 0 <= index < len(names):
            expected = f"0 to {len(names) - 1}" if isinstance(label, int) else _nearest(label, names)
            raise UserError(
                f"sample {samples.sample_id(i)}: label {label!r} is none of the {len(names)} classes from {source}: "
                f"expected {expected}; mend the names or the labels"
            )
        indices.append(index)
    return indices


def _nearest(label: str, names: Sequence[str]) -> str:
    return f"one like {', '.join(difflib.get_close_matches(label, names, n=3) or names[:3])}"


def _notes(labels: Sequence[int], names: Sequence[str]) -> list[str]:
    notes: list[str] = []
    empty = len(names) - len(set(labels))
    if empty:
        notes.append(f"{empty} of {len(names)} classes have no sample; mean_per_class_recall leaves them out")
    twins = [name for name, count in Counter(names).items() if count > 1]
    if twins:
        notes.append(f"class names given more than once: {len(twins)}, such as {twins[0]!r}; a tie is never a hit")
    return notes
