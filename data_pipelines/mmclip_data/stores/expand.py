"""Turns URLs of shards into shards: brace lists, patterns and folders on a store, each object asked for once."""

import glob
from collections.abc import Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from multiprocessing.pool import ThreadPool
from pathlib import Path

from mmclip.errors import UserError
from mmclip.near import nearest
from mmclip_data.shards.expand import braces, expand_shards
from mmclip_data.stores.config import CacheConfig
from mmclip_data.stores.faults import ForbiddenError, NotFoundError, StoreError
from mmclip_data.stores.filesystems import Facts
from mmclip_data.stores.shard import RemoteShard, Stores
from mmclip_data.stores.urls import StoreUrl, is_url, public

Place = Path | RemoteShard
"""Where a shard is: a file of this machine, or an object on a store."""

LISTED_FROM = 32
"""So many objects of one folder are looked up by listing it, fewer by asking for each."""


def expand_places(spec: str | Sequence[str], config: CacheConfig) -> list[Place]:
    """The shards that `spec` names, as `shards.expand_shards` does, and those at URLs.

    At a URL, too, a part is an object, a folder (its `*.tar`), a pattern in the last part of the path, or a brace list.

    Raises:
        UserError: a part matches nothing, an object of a brace list is missing, or a shard is named twice.
        StoreError: the store does not answer, or forbids it.
    """
    parts = [part for text in ([spec] if isinstance(spec, str) else spec) for part in text.split("::")]
    if not any(map(is_url, parts)):
        return list(expand_shards(spec))
    stores = Stores(config)
    places: list[Place] = []
    seen: set[str | Path] = set()
    for part in parts:
        for place in _expand_url(part, stores) if is_url(part) else expand_shards(part):
            name = place if isinstance(place, Path) else place.url.identity
            if name in seen:
                raise UserError(f"shards name {place} twice; give each shard once, and weight sources by a mixture")
            seen.add(name)
            places.append(place)
    return places


def _expand_url(part: str, stores: Stores) -> list[RemoteShard]:
    shown = public(part)
    names = [StoreUrl.parse(name) for name in braces(shown, part)]
    if len(names) > 1 and all(name.name.endswith(".tar") and not _is_pattern(name) for name in names):
        known = _look_up(names, stores)
        found = {name: [(name, known[name])] if name in known else [] for name in names}
    else:
        found = {name: _matches(name, stores) for name in names}
    missing = [name for name, matches in found.items() if not matches]
    if missing:
        count = "" if len(missing) == 1 else f" and {len(missing) - 1} more"
        raise UserError(f"shards={shown!r}: nothing at {missing[0]}{count}; {_beside(missing[0], stores)}")
    return [RemoteShard(url, facts, stores) for matches in found.values() for url, facts in matches]


def _is_pattern(url: StoreUrl) -> bool:
    # On the web `?` begins the query.
    return "*" in url.bare or "[" in url.bare if url.protocol.startswith("http") else glob.has_magic(url.bare)


def _matches(url: StoreUrl, stores: Stores) -> list[tuple[StoreUrl, Facts]]:
    if _is_pattern(url):
        if _is_pattern(url.parent):
            raise UserError(f"shards={str(url)!r}: on a store, a pattern may stand in the last part of the path only")
        return _listed(url.parent, url.name, stores)
    if not url.name.endswith(".tar"):
        tars = _listed(url, "*.tar", stores)
        if tars:
            return tars
    return list(_look_up([url], stores).items())


def _listed(folder: StoreUrl, pattern: str, stores: Stores) -> list[tuple[StoreUrl, Facts]]:
    try:
        listing = stores.of(folder).listing(folder)
    except NotFoundError:
        return []
    names = sorted((url for url in listing if fnmatchcase(url.name, pattern)), key=lambda url: url.full)
    unknown = [url for url in names if listing[url] is None]
    asked = _ask(unknown, stores) if unknown else {}
    return [(url, facts) for url in names if (facts := listing[url] or asked.get(url)) is not None]


def _look_up(urls: Sequence[StoreUrl], stores: Stores) -> dict[StoreUrl, Facts]:
    """Facts of those that are there."""
    known: dict[StoreUrl, Facts] = {}
    folders = {url.parent for url in urls} if len(urls) >= LISTED_FROM else set()
    for folder in folders:
        with suppress(
            NotFoundError, ForbiddenError
        ):  # who may read an object need not be allowed to list: each is asked for
            known |= {url: facts for url, facts in stores.of(folder).listing(folder).items() if facts is not None}
    wanted = {url: known[url] for url in urls if url in known}
    return wanted | _ask([url for url in urls if url not in wanted], stores)


def _ask(urls: Iterable[StoreUrl], stores: Stores) -> dict[StoreUrl, Facts]:
    def ask(url: StoreUrl) -> Facts | None:
        try:
            return stores.of(url).facts(url)
        except NotFoundError:
            return None

    urls = list(urls)
    if not urls:
        return {}
    with ThreadPool(min(stores.config.parallel, len(urls))) as pool:
        return {url: facts for url, facts in zip(urls, pool.imap(ask, urls), strict=True) if facts is not None}


def _beside(url: StoreUrl, stores: Stores) -> str:
    """What stands beside an object that is not there, the most similar names first."""
    folder = url.parent
    try:
        names = sorted(found.name for found in stores.of(folder).listing(folder) if found.name.endswith(".tar"))
    except StoreError:
        return "its folder cannot be listed"
    close = nearest(url.name, names) or names[:3]
    return f"nearest in {folder}: {', '.join(close)}" if close else f"{folder} holds no .tar"
