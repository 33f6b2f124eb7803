"""Where the pictures of a set are, in plain values: so one process tells another what to encode."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter

from mmclip_eval.datasets import open_samples
from mmclip_eval.eval_dataset import SetConfig
from mmclip_eval.picture_rows import PictureRows

_SETTINGS = TypeAdapter(SetConfig)


def place_of(settings: SetConfig) -> dict[str, Any]:
    """The settings that a set is opened with, its tasks aside."""
    own = SetConfig(**{field.name: getattr(settings, field.name) for field in fields(SetConfig)})
    return _SETTINGS.dump_python(own, mode="json")


def open_place(place: Mapping[str, Any]) -> PictureRows:
    """The rows that another process means.

    Raises:
        UserError: there is no such set on this machine.
    """
    return open_samples(_SETTINGS.validate_json(json.dumps(place), strict=True)).rows
