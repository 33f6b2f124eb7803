"""`config`: the decorator of every configuration class, which stands beside the thing it configures."""

from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def config(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass that refuses unknown fields and wrong types.

    Strict, because pydantic would otherwise read the string "7" as the integer 7 and ignore a misspelt key.
    """
    settings = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)
    made: Any = dataclass(frozen=True, kw_only=True, config=settings)(cls)
    return made
