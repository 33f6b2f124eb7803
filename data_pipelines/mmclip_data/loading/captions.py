"""Which text of a sample becomes its caption."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from mmclip.errors import BadSampleError, UserError
from mmclip.randomness import Stream, integer


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


def captions_of(sample: dict[str, Any], fields: Sequence[str]) -> list[str]:
    """Every caption of a sample, in the order of `fields`, without repetition.

    Raises:
        BadSampleError: no field yields a caption, or a member is not UTF-8 or not JSON.
    """
    found: list[str] = []
    table: Any = None
    for field in fields:
        member, colon, path = field.partition(":")
        if member not in sample:
            continue
        try:
            if not colon:
                found.append(sample[member].decode())
                continue
            table = json.loads(sample[member]) if table is None else table
        except ValueError as error:
            raise BadSampleError(f"member {member!r}: {error}") from error
        found.extend(_texts(table, path))
    captions = list(dict.fromkeys(text for text in (text.strip() for text in found) if text))
    if not captions:
        raise BadSampleError(f"no caption in {', '.join(fields)}")
    return captions


def choose_caption(captions: Sequence[str], seed: int, position: int) -> str:
    """One caption, each equally likely, as a function of the sample's position alone."""
    return captions[integer(seed, Stream.CAPTION, position, len(captions))] if len(captions) > 1 else captions[0]


def _texts(table: Any, path: str) -> list[str]:
    value = table
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]
