"""Towers and objective in one forward, so that one wrapper (DDP, FSDP2) sees every parameter that gets a gradient."""

from typing import Any

from jaxtyping import Int, UInt8
from torch import Tensor, nn

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.errors import UserError
from mmclip.objectives import Objective, ObjectiveContext
from mmclip.towers.text_groups import Lengths
from mmclip.towers.two_tower import TwoTower


class TrainingModule(nn.Module):
    """What is trained: the towers and the objective's own heads.

    Raises:
        UserError: the objective needs a logit bias that the towers lack, or the image tower's batch norm would see
            only a rank's slice of the batch.
    """

    def __init__(self, towers: TwoTower, objective: Objective, world_size: int) -> None:
        super().__init__()
        if objective.needs.logit_bias and towers.logit_bias is None:
            raise UserError("objective 'siglip' needs a logit bias: set model.logit_bias (the paper starts at -10)")
        if towers.logit_bias is not None:
            towers.logit_bias.requires_grad_(objective.needs.logit_bias)
        _refuse_split_batch_norm(towers, world_size)
        self.towers = towers
        self.objective: Any = objective

    def forward(
        self,
        images: UInt8[Tensor, "batch 3 height width_px"],
        tokens: Int[Tensor, "batch token"],
        context: ObjectiveContext,
        lengths: Lengths | None = None,
        keys: Int[Tensor, " batch"] | None = None,
        dropped: float = 0.0,
    ) -> tuple[TowerOutput, ObjectiveOutput]:
        """The embeddings of this rank's slice of the global batch, and their loss; the rest is as in `TwoTower.forward`."""
        outputs = self.towers(images, tokens, lengths, keys, dropped)
        return outputs, self.objective(outputs, context)


def _refuse_split_batch_norm(towers: TwoTower, world_size: int) -> None:
    if world_size == 1:
        return
    norms = towers.moving_batch_norms()
    if norms:
        raise UserError(
            f"the model has {len(norms)} batch norms (first: {norms[0]}): on {world_size} ranks each would see its own "
            "slice, and the run would differ from one process. Train on one process, or choose a tower without "
            "batch norm (preset tiny-vit-64, any ViT or ConvNeXt)"
        )
