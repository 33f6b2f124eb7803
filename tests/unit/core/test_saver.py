import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmclip.envelope import DamagedFolderError, verify
from mmclip.errors import MachineError
from mmclip.training.checkpoint.config import CheckpointConfig
from mmclip.training.checkpoint.files import BytesFile, TensorFile, written_by
from mmclip.training.checkpoint.folders import newest_checkpoint, verify_checkpoint
from mmclip.training.checkpoint.lease import StaleLeaseError, claim, living_holder
from mmclip.training.checkpoint.patience import Patience
from mmclip.training.checkpoint.saver import Saver
from mmclip.training.checkpoint.snapshot import DTYPES, Memory
from mmclip.training.checkpoint.writer import Job, perform

IMPATIENT = CheckpointConfig(patience_minutes=0)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def saver(tmp_path: Path, told: list[str]) -> Iterator[Saver]:
    with closing(Saver(claim(tmp_path), CheckpointConfig(keep=2), told.append)) as made:
        yield made


def state(value: float, rows: int = 1000) -> list[TensorFile | BytesFile]:
    return [TensorFile("weights.safetensors", {"w": torch.full((rows, 8), value)}), BytesFile("state.json", b"{}")]


def of_step(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def every_kind() -> dict[str, torch.Tensor]:
    kinds = {f"a.{dtype}": torch.arange(6).reshape(2, 3).to(dtype) for dtype in DTYPES}
    return {
        **kinds,
        "channels_last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "transposed": torch.randn(3, 4).T,
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
    }


def test_every_kind_of_tensor_comes_back_from_a_saved_file(tmp_path: Path, saver: Saver):
    tensors = every_kind()
    saver.save(3, [TensorFile("deep/all.safetensors", tensors), TensorFile("none.safetensors", {})])
    saver.wait()
    path = of_step(tmp_path, 3) / "deep" / "all.safetensors"
    back = load_file(path)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    assert all(back[name].dtype == tensor.dtype for name, tensor in tensors.items())
    assert load_file(of_step(tmp_path, 3) / "none.safetensors") == {}


def test_equal_tensors_give_equal_bytes_whatever_their_order_and_layout(tmp_path: Path):
    tensors = every_kind()
    turned = {name: tensors[name].contiguous() for name in reversed(tensors)}
    memory = Memory()
    taken = []
    for given in (tensors, turned):
        (placed,) = memory.take([TensorFile("x", given)])
        taken.append(os.pread(memory.descriptor, placed.size, placed.offset))
    memory.close()
    assert taken[0] == taken[1]


def test_a_snapshot_is_of_the_moment_of_the_save(tmp_path: Path, saver: Saver):
    weights = torch.zeros(200_000, 8)
    for step in (1, 2, 3):
        weights.fill_(step)
        saver.save(step, [TensorFile("w.safetensors", {"w": weights})])
        weights.fill_(-1)  # the next step changes them while the writer is at work
    saver.wait()
    assert saver.durable_step == 3
    for step in (2, 3):
        verify(of_step(tmp_path, step))
        assert load_file(of_step(tmp_path, step) / "w.safetensors")["w"].unique().tolist() == [step]


def test_retention_keeps_the_newest_the_best_and_milestones(tmp_path: Path, told: list[str]):
    config = CheckpointConfig(keep=2, keep_every_steps=4)
    with closing(Saver(claim(tmp_path), config, told.append)) as saver:
        for step in range(1, 8):
            saver.save(step, state(step), {"step-00000001"} if step > 1 else ())
        saver.wait()
    kept = ["latest", *(f"step-{step:08d}" for step in (1, 4, 6, 7))]
    assert names(tmp_path) == kept
    assert (tmp_path / "checkpoints" / "latest").readlink() == Path("step-00000007")
    assert told == []


OTHER_SUM = b'{"version": 1, "files": {"a": {"size": 3, "sha256": "0"}}}'


@pytest.mark.parametrize(
    ("name", "content"),
    [("a", b"rot"), ("a", b"abcd"), ("a", b"ab"), ("MANIFEST.json", OTHER_SUM), ("MANIFEST.json", b"x")],
)
def test_nothing_is_deleted_while_the_newest_does_not_verify(
    name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from mmclip.training.checkpoint import writer

    lease = claim(tmp_path)
    made = writer.seal

    def damage(folder: Path, sums: dict[str, writer.Sum]) -> None:
        made(folder, sums)
        (folder / name).write_bytes(content)

    for step in (1, 2, 3):
        if step == 3:
            monkeypatch.setattr(writer, "seal", damage)
        answer = perform(Job(str(tmp_path), step, lease.token, 1, [("a", 0, 3)], keep=1), memoryview(b"abc"))
        assert answer.kind == ("failed" if step == 3 else "durable")
    assert names(tmp_path) == ["latest", "step-00000002", "step-00000003"]
    assert newest_checkpoint(tmp_path, lambda reason: None) == of_step(tmp_path, 2)
    assert (tmp_path / "checkpoints" / "latest").readlink() == Path("step-00000002")


def test_a_stale_trainer_publishes_nothing(tmp_path: Path, told: list[str]):
    with closing(Saver(claim(tmp_path), CheckpointConfig(), told.append)) as old:
        old.save(1, state(1))
        old.wait()
        newer = claim(tmp_path)
        old.save(2, state(2))
        with pytest.raises(StaleLeaseError, match=rf"process {os.getpid()} on \S+ has taken over .*token 2.*has 1"):
            old.wait()
    assert names(tmp_path) == ["latest", "step-00000001"]
    newer.check()


@pytest.mark.parametrize("at", ["before the last look", "after the last look"])
def test_a_trainer_that_is_replaced_in_the_midst_of_a_save_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
):
    """The last moment is between the look at the lease and the rename: the newcomer has taken the folder away."""
    from mmclip.training.checkpoint import writer

    old = claim(tmp_path)
    name = "seal" if at == "before the last look" else "appear"
    usual = getattr(writer, name)

    def replaced(*arguments: object) -> None:
        if name == "seal":
            usual(*arguments)
        claim(tmp_path)
        if name == "appear":
            usual(*arguments)

    monkeypatch.setattr(writer, name, replaced)
    answer = perform(Job(str(tmp_path), 1, old.token, 1, [("a", 0, 3)]), memoryview(b"abc"))
    assert answer.kind == "stale"
    assert names(tmp_path) == []


def test_tokens_are_given_once(tmp_path: Path):
    assert [claim(tmp_path).token for _ in range(40)] == list(range(1, 41))
    assert len(list((tmp_path / "leases").iterdir())) <= 17


def test_only_a_living_trainer_of_this_machine_holds_a_run(tmp_path: Path):
    assert living_holder(tmp_path) is None
    claim(tmp_path)
    assert living_holder(tmp_path) is None, "this process itself"
    child = os.fork()
    if not child:
        claim(tmp_path)
        signal.pause()
    while sum(1 for _ in (tmp_path / "leases").iterdir()) < 2 or not (tmp_path / "leases/00000002.json").read_text():
        pass
    assert str(living_holder(tmp_path)).startswith(f"process {child} on ")
    os.kill(child, signal.SIGSTOP)
    os.waitpid(child, os.WUNTRACED)
    assert living_holder(tmp_path) is None, "stopped: it is fenced off"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert living_holder(tmp_path) is None
    path = tmp_path / "leases/00000002.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": 1}))
    assert living_holder(tmp_path) is None, "another process has the number now"


