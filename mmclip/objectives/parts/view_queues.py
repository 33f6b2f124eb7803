"""Rows of earlier batches, a queue for each large view (SwAV, Caron et al. 2020, section 3.1, "Working with small batches")."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmclip.objectives.parts.heads import Prototypes
from mmclip.objectives.parts.ring import Ring

Rows = Float[Tensor, "batch width"]
LARGE_VIEWS = 2


class ViewQueues(nn.Module):
    """Of `capacity` rows each; without any where that is 0."""

    def __init__(self, capacity: int, width: int) -> None:
        super().__init__()
        rings = [Ring(capacity, width, factors=1) for _ in range(LARGE_VIEWS)] if capacity else []
        self.rings: Any = nn.ModuleList(rings)

    @torch.no_grad()
    def scores(self, prototypes: Prototypes) -> list[tuple[Tensor, Bool[Tensor, " capacity"]] | None]:
        """Of each large view, the cosines of its queue's rows and which of them are filled."""
        if not self.rings:
            return [None] * LARGE_VIEWS
        return [(prototypes(ring.keys), ring.filled()) for ring in self.rings]

    def staged(self, projected: Sequence[Rows]) -> dict[str, Rows]:
        """What `push` takes; `projected` are the rows of each view, the large ones first."""
        return {f"view_{n}": F.normalize(projected[n].detach(), dim=1) for n in range(len(self.rings))}

    def push(self, staged: Mapping[str, Rows], step: int, skipped: Float[Tensor, ""]) -> None:
        """The rows of all ranks take the places of the oldest ones; nothing where `skipped` is 1."""
        for number, ring in enumerate(self.rings):
            rows = staged[f"view_{number}"]
            nobodys = torch.zeros(len(rows), 1, dtype=torch.int64, device=rows.device)
            ring.push(rows, nobodys, step, skipped)
