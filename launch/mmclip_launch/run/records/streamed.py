"""`streamed.jsonl`: what a process has read of each shard of a stream."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmclip_launch.run.peers import rank, world_size
from mmclip_launch.run.records.ledger import STREAMED, append_lines, file_of_rank
from mmclip_launch.screen import Screen


def write_summary(folder: Path, shards: Sequence[Mapping[str, Any]], screen: Screen) -> None:
    """What this process has read of each shard, where only the end of a stream tells; of indexed shards there is nothing."""
    if not shards:
        return
    path = folder / file_of_rank(STREAMED, rank(), world_size())
    append_lines(path, shards)
    samples, damaged = sum(shard["samples"] for shard in shards), sum(bool(shard["damages"]) for shard in shards)
    screen.say(f"streamed {samples:,} samples of {len(shards)} shards, {damaged} of them damaged: {path}")
