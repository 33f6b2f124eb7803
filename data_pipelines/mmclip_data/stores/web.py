"""Plain web servers: fsspec's reader neither looks whether an answer is the range that was asked for, nor at its ETag."""

from functools import partial
from typing import Any

import aiohttp

from mmclip_data.stores.faults import ChangedError, ShortBodyError
from mmclip_data.stores.filesystems import Facts, Sink, Store
from mmclip_data.stores.urls import StoreUrl

AS_IT_IS = {"Accept-Encoding": "identity"}
NO_HEAD = (400, 403, 405, 501)
"""Answers to HEAD after which the first byte is asked for instead: a signature may be good for GET alone."""


class WebStore(Store):
    """http:// and https://."""

    def _make(self) -> Any:
        idle = self.config.idle_seconds
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=idle, sock_read=idle)
        from fsspec.implementations.http import HTTPFileSystem

        # trust_env: proxies from the environment, passwords from ~/.netrc.
        session = {"timeout": timeout, "trust_env": True}
        return HTTPFileSystem(client_kwargs=session, skip_instance_cache=True, use_listings_cache=False)

    def _facts(self, url: StoreUrl) -> Facts:
        return self._await(partial(self._head, self._system(), url))

    async def _head(self, system: Any, url: StoreUrl) -> Facts:
        session, place = await system.set_session(), system.encode_url(url.full)
        async with session.head(place, allow_redirects=True, headers=AS_IT_IS) as answer:
            if answer.status not in NO_HEAD:
                answer.raise_for_status()
                if answer.content_length is not None:
                    ranges = answer.headers.get("Accept-Ranges", "") == "bytes"
                    return Facts(answer.content_length, _etag(answer), ranges)
        async with session.get(place, headers=AS_IT_IS | {"Range": "bytes=0-0"}) as answer:
            answer.raise_for_status()
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            size = int(total) if answer.status == 206 and total.isdigit() else answer.content_length
            if size is None:
                raise ShortBodyError(f"{url}: the server does not say how long the object is")
            return Facts(size, _etag(answer), answer.status == 206)

    def _copy(self, url: StoreUrl, facts: Facts, start: int, end: int, deliver: Sink) -> None:
        work = partial(self._stream, self._system(), url, facts, (start, end), deliver)
        self._await(work, end - start if facts.ranges else facts.size)

    async def _stream(self, system: Any, url: StoreUrl, facts: Facts, part: tuple[int, int], deliver: Sink) -> None:
        (start, end), session = part, await system.set_session()
        wanted = {"Range": f"bytes={start}-{end - 1}"} if (start, end) != (0, facts.size) else {}
        async with session.get(system.encode_url(url.full), headers=AS_IT_IS | wanted) as answer:
            answer.raise_for_status()
            if facts.etag and _etag(answer) not in ("", facts.etag):
                raise ChangedError(
                    f"{url}: it was changed while it was read (another ETag); start again when it is whole"
                )
            skip = start
            if answer.status == 206:
                first = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
                if first != str(start):
                    raise ShortBodyError(f"{url}: bytes from {start} were asked for, the answer is another part")
                skip = 0
            left = end - start
            async for piece in answer.content.iter_any():
                begin = min(skip, len(piece))
                skip -= begin
                if useful := piece[begin : begin + left]:
                    deliver(useful)
                    left -= len(useful)
                if not left:
                    return


def _etag(answer: aiohttp.ClientResponse) -> str:
    return (answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "").strip('"')
