import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmclip.envelope import DamagedFolderError, publish, verify
from mmclip.errors import MachineError


def write_two(folder: Path) -> None:
    (folder / "a.bin").write_bytes(b"a" * 1000)
    (folder / "b.json").write_text("{}")


def test_published_folder_verifies(tmp_path: Path):
    publish(tmp_path / "step-1", write_two)
    verify(tmp_path / "step-1")
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def test_failed_write_leaves_nothing_under_the_name(tmp_path: Path):
    def fail(folder: Path) -> None:
        write_two(folder)
        raise OSError("disk full")

    with pytest.raises(MachineError, match=r"step-1 cannot be written: disk full; [\d,]+ bytes are free in"):
        publish(tmp_path / "step-1", fail)
    assert list(tmp_path.iterdir()) == []
    publish(tmp_path / "step-1", write_two)  # and the left-over does not stand in the way
    verify(tmp_path / "step-1")


def test_a_folder_that_does_not_fit_is_not_begun_and_the_old_one_stays(tmp_path: Path):
    publish(tmp_path / "step-1", write_two)
    with pytest.raises(
        MachineError, match=r"it needs about 1,000,000,000,000,000,000 bytes, and [\d,]+ bytes are free"
    ):
        publish(tmp_path / "step-1", pytest.fail, expected_bytes=10**18)
    verify(tmp_path / "step-1")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: (f / "a.bin").write_bytes(b"a" * 999 + b"b"), "SHA-256"),
        (lambda f: (f / "a.bin").write_bytes(b"a" * 500), "expected 1000 bytes, got 500"),
        (lambda f: (f / "a.bin").unlink(), "a.bin is missing"),
        (lambda f: (f / "MANIFEST.json").unlink(), "no readable MANIFEST.json"),
        (lambda f: (f / "MANIFEST.json").write_text('{"files":'), "no readable MANIFEST.json"),
        (lambda f: (f / "MANIFEST.json").write_text(json.dumps([])), "no readable MANIFEST.json"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage, named: str):
    publish(tmp_path / "step-1", write_two)
    damage(tmp_path / "step-1")
    with pytest.raises(DamagedFolderError, match=named):
        verify(tmp_path / "step-1")


PUBLISH_FOR_EVER = """
import itertools, os, sys
from pathlib import Path
from mmclip.envelope import publish
def write(folder):
    for name in "abc":
        (folder / name).write_bytes(os.urandom(200_000))
for number in itertools.count():
    publish(Path(sys.argv[1]) / f"step-{number:08d}", write)
    print(number, flush=True)
"""


@pytest.mark.slow
def test_kill_at_any_moment_leaves_only_whole_folders(tmp_path: Path):
    for round_number in range(8):
        run = tmp_path / str(round_number)
        run.mkdir()
        child = subprocess.Popen([sys.executable, "-c", PUBLISH_FOR_EVER, str(run)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        acknowledged = [int(child.stdout.readline()) for _ in range(2)]
        time.sleep(0.003 * round_number)  # where in the write the kill falls, not how long anything takes
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        acknowledged += [int(line) for line in child.stdout.read().split()]
        child.stdout.close()
        folders = sorted(run.glob("step-*"))
        assert len(folders) >= len(acknowledged)
        for folder in folders:
            verify(folder)
