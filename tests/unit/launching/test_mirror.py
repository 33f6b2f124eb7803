"""Copies of checkpoints on a store: in memory here, on an S3 that fails in `tests/faults/test_mirror_on_s3.py`."""

import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from mmclip.envelope import MANIFEST, publish, verify
from mmclip.errors import UserError
from mmclip.training.checkpoint.folders import checkpoint_folder
from mmclip.training.checkpoint.lease import StaleLeaseError
from mmclip.training.checkpoint.patience import Patience
from mmclip_data.stores.writing import writable
from mmclip_launch.mirror import sender
from mmclip_launch.mirror.config import MirrorConfig
from mmclip_launch.mirror.fetch import fetch_newer
from mmclip_launch.mirror.place import Copy, Holder, Place
from mmclip_launch.mirror.sender import Mirror
from mmclip_launch.mirror.upload import upload


@pytest.fixture
def place() -> Iterator[Place]:
    folder = f"/{uuid.uuid4().hex}"
    yield Place(f"memory:/{folder}", retry_seconds=0.0)
    store = fsspec.filesystem("memory")
    if store.exists(folder):
        store.rm(folder, recursive=True)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text("seed = 1\n")
    (folder / "ledger.jsonl").write_text('{"step": 1}\n')
    (folder / "quarantine.jsonl.rank1").write_text('{"step": 1}\n')
    (folder / "fault.bin").write_bytes(b"no file of a run's")
    return folder


def made(run: Path, step: int) -> Path:
    def write(folder: Path) -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "weights").write_bytes(bytes([step]) * 1000)
        (folder / "state.json").write_text("{}")

    folder = checkpoint_folder(run, step)
    publish(folder, write)
    return folder


def objects(place: Place) -> list[str]:
    root = place.url.full.partition("://")[2]
    return sorted(name.removeprefix(root) for name in fsspec.filesystem("memory").find(root))


def test_a_lost_disk_comes_back_from_the_mirror(place: Place, run: Path, tmp_path: Path):
    holder = place.claim(0)
    for step in (1, 2):
        upload(place, holder, run, made(run, step))
    said: list[str] = []
    new = tmp_path / "new"
    assert fetch_newer(place, new, said.append) == Copy(2, holder)
    verify(checkpoint_folder(new, 2))
    for name in ("deep/weights", "state.json", MANIFEST):
        assert (checkpoint_folder(new, 2) / name).read_bytes() == (checkpoint_folder(run, 2) / name).read_bytes()
    names = sorted(path.name for path in new.iterdir())
    assert names == ["checkpoints", "config.toml", "ledger.jsonl", "quarantine.jsonl.rank1"]
    assert [path.name for path in (new / "checkpoints").iterdir()] == ["step-00000002"]
    assert said == [f"step 2 comes from {place.url}/checkpoints/step-00000002-t{holder.name}"]
    assert fetch_newer(place, new, pytest.fail) is None, "the disk has it now"


def test_a_copy_without_its_manifest_is_none(place: Place, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    holder = place.claim(0)
    upload(place, holder, run, made(run, 1))

    def check(self: Place, holder: Holder, calls: list[int] = []) -> None:  # noqa: B006
        calls.append(1)
        if len(calls) == 2:
            raise StaleLeaseError("taken over")

    monkeypatch.setattr(Place, "check", check)
    with pytest.raises(StaleLeaseError):
        upload(place, holder, run, made(run, 2))
    assert any("step-00000002" in name for name in objects(place))
    assert [copy.step for copy in place.copies()] == [1]
    copy = fetch_newer(place, tmp_path / "new", lambda said: None)
    assert copy is not None
    assert copy.step == 1


def test_a_stale_trainer_is_refused_and_what_it_wrote_all_the_same_counts_for_nothing(
    place: Place, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    old = place.claim(0)
    upload(place, old, run, made(run, 5))
    new = place.claim(5)
    assert new.token == old.token + 1
    with pytest.raises(StaleLeaseError, match=rf"taken over this run \(token {new.name}, this one has {old.name}\)"):
        upload(place, old, run, made(run, 6))
    monkeypatch.setattr(Place, "check", lambda self, holder: None)  # it had looked a moment too early
    upload(place, old, run, made(run, 9))
    upload(place, new, run, made(run, 7))
    assert [(copy.step, copy.holder) for copy in place.copies()] == [(7, new), (5, old)]
    copy = fetch_newer(place, tmp_path / "new", lambda said: None)
    assert copy == Copy(7, new)


def test_two_that_ask_at_the_same_time_do_not_both_write(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Place, "holders", lambda self: [])
    first, second = place.claim(0), place.claim(0)
    monkeypatch.undo()
    assert first.token == second.token
    assert first != second
    loser, winner = sorted([first, second])
    place.check(winner)
    with pytest.raises(StaleLeaseError):
        place.check(loser)


def test_old_copies_and_halves_go_and_newer_ones_stay(place: Place, run: Path):
    old = place.claim(0)
    for step in (1, 2, 3):
        upload(place, old, run, made(run, step))
    place.store.write(place.at("checkpoints", f"step-00000004-t{old.name}", "half"), b"cut short")
    new = place.claim(3)
    upload(place, new, run, made(run, 4))
    place.retire(2, new)
    assert [copy.step for copy in place.every_copy()] == [4, 3]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "manifest", "escape"])
