"""Shards are plain WebDataset tars with our index beside them, for random access and a checksum of every member."""

from mmclip_data.shards.columns import Member, ShardIndex
from mmclip_data.shards.expand import expand_shards
from mmclip_data.shards.index import OnDamage, index_path, load_index, open_index, write_index
from mmclip_data.shards.indexing import index_shards
from mmclip_data.shards.read import ShardReader
from mmclip_data.shards.walk import build_index
from mmclip_data.shards.write import ShardWriter

__all__ = [
    "Member",
    "OnDamage",
    "ShardIndex",
    "ShardReader",
    "ShardWriter",
    "build_index",
    "expand_shards",
    "index_path",
    "index_shards",
    "load_index",
    "open_index",
    "write_index",
]
