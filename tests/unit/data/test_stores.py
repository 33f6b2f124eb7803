"""Shards at URLs: the same samples as from a disk, and every fault of a store either recovered or named."""

import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from mmclip.errors import BadSampleError, MachineError, UserError
from mmclip_data.shards import open_index
from mmclip_data.stores import (
    CacheConfig,
    ChangedError,
    ForbiddenError,
    RemoteReader,
    RemoteShard,
    ShortBodyError,
    StalledError,
    StoreError,
    UnavailableError,
    UnreachableError,
    expand_places,
    index_remote_shards,
    open_indexes,
)
from mmclip_data.stores.faults import NotFoundError, RefusedError
from mmclip_data.stores.urls import without_secrets
from mmclip_data.testing.shard_faults import make_shard, overwrite
from mmclip_data.testing.store_faults import Choose, FaultyServer, Request, serving

SHARDS = {f"/data/{number}.tar": make_shard(6, number).raw for number in range(3)}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def quick(folder: Path, **changes: object) -> CacheConfig:
    return CacheConfig(**{"folder": str(folder / "cache"), "idle_seconds": 0.4, "retry_seconds": 20.0, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The shards and their indexes, as a store would hold them."""
    from mmclip_data.shards import index_shards

    folder = tmp_path_factory.mktemp("made")
    for path, raw in SHARDS.items():
        (folder / Path(path).name).write_bytes(raw)
    assert [done.error for done in index_shards(sorted(folder.glob("*.tar")))] == [None] * 3
    return {f"/data/{path.name}": path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def web(indexes: dict[str, bytes]) -> Iterator[FaultyServer]:
    with serving(FaultyServer(indexes)) as server:
        yield server


def one(server: FaultyServer, folder: Path, number: int = 0, **changes: object) -> RemoteShard:
    (shard,) = expand_places(f"{server.url}/data/{number}.tar", quick(folder, **changes))
    assert isinstance(shard, RemoteShard)
    shard.store.retry.sleep = lambda seconds: None
    return shard


def reader(shard: RemoteShard) -> RemoteReader:
    return RemoteReader(shard, open_indexes([shard], None)[0])


def samples(number: int = 0) -> list[dict[str, bytes]]:
    return list(make_shard(6, number).samples.values())


def only_tar(kind: str, times: int = 1) -> Choose:
    """`kind` for the first `times` GETs of a tar."""
    left = [times]

    def choose(request: Request) -> str | None:
        if request.method == "GET" and request.path.partition("?")[0].endswith(".tar") and left[0]:
            left[0] -= 1
            return kind
        return None

    return choose


# What is read


@pytest.mark.parametrize("mode", ["auto", "download", "range"])
def test_samples_of_a_store_are_those_of_the_disk(web: FaultyServer, tmp_path: Path, mode: str):
    for number in range(3):
        found = reader(one(web, tmp_path, number, mode=mode))
        assert [found.read(row) for row in range(6)] == samples(number)
    ranges = [request for request in web.requests if request.path.endswith(".tar") and request.span]
    assert bool(ranges) == (mode != "download")
    assert len(list((tmp_path / "cache").glob("*.tar"))) == (3 if mode == "download" else 0)


def test_neighbouring_members_come_in_one_request(web: FaultyServer, tmp_path: Path):
    found = reader(one(web, tmp_path, mode="range"))
    web.requests.clear()
    assert found.read(3, ("jpg", "txt")) == {name: samples()[3][name] for name in ("jpg", "txt")}
    assert len(web.requests) == 1


def test_a_server_without_ranges_is_downloaded_from(indexes: dict[str, bytes], tmp_path: Path):
    with serving(FaultyServer(indexes, ranges=False)) as server:
        shard = one(server, tmp_path)
        assert not shard.facts.ranges
        assert [reader(shard).read(row) for row in range(6)] == samples()
        assert shard.is_local
        by_range = one(server, tmp_path / "other", mode="range")
        assert reader(by_range).read(5) == samples()[5], "slow, but right"


def test_any_fsspec_store_is_read_and_indexed(tmp_path: Path):
    memory = fsspec.filesystem("memory")
    for path, raw in SHARDS.items():
        memory.pipe_file(f"/in-memory{path}", raw)
    config = quick(tmp_path)
    shards = [place for place in expand_places("memory://in-memory/data", config) if isinstance(place, RemoteShard)]
    assert [done.index and done.index.num_samples for done in index_remote_shards(shards)] == [6, 6, 6]
    assert memory.exists("/in-memory/data/1.tar.mmidx")
    again = expand_places("memory://in-memory/data/{2..0}.tar", config)
    assert [place.name for place in again] == ["2.tar", "1.tar", "0.tar"]
    assert [done.kept for done in index_remote_shards(shards)] == [True] * 3
    for shard, index, number in zip(again, open_indexes(again, None), (2, 1, 0), strict=True):
        assert isinstance(shard, RemoteShard)
        assert [RemoteReader(shard, index).read(row) for row in range(6)] == samples(number)


def test_an_index_may_stand_in_a_folder_of_this_machine(web: FaultyServer, tmp_path: Path):
    for path in [path for path in web.files if path.endswith(".mmidx")]:
        del web.files[path]
    web.files |= {f"/b{path}": raw for path, raw in SHARDS.items()}
    config = quick(tmp_path)
    shards = [
        place
        for folder in ("", "/b")
        for place in expand_places(f"{web.url}{folder}/data/{{0..2}}.tar", config)
        if isinstance(place, RemoteShard)
    ]
    with pytest.raises(UserError, match=r"has no index at http.*0\.tar\.mmidx.*--index-folder"):
        open_indexes(shards, None)
    assert "--index-folder" in str(next(index_remote_shards(shards[:1])).error), "a web server takes no index"
    assert [done.error for done in index_remote_shards(shards, tmp_path / "indexes")] == [None] * 6
    assert len(list((tmp_path / "indexes").iterdir())) == 6, "a/0.tar and b/0.tar do not share one"
    assert [index.num_samples for index in open_indexes(shards, tmp_path / "indexes")] == [6] * 6


# What is named


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://host/a.tar", "ftp:// are not read; expected one of s3://"),
        ("pipe:curl http://host/a.tar", "pipe would run a shell|are not read"),
        ("https://me:hunter2@host/a.tar", "netrc"),
        ("s3://", "expected a place behind s3://"),
        ("memory://nested/*/x-*.tar", "last part of the path only"),
        ("memory://absent/{0..3}.tar", r"nothing at memory://absent/0.tar and 3 more"),
    ],
)
def test_a_wrong_url_is_a_readable_mistake(tmp_path: Path, text: str, message: str):
    with pytest.raises(UserError, match=message) as caught:
        expand_places(text, quick(tmp_path))
    assert "hunter2" not in str(caught.value)


def test_a_shard_that_is_not_there_names_the_nearest(web: FaultyServer, tmp_path: Path):
    fsspec.filesystem("memory").pipe_file("/near/train-00000.tar", SHARDS["/data/0.tar"])
    with pytest.raises(UserError, match=r"nothing at memory://near/train-0000.tar; nearest in .*: train-00000.tar"):
        expand_places("memory://near/train-0000.tar", quick(tmp_path))
    with pytest.raises(UserError, match=r"nothing at http://127.0.0.1:\d+/data/9.tar"):
        expand_places(f"{web.url}/data/9.tar", quick(tmp_path))
    with pytest.raises(UserError, match="twice"):
        expand_places(f"{web.url}/data/0.tar::{web.url}/data/0.tar?X-Amz-Signature=other", quick(tmp_path))


def test_patterns_and_brace_lists_name_what_is_there(tmp_path: Path):
    memory = fsspec.filesystem("memory")
    for number in range(40):
        memory.pipe_file(f"/many/part-{number:02d}.tar", b"x" * (number + 1))
    memory.pipe_file("/many/notes.txt", b"")
    config = quick(tmp_path)
    for spec in ("memory://many", "memory://many/part-*.tar", "memory://many/part-{00..39}.tar"):
        found = [place for place in expand_places(spec, config) if isinstance(place, RemoteShard)]
        assert [shard.size for shard in found] == list(range(1, 41))
    assert [place.name for place in expand_places("memory://many/part-0[13].tar", config)] == [
        "part-01.tar",
        "part-03.tar",
    ]


def test_paths_and_urls_stand_side_by_side(web: FaultyServer, tmp_path: Path, indexes: dict[str, bytes]):
    for path, content in indexes.items():
        (tmp_path / Path(path).name).write_bytes(content)
    places = expand_places([str(tmp_path / "0.tar"), f"{web.url}/data/1.tar"], quick(tmp_path))
    assert [type(place).__name__ for place in places] == [type(tmp_path).__name__, "RemoteShard"]
    assert [index.fingerprint for index in open_indexes(places, None)] == [
        open_index(tmp_path / f"{number}.tar").fingerprint for number in (0, 1)
    ]


# What fails


@pytest.mark.parametrize("kind", ["500", "503", "429", "408", "403", "stall", "short", "honest-short", "drop"])
@pytest.mark.parametrize("mode", ["download", "range"])
def test_a_passing_fault_changes_nothing(web: FaultyServer, tmp_path: Path, kind: str, mode: str):
    shard = one(web, tmp_path, mode=mode)
    found = reader(shard)
    web.choose = only_tar(kind)
    assert [found.read(row) for row in range(6)] == samples()
    assert web.faults == {kind: 1}


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("404", NotFoundError, r"no such object \(404\)"),
        ("403", ForbiddenError, r"forbidden \(403\); credentials come from ~/.netrc"),
        ("500", UnavailableError, r"the store answers 500; given up after \d+ tries"),
        ("429", UnavailableError, "the store answers 429"),
        ("418", RefusedError, r"the store refuses \(418\)"),
        ("stall", StalledError, "no byte came for too long"),
        ("short", ShortBodyError, "ended before all bytes"),
        ("honest-short", ShortBodyError, "the answer ended at byte"),
        ("drop", UnreachableError, "no answer"),
    ],
)
def test_a_lasting_fault_is_typed_and_replaces_no_sample(
    web: FaultyServer, tmp_path: Path, kind: str, error: type[StoreError], message: str
):
    shard = one(web, tmp_path, mode="range", idle_seconds=0.1, retry_seconds=0.5)
    found = reader(shard)
    web.choose = lambda request: kind if request.method == "GET" and request.path.endswith(".tar") else None
    clock = iter(range(10_000))
    shard.store.retry.clock = lambda: next(clock) / 10  # time passes with each look at it, whatever the machine does
    with pytest.raises(error, match=message) as caught:
        found.read(0)
    assert isinstance(caught.value, OSError), "the loader does not take it for a bad sample"
    assert isinstance(caught.value, MachineError), "the command ends with code 3"
    expected = {"404": 1, "418": 1, "403": 2}
    assert web.faults[kind] == expected.get(kind, web.faults[kind])
    assert web.faults[kind] > 1 or kind in ("404", "418")


def test_a_cut_download_goes_on_where_it_ended(indexes: dict[str, bytes], tmp_path: Path):
    with serving(FaultyServer(indexes)) as server:
        shard = one(server, tmp_path, mode="download")
        found = reader(shard)
        server.choose = only_tar("short", times=3)
        server.requests.clear()
        assert found.read(0) == samples()[0]
        spans = [request.span for request in server.requests if request.method == "GET"]
        size = shard.size
        assert spans == [None, *((size - size // 2**n - (size % 2**n > 0), size) for n in (1, 2, 3))] or all(
            span is not None and span[0] > 0 for span in spans[1:]
        )
        assert sum(span[1] - span[0] for span in spans[1:] if span) < 1.5 * size, "the halves that came are kept"


def test_an_object_that_changes_is_not_mixed_with_what_it_was(web: FaultyServer, tmp_path: Path):
    shard = one(web, tmp_path, mode="range")
    found = reader(shard)
    assert found.read(0) == samples()[0]
    web.files["/data/0.tar"] = make_shard(6, 77).raw
    with pytest.raises(ChangedError, match="changed"):
        found.read(1)


def test_a_store_that_was_rewritten_after_it_was_indexed_is_refused(web: FaultyServer, tmp_path: Path):
    web.files["/data/0.tar"] += bytes(512)
    with pytest.raises(UserError, match="was rewritten after it was indexed"):
        reader(one(web, tmp_path))
    web.files["/data/0.tar.mmidx"] = b"<html>"
    with pytest.raises(UserError, match=r"0\.tar\.mmidx.*not a readable index"):
        reader(one(web, tmp_path))


@pytest.mark.parametrize("mode", ["download", "range"])
def test_rot_at_the_store_is_a_bad_sample_and_the_others_stay(web: FaultyServer, tmp_path: Path, mode: str):
    place = make_shard(6, 0).members[3].data + 5
    web.files["/data/0.tar"] = overwrite(web.files["/data/0.tar"], place, b"\xff\x00\xff")
    found = reader(one(web, tmp_path, mode=mode))
    with pytest.raises(BadSampleError, match=r"0\.tar, key '000001', member 'jpg': expected checksum"):
        found.read(1)
    assert [found.read(row) for row in (0, 2, 3, 4, 5)] == [samples()[row] for row in (0, 2, 3, 4, 5)]


def test_an_unknown_host_is_given_up_on_in_seconds(tmp_path: Path):
    with serving(FaultyServer()) as server:
        gone = server.url
    with pytest.raises(UnreachableError, match=r"no answer \(Connection refused\); given up after"):
        expand_places(f"{gone}/a.tar", quick(tmp_path))


def test_a_missing_package_is_told_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def missing(protocol: str, **options: object) -> None:
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(UserError, match=r"gs:// needs a package.*pip install 'mmclip\[stores\]'"):
        expand_places("gs://bucket/a.tar", quick(tmp_path))


# What stays secret

CANARY = "CANARY0123456789"


def failure(attempt: Callable[[], object]) -> list[str]:
    """Everything that an exception shows of itself, where there is one."""
    try:
        attempt()
    except (StoreError, UserError) as error:
        return [str(error), repr(error), "".join(traceback.format_exception(error))]
    return []


def test_no_secret_is_told(
    web: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, CANARY)
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {CANARY}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    told: list[str] = []
    signed = f"{web.url}/data/0.tar?X-Amz-Signature={CANARY}&X-Amz-Credential={CANARY}"
    config = quick(tmp_path, retry_seconds=0.3, idle_seconds=0.1)
    with caplog.at_level("INFO"):
        (shard,) = expand_places(signed, config)
        assert isinstance(shard, RemoteShard)
        found = reader(shard)
        assert found.read(0) == samples()[0]
        assert shard.fetch()
        for fault in (
            "403",
            "404",
            "500",
            "stall",
            "short",
            "honest-short",
            "drop",
            f"redirect:{web.url}/no?sig={CANARY}",
        ):
            web.choose = lambda request, fault=fault: fault
            for attempt in (
                lambda: shard.read_from_store([(0, 10)]),
                lambda: expand_places(signed, config),
                shard.refuse_change,
            ):
                told += failure(attempt)
    assert len(told) > 40
    sent = [request for request in web.requests if CANARY in request.path]
    assert sent, "the signature does reach the store"
    names = [name for _, folders, files in os.walk(tmp_path / "cache") for name in (*folders, *files)]
    assert names
    seen = [
        *told,
        caplog.text,
        *names,
        str(shard),
        repr(shard),
        shard.name,
        shard.key,
        str(without_secrets({"shards": signed})),
    ]
    seen += [str(path.read_bytes()) for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [text[:500] for text in seen if CANARY in text] == []
