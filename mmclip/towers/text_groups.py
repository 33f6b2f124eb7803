"""Captions of like length side by side: which run together, and how many columns each group needs.

Everything here is known on the host before a kernel starts, because it decides shapes: reading a length from a device
would wait for it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch.nn.functional as F
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

WIDTH_STEP = 8
"""Columns come in multiples of this, so that few shapes occur."""
MOST_STATIC_GROUPS = 4
"""Each group calls every compiled block once more, forward and backward; on an H200 that costs more than its padding."""
SMALLEST_STATIC_GROUP = 8
SMALLEST_SHARE = 64
"""A group of less than 1/64 of the batch joins the next longer one: its kernels would cost more than its padding."""

Lengths = Int[np.ndarray, " batch"]


@dataclass(frozen=True)
class TextPlan:
    """The order in which captions run, and their groups."""

    order: NDArray[np.int64]
    """`order[i]` is the caption of the batch that runs in place i."""
    groups: tuple[tuple[int, int], ...]
    """Captions and columns of each group."""

    @property
    def back(self) -> NDArray[np.int64]:
        """`back[j]` is the place in which caption j of the batch runs."""
        return np.argsort(self.order, kind="stable")

    @property
    def first_rows(self) -> NDArray[np.int64]:
        """The row in which the caption in place i begins, where the columns of all captions stand one after the other."""
        columns = np.repeat([columns for _, columns in self.groups], [captions for captions, _ in self.groups])
        return np.cumsum(columns) - columns

    def cut(self, tokens: Int[Tensor, "batch token"], pad_id: int = 0) -> list[Int[Tensor, "_ _"]]:
        """The groups of sorted tokens, each with its columns alone; columns that `tokens` lacks are padding."""
        missing = max(columns for _, columns in self.groups) - tokens.shape[1]
        wide = F.pad(tokens, (0, missing), value=pad_id) if missing > 0 else tokens
        parts = wide.split([captions for captions, _ in self.groups])
        return [part[:, :columns] for part, (_, columns) in zip(parts, self.groups, strict=True)]


def full_lengths(tokens: Int[Tensor, "batch token"]) -> Lengths:
    """The lengths of captions whose padding is read."""
    return np.full(tokens.shape[0], tokens.shape[1])


def one_group(captions: int, columns: int) -> TextPlan:
    """All captions as they stand, at one width."""
    return TextPlan(np.arange(captions), ((captions, columns),))


def plan_groups(
    lengths: Lengths, context_length: int, groups: Literal["auto"] | int, static_shapes: bool = False
) -> TextPlan:
    """Sort captions by length into groups, whose columns are rounded up to multiples of 8 and cut at the context length.

    A number asks for exactly so many groups of equal count, the first ones greater by one where it does not divide the
    batch. `auto` gives each width that occurs its group; for `static_shapes` it is 4 equal ones, fewer below 32 captions.
    """
    widths = np.minimum(-(-lengths // WIDTH_STEP) * WIDTH_STEP, context_length)
    order = np.argsort(lengths, kind="stable")
    if groups == "auto" and static_shapes:
        groups = max(1, min(MOST_STATIC_GROUPS, len(lengths) // SMALLEST_STATIC_GROUP))
    counts = _by_width(widths[order]) if groups == "auto" else _equal(len(lengths), groups)
    if len(counts) == 1:
        return one_group(len(lengths), int(widths.max()))
    ends = np.cumsum(counts)
    return TextPlan(order, tuple((int(n), int(widths[order[end - 1]])) for n, end in zip(counts, ends, strict=True)))


def _equal(captions: int, groups: int) -> list[int]:
    few, more = divmod(captions, min(groups, captions))
    return [few + (place < more) for place in range(min(groups, captions))]


def _by_width(widths: NDArray[np.int64]) -> list[int]:
    """Counts of equal neighbours; one too small joins the next."""
    counts, waiting = [], 0
    for count in np.unique(widths, return_counts=True)[1].tolist():
        waiting += count
        if waiting * SMALLEST_SHARE >= len(widths):
            counts.append(waiting)
            waiting = 0
    return [*counts, waiting] if waiting else counts
