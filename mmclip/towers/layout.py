"""Tensors in files by rows: `NAME.layout.json` says which rows of which tensor stand in each `NAME-0000R-of-0000N.safetensors`.

Each rank of a sharded run writes the rows that it holds, and needs nobody for that. File r holds the r-th chunk of `rows` rows
of a tensor; the last files hold fewer of them, or none. A tensor without `rows` stands whole in the first file.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmclip.errors import UserError
from mmclip.ops.shards import is_sharded, place, rows_each

WEIGHTS_LAYOUT, RAW_LAYOUT = "weights.layout.json", "raw_weights.layout.json"
LAYOUT = ".layout.json"
VERSION = 1


def layout_of(name: str) -> str:
    """The file that describes the tensors called `name`."""
    return f"{name}{LAYOUT}"


def shard_file(name: str, rank: int, ranks: int) -> str:
    """The file that holds a rank's rows of them."""
    return f"{name}-{rank:05d}-of-{ranks:05d}.safetensors"


def describe(tensors: Mapping[str, Tensor], ranks: int) -> bytes:
    """The layout of tensors of which this rank may hold a part; every rank would write the same."""
    table: dict[str, dict[str, Any]] = {}
    for name, tensor in sorted(tensors.items()):
        table[name] = {"shape": list(tensor.shape)}
        if is_sharded(tensor):
            table[name]["rows"] = rows_each(tensor.shape[0], place(tensor)[1])
    return (json.dumps({"version": VERSION, "files": ranks, "tensors": table}, indent=1) + "\n").encode()


@dataclass(frozen=True)
class Stored:
    """Tensors that stand in one file or in several."""

    path: Path
    """The layout, or the one file: what errors name."""
    shapes: Mapping[str, tuple[int, ...]]
    rows: Mapping[str, int]
    """Rows of each file, of the tensors that stand in several."""
    files: tuple[Any, ...]

    def read(self, name: str, start: int = 0, end: int | None = None) -> Tensor:
        """Rows from `start` to before `end` of a tensor, from the files that hold some of them.

        Raises:
            UserError: a file holds other rows than the layout says.
        """
        shape = self.shapes[name]
        if not shape:
            return self.files[0].get_tensor(name)
        end = shape[0] if end is None else end
        each = self.rows.get(name, max(1, shape[0]))
        parts = []
        for number in range(start // each if each else 0, len(self.files)):
            begin, behind = number * each, min((number + 1) * each, shape[0])
            if begin >= end or behind <= begin:
                break
            parts.append(self._rows(number, name, max(start, begin) - begin, min(end, behind) - begin, behind - begin))
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts) if parts else self._rows(0, name, 0, 0, min(each, shape[0]))

    def _rows(self, number: int, name: str, start: int, end: int, held: int) -> Tensor:
        part = self.files[number].get_slice(name)
        if tuple(part.get_shape()) != (held, *self.shapes[name][1:]):
            raise UserError(
                f"{self.path}: {name} should have {held} rows in file {number}, which has shape {part.get_shape()}: the files "
                "do not belong together; take an earlier checkpoint"
            )
        return part[start:end]


@contextmanager
def stored(path: Path) -> Iterator[Stored]:
    """Open a layout with its files, or one safetensors file.

    Raises:
        UserError: a file is missing or damaged, or the layout is none.
    """
    with ExitStack() as stack:
        try:
            opened = _open_layout(path, stack) if path.name.endswith(LAYOUT) else _open_file(path, stack)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} cannot be read ({type(error).__name__}: {error}): cut short or damaged; copy it again from where it "
                "is whole"
            ) from error
        yield opened


def _open_file(path: Path, stack: ExitStack) -> Stored:
    file: Any = stack.enter_context(safe_open(path, framework="pt"))
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    return Stored(path, shapes, {}, (file,))


def _open_layout(path: Path, stack: ExitStack) -> Stored:
    table = json.loads(path.read_text(encoding="utf-8"))
    if table["version"] != VERSION:
        raise UserError(
            f"{path} has version {table['version']}: expected {VERSION}; load it with the mmclip that wrote it"
        )
    name, ranks, tensors = path.name.removesuffix(LAYOUT), int(table["files"]), table["tensors"]
    paths = [path.with_name(shard_file(name, rank, ranks)) for rank in range(ranks)]
    files = tuple(stack.enter_context(safe_open(one, framework="pt")) for one in paths)
    shapes = {key: tuple(int(side) for side in entry["shape"]) for key, entry in tensors.items()}
    rows = {key: int(entry["rows"]) for key, entry in tensors.items() if "rows" in entry}
    return Stored(path, shapes, rows, files)


def read_all(path: Path) -> dict[str, Tensor]:
    """Every tensor of a layout, put together.

    Raises:
        UserError: as `stored` does.
    """
    with stored(path) as tensors:
        return {name: tensors.read(name) for name in tensors.shapes}


__all__ = [
    "LAYOUT",
    "RAW_LAYOUT",
    "WEIGHTS_LAYOUT",
    "Stored",
    "describe",
    "layout_of",
    "read_all",
    "shard_file",
    "stored",
]
