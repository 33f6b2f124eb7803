"""Towers and objective in one forward, so that one wrapper (DDP, FSDP2) sees every parameter that gets a gradient."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mmclip.batch import ImageTextBatch, ObjectiveOutput, PairLabels, TowerOutput
from mmclip.errors import UserError
from mmclip.objectives import Objective, ObjectiveContext
from mmclip.towers.synced_norm import is_synchronised, synchronise
from mmclip.towers.two_tower import TwoTower
from mmclip.training.identity import identity_labels, picture_ids
from mmclip.training.precision import Precision, autocast
from mmclip.training.views import NO_VIEWS, Numbers, encode_views, normalised, refuse_views


class TrainingModule(nn.Module):
    """What is trained: the towers and the objective's own heads.

    Raises:
        UserError: the objective needs a logit bias that the towers lack, or the image tower's batch norm would see
            only a slice of the batch.
    """

    def __init__(
        self,
        towers: TwoTower,
        objective: Objective,
        precision: Precision = "fp32",
        *,
        world_size: int = 1,
        micro_batches: int = 1,
        views: Numbers = NO_VIEWS,
    ) -> None:
        super().__init__()
        refuse_views(towers, objective.needs.views)
        if objective.needs.logit_bias and towers.logit_bias is None:
            raise UserError("objective 'siglip' needs a logit bias: set model.logit_bias (the paper starts at -10)")
        if towers.settings.adapters is None:  # beside adapters both rest
            if towers.logit_bias is not None:
                towers.logit_bias.requires_grad_(objective.needs.logit_bias)
            towers.logit_scale.requires_grad_(objective.needs.logit_scale)
            if not objective.needs.pairs:
                rest_text(towers)
        if objective.needs.class_head and towers.class_head is None:
            raise UserError("objective 'classify' needs a head over the classes of data.labels: set [head]")
        _join_batch_norm(towers, world_size, micro_batches)
        self.towers = towers
        self.objective: Any = objective
        self.precision: Precision = precision
        self.views = views

    def forward(
        self, batch: ImageTextBatch, context: ObjectiveContext, dropped: float = 0.0
    ) -> tuple[TowerOutput, ObjectiveOutput]:
        """The embeddings of this rank's slice of the global batch, without graph, and their loss.

        A share of the patches is `dropped`. Only the loss has a graph: a wrapper looks through it for the weights that get a
        gradient, and would wait for those of what no objective reads.
        """
        outputs = self.encode(batch, dropped, context.share, context.momentum)
        return outputs.detached(), self.objective(outputs, context)

    def encode(
        self,
        batch: ImageTextBatch,
        dropped: float = 0.0,
        share: float = 0.0,
        momentum: TowerOutput | None = None,
    ) -> TowerOutput:
        """What the towers make of a part of the batch: the same each time that it is asked for, but for `nn.Dropout`.

        `share` is that of the run which is done, `momentum` the part of the teacher's output that is of these samples.
        """
        needs, towers = self.objective.needs_at(share), self.towers
        with autocast(self.precision, batch.images.device):
            pixels = normalised(towers, batch, needs.views, self.views)
            views = encode_views(towers, batch, needs.views, self.views, pixels)
            met = None if needs.embeds_of is None else views[needs.embeds_of][0].embed
            outputs = self._pairs(batch, dropped, met) if needs.pairs else self._nothing(batch)
            outputs = replace(outputs, views=views)
            losses = self.objective.local(outputs, pixels, momentum) if views else {}
        return replace(outputs.with_rows(outputs.rows()), local=losses)

    def _pairs(self, batch: ImageTextBatch, dropped: float, image_embed: Tensor | None) -> TowerOutput:
        return self.towers(
            batch.images,
            batch.tokens,
            batch.lengths,
            batch.keys,
            dropped,
            batch.image_features,
            batch.text_features,
            image_embed,
        )

    def _nothing(self, batch: ImageTextBatch) -> TowerOutput:
        towers = self.towers
        nothing = batch.images.new_zeros((len(batch.ids), 0), dtype=towers.logit_scale.dtype)
        return TowerOutput(nothing, nothing, towers.logit_scale.exp().detach(), None)

    def pair_labels(self, batch: ImageTextBatch) -> PairLabels | None:
        """Ids of the batch's captions and pictures for an objective that needs them, else None."""
        if not self.objective.needs.pair_labels:
            return None
        if not self.objective.needs.pairs:
            pictures = picture_ids(batch.ids, batch.keys.device)[:, None]
            return PairLabels(image=pictures, text=pictures)
        if batch.classes is not None:  # what is said of a class fits each of its pictures
            return PairLabels(image=batch.classes[:, None], text=batch.classes[:, None])
        if batch.text_features is not None or not batch.tokens.shape[1]:
            return identity_labels(batch.tokens, batch.ids)
        # A tower that takes cut captions gets other widths on other ranks: what it does not read is no part of the id.
        known = self.towers.text_lengths(batch.tokens) if batch.lengths is None else batch.lengths
        lengths = torch.from_numpy(known).to(batch.tokens.device, non_blocking=True) if self.towers.trims_text else None
        return identity_labels(batch.tokens, batch.ids, lengths)


def rest_text(towers: TwoTower) -> None:
    """Let the text tower, the scale and the bias be as they are: nothing that is learnt reads them."""
    for name, weight in towers.backbone.named_parameters():
        if not name.startswith("visual."):
            weight.requires_grad_(False)


def _join_batch_norm(towers: TwoTower, world_size: int, micro_batches: int) -> None:
    """Let batch norms see the whole batch, as on one process, or refuse those that cannot."""
    norms = towers.moving_batch_norms()
    if not norms or world_size * micro_batches == 1:
        return
    where = f"of {micro_batches} micro-batches"
    if micro_batches == 1:
        synchronise(towers.backbone)
        norms = [name for name in norms if not is_synchronised(towers.backbone.get_submodule(name))]
        where = f"on {world_size} ranks"
    if norms:
        kind = type(towers.backbone.get_submodule(norms[0])).__name__
        raise UserError(
            f"the model has {len(norms)} batch norms (first: {norms[0]}, {kind}): {where} each would see its own "
            "slice, and the run would differ from one process. Train without accumulation.micro_batch_size, on more "
            "processes or on one, or choose a tower without batch norm (preset tiny-vit-64, any ViT or ConvNeXt)"
        )
