"""What img2dataset has downloaded, in its formats `webdataset`, `files` and `parquet`, to shards.

    mmclip shards make img2dataset --source download/ --output data/mine

Samples keep their keys and stand in the order of those, because img2dataset writes them as downloads end. What failed to
download is counted from its statistics. A part without statistics was not finished and is left out.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from mmclip.config import config
from mmclip.errors import BadSampleError, UserError
from mmclip_data.pipelines.check.sidecars import stats_path
from mmclip_data.pipelines.job import Dropped, Job, JobReport, Outcome, Track, quiet, write_shards
from mmclip_data.pipelines.job.workers import worker_count
from mmclip_data.pipelines.job.writing import settings_of
from mmclip_data.pipelines.layout import write_lines
from mmclip_data.pipelines.pairs import Pair, outcome
from mmclip_data.pipelines.rewrite import CHANGED
from mmclip_data.pipelines.table_rows import HINT
from mmclip_data.shards.indexing import index_shards
from mmclip_data.shards.losses import lost_before
from mmclip_data.shards.names import IMAGE_EXTENSIONS
from mmclip_data.shards.read import ShardReader

Format = Literal["webdataset", "files", "parquet"]
SAMPLES_IN_PIECE = 64
FAILED = ("failed_to_download", "failed_to_resize")
NOT_FINISHED = "img2dataset did not finish it"


@config
class Img2datasetConfig:
    """The output folder of img2dataset to shards."""

    source: Path
    """img2dataset's output folder."""
    output: Path
    """Folder to write; the shards go into its `train/` or `test/`."""
    format: Literal["auto", "webdataset", "files", "parquet"] = "auto"
    """Its `--output_format`; default: told from what is there."""
    split: Literal["train", "test"] = "train"
    """The split to write."""
    unfinished: Literal["skip", "keep"] = "skip"
    """What to do with parts that have no statistics: with `keep`, their whole samples are taken."""
    decode: bool = True
    """Decode every picture once, and drop those that training could not read."""
    samples_per_shard: int = 10_000
    """Samples in one tar."""
    index_folder: Path | None = None
    """Where indexes of the source's tars go, when its folder is read-only."""
    workers: int | None = None
    """Processes; default: one for each core. Changes no byte of the output."""
    overwrite: bool = False
    """Replace the shards of an earlier run."""


@dataclass(frozen=True)
class _Part:
    """One of img2dataset's shards in any format: keys in order, and the file or folder that holds their samples."""

    name: str
    path: Path
    keys: tuple[str, ...]
    rows: tuple[int, ...] = ()
    """Of tars and Parquet: where each key's sample stands."""
    reader: ShardReader | None = None


@dataclass(frozen=True)
class _Samples:
    """The work on a range of samples, numbered through all parts."""

    parts: tuple[_Part, ...]
    format: Format
    decode: bool

    def __len__(self) -> int:
        return sum(len(part.keys) for part in self.parts)

    def pieces(self, start: int) -> Iterator[tuple[int, int, int]]:
        """Part, first sample and the one behind the last; a piece lies in one part."""
        before = 0
        for number, part in enumerate(self.parts):
            first = max(0, start - before)
            before += len(part.keys)
            for begin in range(first, len(part.keys), SAMPLES_IN_PIECE):
                yield number, begin, min(begin + SAMPLES_IN_PIECE, len(part.keys))

    def __call__(self, piece: tuple[int, int, int]) -> list[Outcome]:
        number, begin, end = piece
        part = self.parts[number]
        table = _parquet_rows(part, begin, end) if self.format == "parquet" else None
        outcomes: list[Outcome] = []
        for place in range(begin, end):
            name = f"{part.name}/{part.keys[place]}"
            members = table[place - begin] if table is not None else self._members(part, place, name)
            outcomes.append(members if isinstance(members, Dropped) else self._outcome(name, part.keys[place], members))
        return outcomes

    def _members(self, part: _Part, place: int, name: str) -> dict[str, bytes] | Dropped:
        if part.reader is not None:
            try:
                return part.reader.read(part.rows[place])
            except BadSampleError as error:
                return Dropped(name, CHANGED, str(error).rpartition(": ")[2])
        files = {
            extension: part.path / f"{part.keys[place]}.{extension}" for extension in (*IMAGE_EXTENSIONS, "txt", "json")
        }
        return {extension: path.read_bytes() for extension, path in files.items() if path.is_file()}

    def _outcome(self, name: str, key: str, members: dict[str, bytes]) -> Outcome:
        picture = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)
        try:
            text = members.get("txt", b"").decode()
            facts = json.loads(members["json"]) if "json" in members else {}
        except (ValueError, RecursionError) as error:
            return Dropped(name, "caption or json cannot be read", str(error))
        facts = facts if isinstance(facts, dict) else {}
        caption = text or str(facts.get("caption") or "")
        found = picture if picture is not None else Dropped(name, "no picture")
        return outcome(Pair(name, found, (caption,), facts, key=key), self.decode)


