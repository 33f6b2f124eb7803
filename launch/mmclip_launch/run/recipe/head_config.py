"""`[head]`: the classifier of a run over classes."""

from typing import Literal

from mmclip.config import config


@config
class HeadConfig:
    """A linear classifier over the classes of `data.labels`, for the objective `classify`."""

    start: Literal["probe", "zero_shot", "source"] | None = None
    """Where it starts: a logistic regression on features of the start (LP-FT), the text embeddings of the prompts (WiSE-FT),
    or the head that comes with `model.init`; none: there is no head."""
