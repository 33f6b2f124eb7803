"""Names of result files: a beginning for people, and a hash of what the result is of, so that no two share a file."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

MAX_STEM = 60
HASH_DIGITS = 10
PLACES = ("checkpoints", "results", ".", "")
"""Folders that say nothing about which checkpoint it is."""
PROPER_NAMES = {"knn": "k-nearest neighbours", "ood_detection": "OOD detection", "tip_adapter": "Tip-Adapter"}


def hash_of(subject: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, in whatever order they stand."""
    return hashlib.sha256(json.dumps(subject, sort_keys=True, default=list).encode()).hexdigest()


def result_name(dataset: str, checkpoint: str, task: str, config_hash: str) -> str:
    """`DATASET_CHECKPOINT_TASK_HASH.json`, in letters that every file system takes."""
    parts = [_plain(dataset), _plain("-".join(_told(checkpoint))), _plain(task), config_hash[:HASH_DIGITS]]
    return "_".join(part for part in parts if part) + ".json"


def task_words(task: str) -> str:
    """A task's name, ours or CLIP_benchmark's, as a person says it."""
    if task in PROPER_NAMES:
        return PROPER_NAMES[task]
    words = task.replace("_", " ")
    for count in ("zero", "few"):
        words = words.replace(f"{count} shot", f"{count}-shot").replace(f"{count}shot", f"{count}-shot")
    return words


def _told(checkpoint: str) -> list[str]:
    """The last two folders that tell which checkpoint it is: the run and the step; of a pair first what joins its towers."""
    parts = [part for part in PurePath(checkpoint.rpartition(":")[2]).parts if part not in (*PLACES, "/")]
    joined = [checkpoint.partition(":")[0]] if "+hf:" in checkpoint else []
    return [*joined, *parts[-2:]]


def _plain(text: str) -> str:
    # Lower case, because some file systems do not tell A from a.
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip(".-")[:MAX_STEM].strip(".-")
