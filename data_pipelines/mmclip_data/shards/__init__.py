"""Shards are plain WebDataset tars with our index beside them, for random access and a checksum of every member."""

from mmclip_data.shards.expand import expand_shards
from mmclip_data.shards.index import Member, ShardIndex, index_path, load_index, open_index, write_index
from mmclip_data.shards.read import ShardReader
from mmclip_data.shards.walk import build_index
from mmclip_data.shards.write import ShardWriter

__all__ = [
    "Member",
    "ShardIndex",
    "ShardReader",
    "ShardWriter",
    "build_index",
    "expand_shards",
    "index_path",
    "load_index",
    "open_index",
    "write_index",
]
