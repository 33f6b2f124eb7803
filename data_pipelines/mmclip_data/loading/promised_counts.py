"""What other tools wrote beside the tars about how many samples there are, compared with what the indexes count."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmclip_data.loading.sources import IndexedTars
from mmclip_data.pipelines.check.shard import CheckedShard
from mmclip_data.pipelines.check.sidecars import sidecar_findings, stats_path


def broken_promises(source: IndexedTars) -> list[str]:
    """`broken_counts` of the tars of a training source."""
    counted = {
        tar: index.num_samples
        for tar, index in zip(source.tars, source.indexes, strict=True)
        if isinstance(tar, Path)  # beside a URL nothing is looked for
    }
    return broken_counts(counted)


def broken_counts(counted: Mapping[Path, int]) -> list[str]:
    """A line for each of `sizes.json`, `__len__`, img2dataset's statistics and `_info.json` that promises other numbers.

    `counted` holds the samples of each tar.
    """
    shards = [
        CheckedShard(tar, 0, samples, {}, True, "", np.empty(0, np.uint64), ()) for tar, samples in counted.items()
    ]
    lines = [
        f"{finding.shard}: {finding.kind}: {finding.detail or '; '.join(' '.join(name) for name in finding.names[:3])}"
        for finding in sidecar_findings(shards)
        if finding.effect != "note"
    ]
    return lines + [line for folder in sorted({tar.parent for tar in counted}) for line in _info(folder, counted)]


def promised_samples(counted: Mapping[Path, int]) -> tuple[int, str] | None:
    """How many samples the tars have together by what stands beside them, and by which of it; None where nothing tells."""
    sizes = {folder: _json(folder / "sizes.json") for folder in {tar.parent for tar in counted}}
    told = {
        "img2dataset's statistics": [_json(stats_path(tar)).get("successes") for tar in counted],
        "sizes.json": [sizes[tar.parent].get(tar.name) for tar in counted],
    }
    for by, numbers in told.items():
        known = [number for number in numbers if isinstance(number, int)]
        if counted and len(known) == len(numbers):
            return sum(known), by
    return None


def _info(folder: Path, counted: Mapping[Path, int]) -> Iterator[str]:
    """`_info.json` of data sets on the Hub, such as cc3m-wds: for each split names of shards and samples in each."""
    for path in (folder / "_info.json", folder.parent / "_info.json"):
        for split in _splits(path):
            names, lengths = split.get("filenames"), split.get("shard_lengths")
            if not isinstance(names, list) or not isinstance(lengths, list) or len(names) != len(lengths):
                continue
            for name, length in zip(names, lengths, strict=True):
                tar = folder / Path(str(name)).name
                if tar in counted and counted[tar] != length:
                    yield f"{path}: {tar.name} should have {length} samples, {counted[tar]} are there"


def _splits(path: Path) -> list[dict[str, Any]]:
    splits = _json(path).get("splits")
    return [split for split in splits.values() if isinstance(split, dict)] if isinstance(splits, dict) else []


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is none, or the file is another tool's."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
