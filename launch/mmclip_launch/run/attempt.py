"""What tells one attempt of a run from the next in the store where its processes meet.

torchrun's agents keep one store for all attempts under their c10d rendezvous (`--standalone`, elastic), and torch writes into
it without a prefix: after a restart the new processes find the addresses of the dead, and forming a second group hangs.
A job that Slurm starts anew has the port of its last attempt, whose store may not be gone yet.
"""

import os
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import Any

SCHEME = "mmclip"


def key(name: str) -> str:
    """A key of this attempt."""
    restarts = (os.environ.get(f"{launcher}_RESTART_COUNT", "0") for launcher in ("TORCHELASTIC", "SLURM"))
    words = (*restarts, os.environ.get("WORLD_SIZE", "1"))
    return f"mmclip/{'-'.join(words)}/{name}"


@cache
def init_method() -> str:
    """What `torch.distributed.init_process_group` takes: torch's own rendezvous, its keys those of this attempt."""
    from torch.distributed.rendezvous import register_rendezvous_handler

    register_rendezvous_handler(SCHEME, _meet)
    return f"{SCHEME}://"


def _meet(url: str, timeout: timedelta, **options: Any) -> Iterator[tuple[Any, int, int]]:
    from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]
    from torch.distributed.rendezvous import rendezvous

    for store, rank, world_size in rendezvous("env://", timeout=timeout, **options):
        yield PrefixStore(key("torch"), store), rank, world_size
