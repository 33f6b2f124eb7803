"""A drawing with its sentence."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A drawing and the sentence that says how to read it."""

    svg: str
    caption: str = ""
    wide: bool = False
