"""Whether an architecture can be built here, and if not, why not."""

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmclip_launch.models.catalogue import Architecture
from mmclip_launch.models.records import Measurement


@dataclass(frozen=True)
class Loads:
    """`yes`: with what is on this machine; `hub`: after a download; `no`; `?`: never tried with this open_clip."""

    answer: Literal["yes", "hub", "no", "?"]
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What this machine offers to architectures whose text side comes from Hugging Face."""

    has_transformers: bool
    offline: bool
    """The user has forbidden downloads."""
    is_cached: Callable[[str, str], bool]
    """Whether a file of a repository of the hub is on this machine."""


def surroundings(environment: Mapping[str, str] = os.environ) -> Surroundings:
    """Those of this process."""
    cache = hub_cache(environment)
    return Surroundings(
        has_transformers=importlib.util.find_spec("transformers") is not None,
        offline=environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"),
        is_cached=lambda repository, file: _in_cache(cache, repository, file),
    )


def hub_cache(environment: Mapping[str, str]) -> Path:
    """Where huggingface_hub keeps downloads, by the variables that it documents; asking it would cost half a second."""
    if "HF_HUB_CACHE" in environment:
        return Path(environment["HF_HUB_CACHE"]).expanduser()
    base = Path(environment.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(environment.get("HF_HOME", base)).expanduser() / "hub"


def hub_files(model_cfg: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The (repository, file) pairs without which the text tower or its tokenizer cannot be built."""
    text = model_cfg.get("text_cfg", {})
    files = [("hf_model_name", "config.json"), ("hf_tokenizer_name", "tokenizer_config.json")]
    return [(text[key], file) for key, file in files if text.get(key)]


def loads(architecture: Architecture, measurement: Measurement | None, here: Surroundings) -> Loads:
    """The answer for one architecture: what was tried when it was measured, then what this machine lacks."""
    if measurement is None:
        return Loads("?", "its model_cfg is not in the table: `mmclip models --measure` tries it")
    if measurement.error is not None:
        return Loads("no", measurement.error)
    wanted = hub_files(architecture.model_cfg)
    if wanted and not here.has_transformers:
        return Loads("no", "its text side needs transformers: pip install 'mmclip[hf]'")
    if all(here.is_cached(repository, file) for repository, file in wanted):
        return Loads("yes")
    if here.offline:
        return Loads("no", "HF_HUB_OFFLINE is set, and files of its text side are not in the cache")
    return Loads("hub", "files of its text side are fetched from the Hugging Face hub at first use")


def _in_cache(cache: Path, repository: str, file: str) -> bool:
    snapshots = cache / f"models--{repository.replace('/', '--')}" / "snapshots"
    return any(snapshots.glob(f"*/{file}"))
