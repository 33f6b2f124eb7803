"""open_clip's transformer block over flat rows: groups of sequences of different lengths, without padding between them.

Linear layers, norms and activations see all rows at once; attention alone goes through the groups. The class keeps
open_clip's parameters under their names, so stock code reads, loads and runs it as before.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from mmclip.towers.attention import attention

Groups = tuple[tuple[int, int], ...]
"""Sequences and tokens of each group, in the order of the rows."""
ADAPTER = "default"
"""The name that peft gives the one adapter of a layer."""


class RowBlock(ResidualAttentionBlock):
    """A `ResidualAttentionBlock` that also takes rows: `groups` given, `q_x` is [row, width]."""

    def forward(
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | None = None,
        groups: Groups | None = None,
        causal: bool = False,
        pooled: Int[Tensor, "2 sequence"] | None = None,
    ) -> Tensor:
        """All rows; or of each sequence the pooled one, whose row and column within the sequence `pooled` holds."""
        if groups is None:
            return super().forward(q_x, k_x, v_x, attn_mask)
        if pooled is None:
            return self._rest(q_x, self._attend(self.ln_1(q_x), groups, causal))
        row, column = pooled
        return self._rest(
            q_x.index_select(0, row), self._attend_pooled(self.ln_1(q_x), groups, row, column if causal else None)
        )

    def _rest(self, rows: Tensor, mixed: Tensor) -> Tensor:
        rows = rows + self.ls_1(_plain(self.attn).out_proj(mixed))
        return rows + self.ls_2(self.mlp(self.ln_2(rows)))

    def _attend(self, rows: Float[Tensor, "row width"], groups: Groups, causal: bool) -> Float[Tensor, "row width"]:
        projected = _projected(self.attn, rows, slice(None))
        mixed = []
        for (sequences, tokens), part in zip(groups, _split(projected, groups), strict=True):
            query, key, value = self._heads(part, sequences, tokens, 3)
            mixed.append(_flat(attention(query, key, value, causal)))
        return _joined(mixed)

    def _attend_pooled(
        self, rows: Float[Tensor, "row width"], groups: Groups, row: Tensor, column: Tensor | None
    ) -> Float[Tensor, "sequence width"]:
        """Keys and values of all rows, queries of one row a sequence; behind `column` no query looks."""
        width = rows.shape[1]
        queries = _projected(self.attn, rows.index_select(0, row), slice(None, width))
        projected = _projected(self.attn, rows, slice(width, None))
        mixed, start = [], 0
        for (sequences, tokens), part in zip(groups, _split(projected, groups), strict=True):
            (query,) = self._heads(queries[start : start + sequences], sequences, 1, 1)
            key, value = self._heads(part, sequences, tokens, 2)
            mask = None
            if column is not None:
                here = column[start : start + sequences, None, None, None]
                mask = torch.arange(tokens, device=here.device) <= here
            mixed.append(_flat(attention(query, key, value, mask=mask)))
            start += sequences
        return _joined(mixed)

    def _heads(self, rows: Tensor, sequences: int, tokens: int, count: int) -> tuple[Tensor, ...]:
        """`count` tensors of [sequence head token head_width]."""
        return rows.view(sequences, tokens, count, self.attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def take_rows(module: nn.Module) -> None:
    """Let every block of open_clip's common kind in `module` take rows; its parameters and other kinds stay as they are."""
    for part in module.modules():
        if type(part) is ResidualAttentionBlock and not hasattr(part, "ln_1_kv"):
            part.__class__ = RowBlock


def takes_rows(block: Any) -> bool:
    """Whether the block's own weights, and adapters of ours, are all that its row forward would read."""
    attn: Any = _plain(getattr(block, "attn", None))
    return (
        isinstance(block, RowBlock)
        and type(attn) is nn.MultiheadAttention
        and attn.in_proj_weight is not None
        and attn.bias_k is None
        and not attn.add_zero_attn
        and attn.dropout == 0
    )


def _plain(attn: Any) -> Any:
    """The attention that peft's layer of low rank stands around, whose output projection has an adapter of its own."""
    return getattr(attn, "base_layer", attn)


def _projected(attn: Any, rows: Float[Tensor, "row width"], part: slice) -> Float[Tensor, "row projected"]:
    """Queries, keys and values, or those of them that lie in `part`, with what an adapter adds."""
    plain = _plain(attn)
    bias = plain.in_proj_bias
    projected = F.linear(rows, plain.in_proj_weight[part], None if bias is None else bias[part])
    if plain is attn or attn.merged or attn.disable_adapters:
        return projected
    low = attn.lora_A[ADAPTER](attn.lora_dropout[ADAPTER](rows))
    return projected + F.linear(low, attn.lora_B[ADAPTER].weight[part]) * attn.scaling[ADAPTER]


def _split(rows: Tensor, groups: Groups) -> tuple[Tensor, ...]:
    return rows.split([sequences * tokens for sequences, tokens in groups]) if len(groups) > 1 else (rows,)


def _flat(mixed: Float[Tensor, "sequence head token head_width"]) -> Float[Tensor, "row width"]:
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]
