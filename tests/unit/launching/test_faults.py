"""How a command ends that fails: the exit code, one message, and a traceback that is kept rather than shown."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from mmclip.errors import BadSampleError, GuardError, MachineError, UserError
from mmclip_launch.cli import run_verb
from mmclip_launch.faults import RUN_FOLDER

BIN = Path(sys.executable).parent


class Raises:
    """A verb that fails."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, arguments: Sequence[str]) -> None:
        assert "--debug" not in arguments
        raise self.error


@pytest.fixture(autouse=True)
def no_run_folder() -> None:
    RUN_FOLDER.set(None)  # a run of another test in this process may have failed with its own


@pytest.fixture
def run_folder(no_run_folder: None, tmp_path: Path) -> Path:
    RUN_FOLDER.set(tmp_path)
    return tmp_path


ENDS = {
    "a mistake": (UserError("a=1: expected 2"), 2, "mmclip: a=1: expected 2"),
    "a bad sample": (BadSampleError("sample x"), 2, "mmclip: sample x"),
    "a machine": (MachineError("port 1 is in use"), 3, "mmclip: port 1 is in use"),
    "a full disk": (
        OSError(errno.ENOSPC, "No space left on device", "/tmp/there"),
        3,
        r"mmclip: /tmp/there: No space left on device; [\d,]+ bytes free; the disk is full: free some room there.*",
    ),
    "too many files": (
        OSError(errno.EMFILE, "Too many open files", "a.tar"),
        3,
        r"mmclip: a.tar: Too many open files; this process .* \(`ulimit -n`\), or lower data.workers",
    ),
    "no memory on the device": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has"),
        3,
        r"mmclip: out of memory: CUDA out of memory; lower global_batch_size, .*; traceback: \S+",
    ),
    "a guard": (GuardError("too much was forgotten"), 4, "mmclip: too much was forgotten"),
    "an interrupt": (KeyboardInterrupt(), 130, "mmclip: interrupted"),
    "a fault of ours": (
        TypeError("unsupported\noperand"),
        1,
        r"mmclip: internal error: TypeError: unsupported operand; this is a fault of mmclip; traceback: \S+",
    ),
}


@pytest.mark.parametrize(("error", "code", "message"), ENDS.values(), ids=ENDS.keys())
def test_each_kind_of_failure_has_its_code_and_one_line(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
):
    assert run_verb(Raises(error), []) == code
    said = capsys.readouterr().err
    assert re.fullmatch(message + "\n", said), said
    kept = re.search(r"traceback: (\S+)", said)
    if kept:
        Path(kept[1]).unlink()


def test_the_traceback_of_our_fault_stands_in_the_run_folder(run_folder: Path, capsys: pytest.CaptureFixture[str]):
    for text in ("first", "second"):
        assert run_verb(Raises(TypeError(text)), []) == 1
    kept = (run_folder / "fault.txt").read_text()
    assert kept.count("Traceback (most recent call last)") == 2
    assert "TypeError: first" in kept
    assert "in __call__" in kept
    assert f"; traceback: {run_folder / 'fault.txt'}\n" in capsys.readouterr().err


def test_where_the_run_folder_cannot_be_written_the_traceback_goes_elsewhere(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
):
    (run_folder / "fault.txt").mkdir()
    assert run_verb(Raises(TypeError("lost?")), []) == 1
    kept = re.search(r"traceback: (\S+)", capsys.readouterr().err)
    assert kept is not None
    assert "TypeError: lost?" in Path(kept[1]).read_text()
    Path(kept[1]).unlink()


def test_an_interrupted_run_hears_of_resume(run_folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run_verb(Raises(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "mmclip: interrupted; `--resume` continues from the last checkpoint\n"


@pytest.mark.parametrize("words", [["--debug", "run.toml"], ["run.toml", "--debug"]])
def test_debug_shows_the_traceback_above_the_message(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert run_verb(Raises(UserError("a=1: expected 2")), words) == 2
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last)")
    assert said.endswith("mmclip: a=1: expected 2\n")


@pytest.mark.parametrize("before", [True, False])
def test_debug_works_before_and_after_the_verb(before: bool):
    words = ["--debug", "trian"] if before else ["trian", "--debug"]
    done = subprocess.run([BIN / "mmclip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback")
    assert "did you mean 'train'?" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("prints", ["print('x' * 100)", "Screen().show('x' * 100)"])
def test_a_closed_pipe_ends_quietly(prints: str):
    code = "import sys\nfrom mmclip_launch.cli import run_verb\n"
    code += "from mmclip_launch.screen import Screen\n" if "Screen" in prints else ""
    code += f"def verb(words):\n    sys.stdin.read()\n    {prints}\nsys.exit(run_verb(verb, []))"
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    os.close(reading)  # the reader is gone before the first word
    _, said = child.communicate("")
    assert (child.returncode, said) == (141, "")


def test_rank_0_speaks_at_once_and_the_others_name_themselves_after_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    waited: list[float] = []
    monkeypatch.setattr("mmclip_launch.faults.time.sleep", waited.append)
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank in ("0", "3"):
        monkeypatch.setenv("RANK", rank)
        assert run_verb(Raises(UserError("a=1")), []) == 2
    assert capsys.readouterr().err == "mmclip: a=1\nmmclip: rank 3: a=1\n"
    assert len(waited) == 1


def test_a_rank_that_lost_another_waits_for_its_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    waited: list[float] = []
    monkeypatch.setattr("mmclip_launch.faults.time.sleep", waited.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert run_verb(Raises(RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1")), []) == 3
    assert capsys.readouterr().err.startswith("mmclip: lost contact with another process of this run")
    assert len(waited) == 1
