"""Training on what cannot be indexed: webdataset's own reader over streams that are read once, from front to back.

It promises less than the plan, and says so at the start: the order depends on the number of ranks and workers, an epoch is
about as many samples as the run file says, and a run cannot go on where it stood. What it does keep: bad samples and cut
shards are counted and named, no shell runs unless that is allowed, and the same layout gives the same batches.
"""

import gzip
import lzma
import mmap
import tarfile
import zlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from torch.utils.data import IterableDataset, get_worker_info
from webdataset import utils as webdataset_utils
from webdataset.tariterators import group_by_keys, tar_file_expander

from mmclip.batch import DataPosition
from mmclip.config import config
from mmclip.errors import BadSampleError, UserError
from mmclip.randomness import Stream, integer, permutation
from mmclip_data.loading.planned import Layout, SampleMap
from mmclip_data.loading.streams import PIPE, STDIN, open_stream, stream_names
from mmclip_data.loading.strict_tar import Readable, StrictTar, unpacked
from mmclip_data.loading.watchdog import Whereabouts
from mmclip_data.shards.headers import TarDamage
from mmclip_data.shards.index import SUFFIX, load_index
from mmclip_data.shards.names import distinct_names
from mmclip_data.stores.urls import public

BAD_IN_A_ROW = 100
SWITCH = "enforce_security"


@config
class StreamingConfig:
    """Tars that are read from front to back: compressed ones, commands, standard input, stores that give no parts."""

    type: Literal["streaming"] = "streaming"
    shards: str | tuple[str, ...]
    """Files, folders, patterns, URLs, `-` for standard input, and `pipe:COMMAND` where `allow_shell` is set."""
    samples: int
    """Samples of an epoch, as far as known: a stream does not tell before its end."""
    name: str = "train"
    """First part of every sample's identity."""
    shuffle_samples: int = 1000
    """Samples of each worker among which the next one is drawn."""
    allow_shell: bool = False
    """Run the commands of `pipe:` shards in a shell; they stand in the run file, so only for files that you trust."""
    on_damage: Literal["refuse", "quarantine"] = "refuse"
    """A shard that is cut or damaged: an error, or a named loss of what is behind the damage."""
    on_resume: Literal["refuse", "restart"] = "refuse"
    """A resumed run: an error, or a start of the stream from its front, in another order of shards."""

    def __post_init__(self) -> None:
        for name, least in {"samples": 1, "shuffle_samples": 1}.items():
            if getattr(self, name) < least:
                raise UserError(f"data.source.{name}={getattr(self, name)}: expected {least} or more")

    def names(self) -> list[str]:
        """The streams, checked as far as that goes without reading them."""
        return stream_names(self.shards, self.allow_shell)

    @property
    def fingerprint(self) -> str:
        """Of the names: the contents of a stream are not known."""
        return xxhash.xxh3_128_hexdigest(repr(("streaming", self.name, self.names())).encode())


class ShardCounts:
    """How often each shard was read, and what came of it; written by the loader processes of a rank, each its own part."""

    def __init__(self, names: Sequence[str], workers: int) -> None:
        self.names = list(names)
        shape = (max(1, workers), len(names), 3)
        self._counts = np.frombuffer(mmap.mmap(-1, int(np.prod(shape)) * 8), dtype=np.int64).reshape(shape)

    def add(self, shard: int, reads: int = 0, samples: int = 0, damages: int = 0) -> None:
        """Note what happened in this process."""
        worker = get_worker_info()
        self._counts[worker.id if worker else 0, shard] += (reads, samples, damages)

    def rows(self) -> list[dict[str, object]]:
        """A row for each shard that was read."""
        return [
            {"shard": name, "reads": reads, "samples": samples, "damages": damages}
            for name, (reads, samples, damages) in zip(self.names, self._counts.sum(axis=0).tolist(), strict=True)
            if reads
        ]


@contextmanager
def secured() -> Iterator[None]:
    """Webdataset's own switch: no shell, no pickles, no names rewritten by the environment."""
    before = getattr(webdataset_utils, SWITCH)
    setattr(webdataset_utils, SWITCH, True)
    try:
        yield
    finally:
        setattr(webdataset_utils, SWITCH, before)


def samples_of(name: str) -> Generator[dict[str, Any], None, None]:
    """The samples of one stream by webdataset's reader, as long as the tar is sound.

    Raises:
        TarDamage: the stream ends before the tar does, is no tar, or holds a name twice.
        OSError: the store failed.
    """
    with closing(open_stream(name)) as raw, closing(StrictTar(_unpacked(raw, name))) as stream, secured():
        count = 0
        try:
            for sample in group_by_keys(tar_file_expander([{"url": public(name), "stream": stream}])):
                count += 1
                yield sample
            stream.finish()
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            with suppress(EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile):
                stream.finish()  # knows better at which byte
            raise TarDamage(
                stream.bytes_read, f"unreadable behind byte {stream.bytes_read}: {error.args[0]}"
            ) from error
        except ValueError as error:
            if "duplicate file name" not in str(error):
                raise
            raise TarDamage(stream.bytes_read, str(error.args[0])) from error
        expected = _indexed(name)
        if expected not in (None, count):
            raise TarDamage(stream.bytes_read, f"its index counts {expected} samples, {count} came")


def _unpacked(raw: Readable, name: str) -> Readable:
    return raw if name == STDIN or name.startswith(PIPE) else unpacked(raw, public(name))


