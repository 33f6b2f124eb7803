"""Where captions are when nobody says: found in the same way by a run and by the jobs that tell what a run would make of it."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmclip.errors import BadSampleError
from mmclip_data.loading.captions import members_of
from mmclip_data.shards.columns import ShardIndex
from mmclip_data.shards.names import CAPTION_EXTENSIONS
from mmclip_data.shards.read import ShardReader

JSON_KEYS = ("captions", "caption", "texts", "text")
"""Keys of a JSON member that surely hold captions."""
SAMPLES_READ = 16
"""Samples read, evenly spread, to find what no index says."""
SPARE = 0.01
"""Share of samples without a text below which nobody looks into their JSON."""
LOOKED_AT = frozenset({*CAPTION_EXTENSIONS, "json"})


def usual_fields(indexes: Sequence[ShardIndex], some_samples: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """`txt`, `text` or `caption`, whichever most samples have, and the others for those that have nothing else.

    Where many samples have none of the three, a key of the JSON of `some_samples` joins them; `txt` if there is nothing.
    """
    members: Counter[str] = Counter()
    for index in indexes:
        members.update(index.extension_counts())
    total = left = sum(index.num_samples for index in indexes)
    chosen: list[str] = []
    for name in sorted(CAPTION_EXTENSIONS, key=lambda name: -members[name]):  # of equals the first
        without = sum(len(index.samples_without([*chosen, name])) for index in indexes)
        if without < left:
            chosen, left = [*chosen, name], without
    if left > SPARE * total and members["json"]:
        tables = [table_of(sample) for sample in some_samples if not sample.keys() & set(chosen)]
        keys = Counter(key for table in tables for key in JSON_KEYS if holds_texts(table.get(key)))
        chosen += [f"json:{key}" for key, _ in keys.most_common(1)]
    return tuple(chosen) or ("txt",)


def fields_of_shards(readers: Sequence[ShardReader]) -> tuple[str, ...]:
    """`usual_fields` of shards on disk."""
    return usual_fields([reader.index for reader in readers], _read_some(readers))


def _read_some(readers: Sequence[ShardReader]) -> Iterator[dict[str, bytes]]:
    for shard, row in some_places([reader.index.num_samples for reader in readers], SAMPLES_READ):
        try:
            yield readers[shard].read(row, LOOKED_AT)
        except BadSampleError:  # counted by whoever reads it next
            continue


def fields_of_sample(sample: Mapping[str, Any]) -> tuple[str, ...]:
    """Where one sample has its caption, by the usual names; `txt` if nowhere."""
    for name in CAPTION_EXTENSIONS:
        if name in sample:
            return (name,)
    table = table_of(sample)
    return next(((f"json:{key}",) for key in JSON_KEYS if holds_texts(table.get(key))), ("txt",))


def with_lines(fields: Sequence[str]) -> tuple[str, ...]:
    """The same fields where each line of a text is a caption, as in CLIP_benchmark's layout for retrieval."""
    texts = members_of(fields) - {"json"}
    return tuple(f"{field}:lines" if field in texts else field for field in fields)


def table_of(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON member of a sample, empty where it has none that is an object."""
    try:
        table = json.loads(sample["json"])
    except (KeyError, ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


def holds_texts(value: Any) -> bool:
    """Whether it is a text, or a list of texts, with something in it."""
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) and text.strip() for text in texts)


def spread(length: int, count: int) -> list[int]:
    """Up to `count` numbers below `length`, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, count).astype(np.int64)).tolist()


def some_places(sizes: Sequence[int], count: int) -> Iterator[tuple[int, int]]:
    """Shard and row of up to `count` samples, evenly spread."""
    ends = np.cumsum(sizes)
    for number in spread(int(ends[-1]), count):
        shard = int(np.searchsorted(ends, number, side="right"))
        yield shard, number - (int(ends[shard - 1]) if shard else 0)
