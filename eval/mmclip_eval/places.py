"""Where the pictures of a set are, in plain values: so one process tells another what to encode."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter

from mmclip_eval.datasets import open_samples
from mmclip_eval.eval_dataset import EvalDataset, SetConfig
from mmclip_eval.picture_rows import PictureRows

_SETTINGS = TypeAdapter(SetConfig)


def place_of(dataset: EvalDataset) -> dict[str, Any]:
    """The settings that a set was opened with, its tasks aside, and the samples that are not encoded."""
    settings = SetConfig(**{field.name: getattr(dataset.config, field.name) for field in fields(SetConfig)})
    left_out = sorted(set(range(len(dataset.whole))) - set(dataset.encoded_samples))
    return {"settings": _SETTINGS.dump_python(settings, mode="json"), "left_out": left_out}


def open_place(place: Mapping[str, Any]) -> PictureRows:
    """The rows that another process means.

    Raises:
        UserError: there is no such set on this machine.
    """
    dataset = open_samples(_SETTINGS.validate_json(json.dumps(place["settings"]), strict=True))
    dataset.leave_out_of_whole(place["left_out"])
    return dataset.encoded_rows
