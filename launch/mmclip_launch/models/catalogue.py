"""Every architecture that can be named: mmclip's presets, and the model_cfg files that come with the installed open_clip.

Both are read without importing open_clip, which takes longer than the whole listing.
"""

import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from mmclip.errors import UserError
from mmclip.towers.presets import PRESETS

MEASURED_BY = ("open_clip_torch", "timm", "torch")
"""Distributions on which a measurement depends."""
REQUIRED_KEYS = ("embed_dim", "vision_cfg", "text_cfg")
"""What open_clip itself asks of a file before it lists it."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One name that `model.arch` may hold."""

    name: str
    home: Literal["mmclip", "open_clip"]
    model_cfg: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any setting of the model_cfg."""
        canonical = json.dumps(self.model_cfg, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def architectures(config_folder: Path | None = None) -> list[Architecture]:
    """The presets, then open_clip's architectures in the order of a person (B-16 after B-8).

    Raises:
        UserError: open_clip is not installed.
    """
    folder = config_folder or _open_clip_configs()
    tables = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    named = {name: table for name, table in tables.items() if all(key in table for key in REQUIRED_KEYS)}
    presets = [Architecture(name=name, home="mmclip", model_cfg=table) for name, table in PRESETS.items()]
    return presets + [
        Architecture(name=name, home="open_clip", model_cfg=named[name]) for name in sorted(named, key=natural_key)
    ]


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Sorts digits as numbers and letters without case."""
    parts = re.split(r"(\d+)", name.lower())
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def installed_versions() -> dict[str, str]:
    """Versions that a measurement made now would depend on, without local suffixes such as `+cpu`."""
    return {name: version(name).partition("+")[0] for name in MEASURED_BY}


def _open_clip_configs() -> Path:
    found = importlib.util.find_spec("open_clip")
    if found is None or found.origin is None:
        raise UserError("open_clip is not installed: pip install open_clip_torch")
    return Path(found.origin).parent / "model_configs"
