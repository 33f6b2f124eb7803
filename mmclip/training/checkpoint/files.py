"""Files of a checkpoint before they are bytes: what stands in each, and under which name."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from torch import Tensor


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file; the tensors may lie on any device and in any layout."""

    path: str
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class BytesFile:
    """A file of few bytes."""

    path: str
    content: bytes


File: TypeAlias = TensorFile | BytesFile


def written_by(write: Callable[[Path], None], prefix: str = "") -> list[BytesFile]:
    """The files that a library writes into a folder, which is the only way it offers."""
    with tempfile.TemporaryDirectory(prefix="mmclip-") as folder:
        write(Path(folder))
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return [BytesFile(f"{prefix}{path.relative_to(folder)}", path.read_bytes()) for path in paths]
