"""Plain shards: on this machine, at URLs, and what stands beside them about their number."""

import json

import fsspec
import pytest

from mmclip.errors import UserError
from mmclip_data.shards import index_shards
from mmclip_data.stores import StoreError


@pytest.fixture
def shards(tmp_path, write_tar, picture):
    folder = tmp_path / "shards"
    for shard, colours in enumerate((("red", "blue"), ("green",))):
        write_tar(
            folder / f"{shard:05d}.tar", [{"png": picture(c), "txt": c.encode(), "cls": c.encode()} for c in colours]
        )
    return folder


def content(dataset):
    samples = dataset.samples
    members = [samples.members(i, ("txt", "cls")) for i in range(len(samples))]
    return [(samples.image_bytes(i), found) for i, found in enumerate(members)]


@pytest.mark.parametrize("with_index", [False, True])
def test_shards_of_a_web_server_are_those_of_the_disk(shards, serve, cache, indexed, with_index):
    here = indexed(shards)
    if with_index:
        assert [done.error for done in index_shards(sorted(shards.glob("*.tar")))] == [None, None]
    server = serve(shards, "/data")
    there = indexed(f"{server.url}/data/{{00000..00001}}.tar", cache=cache)
    assert content(there) == content(here)
    assert there.samples.fingerprint == here.samples.fingerprint
    assert there.samples.sample_id(2) == "set/00001.tar/s0000000"
    fetched = [request.path for request in server.requests if request.method == "GET"]
    assert sum(path.endswith(".mmidx") for path in fetched) == (2 if with_index else 0)


def test_a_shard_without_an_index_on_its_store_is_walked_once(shards, serve, cache, indexed):
    server = serve(shards, "/data")
    url = f"{server.url}/data/00000.tar"
    first = indexed(url, cache=cache)
    server.requests.clear()
    assert indexed(url, cache=cache).samples.fingerprint == first.samples.fingerprint
    assert [request.method for request in server.requests if request.path == "/data/00000.tar"] == ["HEAD"]


def test_shards_of_a_store_of_objects_are_read(shards, cache, indexed):
    memory = fsspec.filesystem("memory")
    for path in shards.iterdir():
        memory.pipe_file(f"/evals/{path.name}", path.read_bytes())
    assert content(indexed("memory://evals", cache=cache)) == content(indexed(shards))


def test_a_store_that_has_none_of_it_says_so(serve, cache, indexed, shards):
    server = serve(shards, "/data")
    with pytest.raises((UserError, StoreError), match=r"nothing at http://127.0.0.1:\d+/data/9.tar"):
        indexed(f"{server.url}/data/9.tar", cache=cache)


def test_two_shards_of_one_name_have_different_identities(tmp_path, write_tar, picture, indexed):
    for folder in ("a", "b"):
        write_tar(tmp_path / folder / "0.tar", [{"png": picture("red"), "txt": b"red"}])
    dataset = indexed(f"{tmp_path}/a/0.tar::{tmp_path}/b/0.tar")
    assert [dataset.samples.sample_id(i) for i in (0, 1)] == ["set/a/0.tar/s0000000", "set/b/0.tar/s0000000"]


def stats(folder, number, successes):
    (folder / f"{number:05d}_stats.json").write_text(json.dumps({"successes": successes}))


def test_statistics_of_img2dataset_say_how_many_there_are(shards, indexed):
    stats(shards, 0, 2)
    stats(shards, 1, 1)
    assert indexed(shards).num_expected == 3
    assert indexed(shards / "00001.tar").num_expected == 1
    stats(shards, 1, 4)
    with pytest.raises(UserError, match=r"00001\.tar: .*says 4 successes, 1 samples are there"):
        indexed(shards)


def test_sizes_of_open_clip_say_how_many_there_are(shards, indexed):
    (shards / "sizes.json").write_text(json.dumps({"00000.tar": 2, "00001.tar": 1}))
    assert indexed(shards).num_expected == 3
    (shards / "sizes.json").write_text(json.dumps({"00000.tar": 3, "00001.tar": 1}))
    with pytest.raises(UserError, match=r"00000\.tar 3 in sizes\.json, 2 in the tar"):
        indexed(shards)


@pytest.mark.parametrize("wanted", [2, 4])
def test_another_number_than_the_configuration_says_is_an_error_with_both(shards, indexed, wanted):
    assert indexed(shards, num_samples=3).num_expected == 3
    with pytest.raises(
        UserError, match=f"3 samples are there, {wanted} are expected .num_samples in the configuration"
    ):
        indexed(shards, num_samples=wanted)


def test_without_a_declared_number_there_is_none(shards, indexed):
    assert indexed(shards).num_expected is None


def test_what_is_no_set_is_told_with_what_was_seen_and_what_is_read(tmp_path, indexed):
    (tmp_path / "notes").mkdir()
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    with pytest.raises(UserError, match="no evaluation set that is known") as caught:
        indexed(tmp_path)
    message = str(caught.value)
    assert "holds the folders notes and files: 2 of .txt" in message
    for word in ("classnames.txt", "/tree/BRANCH", "{000..127}.tar"):
        assert word in message
    with pytest.raises(UserError, match=r"is a file of 1 bytes that ends in \.txt"):
        indexed(tmp_path / "a.txt")


def test_an_option_of_another_form_is_refused(shards, indexed):
    with pytest.raises(
        UserError, match=r"objective='age' has no meaning .* read as shards; it is an option of: CLIP_bench"
    ):
        indexed(shards, objective="age")
