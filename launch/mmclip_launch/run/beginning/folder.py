"""The run folder: who may write there, and what a resumed run must have in common with the one that began."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclip.errors import UserError
from mmclip_launch.run.config import SAFE_TO_CHANGE, RunConfig, load_run_config
from mmclip_launch.run.tables import to_table, to_toml

CONFIG = "config.toml"


def begin_folder(config: RunConfig) -> None:
    """Make the run folder and write the resolved configuration into it.

    Raises:
        UserError: a run stands there since the folder was checked: another process took it.
        OSError: the folder cannot be written.
    """
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (folder / CONFIG).open("x", encoding="utf-8") as file:
            file.write(to_toml(config))
    except FileExistsError as error:
        raise UserError(f"{folder}: another process began a run there just now: give another --output") from error


def refuse_changes(config: RunConfig, folder: Path) -> None:
    """Compare with the configuration that the run began with.

    Raises:
        UserError: a field differs that would change what is learned; all such fields are listed.
    """
    safe = (*SAFE_TO_CHANGE, "data.source.cache")
    changed = [
        str(change)
        for change in changes(load_run_config(folder / CONFIG), config)
        if not any(f"{change.field}.".startswith(f"{part}.") for part in safe)
    ]
    if changed:
        raise UserError(
            f"{folder} was begun with other settings; a resumed run must keep them:\n"
            + "\n".join(changed)
            + f"\nuse {folder / CONFIG} itself, or go on with these settings in a new folder: --fork {folder} --output NEW"
        )


@dataclass(frozen=True)
class Change:
    """A field of a run file that differs."""

    field: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"  {self.field}: {self.before!r} -> {self.now!r}"


def changes(before: RunConfig, now: RunConfig) -> list[Change]:
    """All fields that differ, by their full names."""
    old, new = _flat(to_table(before)), _flat(to_table(now))
    return [Change(name, old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)]


def record(config: RunConfig) -> None:
    """Write the configuration anew where a resumed run has changed what it may."""
    path = Path(config.output) / CONFIG
    text = to_toml(config)
    if path.read_text(encoding="utf-8") != text:
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


def config_table(config: RunConfig) -> dict[str, Any]:
    """The configuration as flat `a.b.c` names, for trackers."""
    return _flat(to_table(config))


def _flat(table: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(table, dict):
        return {prefix.removesuffix("."): table}
    return {name: value for key, entry in table.items() for name, value in _flat(entry, f"{prefix}{key}.").items()}
