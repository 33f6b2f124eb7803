"""The form `shards`: tars without a folder layout of their own; local ones, those that come with mmclip, or at a URL."""

from pathlib import Path

from mmclip_data.shards.expand import EMBEDDED
from mmclip_data.stores import expand_places
from mmclip_data.stores.urls import is_url
from mmclip_eval.sources.config import SourceConfig
from mmclip_eval.sources.counts import counts_beside
from mmclip_eval.sources.form import Declared, Form, OpenedSamples
from mmclip_eval.sources.tars import ShardedSamples


def recognises(config: SourceConfig) -> bool:
    """Whether the path can only mean shards, or is a folder that holds some."""
    path = config.path
    if path.startswith(EMBEDDED) or "::" in path or is_url(path) or path.endswith(".tar"):
        return True
    place = Path(path)
    return any(place.glob("*.tar")) if place.is_dir() else not place.exists()


def open_shards(config: SourceConfig) -> OpenedSamples:
    """Index the shards, and compare them with what is said beside them.

    Raises:
        UserError: there are none, or a shard holds another number of samples than is said of it.
        StoreError: a store does not answer.
    """
    samples = ShardedSamples(config.name, expand_places(config.path, config.cache), not config.pictures)
    number, by = counts_beside(samples)
    return OpenedSamples(samples, Declared(num_samples=number, counted_by=by))


FORM = Form(
    "shards",
    "shards (FOLDER of .tar files, data/{000..127}.tar, s3://..., https://..., hf://..., embedded:...)",
    recognises,
    open_shards,
)
