"""A small run for each objective of the registry, and for some of several objectives: the run files that tests generate."""

from collections.abc import Mapping
from typing import Any, get_args

from mmclip.objectives import ObjectiveConfig

SMALL: Mapping[str, Mapping[str, Any]] = {
    "clip": {},
    "siglip": {"duplicates": "positive"},
    "distill": {"teacher": "TEACHER"},
    "classify": {},
    "queue": {"queue_size": 20},
    "triplet": {},
    "hard_negatives": {},
    "simclr": {"hidden": 16, "out": 8, "norm": "batch"},
    "moco": {"hidden": 16, "out": 8, "queue_size": 20},
    "byol": {"hidden": 16, "out": 8, "norm": "batch"},
    "simsiam": {"hidden": 16, "out": 8},
    "vicreg": {"hidden": 16, "out": 8},
    "swav": {"hidden": 16, "out": 8, "prototypes": 6, "local_views": 2},
    "dino": {"hidden": 16, "bottleneck": 8, "prototypes": 6, "local_views": 2},
    "masked": {"width": 8, "depth": 1},
}
"""Options that keep each small, by its type."""
OTHERS: Mapping[str, Mapping[str, Any]] = {
    "moco v3": {"objective": {"type": "moco", "version": 3, "hidden": 16, "out": 8}},
    "masked, teacher": {"objective": {"type": "masked", "target": "teacher", "width": 8, "depth": 1}},
    "masked, noise": {"objective": {"type": "masked", "corruption": "noise", "width": 8, "depth": 1}},
    "swav, queue": {
        "objective": {"type": "swav", **SMALL["swav"], "local_views": 0, "queue_size": 20, "queue_from": 0.0}
    },
    "slip": {
        "objective": {"type": "clip"},
        "auxiliary": [{"objective": {"type": "simclr", **SMALL["simclr"]}, "weight": 0.5}],
    },
    "silc, late": {
        "objective": {"type": "siglip", "image_view": "global"},
        "auxiliary": [
            {"objective": {"type": "dino", **SMALL["dino"]}},
            {"objective": {"type": "masked", **SMALL["masked"]}, "start": 0.2, "weight": 0.3},
        ],
    },
}
"""Forms of an objective that are other code, and several in one run; of the last one a part begins at the second step."""
CLASSES = {
    "data": {"labels": {"place": "json:category", "templates": "simple"}},
    "head": {"start": "zero_shot"},
    "towers": {"lock_text": True},
}
"""What `classify` needs besides."""


def cases() -> dict[str, dict[str, Any]]:
    """The tables of a run's file that make each case, by its name: one for every registered objective, and `OTHERS`."""
    kinds = [member.__dataclass_fields__["type"].default for member in get_args(get_args(ObjectiveConfig)[0])]
    assert set(kinds) == set(SMALL), "each registered objective has its small form"
    found: dict[str, dict[str, Any]] = {kind: {"objective": {"type": kind, **SMALL[kind]}} for kind in kinds}
    return found | {name: dict(tables) for name, tables in OTHERS.items()}
