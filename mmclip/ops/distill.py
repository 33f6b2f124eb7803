"""Distillation of a teacher's similarities (contrastive relational distillation, CLIP-KD, Yang et al. 2024, section 3.3)."""

from jaxtyping import Float
from torch import Tensor

from mmclip.errors import UserError
from mmclip.ops.distill_tiled import distill_tiled
from mmclip.ops.infonce import Implementation
from mmclip.ops.reference import distill_reference
from mmclip.ops.tiles import compute_dtype, tile_size


def distill(
    image_embed: Float[Tensor, "batch embed"],
    text_embed: Float[Tensor, "texts embed"],
    scale: Float[Tensor, "..."],
    teacher_image_embed: Float[Tensor, "teacher_batch teacher_embed"],
    teacher_text_embed: Float[Tensor, "teacher_texts teacher_embed"],
    teacher_scale: Float[Tensor, "..."],
    *,
    implementation: Implementation = "auto",
    tile: int | None = None,
) -> Float[Tensor, ""]:
    """This rank's part, times the number of ranks, of the cross-entropy of the student's softmax under the teacher's.

    Mean over images of that over all texts, and mean over texts of that over all images, halved: the Kullback-Leibler
    divergence plus the teacher's own entropy, which no weight of the student moves. Rows are L2-normalised; the teacher's
    may have another width, and get no gradient. Ranks, precision and `tile` are those of `mmclip.ops.infonce.infonce`.

    Raises:
        UserError: student and teacher have not equally many rows.
    """
    rows = [len(tensor) for tensor in (image_embed, text_embed, teacher_image_embed, teacher_text_embed)]
    if rows[:2] != rows[2:]:
        raise UserError(f"the student has {rows[0]} images and {rows[1]} texts, the teacher {rows[2]} and {rows[3]}")
    taught = teacher_image_embed.detach(), teacher_text_embed.detach(), teacher_scale.detach()
    dtype = compute_dtype(image_embed, text_embed, scale, *taught)
    student = image_embed.to(dtype), text_embed.to(dtype), scale.to(dtype)
    teacher = taught[0].to(dtype), taught[1].to(dtype), taught[2].to(dtype)
    if implementation == "reference":
        return distill_reference(*student, *teacher)
    return distill_tiled(student, teacher, tile_size(dtype, image_embed.device, tile))
