"""TOML tables to configuration objects and back; every mistake in a table is one line that names the nearest right word."""

import dataclasses
import json
import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import tomli_w
from pydantic import TypeAdapter, ValidationError

from mmclip.errors import UserError
from mmclip.near import did_you_mean, nearest
from mmclip_data.stores.urls import without_secrets

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a file.

    Raises:
        UserError: there is no such file, or it is no TOML; the message holds the line.
    """
    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        names = [file.name for file in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        near = nearest(path.name, names)
        hint = f"; nearest in {path.parent}: {', '.join(near)}" if near else ""
        raise UserError(f"{path}: no such file{hint or '; expected the path of a run file (TOML)'}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8, which TOML is written in: "
            "save the file as UTF-8"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: expected a run file, such as {path}/NAME.toml") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def from_table(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """A configuration object from a table, strictly: lists become tuples and 1 becomes 1.0, and nothing else is converted.

    Raises:
        UserError: one line for each unknown key, wrong type and wrong union name.
    """
    try:
        # JSON mode, because strict Python mode would refuse a list for a tuple, and TOML has no tuples.
        return TypeAdapter(cls).validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as error:
        raise UserError("\n".join(f"{where}: {line}" for line in explain(cls, error))) from None


def explain(cls: type, error: ValidationError) -> list[str]:
    """One readable line for each fault that pydantic found."""
    faults = error.errors(include_url=False)
    # A misspelt key is also a missing one: what was meant comes first.
    return [_explain_one(cls, fault) for fault in sorted(faults, key=lambda fault: fault["type"].startswith("missing"))]


def to_toml(config: Any) -> str:
    """The file that loads back to an equal object; what is None is left out, since TOML has no word for it."""
    return tomli_w.dumps(to_table(config))


def to_table(config: Any) -> dict[str, Any]:
    """Nested tables of plain values, without those that are None and without the signatures of signed URLs."""
    return without_secrets(_plain(dataclasses.asdict(config)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    return value


def _explain_one(cls: type, fault: Mapping[str, Any]) -> str:
    path, owner = _walk(cls, fault["loc"])
    name = ".".join(path)
    kind, got = fault["type"], fault.get("input")
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        known = [f.name for f in dataclasses.fields(owner)] if owner is not None else []
        return f"{name}: unknown key; {did_you_mean(path[-1], known, after=' ')}known keys: {', '.join(known)}"
    if kind == "union_tag_invalid":
        expected = fault["ctx"]["expected_tags"].replace("'", "").split(", ")
        guess = did_you_mean(str(fault["ctx"]["tag"]), expected, before="; ")
        return f"{name}.type: expected one of {', '.join(expected)}, got {fault['ctx']['tag']!r}{guess}"
    if kind == "union_tag_not_found":
        return f"{name}: the table needs a key 'type' that says which kind it is"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{name}: required key is missing"
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    if kind == "literal_error":
        guess = did_you_mean(str(got), re.findall(r"'([^']*)'", fault["ctx"]["expected"]), before="; ")
        return f"{name}: expected {fault['ctx']['expected']}, got {got!r}{guess}"
    expected = fault["msg"].removeprefix("Input should be ")
    return f"{name}: expected {expected}, got {got!r}"


def _walk(cls: type, location: Sequence[int | str]) -> tuple[list[str], type | None]:
    """The dotted path of a fault without pydantic's union tags, and the dataclass that owns its last name."""
    path: list[str] = []
    here: Any = cls
    owner: type | None = None
    for part in location:
        members = _members(here)
        tagged = [m for m in members if _tag(m) == part] if len(members) > 1 else []
        if tagged:
            here = tagged[0]
            continue
        path.append(str(part))
        member = members[0] if members else None
        if dataclasses.is_dataclass(member) and isinstance(part, str):
            owner = member if isinstance(member, type) else None
            here = get_type_hints(member, include_extras=True).get(part)
        else:
            here = next(iter(get_args(_bare(here))), None)
    return path, owner


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _members(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, None aside."""
    bare = _bare(annotation)
    if get_origin(bare) in (Union, types.UnionType):
        return [member for member in get_args(bare) if member is not type(None)]
    return [] if bare is None else [bare]


def _tag(member: Any) -> str | None:
    if not dataclasses.is_dataclass(member):
        return None
    return next((field.default for field in dataclasses.fields(member) if field.name == "type"), None)  # pyright: ignore


def union_paths(cls: type, prefix: str = "") -> dict[str, dict[str, type]]:
    """Dotted paths of all tagged unions below `cls`, each with its members by tag."""
    found: dict[str, dict[str, type]] = {}
    for name, annotation in get_type_hints(cls, include_extras=True).items():
        members = _members(annotation)
        tags = {tag: member for member in members if (tag := _tag(member))}
        if len(tags) > 1:
            found[f"{prefix}{name}"] = tags
        for member in members:
            if dataclasses.is_dataclass(member) and isinstance(member, type):
                found.update(union_paths(member, f"{prefix}{name}."))
    return found
