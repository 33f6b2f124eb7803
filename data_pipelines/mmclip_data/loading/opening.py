"""From the run file's words to an open source, and to the fields in which its samples hold captions."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmclip.errors import BadSampleError
from mmclip_data.loading.captions import members_of
from mmclip_data.loading.datasets_source import DatasetsConfig, HFDataset
from mmclip_data.loading.mixture import Mixture, MixtureConfig, Part
from mmclip_data.loading.sources import IndexedTars, IndexedTarsConfig, Source, SyntheticConfig
from mmclip_data.loading.streaming import StreamingConfig
from mmclip_data.shards.names import CAPTION_EXTENSIONS

SourceConfig = IndexedTarsConfig | DatasetsConfig | MixtureConfig | StreamingConfig | SyntheticConfig
"""What `data.source` may be."""
JSON_KEYS = ("captions", "caption", "texts", "text")
"""Keys of a JSON member that surely hold captions."""
SHARDS_COUNTED = 64
"""Shards whose members are counted, evenly spread: the columns of thousands need not be read to find a wrong name."""
SAMPLES_READ = 16
"""Samples read, evenly spread, to find what no index says."""


@dataclass(frozen=True)
class Opened:
    """A source, and where the captions of its samples are."""

    source: Source
    captions: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What was chosen for the user, to be said at the start."""


def open_source(config: Any, captions: Sequence[str] | None) -> Opened:
    """Open what a source's configuration names; without `captions` they are found where other tools put them.

    Raises:
        UserError: the source cannot be used.
    """
    if isinstance(config, MixtureConfig):
        return _open_mixture(config, captions)
    if captions is not None:
        return Opened(config.build(members_of(captions)), tuple(captions))
    source = config.build({*CAPTION_EXTENSIONS, "json"})
    found = caption_fields(source)
    if isinstance(source, IndexedTars):
        source.restrict(members_of(found))
    return Opened(
        source, found, (f"captions of {name_of(source)} from {', '.join(found)} (data.captions says otherwise)",)
    )


def _open_mixture(config: MixtureConfig, captions: Sequence[str] | None) -> Opened:
    opened = [open_source(part.source, part.captions or captions) for part in config.sources]
    parts = [Part(part.source, part.captions, name_of(part.source)) for part in opened]
    fields = tuple(dict.fromkeys(field for part in opened for field in part.captions))
    return Opened(Mixture(config, parts), fields, tuple(note for part in opened for note in part.notes))


def name_of(source: Source) -> str:
    """The first part of its samples' identities."""
    return source.sample_id(0, 0).partition("/")[0]


def caption_fields(source: Source) -> tuple[str, ...]:
    """Where captions are, by the usual names: `txt`, `text` or `caption`, else a key of `json`, else `txt` all the same."""
    if isinstance(source, HFDataset):
        return source.caption_fields
    if not isinstance(source, IndexedTars):
        return ("txt",)
    members: Counter[str] = Counter()
    for number in spread(len(source.tars), SHARDS_COUNTED):
        members.update(source.indexes[number].extension_counts())
    there = [name for name in CAPTION_EXTENSIONS if members[name]]
    if there:
        chosen = max(there, key=lambda name: members[name])  # of equals the first
        return (f"{chosen}:lines",) if _has_lines(source) else (chosen,)
    keys = Counter(key for table in _tables(source) for key in JSON_KEYS if _holds_texts(table.get(key)))
    return (f"json:{keys.most_common(1)[0][0]}",) if keys else ("txt",)


def fields_of_sample(sample: Mapping[str, Any]) -> tuple[str, ...]:
    """Where one sample has its caption, by the usual names; `txt` if nowhere."""
    for name in CAPTION_EXTENSIONS:
        if name in sample:
            return (name,)
    table = _table_of(sample)
    return next(((f"json:{key}",) for key in JSON_KEYS if _holds_texts(table.get(key))), ("txt",))


def spread(length: int, count: int) -> list[int]:
    """Up to `count` numbers below `length`, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, count).astype(np.int64)).tolist()


def some_places(sizes: Sequence[int], count: int) -> Iterator[tuple[int, int]]:
    """Shard and row of up to `count` samples, evenly spread."""
    ends = np.cumsum(sizes)
    for number in spread(int(ends[-1]), count):
        shard = int(np.searchsorted(ends, number, side="right"))
        yield shard, number - (int(ends[shard - 1]) if shard else 0)


def _has_lines(source: IndexedTars) -> bool:
    """CLIP_benchmark's layout for retrieval: `dataset_type.txt` says so, and each line of a text is a caption."""
    folder = Path(str(source.tars[0])).parent
    types = [place / "dataset_type.txt" for place in (folder, folder.parent)]
    return any(path.is_file() and path.read_text(errors="replace").strip() == "retrieval" for path in types)


def _tables(source: IndexedTars) -> Iterator[dict[str, Any]]:
    for place in some_places(source.shard_sizes.tolist(), SAMPLES_READ):
        try:
            yield _table_of(source.read(*place))
        except BadSampleError:  # bad samples are counted later, by the census and the run
            continue


def _table_of(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON member of a sample, empty where it has none that is an object."""
    try:
        table = json.loads(sample["json"])
    except (KeyError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def _holds_texts(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) and text.strip() for text in texts)