def test_a_writer_that_is_killed_is_started_anew_with_the_same_snapshot(tmp_path: Path, saver: Saver, told: list[str]):
    saver.save(1, state(1))
    saver.wait()
    assert saver.writer_pid is not None
    weights = torch.ones(3_000_000, 8)
    saver.save(2, [TensorFile("w.safetensors", {"w": weights})])
    os.kill(saver.writer_pid, signal.SIGKILL)
    weights.fill_(-1)
    saver.wait()
    assert load_file(of_step(tmp_path, 2) / "w.safetensors")["w"].unique().tolist() == [1]
    assert "the process that writes checkpoints ended (signal 9); the run goes on" in told[0]
    assert "written again, after 1 failed tries" in told[1]


def test_a_disk_that_fails_is_survived_until_it_works_again(tmp_path: Path, saver: Saver, told: list[str]):
    (tmp_path / "checkpoints").write_text("in the way")  # as a share that is gone: nothing can be made beneath
    saver.save(1, state(1))
    while not told:
        saver.poll()
    assert "step-00000001 cannot be written: " in told[0]
    saver.save(2, state(2))  # the newer snapshot takes the place of the one that failed
    while len(told) < 2:
        saver.poll()
    (tmp_path / "checkpoints").unlink()
    saver.wait()
    assert saver.durable_step == 2
    assert "written again" in told[-1]
    assert names(tmp_path) == ["latest", "step-00000002"]


def test_a_disk_that_fails_for_longer_than_the_budget_ends_the_run(tmp_path: Path):
    (tmp_path / "checkpoints").write_text("in the way")
    with closing(Saver(claim(tmp_path), IMPATIENT, pytest.fail)) as saver:
        saver.save(1, state(1))
        with pytest.raises(MachineError, match=r"step-00000001 cannot be written: "):
            saver.wait()


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path: Path):
    size = 1 << 60
    answer = perform(Job(str(tmp_path), 1, claim(tmp_path).token, 1, [("a", 0, size)]), memoryview(b""))
    assert answer.kind == "failed"
    assert f"No space left on device; it needs about {size:,} bytes" in answer.message
    assert names(tmp_path) == []


def test_patience_ends_by_the_clock_and_begins_anew_after_a_success():
    now = [0.0]
    told: list[str] = []
    patience = Patience(1.0, told.append, lambda: now[0])
    for _ in range(3):
        patience.failed("disk", "no room")
        now[0] += 25
    with pytest.raises(MachineError, match=r"no room \(4 tries in 1.2 minutes\)"):
        patience.failed("disk", "no room")
    patience.fine("disk")
    patience.failed("disk", "no room")
    assert [patience.pause_seconds("disk")] == [1.0]


