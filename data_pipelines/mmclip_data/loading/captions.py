"""Which text of a sample becomes its caption."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from mmclip.errors import BadSampleError, UserError
from mmclip.randomness import Stream, words

MAX_CHARACTERS = 1 << 14
"""Of a caption; the tokenizer cuts further, by the context of its model."""


def members_of(fields: Iterable[str]) -> set[str]:
    """The extensions that caption fields read: `txt` of "txt" and "txt:lines", `json` of "json:captions".

    Raises:
        UserError: a field is neither a member nor a path into one.
    """
    members = set()
    for field in fields:
        member, colon, path = field.partition(":")
        if not member or (colon and (not path if member == "json" else path != "lines")):
            raise UserError(
                f"caption field {field!r}: expected a member such as 'txt' ('txt:lines' if each line is a caption), or "
                "'json:' and a key of it"
            )
        members.add(member)
    return members


def captions_of(sample: dict[str, Any], fields: Sequence[str]) -> list[list[str]]:
    """The captions of a sample, one list for each of `fields` that has any.

    Raises:
        BadSampleError: no field yields a caption, or a member is not UTF-8 or not readable as JSON.
    """
    found: list[list[str]] = []
    table: Any = None
    for field in fields:
        member, colon, path = field.partition(":")
        if member not in sample:
            continue
        try:
            if path == "lines" and member != "json":
                texts = sample[member].decode().splitlines()
            elif colon:
                table = json.loads(sample[member]) if table is None else table
                texts = _texts(table, path)
            else:
                texts = [sample[member].decode()]
        except (ValueError, RecursionError) as error:  # JSON may nest deeper than Python can follow
            raise BadSampleError(f"member {member!r}: {error}") from error
        texts = [text for text in map(_readable, texts) if text]
        if texts:
            found.append(texts)
    if not found:
        raise BadSampleError(f"no caption in {', '.join(fields)}")
    return found


def _readable(text: str) -> str:
    """The text without its margins, of bounded length; empty where it holds nothing that could be seen."""
    text = text[:MAX_CHARACTERS].replace("\0", " ").lstrip("\ufeff").strip()
    if not text.isascii():  # JSON may hold halves of characters, which no tokenizer takes
        text = text.encode("utf-8", "replace").decode()
    return text if any(character.isprintable() and character != " " for character in text) else ""


def choose_caption(captions: Sequence[Sequence[str]], seed: int, position: int) -> str:
    """One field, each equally likely, then one of its captions: a function of the sample's position alone."""
    field, place = choose_place([len(texts) for texts in captions], seed, position)
    return captions[field][place]


def choose_place(counts: Sequence[int], seed: int, position: int) -> tuple[int, int]:
    """The number of the field and of its caption, of fields with so many captions each."""
    field, place = (int(word) for word in words(seed, Stream.CAPTION, position, 2))
    chosen = field * len(counts) >> 64
    return chosen, place * counts[chosen] >> 64


def _texts(table: Any, path: str) -> list[str]:
    value = table
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]