def _indexed(name: str) -> int | None:
    if name == STDIN or name.startswith(PIPE) or "://" in name:
        return None
    path = Path(name + SUFFIX)
    return load_index(path).num_samples if path.is_file() else None


class StreamedSource(IterableDataset):
    """First stage: webdataset dicts, endless, this process's share of the shards in each pass.

    Raises:
        UserError: there are fewer shards than ranks.
    """

    def __init__(
        self, config: StreamingConfig, layout: Layout, start: DataPosition, seed: int, workers: int = 0
    ) -> None:
        self.config = config
        self.layout = layout
        self.start = start
        self.seed = seed
        self.names = config.names()
        if layout.world_size > (1 if STDIN in self.names else len(self.names)):
            raise UserError(
                f"data.source: {len(self.names)} shards for {layout.world_size} ranks: a stream cannot be shared, so expected "
                "a shard for each rank at least (standard input has room for one); indexed shards (type tars) can be"
            )
        self.workers = min(workers, 0 if STDIN in self.names else len(self.names) // layout.world_size)
        """The processes that have a shard each; standard input is read by the training process itself."""
        self.counts = ShardCounts([public(name) for name in self.names], self.workers)
        self.short_names = distinct_names(self.counts.names)
        self.lost: deque[tuple[str, str]] = deque()
        """What was lost and why, to be reported with the samples that come next."""
        self.watch: Whereabouts | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        stream, streams = self._place()
        held: list[dict[str, Any]] = []
        for sample in self._samples(stream, streams):
            held.append(sample)
            if len(held) >= self.config.shuffle_samples:
                yield self._draw(held, stream)
        while held:
            yield self._draw(held, stream)

    def positions(self, count: int) -> tuple[int, int]:
        """Where the batch begins that takes this process's sample number `count`, and the sample's own position."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        step, row = divmod(count, self.layout.batch_size)
        batch_start = self.start.samples_consumed + (number + step * workers) * self.layout.global_batch_size
        return batch_start, batch_start + self.layout.rank * self.layout.batch_size + row

    def _place(self) -> tuple[int, int]:
        """The number of this process among all that stream, and how many there are."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        return self.layout.rank * workers + number, workers * self.layout.world_size

    def _draw(self, held: list[dict[str, Any]], stream: int) -> dict[str, Any]:
        self._drawn = getattr(self, "_drawn", 0) + 1
        draw = integer(self.seed + stream, Stream.STREAM_BUFFER, self.start.samples_consumed + self._drawn, len(held))
        held[draw], held[-1] = held[-1], held[draw]
        return held.pop()

    def _samples(self, stream: int, streams: int) -> Iterator[dict[str, Any]]:
        """Pass after pass over all shards, in an order drawn for each; this process takes every n-th."""
        number = self.start.samples_consumed  # a restarted run has another order than the one before
        while True:
            shards = permutation(self.seed, Stream.STREAM_SHARDS, number, len(self.names))[stream::streams].tolist()
            number += 1
            came = 0
            for shard in shards:
                for sample in self._shard(shard):
                    came += 1
                    yield sample
            if not came:
                reasons = "; ".join(reason for _, reason in list(self.lost)[:2]) or "they are empty"
                raise UserError(f"data.source: not one sample came from {len(shards)} shards: {reasons}")
            if STDIN in self.names:
                return

    def _shard(self, shard: int) -> Iterator[dict[str, Any]]:
        shown = self.counts.names[shard]
        short = f"{shown.split()[0]}#{shard}" if shown.startswith(PIPE) else self.short_names[shard]
        self.counts.add(shard, reads=1)
        if self.watch is not None:
            self.watch.note(shard)
        try:
            for sample in samples_of(self.names[shard]):
                self.counts.add(shard, samples=1)
                sample["__id__"] = f"{self.config.name}/{short}/{sample['__key__']}"
                yield sample
        except TarDamage as damage:
            self.counts.add(shard, damages=1)
            reason = f"shard {shown}: {damage.args[0]}; what is behind it is lost"
            if self.config.on_damage == "refuse":
                raise UserError(
                    f'{reason}: fetch or write it again, or go on without it by data.source.on_damage = "quarantine"'
                ) from damage
            self.lost.append((f"{self.config.name}/{short}", reason))


class StreamPrepare:
    """Second stage: run the maps; a sample that proves bad is left out, and named with one that comes after it."""

    def __init__(self, streamed: StreamedSource, maps: Sequence[SampleMap]) -> None:
        self.streamed = streamed
        self.maps = maps

    def __call__(self, samples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        lost, count, in_a_row = self.streamed.lost, 0, 0
        for raw in samples:
            raw["__batch_start__"], raw["__position__"] = self.streamed.positions(count)
            try:
                prepared = raw
                for function in self.maps:
                    prepared = function(prepared)
            except BadSampleError as error:
                lost.append((raw["__id__"], str(error)))
                in_a_row += 1
                if in_a_row >= BAD_IN_A_ROW:
                    last = f"{in_a_row} samples in a row are bad, the last being {raw['__id__']}: {error}"
                    raise BadSampleError(f"{last}; check the shards with the caption fields of this run") from error
                continue
            count, in_a_row = count + 1, 0
            yield {**prepared, "__replaced__": lost.popleft()} if lost else prepared
        raise UserError(
            f"data.source: the stream ended after {count:,} good samples of this process, and the run wants more: it can be "
            "read only once, so give the run a length below that"
        )
