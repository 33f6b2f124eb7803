"""Indexes of shards on a store: beside the shard there, or in a folder of this machine; and how they are made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from tempfile import TemporaryDirectory

import xxhash

from mmclip.errors import UserError
from mmclip_data.shards.columns import FORMAT_VERSION, ShardIndex
from mmclip_data.shards.index import SUFFIX, OnDamage, index_path, load_index, open_index, write_index
from mmclip_data.shards.walk import build_index
from mmclip_data.stores.expand import Place
from mmclip_data.stores.faults import NotFoundError, RefusedError, StoreError
from mmclip_data.stores.shard import RemoteShard
from mmclip_data.stores.urls import StoreUrl


def open_indexes(
    places: Sequence[Place], index_folder: Path | None, on_damage: OnDamage = "refuse"
) -> list[ShardIndex]:
    """The index of each shard, in order; those on stores are fetched several at a time.

    Raises:
        UserError: a shard has no index, or was changed since it was indexed.
        StoreError: the store failed.
    """
    _refuse_unindexed([place for place in places if isinstance(place, Path)], index_folder)
    remote = [place for place in places if isinstance(place, RemoteShard)]
    if not remote:
        return [open_index(place, index_folder, on_damage) for place in places if isinstance(place, Path)]
    # Not an executor, which waits for all of its threads when one has failed, and for Ctrl-C too.
    with ThreadPool(min(remote[0].stores.config.parallel, len(remote))) as pool:
        fetched = pool.imap(lambda shard: open_remote_index(shard, index_folder, on_damage), remote)
        return [
            open_index(place, index_folder, on_damage) if isinstance(place, Path) else next(fetched) for place in places
        ]


def _refuse_unindexed(tars: Sequence[Path], index_folder: Path | None) -> None:
    """Of several shards without an index, one command makes all: a person should not learn of them one by one.

    Raises:
        UserError: naming how many, and the command.
    """
    without = [tar for tar in tars if tar.is_file() and not index_path(tar, index_folder).is_file()]
    if len(without) < 2:
        return
    folders = list(dict.fromkeys(str(tar.parent) for tar in without))
    options = f"--index-folder {index_folder} " if index_folder else ""
    raise UserError(
        f"{len(without)} of {len(tars)} shards have no index, the first being {without[0]}; make them with "
        f"`mmclip shards index {options}{' '.join(folders[:3])}{' ...' if folders[3:] else ''}`"
    )


def open_remote_index(
    shard: RemoteShard, index_folder: Path | None = None, on_damage: OnDamage = "refuse"
) -> ShardIndex:
    """Fetch or open the index of one shard, and check that it belongs to an object of this size.

    Raises:
        UserError: there is none, it is damaged, or the object was changed since.
    """
    make = f"`mmclip shards index {shard}`"
    if not shard.size:
        raise UserError(f"shard {shard}: 0 bytes, expected a tar; upload it again, or leave it out of the shards")
    if index_folder is not None:
        place = str(path := local_index_path(shard, index_folder))
        if not path.is_file():
            raise UserError(
                f"shard {shard} has no index at {path}; make it with "
                f"`mmclip shards index --index-folder {index_folder} {shard}`"
            )
        index = load_index(path)
    else:
        place = str(shard.url.sibling(SUFFIX))
        try:
            index = _fetched_index(shard)
        except NotFoundError:
            raise UserError(
                f"shard {shard} has no index at {place}; make it with {make}, or into a folder of this machine with "
                "--index-folder, and name that in data.source.index_folder"
            ) from None
    if shard.size != index.tar_size and on_damage == "refuse":
        change = "cut short" if shard.size < index.tar_size else "rewritten"
        raise UserError(
            f"shard {shard}: {shard.size} bytes, its index {place} expects {index.tar_size}: it was {change} after it was "
            f"indexed; upload the shard again, or, if it was changed on purpose, run {make}; "
            'data.source.on_damage = "quarantine" reads the samples that are left and names the others'
        )
    return index


def _fetched_index(shard: RemoteShard) -> ShardIndex:
    """The index beside the shard, by way of the cache; a damaged copy is fetched once more."""
    url, store, cache = shard.url.sibling(SUFFIX), shard.store, shard.stores.cache
    facts = store.facts(url)
    key = url.key(facts.etag, facts.size)
    for again in (True, False):
        path = cache.small_file(key, lambda: store.read(url, facts, 0, facts.size))
        try:
            if path.stat().st_size == facts.size:
                index = load_index(path)
                problem = index.first_problem()
                if problem is None:
                    return index
            else:
                problem = f"{path.stat().st_size} bytes in the cache, expected {facts.size}"
        except UserError as error:
            problem = str(error).replace(str(path), str(url))
        path.unlink(missing_ok=True)
        if not again:
            raise UserError(f"index {url}: {problem}; make it again with `mmclip shards index --force {shard}`")
    raise AssertionError("the second time ends it")


def local_index_path(shard: RemoteShard, folder: Path) -> Path:
    """Where the index of a shard at a URL stands in a folder; the hash keeps `a/0.tar` and `b/0.tar` apart."""
    return folder / f"{shard.name}.{xxhash.xxh3_64_hexdigest(shard.url.parent.full.encode())}{SUFFIX}"


@dataclass(frozen=True)
class IndexedRemote:
    """What became of one shard: its index, new or kept, or the error."""

    tar: RemoteShard
    index: ShardIndex | None = None
    kept: bool = False
    error: str | None = None


def index_remote_shards(
    shards: Sequence[RemoteShard], index_folder: Path | None = None, *, force: bool = False, salvage: bool = False
) -> Iterator[IndexedRemote]:
    """Write the index of each shard beside it on the store, or into `index_folder`; the tar is read through the cache."""
    for shard in shards:
        try:
            yield _index_shard(shard, index_folder, force, salvage)
        except (UserError, OSError) as error:
            yield IndexedRemote(shard, error=str(error))


def _index_shard(shard: RemoteShard, index_folder: Path | None, force: bool, salvage: bool) -> IndexedRemote:
    if not force:
        try:
            index = open_remote_index(shard, index_folder)
            if index.version == FORMAT_VERSION and index.first_problem() is None:
                return IndexedRemote(shard, index, kept=True)
        except UserError:
            pass  # none, or another shard's: it is made
    with shard.open_whole() as handle:
        # The open file, so that it stays readable when the cache makes room; the error names the URL.
        local = Path(f"/proc/self/fd/{handle.fileno()}")
        try:
            index = build_index(local, salvage)
        except UserError as error:
            raise UserError(str(error).replace(str(local), str(shard))) from None
    if index_folder is not None:
        index_folder.mkdir(parents=True, exist_ok=True)
        path = local_index_path(shard, index_folder)
        write_index(index, path)
        return IndexedRemote(shard, load_index(path))
    with TemporaryDirectory(prefix="mmclip-index-") as folder:
        path = Path(folder) / shard.name
        write_index(index, path)
        _upload(shard, shard.url.sibling(SUFFIX), path.read_bytes())
    return IndexedRemote(shard, index)


def _upload(shard: RemoteShard, url: StoreUrl, content: bytes) -> None:
    elsewhere = "write it into a folder of this machine with --index-folder, and name that in data.source.index_folder"
    if url.protocol.startswith("http"):
        raise UserError(f"shard {shard}: an index cannot be put on a web server; {elsewhere}")
    try:
        shard.store.write(url, content)
    except StoreError as error:
        raise RefusedError(f"index {url} cannot be written: {error}; or {elsewhere}") from None
