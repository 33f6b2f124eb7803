"""`EvalResult`: what one (checkpoint, data set, task) gave, as one strict JSON file.

A superset of CLIP_benchmark's result file: its six keys, its names of tasks and metrics, and what it takes to repeat them.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from mmclip.errors import UserError
from mmclip_data.shards.atomic import atomic_file
from mmclip_eval.metrics.bootstrap import LEVEL, REPLICATES, SEED
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.results.names import hash_of, result_name
from mmclip_eval.results.record import Record
from mmclip_eval.tasks.base import Table

SCHEMA_VERSION = 2
RECORDED_PACKAGES = ("mmclip", "torch", "open_clip_torch", "numpy", "pillow")


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
    checkpoint_sha256: str | None = None
    """Of the manifest that seals a checkpoint of ours; None for weights of others."""

    @property
    def weights(self) -> str:
        """The hash of the weights, else the nearest to a name that they have."""
        return self.weights_sha256 or self.checkpoint or self.model


@dataclass(frozen=True)
class EvalResult:
    """Figures of one task with everything that produced them."""

    dataset: str
    task: str
    """Its `type` in a configuration."""
    metrics: Mapping[str, Estimate]
    identity: ModelIdentity
    num_samples: int
    """Samples that the figures are about."""
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
    settings: Mapping[str, int | float | bool] = field(default_factory=dict)
    """Stand among the metrics as in CLIP_benchmark's files, though they measure nothing."""
    tables: Mapping[str, Table] = field(default_factory=dict)
    """Finer figures, such as those of each class."""
    public_task: str = ""
    """CLIP_benchmark's spelling of the task; empty: it is the same."""
    num_skipped: int = 0
    """Samples of the set that are in no figure."""
    num_expected: int | None = None
    """Samples that the set declares; None: it declares no number, so that those which are there were expected."""
    subject: Mapping[str, Any] = field(default_factory=dict)
    """What the result is of, in plain values: two results with the same subject have the same figures."""
    wall_seconds: float | None = None
    """That the task took, and what it had to encode."""

    @property
    def config_hash(self) -> str:
        """Of the subject."""
        plain = {"weights": self.identity.weights, "dataset": self.dataset_fingerprint, "task": self.task}
        return hash_of(self.subject or {**plain, "name": self.dataset, "split": self.split, "options": self.options})

    @property
    def file_name(self) -> str:
        """What it is about, for people, and a hash of the whole of it: no two share a file."""
        where = self.identity.checkpoint or self.identity.model
        return result_name(self.dataset, where, self.public_task or self.task, self.config_hash)

    def to_json(self) -> dict[str, Any]:
        """The content of the file, exactly as `read_result` gives it back: no tuple stands where JSON has a list."""
        return json.loads(json.dumps(self._content(), allow_nan=False))

    def _content(self) -> dict[str, Any]:
        identity = self.identity
        there = self.num_samples + self.num_skipped
        return {
            "schema_version": SCHEMA_VERSION,
            "dataset": self.dataset,
            "model": identity.model,
            "pretrained": identity.checkpoint or "",
            "task": self.public_task or self.task,
            "metrics": {name: estimate.value for name, estimate in self.metrics.items()} | dict(self.settings),
            "language": self.language,
            "task_type": self.task,
            "task_version": self.task_version,
            "options": dict(self.options),
            "intervals": {name: list(estimate.interval) for name, estimate in self.metrics.items()},
            "chance": {name: estimate.chance for name, estimate in self.metrics.items()},
            "units": {name: estimate.unit for name, estimate in self.metrics.items()},
            "lower_is_better": [name for name, estimate in self.metrics.items() if estimate.lower_is_better],
            "bootstrap": {"method": "percentile", "level": LEVEL, "replicates": REPLICATES, "seed": SEED},
            "n_seen": self.num_samples,
            "n_skipped": self.num_skipped,
            "n_expected": there if self.num_expected is None else self.num_expected,
            **self.details,
            "split": self.split,
            "dataset_fingerprint": self.dataset_fingerprint,
            "checkpoint": {
                "path": identity.checkpoint,
                "sha256": identity.checkpoint_sha256,
                "weights_sha256": identity.weights_sha256,
            },
            "preprocess": dict(self.preprocess),
            "precision": identity.precision,
            "device": self.device,
            "chunk_size": self.chunk_size,
            "versions": recorded_versions(),
            "config_hash": self.config_hash,
            "run": {"finished": datetime.now(UTC).isoformat(timespec="seconds"), "wall_seconds": self.wall_seconds},
            "notes": list(self.notes),
            "tables": {name: _plain(table) for name, table in self.tables.items()},
        }

    def write(self, folder: Path) -> Path:
        """Write the file into `folder`, atomically; one about the same is replaced, no other is touched.

        Raises:
            UserError: the file of that name is about something else.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.file_name
        content = self.to_json()
        if path.exists() and read_result(path)["config_hash"] != content["config_hash"]:
            raise UserError(f"result {path} is about something else: give --output another folder, or remove the file")
        with atomic_file(path) as handle:
            handle.write(_text_of(content).encode())
        return path


def read_result(path: Path) -> dict[str, Any]:
    """Read a result file of ours as strict JSON.

    Raises:
        UserError: the file is not JSON, holds NaN or Infinity, or is of another schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError) as error:
        raise UserError(f"result {path} cannot be read: {error}") from error
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != SCHEMA_VERSION:
        raise UserError(
            f"result {path}: schema version {found!r}, this mmclip reads {SCHEMA_VERSION}: evaluate again, and remove it"
        )
    return content


def record_of(path: Path) -> Record:
    """A file of ours as a line of a table.

    Raises:
        UserError: it is of another schema, or lacks a part.
    """
    return record_of_content(read_result(path), str(path))


def record_of_content(content: Mapping[str, Any], path: str) -> Record:
    """What `read_result` gave, or `EvalResult.to_json`, as a line of a table; `path` names where it stands."""
    prompts = content.get("prompts", {})
    facts = {name: content[name] for name in ("split", "n_seen", "n_skipped", "n_expected", "precision", "device")}
    facts |= {"weights_sha256": content["checkpoint"]["weights_sha256"]}
    facts |= {"prompts_source": prompts.get("source"), "prompts_sha256": prompts.get("texts_sha256")}
    return Record(
        **{key: content[key] for key in ("dataset", "model", "pretrained", "task", "language", "metrics")},
        origin="mmclip",
        path=path,
        intervals=content["intervals"],
        chance=content["chance"],
        units=content["units"],
        lower_is_better=frozenset(content["lower_is_better"]),
        fingerprint=content["dataset_fingerprint"],
        facts=facts,
        variant=_variant(content, prompts),
        finished=content["run"]["finished"],
    )


def _variant(content: Mapping[str, Any], prompts: Mapping[str, Any]) -> str:
    """The prompts by their short source and hash, and the options of the task that are set."""
    source = str(prompts.get("source", "")).partition(" (")[0]
    told = [f"{source.removeprefix('mmclip:')} {prompts['texts_sha256'][:6]}"] if prompts else []
    return ", ".join([*told, *(f"{name}={value}" for name, value in content["options"].items())])


def recorded_versions() -> dict[str, str]:
    """Versions of what can move a figure; torch's with its build (`+cu130`), which its package on PyPI does not name."""
    import torch

    versions = {name: _version(name) for name in RECORDED_PACKAGES}
    return {"python": platform.python_version()} | versions | {"torch": str(torch.__version__)}


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


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
