"""A queue of the newest keys of all ranks, as tensors of fixed shape that a checkpoint keeps."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmclip.errors import UserError
from mmclip.ops.gather import all_gather, all_sum

LOOKED_AT = 64
"""Keys of a rank that are looked for in the queue: of more, the comparison would cost what the loss does."""


class Ring(nn.Module):
    """The last `capacity` rows that were pushed, with their labels and the step that each was pushed at.

    The queue of MoCo (He et al. 2020, section 3.2) without its conditions: a push may have any number of rows, more than
    `capacity` too, and rows that were never pushed are told apart instead of standing in as random negatives. All ranks
    hold the same rows. Nothing here waits for the device.
    """

    keys: Float[Tensor, "capacity embed"]
    labels: Int[Tensor, "capacity factor"]
    pushed_at: Int[Tensor, " capacity"]
    pushed: Int[Tensor, ""]

    def __init__(self, capacity: int, width: int, factors: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.register_buffer("keys", torch.zeros(capacity, width))
        self.register_buffer("labels", torch.zeros(capacity, factors, dtype=torch.int64))
        self.register_buffer("pushed_at", torch.zeros(capacity, dtype=torch.int64))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    @property
    def count(self) -> Int[Tensor, ""]:
        """Rows that hold a key; rows are filled from the first one on."""
        return self.pushed.clamp(max=self.capacity)

    def filled(self) -> Bool[Tensor, " capacity"]:
        """Which rows hold a key."""
        return torch.arange(self.capacity, device=self.keys.device) < self.pushed

    def oldest_first(self) -> Int[Tensor, " capacity"]:
        """Places of the rows in the order of their age: the first `count` of them are filled, the last of these is newest."""
        places = torch.arange(self.capacity, device=self.keys.device)
        wrapped = torch.where(self.pushed > self.capacity, self.pushed, 0)
        return (places + wrapped) % max(1, self.capacity)

    def ages(self, step: int) -> Int[Tensor, " capacity"]:
        """Steps since each row was pushed; of rows that are not filled, 0."""
        return torch.where(self.filled(), step - self.pushed_at, 0)

    def mean_age(self, step: int) -> Float[Tensor, ""]:
        """Of the filled rows, 0 where there is none."""
        return self.ages(step).sum() / self.count.clamp(min=1).to(self.keys.dtype)

    def share_filled(self) -> Float[Tensor, ""]:
        """0 at the start, 1 once every row holds a key; 1 for a ring without rows."""
        return self.count.to(self.keys.dtype) / self.capacity if self.capacity else self.keys.new_ones(())

    @torch.no_grad()
    def agreement(self, keys: Float[Tensor, "batch embed"], labels: Int[Tensor, "batch factor"]) -> Float[Tensor, ""]:
        """Mean cosine of a few of this step's keys with the queued ones of the same pictures; NaN where none came again.

        How stale the queue is, at no forward: 1 where the teacher makes of a picture what it made of it then. Two drawings of
        one picture differ too, so that a fresh queue has less than 1. Keys have length 1; the last factor names the picture,
        and a queue that is shorter than an epoch holds no picture twice.
        """
        asked = slice(0, LOOKED_AT)
        same = self.filled() & (self._fitted(labels)[asked, -1, None] == self.labels[None, :, -1])
        cosines = keys[asked].to(self.keys.dtype) @ self.keys.T
        found = all_sum(torch.stack([(cosines * same).sum(), same.sum().to(cosines.dtype)]))
        return found[0] / found[1]

    def others(self, labels: Int[Tensor, "batch factor"]) -> Bool[Tensor, "batch capacity"]:
        """Which rows are keys of another sample than each of the batch: they agree in no factor."""
        from_same = torch.zeros(len(labels), self.capacity, dtype=torch.bool, device=self.keys.device)
        for factor in range(self.labels.shape[1]):
            from_same |= self._fitted(labels)[:, factor, None] == self.labels[None, :, factor]
        return self.filled() & ~from_same

    @torch.no_grad()
    def push(
        self,
        keys: Float[Tensor, "batch embed"],
        labels: Int[Tensor, "batch factor"],
        step: int,
        skipped: Float[Tensor, ""],
    ) -> None:
        """Let the keys of all ranks take the places of the oldest ones, in rank order; nothing where `skipped` is 1."""
        if not self.capacity:
            return
        keys, labels, taken = all_gather(keys), all_gather(self._fitted(labels)), skipped == 0
        passing = max(0, len(keys) - self.capacity)  # rows that would be gone again before this push ends
        rows = torch.arange(passing, len(keys), device=self.keys.device)
        places = (self.pushed + rows) % self.capacity
        steps = torch.full_like(rows, step)
        for held, new in ((self.keys, keys[rows]), (self.labels, labels[rows]), (self.pushed_at, steps)):
            kept = held[places]
            held[places] = torch.where(taken, new.to(held.dtype), kept)
        self.pushed += taken * len(keys)

    def _fitted(self, labels: Int[Tensor, "batch factor"]) -> Int[Tensor, "batch ring_factor"]:
        """With as many factors as the ring's: a single one is repeated, which changes no agreement."""
        factors = self.labels.shape[1]
        if labels.shape[1] not in (1, factors):
            raise UserError(f"labels with {labels.shape[1]} factors for a queue of {factors}: expected 1 or {factors}")
        return labels.expand(-1, factors).contiguous()
