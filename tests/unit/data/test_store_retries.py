"""Shards at URLs: the same samples as from a disk, and every fault of a store either recovered or named."""

import random

import pytest

from mmclip_data.stores import (
    ForbiddenError,
    ShortBodyError,
    UnavailableError,
)
from mmclip_data.stores.retry import Retry
from mmclip_data.stores.urls import StoreUrl, without_secrets
from mmclip_data.testing.shard_faults import make_shard

SHARDS = {f"/data/{number}.tar": make_shard(6, number).raw for number in range(3)}


# How long


def test_waits_grow_with_jitter_and_stop_within_the_budget():
    waited: list[float] = []
    retry = Retry(60.0, random.Random(0), waited.append, lambda: sum(waited))

    def fail() -> None:
        raise UnavailableError("503")

    with pytest.raises(UnavailableError, match=r"given up after \d+ tries in \d+ s"):
        retry.run(fail)
    draws = random.Random(0)
    assert waited == [draws.uniform(0, min(20.0, 0.2 * 2**n)) for n in range(len(waited))]
    assert len(waited) > 5
    assert sum(waited) <= 60


def test_bytes_that_come_begin_the_budget_anew():
    waited: list[float] = []
    retry = Retry(1.0, random.Random(1), waited.append, lambda: 10.0 * len(waited))
    came = [0]

    def trickle() -> int:
        came[0] += 1
        if came[0] < 20:
            raise ShortBodyError("cut")
        return came[0]

    assert retry.run(trickle, progress=lambda: came[0]) == 20


def test_credentials_are_looked_for_again_once():
    tries, refreshed = [0], [0]

    def forbidden() -> None:
        tries[0] += 1
        raise ForbiddenError("403")

    def refresh() -> None:
        refreshed[0] += 1

    with pytest.raises(ForbiddenError):
        Retry(60.0).run(forbidden, refresh)
    assert (tries[0], refreshed[0]) == (2, 1)


def test_the_key_of_the_cache_knows_objects_and_not_signatures():
    def key(url: str, etag: str = "e", size: int = 1) -> str:
        return StoreUrl.parse(url).key(etag, size)

    assert (
        key("https://h/a.tar?X-Amz-Signature=1&X-Amz-Date=2")
        == key("https://h/a.tar?X-Amz-Signature=3")
        == key("https://h/a.tar")
    )
    different = [
        key("s3://b/a/0.tar"),
        key("s3://b/b/0.tar"),
        key("s3://b/a/0.tar", "other"),
        key("s3://b/a/0.tar", "e", 2),
        key("https://h/get?file=a.tar"),
        key("https://h/get?file=b.tar"),
    ]
    assert len(set(different)) == 6


def test_kept_settings_lose_signatures_and_nothing_else():
    table = {
        "a": ["s3://b/{0..3}.tar::https://h/x.tar?sig=SECRET&file=a", "plain?sig=x"],
        "b": {"c": "https://h/get?file=b.tar"},
        "d": 3,
    }
    assert without_secrets(table) == {
        "a": ["s3://b/{0..3}.tar::https://h/x.tar?file=a", "plain?sig=x"],
        "b": {"c": "https://h/get?file=b.tar"},
        "d": 3,
    }
