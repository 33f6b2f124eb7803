"""The files of SugarCrepe, Winoground and ARO: one JSON entry an instance, its pictures named beside its captions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclip.errors import UserError

Box = tuple[int, int, int, int]
"""Left, upper, right, lower, in pixels."""


@dataclass(frozen=True)
class Entry:
    """One instance, whatever file it came from."""

    key: str
    pictures: tuple[str, ...]
    """Names of files in the folder of pictures; of Winoground without an ending."""
    captions: tuple[str, ...]
    """The i-th belongs to the i-th picture, and what is left over to none."""
    box: Box | None
    """The part of the picture that ARO shows."""
    fields: Mapping[str, Any]
    """All that the file says of it."""


def read_entries(path: Path) -> tuple[Entry, ...]:
    """Read a JSON file, or one with a JSON object a line, and tell by its keys which of the forms it is.

    Raises:
        UserError: it is not JSON, holds no entry, or an entry is of no form that is known.
    """
    entries = tuple(_entry(key, fields, path) for key, fields in _keyed(path))
    if not entries:
        raise UserError(f"{path}: no entry in it")
    return entries


def _keyed(path: Path) -> list[tuple[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            content: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            content = json.loads(text)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if isinstance(content, dict):
        return [(str(key), fields) for key, fields in content.items()]
    if not isinstance(content, list):
        raise UserError(f"{path}: expected a list or a table of entries, got {type(content).__name__}")
    return [(str(number), fields) for number, fields in enumerate(content)]


FORMS = {
    "SugarCrepe": ("filename", "caption", "negative_caption"),
    "Winoground": ("image_0", "image_1", "caption_0", "caption_1"),
    "ARO": ("image_path", "true_caption", "false_caption"),
    "ARO's orders": ("image", "caption_options"),
}
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")


def begins_like_an_entry(path: Path) -> bool:
    """Whether the first line is the JSON of an instance."""
    with path.open("rb") as handle:
        first = handle.readline()
    try:
        fields = json.loads(first)
    except ValueError:
        return False
    return isinstance(fields, dict) and any(set(keys) <= fields.keys() for keys in FORMS.values())


def _entry(key: str, fields: Any, path: Path) -> Entry:
    form = next((keys for keys in FORMS.values() if isinstance(fields, dict) and set(keys) <= fields.keys()), None)
    if form is None:
        known = "; ".join(f"{name}: {', '.join(keys)}" for name, keys in FORMS.items())
        found = ", ".join(list(fields)[:8]) if isinstance(fields, dict) else repr(fields)[:80]
        raise UserError(f"{path}, entry {key}: expected the keys of one of {known}; got {found}")
    values = [fields[name] for name in form]
    if form[0] == "image_0":
        pictures, captions = values[:2], values[2:]
    elif form[0] == "image":
        pictures, captions = values[:1], values[1]
    else:
        pictures, captions = values[:1], values[1:]
    if not isinstance(captions, list) or not all(
        isinstance(text, str) and text.strip() for text in captions + pictures
    ):
        raise UserError(f"{path}, entry {key}: {', '.join(form)} must be texts and not blank, got {values!r:.120}")
    return Entry(key, tuple(pictures), tuple(text.strip() for text in captions), _box(fields, key, path), fields)


def _box(fields: Mapping[str, Any], key: str, path: Path) -> Box | None:
    if not set(BOX) <= fields.keys():
        return None
    left, upper, width, height = (fields[name] for name in BOX)
    if not all(isinstance(value, int) for value in (left, upper, width, height)) or width < 1 or height < 1:
        raise UserError(f"{path}, entry {key}: {', '.join(BOX)} must be whole numbers of pixels, and make a box")
    return left, upper, left + width, upper + height