def test_parts_of_several_ranks_become_one_folder(tmp_path: Path):
    lease = claim(tmp_path)
    files = [BytesFile(f"shard-{rank}.bytes", bytes([rank]) * 100) for rank in range(3)]
    savers = [Saver(lease, CheckpointConfig(), pytest.fail, rank, ranks=3) for rank in range(3)]
    for rank in (2, 0, 1):  # in any order
        savers[rank].save(5, [files[rank]])
    for saver in savers:
        saver.wait()
        saver.close()
    verify(of_step(tmp_path, 5))
    assert names(tmp_path) == ["latest", "step-00000005"]
    assert sorted(path.name for path in of_step(tmp_path, 5).iterdir()) == ["MANIFEST.json", *(f.path for f in files)]


def test_a_rank_that_cannot_write_fails_the_whole_folder_and_the_next_save_takes_it_away(tmp_path: Path):
    lease = claim(tmp_path)
    base = Job(str(tmp_path), 5, lease.token, 1, [("a", 0, 3)], rank=0, ranks=2)
    base.temporary.mkdir(parents=True)
    (base.temporary / ".part-1.json").write_text(json.dumps({"failed": "no room"}))
    answer = perform(base, memoryview(b"abc"))
    assert answer.kind == "failed"
    assert "rank 1: no room" in answer.message
    assert names(tmp_path) == [base.temporary.name]
    following = [Job(str(tmp_path), 6, lease.token, 2, [(f"{rank}", 0, 3)], rank=rank, ranks=2) for rank in (1, 0)]
    assert [perform(job, memoryview(b"abc")).kind for job in following] == ["durable", "durable"]
    assert names(tmp_path) == ["latest", "step-00000006"]


def test_a_rank_that_fails_tries_again_alone_and_the_folder_appears(tmp_path: Path):
    lease = claim(tmp_path)
    jobs = [Job(str(tmp_path), 5, lease.token, 1, [(f"file-{rank}", 0, 3)], rank=rank, ranks=2) for rank in range(2)]
    in_the_way = jobs[1].temporary / "file-1"
    in_the_way.mkdir(parents=True)
    assert perform(jobs[1], memoryview(b"one")).kind == "failed"
    assert perform(jobs[0], memoryview(b"nil")).kind == "failed", "it heard of the other"
    in_the_way.rmdir()
    assert perform(jobs[1], memoryview(b"one")).kind == "durable"
    assert perform(jobs[0], memoryview(b"nil")).kind == "durable"
    verify(of_step(tmp_path, 5))
    written = {path.name for path in of_step(tmp_path, 5).iterdir()}
    assert written == {"file-0", "file-1", "MANIFEST.json"}


def test_a_first_rank_that_fails_finds_the_parts_of_the_others_when_it_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lease = claim(tmp_path)
    jobs = [Job(str(tmp_path), 5, lease.token, 1, [(f"file-{rank}", 0, 3)], rank=rank, ranks=2) for rank in range(2)]
    assert perform(jobs[1], memoryview(b"one")).kind == "durable"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", _refuse)
        assert perform(jobs[0], memoryview(b"nil")).kind == "failed"
    assert not of_step(tmp_path, 5).exists()
    assert perform(jobs[0], memoryview(b"nil")).kind == "durable"
    verify(of_step(tmp_path, 5))


def _refuse(path: Path, target: Path) -> Path:
    if path.suffix == ".half":
        return Path(os.rename(path, target) or target)
    raise PermissionError(1, "Operation not permitted", str(path))


def test_files_of_a_library_come_as_bytes():
    def write(folder: Path) -> None:
        (folder / "b").mkdir()
        (folder / "b" / "c.json").write_text("{}")
        (folder / "a.txt").write_text("a")

    assert written_by(write, "deep/") == [BytesFile("deep/a.txt", b"a"), BytesFile("deep/b/c.json", b"{}")]


@pytest.mark.parametrize("name", ["optimizer.bin", "custom_checkpoint_0.pkl", ".metadata", "__0_0.distcp", "a/b.pt"])
def test_a_checkpoint_with_a_file_that_may_carry_code_is_passed_over(tmp_path: Path, saver: Saver, name: str):
    for step in (1, 2):
        saver.save(step, state(step))
    saver.wait()
    path = of_step(tmp_path, 2) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"cos\nmkdir\n(S'code-ran'\ntR.")
    with pytest.raises(DamagedFolderError, match="of a kind that can carry code"):
        verify_checkpoint(of_step(tmp_path, 2))
    skipped: list[str] = []
    assert newest_checkpoint(tmp_path, skipped.append) == of_step(tmp_path, 1)
    assert len(skipped) == 1


def test_the_writer_starts_without_torch():
    import subprocess

    words = "import sys, mmclip.training.checkpoint.writer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0
