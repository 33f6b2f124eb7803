"""`EvalResult`: what one (checkpoint, data set, task) gave, as one strict JSON file.

A superset of CLIP_benchmark's result file: its six keys and its metric names, and what it takes to repeat them.
"""

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from mmclip.errors import UserError
from mmclip_data.shards.atomic import atomic_file
from mmclip_eval.metrics.bootstrap import LEVEL, REPLICATES, SEED
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.tasks.base import Table

SCHEMA_VERSION = 1
RECORDED_PACKAGES = ("mmclip", "torch", "open_clip_torch", "numpy", "pillow")
MAX_STEM = 100


@dataclass(frozen=True)
class ModelIdentity:
    """Which weights were evaluated, and how they were run."""

    model: str
    """Name of the architecture."""
    precision: str
    """Of the towers' arithmetic, such as fp32; embeddings and scores are fp32 always."""
    checkpoint: str | None = None
    """Path of the checkpoint; None for weights that were never saved."""
    weights_sha256: str | None = None
    """Of the weights file."""


@dataclass(frozen=True)
class EvalResult:
    """Figures of one task with everything that produced them."""

    dataset: str
    task: str
    """Its `type` in a configuration."""
    metrics: Mapping[str, Estimate]
    identity: ModelIdentity
    num_samples: int
    dataset_fingerprint: str
    preprocess: Mapping[str, Any]
    device: str
    chunk_size: int
    language: str = "en"
    split: str = "test"
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the task adds: class names, prompts, number of captions."""
    task_version: int = 1
    """Of the definition of its figures."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The task's own, as they stand in a configuration."""
    tables: Mapping[str, Table] = field(default_factory=dict)
    """Finer figures, such as those of each class."""
    num_skipped: int = 0
    """Samples that could not be read and were left out."""
    num_expected: int | None = None
    """How many samples, with those, are declared."""

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        identity = self.identity
        return {
            "schema_version": SCHEMA_VERSION,
            "dataset": self.dataset,
            "task": self.task,
            "task_version": self.task_version,
            "options": dict(self.options),
            "language": self.language,
            "model": identity.model,
            "pretrained": identity.checkpoint or "",
            "metrics": {name: estimate.value for name, estimate in self.metrics.items()},
            "intervals": {name: list(estimate.interval) for name, estimate in self.metrics.items()},
            "chance": {name: estimate.chance for name, estimate in self.metrics.items()},
            "units": {name: estimate.unit for name, estimate in self.metrics.items()},
            "lower_is_better": [name for name, estimate in self.metrics.items() if estimate.lower_is_better],
            "bootstrap": {"method": "percentile", "level": LEVEL, "replicates": REPLICATES, "seed": SEED},
            "num_samples": self.num_samples,
            "n_seen": self.num_samples,
            "n_skipped": self.num_skipped,
            "n_expected": self.num_expected,
            **self.details,
            "split": self.split,
            "dataset_fingerprint": self.dataset_fingerprint,
            "checkpoint": {"path": identity.checkpoint, "weights_sha256": identity.weights_sha256},
            "preprocess": dict(self.preprocess),
            "precision": identity.precision,
            "device": self.device,
            "chunk_size": self.chunk_size,
            "versions": recorded_versions(),
            "notes": list(self.notes),
            "tables": {name: _plain(table) for name, table in self.tables.items()},
        }

    def write(self, folder: Path) -> Path:
        """Write the file into `folder`, atomically; a file of the same checkpoint is replaced.

        Raises:
            UserError: the file that is there came from other weights.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / result_name(self.dataset, self.task)
        content = self.to_json()
        if path.exists():
            _refuse_other_weights(path, content["checkpoint"]["weights_sha256"])
        with atomic_file(path) as handle:
            handle.write(_text_of(content).encode())
        return path


def result_name(dataset: str, task: str) -> str:
    """File name of a result; a data set's name that had to be changed gets a hash, so that no two share a file."""
    stem = re.sub(r"[^a-z0-9._-]+", "-", dataset.lower()).strip(".-")[:MAX_STEM]
    if stem != dataset:  # lower case, because some file systems do not tell A from a
        stem = f"{stem}-{hashlib.sha256(dataset.encode()).hexdigest()[:8]}".lstrip("-")
    return f"{stem}_{task}.json"


def task_words(task: str) -> str:
    """A task's name as a person says it."""
    return task.replace("_", " ").replace("zero shot", "zero-shot").replace("few shot", "few-shot")


def read_result(path: Path) -> dict[str, Any]:
    """Read a result file as strict JSON.

    Raises:
        UserError: the file is not JSON, holds NaN or Infinity, or is of a later schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError) as error:
        raise UserError(f"result {path} cannot be read: {error}") from error
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != SCHEMA_VERSION:
        raise UserError(f"result {path}: schema version {found!r}, this mmclip reads {SCHEMA_VERSION}")
    return content


def recorded_versions() -> dict[str, str]:
    """Versions of what can move a figure."""
    return {"python": platform.python_version()} | {name: _version(name) for name in RECORDED_PACKAGES}


def _plain(table: Table) -> dict[str, Any]:
    return {"columns": list(table.columns), "rows": [list(row) for row in table.rows]}


def _text_of(content: Mapping[str, Any]) -> str:
    """Strict JSON with a key a line; a table of a thousand classes would be many thousand lines otherwise."""
    dumps = partial(json.dumps, ensure_ascii=False, allow_nan=False)
    return "{\n" + ",\n".join(f"  {dumps(key)}: {dumps(value)}" for key, value in content.items()) + "\n}\n"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "not installed"


def _refuse_other_weights(path: Path, weights_sha256: str | None) -> None:
    there = read_result(path).get("checkpoint", {}).get("weights_sha256")
    if there != weights_sha256:
        raise UserError(
            f"result {path} belongs to other weights (sha256 {there}, now {weights_sha256}): give this checkpoint "
            "a folder of its own, or remove the file"
        )


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
