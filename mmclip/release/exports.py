"""Weights out: a folder in one of the `formats`, checked against its own reader before anybody can see it."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmclip.envelope import MANIFEST, publish, sha256, verify
from mmclip.errors import UserError
from mmclip.release.formats import DEFAULT_FORMAT, FORMATS, Writer
from mmclip.release.sources import load, sha256_of, source_folder
from mmclip.towers.two_tower import TwoTower
from mmclip.training.checkpoint.contents import STATE_FILE


@dataclass(frozen=True)
class Exported:
    """What was written, and what is known of it."""

    folder: Path
    writer: Writer
    """Of the format."""
    weights_sha256: str
    """Of `writer.weights_file`."""
    source_sha256: str | None
    """Of the weights file that was read; None for weights of open_clip's registry."""
    difference: float | None
    """Largest difference to the format's own reader on the fixed batch; None where nobody looked."""


Describe = Callable[[TwoTower, Exported], Mapping[str, str]]
"""Text files to add, by name, such as a model card."""


def export(
    source: str | Path,
    folder: Path,
    *,
    writer: Writer = FORMATS[DEFAULT_FORMAT],
    force: bool = False,
    compare: bool = True,
    raw: bool = False,
    describe: Describe | None = None,
) -> Exported:
    """Write the towers of `source` (see `load`) to `folder`: weights, configuration, tokenizer, and nothing of the training.

    The folder appears whole and sealed by a manifest, or not at all. `writer` is one of `FORMATS`; `force` replaces an
    earlier export; `compare` asks the format's own reader before that; `raw` takes the weights themselves of a run that
    averages them.

    Raises:
        UserError: the source does not load, something else stands at `folder`, the format cannot hold the towers, or its
            reader embeds differently.
    """
    check_target(folder, force)
    model, source_sha256 = _loaded(str(source), raw)
    written: list[Exported] = []

    def write(temporary: Path) -> None:
        writer.write(model, temporary)
        # safetensors writes for its owner alone; an export is for others.
        for path in temporary.rglob("*.safetensors"):
            path.chmod(temporary.stat().st_mode & 0o666)
        difference = writer.difference(model, temporary) if compare else None
        weights_sha256 = sha256(temporary / writer.weights_file)
        written.append(Exported(folder, writer, weights_sha256, source_sha256, difference))
        texts = describe(model, written[0]) if describe else {}
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")

    try:
        publish(folder, write)
    except BaseException:
        shutil.rmtree(folder.parent / f".tmp-{folder.name}", ignore_errors=True)
        raise
    return written[0]


def check_target(folder: Path, force: bool) -> None:
    """Refuse a place where something else stands; `force` allows an earlier export there.

    Raises:
        UserError: saying what stands there.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is a {'link' if folder.is_symlink() else 'file'}: give a folder that does not exist")
    if not folder.exists() or not any(folder.iterdir()):
        return
    problem = _no_export(folder)
    if problem:
        raise UserError(
            f"{folder} exists and {problem}: give another folder; --force replaces what `mmclip export` wrote, nothing else"
        )
    if not force:
        raise UserError(f"{folder} already holds an export: give another folder, or --force to replace it")


def _loaded(source: str, raw: bool) -> tuple[TwoTower, str | None]:
    folder = source_folder(source)
    if folder is None:
        return load(source), None
    if (folder / STATE_FILE).is_file():  # a checkpoint is sealed; other folders need not be
        verify(folder)
    return load(folder, raw=raw), sha256_of(folder, raw)


def _no_export(folder: Path) -> str | None:
    """Why `folder` is not exactly what an export wrote; None where it is."""
    try:
        listed = set(json.loads((folder / MANIFEST).read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"is no export (it has no readable {MANIFEST})"
    if STATE_FILE in listed or not any(writer.files <= listed for writer in FORMATS.values()):
        return "is no export, but a training checkpoint" if STATE_FILE in listed else "is no export"
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
    others = sorted(present - listed - {MANIFEST})
    return f"holds what no export wrote ({', '.join(others[:3])})" if others else None
