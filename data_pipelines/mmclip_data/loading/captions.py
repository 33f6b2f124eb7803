"""Which text of a sample becomes its caption."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from mmclip.errors import BadSampleError, UserError
from mmclip.randomness import Stream, words


def members_of(fields: Iterable[str]) -> set[str]:
    """The extensions that caption fields read: `txt` of "txt", `json` of "json:captions".

    Raises:
        UserError: a field is neither a member nor a path into one.
    """
    members = set()
    for field in fields:
        member, colon, path = field.partition(":")
        if not member or (colon and (member != "json" or not path)):
            raise UserError(f"caption field {field!r}: expected a member such as 'txt', or 'json:' and a key of it")
        members.add(member)
    return members


def captions_of(sample: dict[str, Any], fields: Sequence[str]) -> list[list[str]]:
    """The captions of a sample, one list for each of `fields` that has any.

    Raises:
        BadSampleError: no field yields a caption, or a member is not UTF-8 or not JSON.
    """
    found: list[list[str]] = []
    table: Any = None
    for field in fields:
        member, colon, path = field.partition(":")
        if member not in sample:
            continue
        try:
            if colon:
                table = json.loads(sample[member]) if table is None else table
                texts = _texts(table, path)
            else:
                texts = [sample[member].decode()]
        except ValueError as error:
            raise BadSampleError(f"member {member!r}: {error}") from error
        texts = [stripped for stripped in (text.strip() for text in texts) if stripped]
        if texts:
            found.append(texts)
    if not found:
        raise BadSampleError(f"no caption in {', '.join(fields)}")
    return found


def choose_caption(captions: Sequence[Sequence[str]], seed: int, position: int) -> str:
    """One field, each equally likely, then one of its captions: a function of the sample's position alone."""
    field, place = (int(word) for word in words(seed, Stream.CAPTION, position, 2))
    chosen = captions[field * len(captions) >> 64]
    return chosen[place * len(chosen) >> 64]


def _texts(table: Any, path: str) -> list[str]:
    value = table
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]
