"""Measurements and pretrained tags on disk: the table that comes with mmclip, and the user's own additions to it."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmclip.errors import UserError

SHIPPED = Path(__file__).with_name("measured.json")
"""Written by `mmclip models --measure --table PATH`."""
CONVENTION = (
    "FLOPs of one picture and of one caption at full context length: matrix products, convolutions and attention, "
    "a multiply-add counted as two; parameters as TwoTower holds them, total with logit scale and bias"
)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What building an architecture on the meta device showed; None where only the hub could tell."""

    cfg: str
    """Fingerprint of the model_cfg that was measured."""
    image_params: int | None = None
    text_params: int | None = None
    total_params: int | None = None
    image_flops: int | None = None
    text_flops: int | None = None
    image_size: tuple[int, int] | None = None
    """Height and width in pixels."""
    context_length: int | None = None
    embed_dim: int | None = None
    batch_norm: bool = False
    """Batch norm in either tower, which mmclip refuses on several processes."""
    trims_text: bool | None = None
    """Whether training cuts the columns after the longest caption."""
    error: str | None = None
    """Why it cannot be built."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to measure."""
        return self.error is not None or self.total_params is not None

    @property
    def total_flops(self) -> int | None:
        """One picture and its caption."""
        if self.image_flops is None or self.text_flops is None:
            return None
        return self.image_flops + self.text_flops


@dataclass(frozen=True, kw_only=True)
class Records:
    """What one file holds: measurements by architecture, open_clip's tags, and the versions that gave them."""

    versions: dict[str, str] = field(default_factory=dict)
    measurements: dict[str, Measurement] = field(default_factory=dict)
    tags: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """By architecture and tag: open_clip's table (url, hf_hub, mean, std, quick_gelu, ...)."""


def read_records(path: Path) -> Records:
    """The records of a file; none where there is no file.

    Raises:
        UserError: the file is not one of ours.
    """
    if not path.is_file():
        return Records()
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        rows = {
            name: Measurement(**{**row, "image_size": _pair(row.get("image_size"))})
            for name, row in table["architectures"].items()
        }
        return Records(versions=table["versions"], measurements=rows, tags=table["tags"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a table of `mmclip models` ({type(error).__name__}: {error}): "
            "remove it, and `mmclip models --measure` writes it again"
        ) from error


def write_records(path: Path, records: Records) -> None:
    """Write a file with one architecture and one tag a line, for small differences between versions."""
    from mmclip_data.shards.atomic import atomic_file

    tags = ",\n".join(f"{json.dumps(arch)}: {_lines(of_arch)}" for arch, of_arch in records.tags.items())
    parts = (
        f'"convention": {json.dumps(CONVENTION)}',
        f'"versions": {json.dumps(records.versions)}',
        f'"architectures": {_lines({name: _row(m) for name, m in records.measurements.items()})}',
        f'"tags": {{\n{tags}\n}}',
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as handle:
        handle.write(("{\n" + ",\n".join(parts) + "\n}\n").encode())


def cache_file() -> Path:
    """Where a user's own measurements stand."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mmclip" / "models.json"


def _row(measurement: Measurement) -> dict[str, Any]:
    return {key: value for key, value in asdict(measurement).items() if value is not None}


def _lines(rows: Mapping[str, Any]) -> str:
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items()) + "\n}"


def _pair(size: list[int] | None) -> tuple[int, int] | None:
    return (size[0], size[1]) if size else None
