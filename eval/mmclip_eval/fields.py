"""Where a sample keeps its label and captions: the little language of these two fields of a data set's config.

`cls` is the whole member, `txt:lines` its lines, `json:name` or `meta.json:info.name` a field of a JSON member, `npy:0` an
entry of a vector.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmclip.errors import UserError


@dataclass(frozen=True)
class Field:
    """One place inside a sample."""

    extension: str
    path: tuple[str, ...] = ()
    """Keys down into a JSON member; empty for a text member."""
    by_line: bool = False
    """Whether each line of a text member is a value of its own."""
    entry: int | None = None
    """Of a vector."""

    @property
    def text(self) -> str:
        """The form that `parse_field` reads."""
        tail = "lines" if self.by_line else ".".join(self.path) if self.entry is None else str(self.entry)
        return f"{self.extension}:{tail}" if tail else self.extension


def parse_field(text: str, where: str) -> Field:
    """Read `EXTENSION`, `EXTENSION:lines`, `EXTENSION:FIELD` (for those that end in json) or `EXTENSION:INDEX` (in npy).

    Raises:
        UserError: `text` is none of these; `where` opens the message.
    """
    extension, colon, tail = text.partition(":")
    is_json = extension == "json" or extension.endswith(".json")
    if extension and is_json and tail and all(tail.split(".")):
        return Field(extension, path=tuple(tail.split(".")))
    if (extension == "npy" or extension.endswith(".npy")) and tail.isascii() and tail.isdigit():
        return Field(extension, entry=int(tail))
    if extension and not is_json and (not colon or tail == "lines"):
        return Field(extension, by_line=tail == "lines")
    raise UserError(
        f"{where}: {text!r} is no place in a sample; expected one like txt, txt:lines, cls, json:caption, npy:0"
    )


def read_value(field: Field, members: Mapping[str, bytes], sample_id: str) -> Any:
    """The value of `field`: text, a list of lines, whatever JSON holds there, or None where the sample lacks it.

    Raises:
        UserError: the member is not UTF-8 or not JSON; names the sample.
    """
    if field.extension not in members:
        return None
    if field.entry is not None:
        return _entry(field, members[field.extension], sample_id)
    try:
        text = members[field.extension].decode("utf-8")
        if not field.path:
            return text.splitlines() if field.by_line else text
        value: Any = json.loads(text)
    except ValueError as error:  # covers UnicodeDecodeError and JSONDecodeError
        raise UserError(f"sample {sample_id}, member .{field.extension}: not readable: {error}") from error
    for key in field.path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _entry(field: Field, content: bytes, sample_id: str) -> int | float | str:
    """One entry of a vector; DataComp keeps whole numbers as floats now and then.

    Raises:
        UserError: there is no such entry.
    """
    try:
        vector = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"sample {sample_id}, member .{field.extension}: not readable: {error}") from error
    assert field.entry is not None
    if vector.ndim != 1 or field.entry >= len(vector):
        raise UserError(
            f"sample {sample_id}, {field.text}: expected a vector of at least {field.entry + 1} entries, got shape "
            f"{vector.shape}"
        )
    value = vector[field.entry].item()
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_captions(field: Field, members: Mapping[str, bytes], sample_id: str) -> list[str]:
    """The captions in `field`, stripped (so a blank one is ""); none where the sample lacks the field.

    Raises:
        UserError: a JSON value is neither a string nor a list of strings.
    """
    value = read_value(field, members, sample_id)
    values = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(caption, str) for caption in values):
        raise UserError(f"sample {sample_id}, {field.text}: expected a string or a list of strings, got {value!r:.80}")
    return [caption.strip() for caption in values]


def read_label(field: Field, members: Mapping[str, bytes], sample_id: str) -> int | str:
    """A class index, or the name of a class. In a text member, digits are an index.

    Raises:
        UserError: the sample has no label, or it is neither.
    """
    value = read_value(field, members, sample_id)
    if isinstance(value, str):
        value = value.strip()
        if not field.path and value.isascii() and value.isdigit():
            value = int(value)
    if value is None or value == "" or isinstance(value, bool) or not isinstance(value, int | str):
        found = ", ".join(f".{extension}" for extension in members) or "none of the members asked for"
        raise UserError(
            f"sample {sample_id}: no label at {field.text}: expected a class index or name, got {value!r:.80} "
            f"(read: {found}{_keys(field, members)}); set label (--label, data.labels.place) to the place of the class: cls, "
            "or json:FIELD"
        )
    return value


def _keys(field: Field, members: Mapping[str, bytes]) -> str:
    """The keys of a JSON member in which one was sought."""
    table = read_value(Field(field.extension, field.path[:-1]), members, "") if len(field.path) > 1 else None
    if len(field.path) == 1 and field.extension in members:
        table = json.loads(members[field.extension])
    return f" with keys {', '.join(list(table)[:8])}" if isinstance(table, dict) else ""
