"""Which of its classes each sample shows, where it may show several."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from mmclip.errors import UserError
from mmclip_eval.fields import Field, parse_field, read_value
from mmclip_eval.samples import Samples
from mmclip_eval.text_lines import read_lines


@dataclass(frozen=True)
class Multilabelled:
    """What multi-label classification needs."""

    positive: Bool[Tensor, "sample class"]
    class_names: tuple[str, ...]
    class_names_source: str
    notes: tuple[str, ...]


def read_multilabelled(samples: Samples, label: str, class_names: str | Sequence[str] | None) -> Multilabelled:
    """Read the classes of every sample: a multi-hot vector in `npy`, or a JSON list of class names or indices.

    Raises:
        UserError: a sample has none, names no class, or its vector is as long as there are no classes; or the classes
            have no names.
    """
    field = parse_field(label, f"{samples.name}.label")
    raw = [_read(samples, i, field) for i in range(len(samples))]
    names, source, notes = _class_names(samples.name, class_names, raw, label)
    rows = [_row(value, names, f"sample {samples.sample_id(i)}, {label}") for i, value in enumerate(raw)]
    positive = torch.stack(rows)
    empty = int((~positive.any(dim=0)).sum())
    if empty == len(names):
        raise UserError(f"{samples.name}: no sample shows any of the {len(names)} classes from {source}")
    if empty:
        notes.append(f"{empty} of {len(names)} classes are shown by no sample; mean_average_precision leaves them out")
    return Multilabelled(positive, names, source, tuple(notes))


def _read(samples: Samples, index: int, field: Field) -> Any:
    sample_id, members = samples.sample_id(index), samples.members(index, (field.extension,))
    if field.extension not in members:
        raise UserError(
            f"sample {sample_id}: no labels at {field.text}: set label (--label) to the place of the classes: npy, or "
            "json:FIELD"
        )
    if field.extension != "npy":
        return read_value(field, members, sample_id)
    try:
        return np.load(io.BytesIO(members["npy"]), allow_pickle=False)
    except ValueError as error:
        raise UserError(f"sample {sample_id}, member .npy: not readable: {error}") from error


def _class_names(
    where: str, choice: str | Sequence[str] | None, raw: Sequence[Any], label: str
) -> tuple[tuple[str, ...], str, list[str]]:
    if isinstance(choice, str):
        lines = read_lines(Path(choice))
        notes = [f"{Path(choice).name}: blank lines left out at the end: {lines.blank_at_end}"] * bool(
            lines.blank_at_end
        )
        return lines.lines, choice, notes
    if choice is not None:
        return tuple(choice), "given in the configuration", []
    given = [name for value in raw if isinstance(value, list) for name in value]
    if not given or not all(isinstance(name, str) for name in given):
        raise UserError(f"{where}: labels are indices but there are no class names; set class_names to a file or list")
    return tuple(sorted(set(given))), f"labels at {label}", []


def _row(value: Any, names: tuple[str, ...], where: str) -> Tensor:
    classes = len(names)
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
        index = names.index(entry) if entry in names else entry
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < classes:
            raise UserError(f"{where}: {entry!r:.80} is none of the {classes} classes; mend the names or the labels")
        row[index] = True
    return row
