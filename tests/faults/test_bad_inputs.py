"""docs/errors.md is the catalogue of what users do wrong, and these tests run it.

Each `console` block there is a command and what it answers; `...` stands for what differs from run to run. The quick
half calls the verbs in this process; the slow half runs real commands: a block of each kind that people meet most, and
every block that needs something around it: a full disk, a read-only one, a port that is taken. After a change of a
message, `UPDATE_ERRORS_PAGE=1 pytest` with this file writes what the quick half sees into the page, to be read before
it is committed.
"""

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmclip_launch.cli import dispatch, run_verb
from mmclip_launch.run.config import SAFE_TO_CHANGE

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
BIN = Path(sys.executable).parent
MOST_LINES = 8
"""A message is one line a fault, never a screenful."""
BLOCK = re.compile(
    r"^### (?P<title>.+)$|^```console\n\$ (?P<command>.+)\n(?P<message>(?s:.*?))\n\[exit (?P<code>\d+)\]\n```$", re.M
)
DISKS = {
    # Folder: what makes it such a disk inside a mount namespace of its own; a checkpoint of the page's model takes 9.7 MB.
    "small": "mount -t tmpfs -o size=64k none small && dd if=/dev/zero of=small/filler bs=1k count=60 status=none",
    "tight": "mount -t tmpfs -o size=5m none tight",
    "tmp": "mount -t tmpfs -o size=16m none tmp",
    "fixed": "mount -t tmpfs -o size=5m,ro none fixed",
}


@dataclass(frozen=True)
class Block:
    """One command of the page and its promised answer."""

    title: str
    command: str
    message: str
    code: int

    @property
    def is_plain(self) -> bool:
        """Whether it needs nothing but the workshop and this process."""
        return self.command.startswith("mmclip ") and self.disk is None

    @property
    def disk(self) -> str | None:
        found = re.search(r"--output (\w+)/", self.command)
        return found[1] if found and found[1] in DISKS else None

    @property
    def pattern(self) -> str:
        return ".*".join(map(re.escape, self.message.split("...")))

    def check(self, code: int, stderr: str) -> None:
        """The promised code, and the promised message and nothing else, but for what a run said before it failed."""
        assert code == self.code, stderr
        assert "Traceback" not in stderr
        begins, said = split(stderr, self.message.splitlines()[0].partition(":")[0])
        assert not begins or self.disk == "tmp", stderr  # a run that had begun had said so
        assert re.fullmatch(self.pattern, said), f"{said}\n\npromised:\n{self.message}"
        assert len(said.splitlines()) <= MOST_LINES


def split(stderr: str, first_word: str) -> tuple[list[str], str]:
    """The lines before the message, and the message."""
    lines = stderr.rstrip("\n").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(first_word))
    return lines[:start], "\n".join(lines[start:])


def read_page() -> Iterator[Block]:
    title = ""
    for found in BLOCK.finditer(PAGE.read_text()):
        title = found["title"] or title
        if found["command"]:
            yield Block(title, found["command"], found["message"], int(found["code"]))


AS_COMMANDS = (
    "A typo in a key",
    "A value of the wrong type",
    "A number out of range",
    "A warmup longer than the run",
    "A run stands there already",
    "A folder or shard that is not there",
    "An empty shard",
    "No samples left after filtering",
    "Captions under another name",
    "An unknown architecture",
    "An unknown tag of released weights",
    "A context too short for a word",
    "A truncated checkpoint",
    "A corrupt checkpoint",
    "Weights of another architecture than their configuration",
    "Class names that do not match the labels",
    "A wrong prompt file",
)
"""Their first blocks run as real commands too; the others differ in the message alone."""

BLOCKS = list(read_page())
NAMES = {block.command: f"{block.title}-{number}" for number, block in enumerate(BLOCKS)}
PLAIN = [block for block in BLOCKS if block.is_plain]
REAL = [next(block for block in PLAIN if block.title == title) for title in AS_COMMANDS]
REAL += [block for block in BLOCKS if not block.is_plain]


def name_of(block: Block) -> str:
    return NAMES[block.command]


def entries(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_the_page_is_long_and_shows_its_run_file(workshop: Path):
    titles = {block.title for block in BLOCKS}
    assert len(titles) > 40
    assert f"```toml\n{(workshop / 'run.toml').read_text()}```" in PAGE.read_text()
    assert all(block.code in (2, 3) for block in BLOCKS)
    assert all(f"`{name}`" in PAGE.read_text() for name in SAFE_TO_CHANGE)


@pytest.mark.parametrize("block", PLAIN, ids=name_of)
@pytest.mark.xdist_group("workshop")
def test_a_bad_input_is_one_message_and_leaves_nothing_behind(
    block: Block, workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(workshop)
    before = entries(workshop)
    code = run_verb(dispatch, shlex.split(block.command)[1:])
    said = capsys.readouterr().err
    if "UPDATE_ERRORS_PAGE" in os.environ and not re.fullmatch(block.pattern, said.rstrip("\n")):
        text = PAGE.read_text()
        PAGE.write_text(text.replace(f"$ {block.command}\n{block.message}", f"$ {block.command}\n{said.rstrip()}"))
        pytest.fail("the page was changed: read it, then run again")
    block.check(code, said)
    assert entries(workshop) == before


@pytest.mark.slow
@pytest.mark.parametrize("block", REAL, ids=name_of)
def test_a_bad_input_as_a_real_command(block: Block, workshop: Path):
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    script = ["bash", "-c", block.command]
    if block.disk:
        (workshop / block.disk).mkdir(exist_ok=True)
        tell = f"code=$?; ls {block.disk}/new/checkpoints; exit $code"
        script = ["unshare", "-rm", "bash", "-c", f"{DISKS[block.disk]} || exit 77; {block.command}; {tell}"]
    before = entries(workshop)
    with socket.socket() as listener:
        listener.bind(("", 0))
        environment["PORT"] = str(listener.getsockname()[1])
        if block.title == "A port in use":
            listener.listen()
        else:
            listener.close()
        done = subprocess.run(script, cwd=workshop, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip(f"no mounts of one's own here: {done.stderr.strip()}")
    done.stderr = re.sub(r"^ls: .*\n", "", done.stderr, flags=re.M)
    block.check(done.returncode, done.stderr)
    assert entries(workshop) == before
    if "middle of a run" in block.title:
        assert done.stdout.splitlines() == ["latest", "step-00000001"], (
            "the older checkpoint survives, and no half of the newer"
        )


def test_no_code_ran_while_a_pickle_was_refused(workshop: Path):
    assert not list(workshop.rglob("code-ran"))