def test_a_damaged_copy_is_passed_over_by_name(place: Place, run: Path, tmp_path: Path, damage: str):
    holder = place.claim(0)
    for step in (1, 2):
        upload(place, holder, run, made(run, step))
    folder = f"step-00000002-t{holder.name}"
    weights, manifest = place.at("checkpoints", folder, "deep/weights"), place.at("checkpoints", folder, MANIFEST)
    if damage == "flip":
        place.store.write(weights, b"x" * 1000)
    elif damage == "cut":
        place.store.write(weights, b"x")
    elif damage == "gone":
        place.store.remove(weights)
    elif damage == "manifest":
        place.store.write(manifest, b"[]")
    else:
        entry = {"size": 4, "sha256": "0" * 64}
        place.store.write(manifest, json.dumps({"files": {"../../../code.py": entry}}).encode())
    said: list[str] = []
    copy = fetch_newer(place, tmp_path / "new", said.append)
    assert copy is not None
    assert copy.step == 1
    assert f"{folder} is passed over: " in said[0]
    assert not list(tmp_path.rglob("code.py"))


def test_a_mirror_of_the_same_age_as_the_disk_brings_nothing(place: Place, run: Path):
    holder = place.claim(0)
    upload(place, holder, run, made(run, 1))
    made(run, 2)
    assert fetch_newer(place, run, pytest.fail) is None
    shutil.rmtree(checkpoint_folder(run, 2))
    (checkpoint_folder(run, 1) / "state.json").write_text("rot")
    copy = fetch_newer(place, run, lambda said: None)
    assert copy is not None, "what is damaged on the disk is not there"
    verify(checkpoint_folder(run, 1))


class SlowStore:
    """Stands for the process that copies: an order is answered when the test says so."""

    def __init__(self, module: str) -> None:
        self.orders: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = [{"kind": "ready", "token": 1, "nonce": "n"}]

    def send(self, order: dict[str, Any]) -> None:
        self.orders.append(order)

    def receive(self, seconds: float | None) -> dict[str, Any] | None:
        return self.answers.pop(0) if self.answers else None

    def close(self, seconds: float) -> None:
        pass


def test_what_a_slow_store_is_copying_stays_on_the_disk(run: Path, monkeypatch: pytest.MonkeyPatch):
    """Of two steps that wait behind it the newer is copied next; a copy that failed is made of the newest."""
    monkeypatch.setattr(sender, "Child", SlowStore)
    said: list[str] = []
    mirror = Mirror(MirrorConfig(url="s3://data/run"), run, 0, Patience(10.0, said.append))
    child = mirror._child
    assert isinstance(child, SlowStore)
    two, four, six, eight = [checkpoint_folder(run, step) for step in (2, 4, 6, 8)]

    def asked() -> list[str]:
        return [Path(order["folder"]).name for order in child.orders[1:]]

    mirror.offer(two)
    mirror.offer(four)
    mirror.offer(six)
    assert asked() == [two.name]
    assert mirror.spared == {two.name, six.name}
    child.answers.append({"kind": "durable", "folder": str(two)})
    mirror.poll()
    assert asked() == [two.name, six.name]
    assert mirror.spared == {six.name}
    mirror.offer(eight)
    child.answers.append({"kind": "failed", "message": "no such bucket"})
    mirror.poll()
    assert mirror.spared == {eight.name}
    assert "no such bucket" in said[0]
    mirror.close()
    assert asked() == [two.name, six.name, eight.name]


@pytest.mark.parametrize("url", ["runs/copy", "https://example.org/run", "s3://", "ftp://host/run"])
def test_a_url_that_takes_no_files_is_refused(url: str):
    with pytest.raises(UserError, match=r"mirror.url='.*': expected a URL of a store that takes files \(s3://"):
        writable(url, "mirror.url")
    with pytest.raises(ValueError, match="expected a URL of a store"):
        MirrorConfig(url=url)
