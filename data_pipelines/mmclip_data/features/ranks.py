"""`Ranks`: the processes of one encode pass, as bytes that the first tells the others and gathers from them.

Messages are JSON and raw numbers: torch's own collectives of objects would unpickle what another process says.
"""

import json
import socket
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from mmclip.errors import BadSampleError, MachineError, UserError

PATIENCE = timedelta(days=14)
"""The others wait while the first works on its tasks; one that dies is noticed at once, by its closed connection."""
KINDS: tuple[type[Exception], ...] = (UserError, BadSampleError, MachineError)
"""Errors that stay what they are on their way to the first rank."""


class PeerError(RuntimeError):
    """A fault of ours on another rank, with its traceback as a note."""


class Ranks:
    """Rank 0 of `size` processes asks, the others answer; by itself it is the only one."""

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank = rank
        self.size = size
        self.in_touch = True
        """False from the moment that a message failed or was interrupted: what the others wait for is not known then."""
        self._group = group

    @classmethod
    def of_process_group(cls) -> "Ranks":
        """All processes of torch's default group, over a group of their own that waits patiently; on all of them at once."""
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size(), group)

    def tell(self, message: Any) -> None:
        """Say something, in plain values, to all others."""
        if self.size > 1:
            self._broadcast(json.dumps(message).encode())

    def hear(self) -> Any:
        """What the first rank says next."""
        return json.loads(self._broadcast(b""))

    def gather(self, part: bytes) -> list[bytes]:
        """The parts of all, in the order of the ranks; empty on all but the first."""
        if self.size == 1:
            return [part]
        self.in_touch = False
        own = torch.tensor([len(part)])
        lengths = [torch.zeros_like(own) for _ in range(self.size)]
        dist.all_gather(lengths, own, group=self._group)
        sizes = [int(length) for length in lengths]
        padded = torch.zeros(max(1, *sizes), dtype=torch.uint8)
        padded[: len(part)] = _tensor(part)
        parts = [torch.empty_like(padded) for _ in sizes] if self.rank == 0 else None
        dist.gather(padded, parts, dst=0, group=self._group)
        self.in_touch = True
        return [part.numpy()[:size].tobytes() for part, size in zip(parts or (), sizes, strict=False)]

    def _broadcast(self, message: bytes) -> bytes:
        self.in_touch = False
        length = torch.tensor([len(message)])
        dist.broadcast(length, src=0, group=self._group)
        content = _tensor(message) if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(content, src=0, group=self._group)
        self.in_touch = True
        return message if self.rank == 0 else content.numpy().tobytes()


def error_table(error: Exception, rank: int) -> dict[str, str]:
    """An error in plain values."""
    kind = next((kind.__name__ for kind in KINDS if isinstance(error, kind)), "")
    where = "" if rank == 0 else f"rank {rank} ({socket.gethostname()}): "
    text = str(error) if kind else f"{where}{type(error).__name__}: {error}"
    return {"kind": kind, "message": text, "traceback": "".join(traceback.format_exception(error))}


def error_of(table: dict[str, str]) -> Exception:
    """The error that a table tells of."""
    kind = next((kind for kind in KINDS if kind.__name__ == table["kind"]), None)
    if kind is not None:
        return kind(table["message"])
    error = PeerError(table["message"])
    error.add_note(table["traceback"])
    return error


def answers(ranks: Ranks, own: Any, error: Exception | None = None) -> Sequence[Any]:
    """Gather what each rank has to say, in plain values; what went wrong anywhere is raised on the first rank.

    Raises:
        Exception: `error`, else that of the lowest rank that has one.
    """
    told = {"error": error_table(error, ranks.rank) if error is not None else None, "answer": own}
    parts = [json.loads(part) for part in ranks.gather(json.dumps(told).encode())]
    if error is not None and ranks.rank == 0:
        raise error
    for part in parts:
        if part["error"] is not None:
            raise error_of(part["error"])
    return [part["answer"] for part in parts]


def dismiss(ranks: Ranks) -> None:
    """Let the others go; one that is no longer there needs no leave."""
    if ranks.in_touch:
        with suppress(RuntimeError):
            ranks.tell({"ask": "leave"})


ALONE = Ranks()


def _tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
