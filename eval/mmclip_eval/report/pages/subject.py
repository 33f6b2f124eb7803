"""`Subject`: the model that a page is about, and how the page came about."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    """What the header says; a run without a checkpoint has no parameters and no scale."""

    name: str
    """Of the run or the weights, as a heading."""
    architecture: str
    command: str
    """Made the page."""
    machine: str
    """Drew the page, in words: processor, cores, device."""
    checkpoint: str = ""
    """The folder or the name of the weights."""
    weights_sha256: str | None = None
    image_parameters: int = 0
    text_parameters: int = 0
    image_size: tuple[int, int] = (0, 0)
    """Height and width in pixels."""
    embed_width: int = 0
    logit_scale: float | None = None
    logit_bias: float | None = None
    problems: tuple[str, ...] = ()
    """Why a part of the page is missing, such as a data set that is no longer there."""
