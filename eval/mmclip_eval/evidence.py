"""`Evidence`: what one pass over an evaluation set saw, so that a report or a comparison needs no second one."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from mmclip_eval.eval_dataset import EvalDataset


@dataclass(frozen=True)
class Evidence:
    """L2-normalised fp32 embeddings on the CPU, in the order of the set's samples, classes and captions."""

    dataset: EvalDataset
    image_embed: Float[Tensor, "sample embed"]
    class_embed: Float[Tensor, "class embed"] | None
    """Of the classes, each the mean over its templates; None where they have no names or nothing is classified."""
    caption_embed: Float[Tensor, "caption embed"] | None
    """None where there are no captions or nothing is retrieved."""