def make_img2dataset(config: Img2datasetConfig, track: Track = quiet) -> JobReport:
    """Write every sample that was downloaded and has a caption, in the order of the keys.

    Raises:
        UserError: the folder is not img2dataset's, or a tar of it is damaged.
    """
    if not config.source.is_dir():
        raise UserError(f"source={config.source}: no such folder")
    kind = _format(config.source) if config.format == "auto" else config.format
    places = _places(config.source, kind)
    finished = [place for place in places if stats_path(place).is_file()]
    taken = places if config.unfinished == "keep" else finished
    if not taken:
        raise UserError(
            f"source={config.source}: {len(places)} parts in format {kind}, none with its NAME_stats.json; img2dataset "
            "writes that last: let it end, or take what is whole with --unfinished keep"
        )
    parts = _parts(config, kind, taken, track)
    samples = _Samples(parts, kind, config.decode)
    unimportant = ("source", "index_folder", "format")
    written = write_shards(
        Job("make img2dataset", settings_of(config, unimportant) | {"format": kind}, _fingerprint(parts)),
        samples,
        samples,
        config.output / config.split,
        samples_per_shard=config.samples_per_shard,
        workers=config.workers,
        overwrite=config.overwrite,
        track=track,
    )
    write_lines(config.output / "dataset_type.txt", ["retrieval"])
    statistics = [_statistics(place) for place in finished]
    dropped = written.dropped
    for reason in FAILED:
        failed = {place.name: facts[reason] for place, facts in zip(finished, statistics, strict=True) if facts[reason]}
        if failed:
            names = [f"{count:,} in {name}" for name, count in failed.items()]
            dropped.count(f"{reason.replace('_', ' ')}, before mmclip", sum(failed.values()), names)
    left_out = [place.name for place in places if place not in taken]
    if left_out:
        dropped.count(NOT_FINISHED, len(left_out), left_out)
    counts = {"parts": len(taken), "samples found": len(samples), f"{config.split} samples": written.num_samples}
    indexes = [(part.path.name, part.reader.index) for part in parts if part.reader is not None]
    notes = [f"format {kind}", *written.notes, *lost_before(indexes)]
    expected = sum(facts["successes"] for facts in statistics)
    if config.unfinished == "skip" and expected != len(samples):
        notes.append(f"the statistics say {expected:,} downloads succeeded, {len(samples):,} samples are there")
    return JobReport(written.folder, counts, dropped, notes)


def _format(source: Path) -> Format:
    """The format by what the folder holds; every format has Parquet files of the downloads' metadata."""
    if any(source.glob("*.tar")):
        return "webdataset"
    if any(path.is_dir() and path.name.isdigit() for path in source.iterdir()):
        return "files"
    if any(source.glob("*.parquet")):
        return "parquet"
    raise UserError(
        f"source={source}: no NNNNN.tar, NNNNN/ or NNNNN.parquet in it; expected img2dataset's output folder"
    )


def _places(source: Path, kind: Format) -> list[Path]:
    if kind == "files":
        return sorted(path for path in source.iterdir() if path.is_dir() and path.name.isdigit())
    return sorted(source.glob("*.tar" if kind == "webdataset" else "*.parquet"))


