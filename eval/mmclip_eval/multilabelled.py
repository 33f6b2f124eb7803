"""Which of its classes each sample shows, where it may show several."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from mmclip.errors import UserError
from mmclip_eval.fields import Field, parse_field, read_value
from mmclip_eval.prompts.packaged import ENGLISH
from mmclip_eval.prompts.reading import ClassNames, Names, load_class_names
from mmclip_eval.samples import Samples
from mmclip_eval.some_samples import read_each
from mmclip_eval.text_lines import Lines


@dataclass(frozen=True)
class Multilabelled:
    """What multi-label classification needs."""

    positive: Bool[Tensor, "sample class"]
    classes: tuple[tuple[str, ...], ...]
    """All names of each class."""
    class_names_source: str
    notes: tuple[str, ...]
    is_named: ClassVar[bool] = True
    """Indices alone are refused."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class that is shown: its first."""
        return tuple(names[0] for names in self.classes)


def read_multilabelled(
    samples: Samples,
    label: str,
    class_names: str | Names | Lines | None,
    language: str = ENGLISH,
    bad: dict[int, str] | None = None,
) -> Multilabelled:
    """Read the classes of every sample: a multi-hot vector in `npy`, or a JSON list of class names or indices.

    Samples in which nothing of the kind can be read go to `bad` where it is given.

    Raises:
        UserError: a sample has none, names no class, or its vector is as long as there are no classes; or the classes
            have no names.
    """
    field = parse_field(label, f"{samples.name}.label")
    found = list(read_each(samples, lambda index: _read(samples, index, field), bad))
    if bad and not found:
        raise UserError(f"{samples.name}: no sample has labels: {next(iter(bad.values()))}")
    raw = [value for _, value in found]
    names = _class_names(samples.name, class_names, raw, label, language)
    index_of = _indices_of(names.classes)
    classes, notes = len(names.classes), list(names.notes)
    rows = [_row(value, classes, index_of, f"sample {samples.sample_id(i)}, {label}") for i, value in found]
    positive = torch.stack(rows)
    empty = int((~positive.any(dim=0)).sum())
    if empty == classes:
        raise UserError(f"{samples.name}: no sample shows any of the {classes} classes from {names.source}")
    if empty:
        notes.append(f"{empty} of {classes} classes are shown by no sample; mean_average_precision leaves them out")
    return Multilabelled(positive, names.classes, names.source, tuple(notes))


def _read(samples: Samples, index: int, field: Field) -> Any:
    sample_id, members = samples.sample_id(index), samples.members(index, (field.extension,))
    if field.extension not in members:
        raise UserError(
            f"sample {sample_id}: no labels at {field.text}: set label (--label) to the place of the classes: npy, or "
            "json:FIELD"
        )
    if field.extension.rpartition(".")[2] != "npy":
        return read_value(field, members, sample_id)
    try:
        return np.load(io.BytesIO(members[field.extension]), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"sample {sample_id}, member .{field.extension}: not readable: {error}") from error


def _class_names(
    where: str, choice: str | Names | Lines | None, raw: Sequence[Any], label: str, language: str
) -> ClassNames:
    if choice is not None:
        return load_class_names(choice, where, language, dataset=where)
    given = [name for value in raw if isinstance(value, list) for name in value]
    if not given or not all(isinstance(name, str) for name in given):
        raise UserError(f"{where}: labels are indices but there are no class names; set class_names to a file or list")
    return load_class_names(sorted(set(given)), where, language, given=f"labels at {label}")


def _indices_of(classes: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """The classes that each name stands for."""
    found: dict[str, list[int]] = {}
    for index, names in enumerate(classes):
        for name in dict.fromkeys(names):
            found.setdefault(name, []).append(index)
    return found


def _row(value: Any, classes: int, index_of: Mapping[str, Sequence[int]], where: str) -> Tensor:
    if isinstance(value, np.ndarray):
        if value.shape != (classes,) or not np.isin(value, (0, 1)).all():
            raise UserError(
                f"{where}: expected {classes} zeros and ones, one a class, got shape {value.shape} with values "
                f"{np.unique(value)[:4].tolist()}"
            )
        return torch.from_numpy(value != 0)
    if not isinstance(value, list):
        raise UserError(f"{where}: expected a list of class names or indices, got {value!r:.80}")
    row = torch.zeros(classes, dtype=torch.bool)
    for entry in value:
        meant = index_of.get(entry, ()) if isinstance(entry, str) else [entry]
        if len(meant) > 1:
            raise UserError(f"{where}: {entry!r} is the name of several classes: expected a name for each, or indices")
        index = meant[0] if meant else -1
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < classes:
            raise UserError(f"{where}: {entry!r:.80} is none of the {classes} classes; mend the names or the labels")
        row[index] = True
    return row
