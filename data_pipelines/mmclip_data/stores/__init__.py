"""Shards at URLs: any object that fsspec reads, through a bounded, verified cache; see docs/stores.md."""

from mmclip_data.stores.config import CacheConfig
from mmclip_data.stores.expand import Place, expand_places
from mmclip_data.stores.faults import (
    ChangedError,
    ForbiddenError,
    NotFoundError,
    RefusedError,
    ShortBodyError,
    StalledError,
    StoreError,
    UnavailableError,
    UnreachableError,
)
from mmclip_data.stores.indexes import index_remote_shards, open_indexes
from mmclip_data.stores.look_ahead import LookAhead
from mmclip_data.stores.reader import RemoteReader
from mmclip_data.stores.samples_ahead import PlannedRead
from mmclip_data.stores.shard import RemoteShard
from mmclip_data.stores.shards_ahead import Need

__all__ = [
    "CacheConfig",
    "ChangedError",
    "ForbiddenError",
    "LookAhead",
    "Need",
    "NotFoundError",
    "Place",
    "PlannedRead",
    "RefusedError",
    "RemoteReader",
    "RemoteShard",
    "ShortBodyError",
    "StalledError",
    "StoreError",
    "UnavailableError",
    "UnreachableError",
    "expand_places",
    "index_remote_shards",
    "open_indexes",
]