def _parts(config: Img2datasetConfig, kind: Format, places: list[Path], track: Track) -> tuple[_Part, ...]:
    if kind == "files":
        return tuple(_file_part(folder) for folder in places)
    if kind == "parquet":
        return tuple(_parquet_part(path) for path in places)
    keep = config.unfinished == "keep"
    work = index_shards(places, config.index_folder, workers=worker_count(config.workers), salvage=keep)
    found = list(track(work, len(places), "index"))
    damaged = [shard.error for shard in found if shard.error]
    if damaged:
        raise UserError("\n".join(damaged[:10]))
    parts = []
    for shard in found:
        assert shard.index is not None
        keys = [shard.index.key(row) for row in range(shard.index.num_samples)]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        reader = ShardReader(shard.tar, shard.index)
        parts.append(_Part(shard.tar.stem, shard.tar, tuple(keys[row] for row in order), tuple(order), reader))
    return tuple(parts)


def _file_part(folder: Path) -> _Part:
    keys = {path.stem for path in folder.iterdir() if path.suffix.lower()[1:] in IMAGE_EXTENSIONS}
    return _Part(folder.name, folder, tuple(sorted(keys)))


def _parquet_part(path: Path) -> _Part:
    """Rows that have a picture; the others failed to download, and the statistics count them."""
    file = _open_parquet(path)
    column = _picture_column(path, file)
    table = file.read(["key", column])
    keys = {str(key): row for row, key in enumerate(table["key"].to_pylist()) if table[column][row].is_valid}
    return _Part(path.stem, path, tuple(sorted(keys)), tuple(keys[key] for key in sorted(keys)))


def _parquet_rows(part: _Part, begin: int, end: int) -> list[dict[str, bytes]]:
    """The members of some samples of a Parquet part; only the row groups that hold them are read."""
    file = _open_parquet(part.path)
    column = _picture_column(part.path, file)
    ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
    groups: dict[int, Any] = {}
    found = []
    for row in part.rows[begin:end]:
        group = int(np.searchsorted(ends, row, side="right"))
        if group not in groups:
            groups[group] = file.read_row_group(group)
        start = int(ends[group - 1]) if group else 0
        cells = groups[group].slice(row - start, 1).to_pylist()[0]
        picture, text = cells.pop(column), cells.pop("txt", None)
        facts = {name: value for name, value in cells.items() if not isinstance(value, bytes)}
        json_bytes = json.dumps(facts, default=str).encode()
        found.append({column: picture, "txt": (text or "").encode(), "json": json_bytes})
    return found


def _open_parquet(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(f"{path}: {HINT}") from error
    try:
        return parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: not a whole Parquet file ({error}); download it again") from error


def _picture_column(path: Path, file: Any) -> str:
    names = file.schema_arrow.names
    column = next((name for name in IMAGE_EXTENSIONS if name in names), None)
    if column is None or "key" not in names:
        raise UserError(
            f"{path}: columns {', '.join(names[:12])}; expected `key` and one of {', '.join(IMAGE_EXTENSIONS)}"
        )
    return column


def _statistics(place: Path) -> dict[str, int]:
    """The numbers that img2dataset wrote about a part."""
    path = stats_path(place)
    try:
        facts = json.loads(path.read_bytes())
        return {name: int(facts.get(name, 0)) for name in ("successes", *FAILED)}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the statistics of img2dataset ({error})") from error


def _fingerprint(parts: tuple[_Part, ...]) -> str:
    """Of the keys, and of the bytes where an index vouches for them, else of the files' sizes and times."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update("\n".join((part.name, *part.keys)).encode())
        if part.reader is not None:
            digest.update(part.reader.index.fingerprint.encode())
        elif part.path.is_file():
            digest.update(str(part.path.stat().st_size).encode())
        else:
            facts = [path.stat() for path in sorted(part.path.iterdir())]
            digest.update(" ".join(f"{fact.st_size} {fact.st_mtime_ns}" for fact in facts).encode())
    return digest.hexdigest()
