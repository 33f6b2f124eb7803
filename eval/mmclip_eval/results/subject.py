"""What a result is of, known before anything is encoded: whoever has a result with the same subject needs no other."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mmclip.preprocess import ImageSpec
from mmclip_eval.eval_dataset import EvalDataset, Part
from mmclip_eval.prompts.prompt_set import sha256_of
from mmclip_eval.results.result import SCHEMA_VERSION, ModelIdentity
from mmclip_eval.tasks.base import EvalTask

PLACES = ("label", "captions", "newline_escapes", "pictures", "group")
"""Fields of a set's configuration that say where in a sample something stands, and how it is read."""
CLASSES: tuple[Part, ...] = ("labelled", "multilabelled")
PROMPTS: tuple[Part, ...] = ("prompts", "multilabel_prompts")
"""Parts of a set that a file's name must tell apart, and that the samples do not."""


def subject_of(
    identity: ModelIdentity,
    task: EvalTask,
    dataset: EvalDataset,
    related: Mapping[str, EvalDataset],
    spec: ImageSpec,
    device_type: str,
    chunk_size: int,
    seed: int,
) -> dict[str, Any]:
    """Everything that decides the figures, by its content where it has one, in plain values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "weights": identity.weights,
        "precision": identity.precision,
        "device": device_type,
        "preprocess": asdict(spec),
        "chunk_size": chunk_size,
        "seed": seed,
        "task": {**asdict(task), "version": task.version},
        "dataset": _told(dataset, task),
        "related": {role: _told(other, None) for role, other in related.items()},
    }


def _told(dataset: EvalDataset, task: EvalTask | None) -> dict[str, Any]:
    settings = dataset.config
    needs = task.needs if task is not None else ()
    return {
        "name": settings.name,
        "split": settings.split,
        "language": settings.language,
        "fingerprint": dataset.fingerprint,
        "places": {field: getattr(settings, field) for field in PLACES},
        "classes": [sha256_of(getattr(dataset, part).classes) for part in CLASSES if part in needs],
        "prompts": [getattr(dataset, part).sha256 for part in PROMPTS if part in needs],
    }
