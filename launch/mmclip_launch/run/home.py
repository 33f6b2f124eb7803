"""A `~` in a run file is the user's folder, as in a shell: without that, `output = "~/runs/x"` makes a folder named `~`."""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def at_home(config: T) -> T:
    """A configuration whose texts that begin with `~/` name what a shell would have them name."""
    return _at_home(config)


def _at_home(value: Any) -> Any:
    if isinstance(value, str):
        return str(Path(value).expanduser()) if value.startswith("~/") else value
    if isinstance(value, tuple):
        return tuple(map(_at_home, value))
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    changed = {name: new for name, old in fields.items() if (new := _at_home(old)) != old}
    return dataclasses.replace(value, **changed) if changed else value
