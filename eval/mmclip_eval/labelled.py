"""Labels and class names of a classification set, checked against each other."""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mmclip.errors import UserError
from mmclip_eval.fields import parse_field, read_label
from mmclip_eval.prompts.packaged import ENGLISH
from mmclip_eval.prompts.reading import ClassNames, Names, load_class_names
from mmclip_eval.samples import Samples

INDICES = "indices alone"
"""Where class names came from if there are none: they are the numbers, which a probe can do with and a prompt cannot."""


@dataclass(frozen=True)
class Labelled:
    """The class of each sample."""

    labels: Int[Tensor, " sample"]
    classes: tuple[tuple[str, ...], ...]
    """All names of each class."""
    class_names_source: str
    notes: tuple[str, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class that is shown: its first."""
        return tuple(names[0] for names in self.classes)

    @property
    def is_named(self) -> bool:
        """Whether the classes have names to be put into prompts."""
        return self.class_names_source != INDICES


def read_labelled(samples: Samples, label: str, class_names: str | Names | None, language: str = ENGLISH) -> Labelled:
    """Read every label of `samples`; `class_names` None takes the sorted names that stand in the labels, or the indices.

    Raises:
        UserError: a label is missing or names no class, or labels are indices for some and names for others.
    """
    field = parse_field(label, f"{samples.name}.label")
    members = (samples.members(i, (field.extension,)) for i in range(len(samples)))
    raw = [read_label(field, found, samples.sample_id(i)) for i, found in enumerate(members)]
    names = _class_names(samples.name, class_names, raw, label, language)
    labels = _label_indices(raw, names, samples)
    return Labelled(torch.tensor(labels), names.classes, names.source, (*names.notes, *_notes(labels, names.classes)))


def _class_names(
    where: str, choice: str | Names | None, raw: Sequence[int | str], label: str, language: str
) -> ClassNames:
    if choice is not None:
        return load_class_names(choice, where, language, dataset=where)
    if all(isinstance(value, str) for value in raw):
        found = load_class_names(sorted({str(value) for value in raw}), where, language)
        return ClassNames(found.classes, f"labels at {label}")
    if all(isinstance(value, int) for value in raw):
        numbers = range(max(2, 1 + max(int(value) for value in raw)))
        return ClassNames(tuple((str(number),) for number in numbers), INDICES)
    raise UserError(
        f"{where}: some labels are indices and some are names, and there are no class names: set class_names"
    )


def _label_indices(raw: Sequence[int | str], names: ClassNames, samples: Samples) -> list[int]:
    index_of = {name: index for index, own in enumerate(names.classes) for name in own}
    several = {name for name, count in _uses(names.classes).items() if count > 1}
    indices: list[int] = []
    for i, label in enumerate(raw):
        index = label if isinstance(label, int) else index_of.get(label, -1)
        if not 0 <= index < len(names.classes):
            expected = f"0 to {len(names.classes) - 1}" if isinstance(label, int) else _nearest(label, list(index_of))
            raise UserError(
                f"sample {samples.sample_id(i)}: label {label!r} is none of the {len(names.classes)} classes from "
                f"{names.source}: expected {expected}; mend the names or the labels"
            )
        if label in several:
            raise UserError(
                f"sample {samples.sample_id(i)}: label {label!r} is the name of several classes from {names.source}: "
                "expected indices as labels, or a name for each class"
            )
        indices.append(index)
    return indices


def _uses(classes: Sequence[Sequence[str]]) -> Counter[str]:
    """In how many classes each name stands."""
    return Counter(name for names in classes for name in dict.fromkeys(names))


def _nearest(label: str, names: Sequence[str]) -> str:
    return f"one like {', '.join(difflib.get_close_matches(label, names, n=3) or names[:3])}"


def _notes(labels: Sequence[int], classes: Sequence[Sequence[str]]) -> list[str]:
    notes: list[str] = []
    empty = len(classes) - len(set(labels))
    if empty:
        notes.append(f"{empty} of {len(classes)} classes have no sample; mean_per_class_recall leaves them out")
    twins = [name for name, count in _uses(classes).items() if count > 1]
    if twins:
        notes.append(f"class names given more than once: {len(twins)}, such as {twins[0]!r}; a tie is never a hit")
    return notes
