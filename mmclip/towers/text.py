"""Text towers of open_clip, by kind: which tokens reach an embedding, and a forward that runs no others."""

from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.hf_model import HFTextEncoder, MaxPooler
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from mmclip.towers.block import takes_rows
from mmclip.towers.text_groups import Lengths, TextPlan, full_lengths, one_group, plan_groups
from mmclip.towers.trunk import Work, pooled_rows

TextGroups = Literal["auto"] | int
MASKS_PADDING = ("bert", "m2m_100", "mt5", "roberta", "xlm-roberta")
"""Kinds of Hugging Face encoders whose attention, positions and poolers leave padding behind a caption out."""


@runtime_checkable
class TextEncoder(Protocol):
    """Runs one kind of text tower."""

    context_length: int
    """Columns of a padded caption."""

    @property
    def why_padded(self) -> str | None:
        """Why columns behind a caption must run too; None where they reach no embedding."""
        ...

    @property
    def why_whole_last_block(self) -> str | None:
        """Why the last block computes all tokens; None where the pooled one is enough."""
        ...

    def lengths(self, tokens: Int[Tensor, "batch token"]) -> Lengths:
        """Columns of each caption that reach its embedding, on the host: tokens on a device are waited for."""
        ...

    def arrange(
        self, tokens: Int[Tensor, "batch token"], lengths: Lengths | None, groups: TextGroups, work: Work
    ) -> tuple[Int[Tensor, "batch column"], TextPlan]:
        """The tokens that `encode` runs, in the order in which it runs them, and their groups."""
        ...

    def encode(
        self, tokens: Int[Tensor, "batch token"], lengths: Lengths | None, groups: TextGroups, work: Work
    ) -> Float[Tensor, "batch embed"]:
        """Embeddings, not normalised; `lengths` are those of `tokens`, where they are known already."""
        ...


def text_encoder(backbone: Any, context_length: int) -> TextEncoder:
    """The encoder of a model's text tower; what is of no known kind runs as stock open_clip runs it."""
    tower = getattr(backbone, "text", backbone)
    if isinstance(tower, HFTextEncoder):
        return HuggingFaceText(tower, context_length)
    plain = getattr(tower, "cls_emb", None) is None and not getattr(tower, "use_pad_mask", False)
    if (tower is backbone or isinstance(tower, TextTransformer)) and plain and pool_type(tower) != "none":
        return NativeText(tower, context_length)
    return StockText(backbone, context_length)


class NativeText:
    """open_clip's own text transformer, flat in the model or under `text`.

    Behind a causal mask, no token after the pooled one reaches the embedding.
    """

    def __init__(self, tower: Any, context_length: int) -> None:
        self.tower = tower
        self.context_length = context_length

    @property
    def why_padded(self) -> str | None:
        if self.tower.attn_mask is None:
            return "the text tower has no causal mask, so that every token reads the padding"
        if pool_type(self.tower) == "last":
            return "the text tower pools the last column, which holds padding"
        return None

    @property
    def why_whole_last_block(self) -> str | None:
        block = self.tower.transformer.resblocks[-1]
        return None if takes_rows(block) else f"blocks of the text tower are of another kind ({type(block).__name__})"

    def lengths(self, tokens: Int[Tensor, "batch token"]) -> Lengths:
        """Up to and with the pooled column; all of them where padding is read, and of tokens without values."""
        if self.why_padded or tokens.is_meta:
            return full_lengths(tokens)
        return pooled_column(tokens, self.tower).cpu().numpy() + 1

    def arrange(
        self, tokens: Int[Tensor, "batch token"], lengths: Lengths | None, groups: TextGroups, work: Work
    ) -> tuple[Int[Tensor, "batch column"], TextPlan]:
        if self.why_padded:
            tokens, groups = padded(tokens, self.context_length, getattr(self.tower, "pad_id", 0)), 1
            lengths = None
        plan = plan_groups(
            self.lengths(tokens) if lengths is None else lengths, self.context_length, groups, work.static_shapes
        )
        return sort_captions(tokens, plan), plan

    def encode(
        self, tokens: Int[Tensor, "batch token"], lengths: Lengths | None, groups: TextGroups, work: Work
    ) -> Float[Tensor, "batch embed"]:
        """One lookup, one norm and one projection for the whole batch; between them, the blocks over all groups."""
        ordered, plan = self.arrange(tokens, lengths, groups, work)
        starts = torch.from_numpy(plan.first_rows).to(tokens.device, non_blocking=True)
        column = pooled_column(ordered, self.tower)
        rows = self._embedded(ordered, plan)
        blocks = self.tower.transformer.resblocks
        pooled = torch.stack([starts + column, column])
        embed = pooled_rows(blocks, rows, plan.groups, pooled, work, self.tower.attn_mask)
        return unsort_captions(self._projected(self.tower.ln_final(embed)), plan)

    def _embedded(self, tokens: Int[Tensor, "batch token"], plan: TextPlan) -> Float[Tensor, "row width"]:
        """Only one lookup, because each would fill a gradient as large as the whole vocabulary."""
        dtype = self.tower.transformer.get_cast_dtype()
        position = self.tower.positional_embedding.to(dtype)
        parts = plan.cut(tokens)
        looked_up = self.tower.token_embedding(torch.cat([part.flatten() for part in parts])).to(dtype)
        rows = looked_up.split([part.numel() for part in parts])
        placed = [
            part.unflatten(0, group) + position[: group[1]] for group, part in zip(plan.groups, rows, strict=True)
        ]
        return torch.cat([part.flatten(0, 1) for part in placed])

    def _projected(self, embed: Float[Tensor, "batch width"]) -> Float[Tensor, "batch embed"]:
        projection = self.tower.text_projection
        if projection is None:
            return embed
        return projection(embed) if isinstance(projection, nn.Linear) else embed @ projection


