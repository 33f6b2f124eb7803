"""Sharded towers seen whole for a while: what an evaluation computes with, since its ranks do not run in step."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch

from mmclip.ops.shards import whole
from mmclip.towers.two_tower import TwoTower


class Gathered:
    """Plain towers without values, which are filled with those of sharded towers where these are needed.

    While they are, every rank holds all weights once more, in the precision of the weights; before and after it they take no
    memory. They are to be made before the towers are sharded, which torch does not let be copied.
    """

    def __init__(self, towers: TwoTower, device: torch.device) -> None:
        self.towers = deepcopy(towers).requires_grad_(False).eval().to("meta")
        self._device = device
        self._source: TwoTower | None = None

    def follow(self, sharded: TwoTower) -> None:
        """Take the values of these towers from now on."""
        self._source = sharded

    @contextmanager
    def filled(self) -> Iterator[TwoTower]:
        """The towers with the values of this moment. A collective: every rank must enter."""
        assert self._source is not None, "`follow` comes first"
        self.towers.to_empty(device=self._device)
        self._fill(self._source)
        try:
            yield self.towers
        finally:
            self.towers.to("meta")

    @torch.no_grad()
    def _fill(self, source: TwoTower) -> None:
        own = {**dict(self.towers.named_parameters()), **dict(self.towers.named_buffers())}
        for tensors in (source.named_parameters(), source.named_buffers()):
            for name, tensor in tensors:
                own[name].copy_(whole(tensor))
