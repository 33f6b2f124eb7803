"""A teacher: other towers that see what the student sees, and learn nothing."""

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from mmclip.batch import ImageTextBatch, TowerOutput
from mmclip.errors import UserError
from mmclip.towers.two_tower import TwoTower
from mmclip.training.precision import Precision, autocast

PROBES = ("a cat", "Two DOGS & a naïve café_3.141!", "図書館の猫")
"""Texts on which tokenizers that are the same agree."""


class Teacher:
    """Frozen towers in evaluation mode; the student's own view of each picture, resized where theirs is of another size.

    Raises:
        UserError: it reads captions with another tokenizer than the student, or fewer tokens of them.
    """

    def __init__(self, towers: TwoTower, student: TwoTower, precision: Precision, device: torch.device) -> None:
        _refuse_other_tokens(towers, student)
        self.towers = towers.requires_grad_(False).eval().to(device)
        self.precision: Precision = precision

    @torch.no_grad()
    def __call__(self, batch: ImageTextBatch, parts: int) -> TowerOutput:
        """Embeddings of a batch, encoded in so many parts."""
        found = [self._encode(part) for part in batch.split(parts)]
        image_embed, text_embed = (torch.cat(parts) for parts in zip(*map(_embeds, found), strict=True))
        return TowerOutput(image_embed, text_embed, found[-1].logit_scale, found[-1].logit_bias)

    def _encode(self, batch: ImageTextBatch) -> TowerOutput:
        images = _resized(batch.images, self.towers.spec.size)
        with autocast(self.precision, images.device):
            return self.towers(images, batch.tokens)


def _embeds(output: TowerOutput) -> tuple[Tensor, Tensor]:
    return output.image_embed, output.text_embed


def _resized(images: UInt8[Tensor, "batch 3 _ _"], size: tuple[int, int]) -> UInt8[Tensor, "batch 3 _ _"]:
    if tuple(images.shape[2:]) == size:
        return images
    resized = F.interpolate(images.float(), size, mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def _refuse_other_tokens(teacher: TwoTower, student: TwoTower) -> None:
    context, longest = student.tokenizer.context_length, teacher.tokenizer.context_length
    fits = longest == context or (longest > context and teacher.trims_text)
    if not fits or not torch.equal(teacher.tokenizer.with_context_length(context)(PROBES), student.tokenizer(PROBES)):
        raise UserError(
            "objective.teacher reads captions as other tokens than the student (another tokenizer, or a context of "
            f"{longest} tokens against {context}): take a teacher of the student's family"
        )