class HuggingFaceText:
    """An encoder of transformers behind open_clip's adapter, which masks the padding id of its configuration."""

    why_whole_last_block = "blocks of the text tower are those of transformers"

    def __init__(self, tower: Any, context_length: int) -> None:
        self.tower = tower
        self.context_length = context_length
        self.pad_id: int = tower.config.pad_token_id

    @property
    def why_padded(self) -> str | None:
        if isinstance(self.tower.pooler, MaxPooler):
            return "max_pooler of the text tower takes the maximum over padding too"
        kind = self.tower.config.model_type
        return None if kind in MASKS_PADDING else f"text towers of kind {kind!r} are not known to leave padding out"

    def lengths(self, tokens: Int[Tensor, "batch token"]) -> Lengths:
        """Up to and with the last column that is not padding."""
        if self.why_padded or tokens.is_meta:
            return full_lengths(tokens)
        behind = (tokens != self.pad_id).flip(1).int().argmax(dim=1)
        return tokens.shape[1] - behind.cpu().numpy()

    def arrange(
        self, tokens: Int[Tensor, "batch token"], lengths: Lengths | None, groups: TextGroups, work: Work
    ) -> tuple[Int[Tensor, "batch column"], TextPlan]:
        if self.why_padded:
            whole = padded(tokens, self.context_length, self.pad_id)
            return whole, one_group(*whole.shape)
        lengths = self.lengths(tokens) if lengths is None else lengths
        plan = plan_groups(lengths, self.context_length, groups, static_shapes=True)
        return sort_captions(tokens, plan), plan

    def encode(
        self,
        tokens: Int[Tensor, "batch token"],
        lengths: Lengths | None,
        groups: TextGroups,
        work: Work,
        projected: bool = True,
    ) -> Float[Tensor, "batch embed"]:
        """The stock tower on each group; where it has dropout, each group draws its own.

        Not `projected`, it is what the encoder's pooler makes of its last layer.
        """
        run = self.tower if projected else self._pooled
        ordered, plan = self.arrange(tokens, lengths, groups, work)
        embeds = [first(run(part)) for part in plan.cut(ordered, self.pad_id)]
        return unsort_captions(torch.cat(embeds), plan)

    def _pooled(self, tokens: Int[Tensor, "batch token"]) -> Float[Tensor, "batch width"]:
        """open_clip's forward, up to its projection."""
        mask = (tokens != self.pad_id).long()
        return self.tower.pooler(self.tower.transformer(input_ids=tokens, attention_mask=mask), mask)


class StockText:
    """A text tower that only open_clip's own forward computes."""

    def __init__(self, backbone: Any, context_length: int) -> None:
        self.backbone = backbone
        self.context_length = context_length
        tower: Any = getattr(backbone, "text", backbone)
        self.pad_id = getattr(tower, "pad_id", 0)
        has_class = getattr(tower, "cls_emb", None) is not None
        reason = (
            "pools a class token behind the padding" if has_class else f"is of another kind ({type(tower).__name__})"
        )
        self.why_padded = self.why_whole_last_block = f"the text tower {reason}"

    def lengths(self, tokens: Int[Tensor, "batch token"]) -> Lengths:
        return full_lengths(tokens)

    def arrange(
        self, tokens: Int[Tensor, "batch token"], lengths: Lengths | None, groups: TextGroups, work: Work
    ) -> tuple[Int[Tensor, "batch column"], TextPlan]:
        whole = padded(tokens, self.context_length, self.pad_id)
        return whole, one_group(*whole.shape)

    def encode(
        self, tokens: Int[Tensor, "batch token"], lengths: Lengths | None, groups: TextGroups, work: Work
    ) -> Float[Tensor, "batch embed"]:
        return first(self.backbone.encode_text(self.arrange(tokens, lengths, groups, work)[0]))


def pool_type(tower: Any) -> str:
    """Which column is pooled; the flat CLIP class keeps its text tower's attributes under a prefix."""
    return getattr(tower, "text_pool_type", None) or tower.pool_type


def pooled_column(tokens: Int[Tensor, "batch token"], tower: Any) -> Int[Tensor, " batch"]:
    """The column that the tower pools (open_clip's `text_global_pool`)."""
    kind = pool_type(tower)
    if kind == "argmax":  # the end token has the highest id of the vocabulary
        return tokens.argmax(dim=1)
    if kind == "eos":
        eos = tower.text_eos_id if hasattr(tower, "text_eos_id") else tower.eos_id
        return (tokens == eos).int().argmax(dim=1)
    return torch.full_like(tokens[:, 0], tokens.shape[1] - 1 if kind == "last" else 0)


def padded(tokens: Int[Tensor, "batch token"], columns: int, pad_id: int) -> Int[Tensor, "batch columns"]:
    """Widened to `columns` where it is narrower."""
    return F.pad(tokens, (0, columns - tokens.shape[1]), value=pad_id) if tokens.shape[1] < columns else tokens


def sort_captions(tokens: Int[Tensor, "batch token"], plan: TextPlan) -> Int[Tensor, "batch token"]:
    """In the order in which they run."""
    if len(plan.groups) == 1:
        return tokens
    return tokens.index_select(0, torch.from_numpy(plan.order).to(tokens.device, non_blocking=True))


def unsort_captions(embed: Float[Tensor, "batch embed"], plan: TextPlan) -> Float[Tensor, "batch embed"]:
    """Back in the order of the batch."""
    if len(plan.groups) == 1:
        return embed
    return embed.index_select(0, torch.from_numpy(plan.back).to(embed.device, non_blocking=True))


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The embedding, of towers that hand out their tokens beside it."""
    return output if isinstance(output, Tensor) else output[0]
