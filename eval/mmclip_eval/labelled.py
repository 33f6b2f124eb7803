"""Labels and class names of a classification set, checked against each other."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mmclip.errors import UserError
from mmclip.near import nearest
from mmclip_eval.fields import parse_field, read_label
from mmclip_eval.own_classes import classes_of_own
from mmclip_eval.prompts.packaged import ENGLISH
from mmclip_eval.prompts.reading import ClassNames, Names, load_class_names
from mmclip_eval.samples import Samples
from mmclip_eval.some_samples import read_each
from mmclip_eval.text_lines import Lines

NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
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


def read_labelled(
    samples: Samples,
    label: str,
    class_names: str | Names | Lines | None,
    language: str = ENGLISH,
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

    found = list(read_each(samples, read, bad))
    if bad and not found:
        raise UserError(f"{samples.name}: no sample has a label: {next(iter(bad.values()))}")
    raw, notes = [value for _, value in found], []
    names = _class_names(samples.name, own_classes if class_names is None else class_names, raw, label, language)
    if own_classes is not None and class_names is not None:
        raw, notes = classes_of_own(raw, own_classes, names.classes, names.source, samples.name)
    labels = _label_indices(raw, names, lambda position: samples.sample_id(found[position][0]))
    notes = (*names.notes, *notes, *_notes(labels, names.classes))
    return Labelled(torch.tensor(labels), names.classes, names.source, notes)


def _class_names(
    where: str, choice: str | Names | Lines | None, raw: Sequence[int | str], label: str, language: str
) -> ClassNames:
    if choice is not None:
        return load_class_names(choice, where, language, dataset=where)
    if all(isinstance(value, str) for value in raw):
        names = sorted({str(value) for value in raw})
        return load_class_names(names, where, language, given=f"labels at {label}")
    if all(isinstance(value, int) for value in raw):
        numbers = range(max(2, 1 + max(int(value) for value in raw)))
        return ClassNames(tuple((str(number),) for number in numbers), INDICES)
    raise UserError(
        f"{where}: some labels are indices and some are names, and there are no class names: set class_names"
    )


def _label_indices(raw: Sequence[int | str], names: ClassNames, sample_id: Callable[[int], str]) -> list[int]:
    index_of = {name: index for index, own in enumerate(names.classes) for name in own}
    several = {name for name, count in _uses(names.classes).items() if count > 1}
    indices: list[int] = []
    for i, label in enumerate(raw):
        index = label if isinstance(label, int) else index_of.get(label, -1)
        if not 0 <= index < len(names.classes):
            numbers = f"0 to {len(names.classes) - 1}"
            expected = numbers if isinstance(label, int) else _nearest(label, list(index_of), numbers)
            raise UserError(
                f"sample {sample_id(i)}: label {label!r} is none of the {len(names.classes)} classes from "
                f"{names.source}: expected {expected}; mend the names or the labels"
            )
        if label in several:
            raise UserError(
                f"sample {sample_id(i)}: label {label!r} is the name of several classes from {names.source}: "
                "expected indices as labels, or a name for each class"
            )
        indices.append(index)
    return indices


def _uses(classes: Sequence[Sequence[str]]) -> Counter[str]:
    """In how many classes each name stands."""
    return Counter(name for names in classes for name in dict.fromkeys(names))


def _nearest(label: str, names: Sequence[str], numbers: str) -> str:
    if NUMBER.fullmatch(label):
        return f"a whole number, {numbers}, or a name"
    return f"one like {', '.join(list(dict.fromkeys([*nearest(label, names), *names]))[:3])}"


def _notes(labels: Sequence[int], classes: Sequence[Sequence[str]]) -> list[str]:
    notes: list[str] = []
    empty = len(classes) - len(set(labels))
    if empty:
        notes.append(f"{empty} of {len(classes)} classes have no sample; mean_per_class_recall leaves them out")
    twins = [name for name, count in _uses(classes).items() if count > 1]
    if twins:
        notes.append(f"class names given more than once: {len(twins)}, such as {twins[0]!r}; a tie is never a hit")
    return notes
