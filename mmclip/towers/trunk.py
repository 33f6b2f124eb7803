"""Runs a stack of transformer blocks over groups of sequences of different lengths."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmclip.towers.block import Groups, takes_rows


@dataclass(frozen=True)
class Work:
    """How a stack runs; none of it changes a number but in the last digits."""

    pooled_last_block: bool = True
    """Compute the last block for the pooled rows alone, where its kind allows it."""
    activation_checkpointing: bool = False
    """Keep the inputs of blocks alone for the backward pass."""
    static_shapes: bool = False
    """One group at a time, so that a compiled block sees few shapes."""


def pooled_rows(
    blocks: Iterable[Any],
    rows: Float[Tensor, "row width"],
    groups: Groups,
    pooled: Int[Tensor, "2 sequence"],
    work: Work,
    causal_mask: Float[Tensor, "token token"] | None = None,
) -> Float[Tensor, "sequence width"]:
    """What the last block makes of one row of each sequence, given by its row and its column within the sequence."""
    if work.static_shapes and len(groups) > 1:
        return _one_by_one(blocks, rows, groups, pooled, work, causal_mask)
    if not (work.pooled_last_block and all(map(takes_rows, blocks))):
        return all_rows(blocks, rows, groups, work, causal_mask).index_select(0, pooled[0])
    *first, last = blocks
    causal = causal_mask is not None
    rows = all_rows(first, rows, groups, work, causal_mask)
    return _run(last, work, rows, None, None, None, groups, causal, pooled)


def all_rows(
    blocks: Iterable[Any],
    rows: Float[Tensor, "row width"],
    groups: Groups,
    work: Work,
    causal_mask: Float[Tensor, "token token"] | None = None,
) -> Float[Tensor, "row width"]:
    """What the last block makes of every row."""
    if all(map(takes_rows, blocks)):
        for block in blocks:
            rows = _run(block, work, rows, None, None, None, groups, causal_mask is not None)
        return rows
    done = []
    for (sequences, tokens), part in zip(groups, _split(rows, groups), strict=True):
        x = part.unflatten(0, (sequences, tokens))
        mask = None if causal_mask is None else causal_mask[:tokens, :tokens]
        for block in blocks:  # of a kind that knows [sequence token width] alone
            x = _run(block, work, x, attn_mask=mask)
        done.append(x.flatten(0, 1))
    return torch.cat(done)


def _one_by_one(
    blocks: Iterable[Any], rows: Tensor, groups: Groups, pooled: Tensor, work: Work, causal_mask: Tensor | None
) -> Tensor:
    done, first_row = [], 0
    by_group = pooled.split([sequences for sequences, _ in groups], dim=1)
    for group, part, (row, column) in zip(groups, _split(rows, groups), by_group, strict=True):
        inside = torch.stack([row - first_row, column])
        done.append(pooled_rows(blocks, part, (group,), inside, work, causal_mask))
        first_row += len(part)
    return torch.cat(done)


def _split(rows: Tensor, groups: Groups) -> tuple[Tensor, ...]:
    return rows.split([sequences * tokens for sequences, tokens in groups])


def _run(block: Any, work: Work, *inputs: Any, **named: Any) -> Tensor:
    if work.activation_checkpointing and torch.is_grad_enabled():
        # No block of these has a random part, so there is no generator to set back.
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False, **named)
    return block(*inputs, **named)
