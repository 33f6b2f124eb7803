"""The run folder: who may write there, and what a resumed run must have in common with the one that began."""

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
    before = _flat(to_table(load_run_config(folder / CONFIG)))
    now = _flat(to_table(config))
    safe = (*SAFE_TO_CHANGE, "data.source.cache")
    names = [name for name in {**before, **now} if not any(f"{name}.".startswith(f"{part}.") for part in safe)]
    changed = [
        f"  {name}: {before.get(name)!r} -> {now.get(name)!r}" for name in names if before.get(name) != now.get(name)
    ]
    if changed:
        raise UserError(
            f"{folder} was begun with other settings; a resumed run must keep them:\n"
            + "\n".join(changed)
            + f"\nuse {folder / CONFIG} itself, or start a new run from these weights with --model.init {folder}"
        )


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
