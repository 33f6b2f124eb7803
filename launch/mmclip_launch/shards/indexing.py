"""`mmclip shards index SHARDS`: the index that training reads, beside every tar."""

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from mmclip.errors import UserError
from mmclip_launch.flags import Arguments
from mmclip_launch.screen import Screen

if TYPE_CHECKING:
    from mmclip_data.shards import ShardIndex
    from mmclip_data.stores import Place

MAX_ERRORS = 10


def index(arguments: Sequence[str]) -> None:
    """Write the index of every shard that is named, those left out that have a good one.

    Raises:
        UserError: a shard cannot be indexed; the others are.
    """
    from mmclip_data.shards import index_shards
    from mmclip_data.stores import CacheConfig, RemoteShard, expand_places, index_remote_shards
    from mmclip_data.stores.urls import refuse_url

    parser = Arguments(prog="mmclip shards index", description="Write NAME.tar.mmidx beside each shard.")
    parser.add_argument("shards", nargs="+", help="files, folders, patterns such as data/{000..127}.tar, or URLs")
    parser.add_argument("--index-folder", type=Path, help="folder for the indexes of shards in a read-only place")
    parser.add_argument("--workers", type=int, help="processes; default: one for each core")
    parser.add_argument("--force", action="store_true", help="index again what has a complete index newer than the tar")
    parser.add_argument(
        "--salvage", action="store_true", help="keep the whole samples of damaged shards, list the rest"
    )
    options = parser.parse_args(arguments)
    if options.index_folder is not None:
        refuse_url("index_folder", options.index_folder)
    tars = expand_places(options.shards, CacheConfig())
    local = [tar for tar in tars if isinstance(tar, Path)]
    remote = [tar for tar in tars if isinstance(tar, RemoteShard)]
    workers = options.workers or min(16, len(os.sched_getaffinity(0)))
    screen, errors, total, kept = Screen(), [], 0, 0
    how = {"force": options.force, "salvage": options.salvage}
    work = chain(
        index_shards(local, options.index_folder, workers=workers, **how),
        index_remote_shards(remote, options.index_folder, **how),
    )
    for shard in screen.track(work, len(tars), "index"):
        kept += shard.kept
        if shard.index is not None:
            total += shard.index.num_samples
            _tell_shard(screen, shard.tar, shard.index, shard.kept)
        else:
            errors.append(shard.error)
    if total:
        screen.say(f"{total:,} samples in all" + (f"; {kept} of {len(tars)} shards had their index" if kept else ""))
    if errors:
        more = f"\n... and {len(errors) - MAX_ERRORS} more" if errors[MAX_ERRORS:] else ""
        some = f"{len(errors)} of {len(tars)} shards have no index:\n" if len(tars) > 1 else ""
        raise UserError(some + "\n".join(errors[:MAX_ERRORS]) + more)


def _tell_shard(screen: Screen, tar: "Place", index: "ShardIndex", kept: bool) -> None:
    from mmclip_data.shards.names import CAPTION_EXTENSIONS, IMAGE_EXTENSIONS

    ignored = f", {index.ignored_members} members that belong to no sample" if index.ignored_members else ""
    wrong = "".join(f", {count} {what}" for what, count in index.mislabelled.items())
    for what, extensions in (("picture", IMAGE_EXTENSIONS), ("caption", CAPTION_EXTENSIONS)):
        without = len(index.samples_without(extensions))
        wrong += f", {without} without a {what}" if 0 < without < index.num_samples else ""
    as_before = " (as before)" if kept else ""
    screen.say(
        f"{tar}: {index.num_samples:,} samples, members {', '.join(index.extensions)}{ignored}{wrong}{as_before}"
    )
    if index.salvage is None:
        return
    lost = index.salvage
    screen.warn(
        f"{tar}: damaged; {lost.lost_bytes:,} bytes in {lost.num_ranges} places are lost, "
        f"{lost.num_quarantined} samples are known to be incomplete"
    )
    for start, end, reason in lost.ranges:
        screen.say(f"  bytes {start} to {end}: {reason}")
    for key, reason in lost.quarantined:
        screen.say(f"  {key}: {reason}")
