"""What damaged shards had lost before they were indexed, said again by whoever reads them."""

from collections.abc import Sequence

from mmclip_data.shards.columns import ShardIndex

MAX_NAMES = 5


def lost_before(shards: Sequence[tuple[str, ShardIndex]]) -> list[str]:
    """A line where indexes, by the name of their shard, were made with `--salvage`; nothing where none was."""
    lost = [(name, index.salvage) for name, index in shards if index.salvage is not None]
    if not lost:
        return []
    samples = sum(salvage.num_quarantined for _, salvage in lost)
    size = sum(salvage.lost_bytes for _, salvage in lost)
    names = [f"{name}/{key}" for name, salvage in lost for key, _ in salvage.quarantined]
    named = f" ({', '.join(names[:MAX_NAMES])}{', ...' if samples > MAX_NAMES else ''})" if names else ""
    return [
        f"{len(lost)} of {len(shards)} shards were damaged before they were indexed: {samples:,} samples known to be "
        f"incomplete{named} and whatever stood in {size:,} lost bytes are not in them"
    ]
