"""A training of seconds that the tests of launchers share: how it is started, and what must be equal at its end."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

STEPS = 24
RUN = """
output = "none"
global_batch_size = 16
precision = "{precision}"
device = "cpu"
log_every_steps = 1
length = {{ steps = 24 }}
checkpoint = {{ every_steps = 5, keep = 2 }}
evaluation = {{ report = false }}
data = {{ source = {{ type = "tars", shards = "embedded:emoji/unseen-concept-*.tar" }}, workers = {workers} }}
[model.inline]
embed_dim = 16
vision_cfg = {{ image_size = 32, patch_size = 8, width = 32, layers = 2, head_width = 16 }}
text_cfg = {{ context_length = 8, vocab_size = 49408, width = 16, heads = 1, layers = 1 }}
"""
BIN = Path(sys.executable).parent
CPU2 = Path(__file__).parents[2] / "launch/accelerate/cpu2.yaml"
LAUNCHERS = {
    "python": [sys.executable],
    "torchrun": [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2"],
    "accelerate": [str(BIN / "accelerate"), "launch", "--config_file", str(CPU2), "--num_processes", "2"],
}


@dataclass
class SmallRun:
    """One folder, in which a run is begun, and gone on with, by any launcher."""

    place: Path
    text: str = RUN
    steps: int = STEPS
    precision: str = "fp32"
    workers: int = 0
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.place / "run"

    @property
    def words(self) -> list[str]:
        """What comes behind the name of the program."""
        file = self.place / "run.toml"
        file.write_text(self.text.format(precision=self.precision, workers=self.workers))
        return [str(file), "--output", str(self.folder)]

    def start(self, launcher: str, *flags: str) -> subprocess.Popen[bytes]:
        return self.run([*LAUNCHERS[launcher], "-m", "mmclip_launch.train", *self.words, *flags])

    def run(self, command: list[str], **variables: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}", **variables}
        with (self.place / "log").open("ab") as log:
            self.started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.place))
        return self.started[-1]

    def finish(self, launcher: str, *flags: str) -> None:
        assert self.start(launcher, *flags).wait() == 0, self.said()

    def until(self, done: Callable[[], bool], bound_seconds: float = 300) -> None:
        """Look again and again, while the newest process lives."""
        deadline = time.monotonic() + bound_seconds
        while not done():
            assert self.started[-1].poll() is None, self.said()
            assert time.monotonic() < deadline, f"{bound_seconds} s have passed\n{self.said()}"
            time.sleep(0.01)

    def kill_tree(self) -> None:
        """End the newest process and all below it at once, each by its id, as a power cut would."""
        launcher = psutil.Process(self.started[-1].pid)
        tree = [launcher, *launcher.children(recursive=True)]
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.started[-1].wait()
        psutil.wait_procs(tree[1:], timeout=60)

    def trainers(self) -> list[psutil.Process]:
        """The ranks that the newest launcher has started, in their order."""
        return sorted(psutil.Process(self.started[-1].pid).children(), key=lambda one: one.environ()["RANK"])

    def said(self) -> str:
        return (self.place / "log").read_text()

    def ledger(self) -> list[dict[str, object]]:
        """The lines of the ledger that are whole."""
        path = self.folder / "ledger.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def steps_done(self) -> int:
        return len(self.ledger())

    def ids(self) -> list[object]:
        return [line["ids"] for line in self.ledger()]

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints" / f"step-{self.steps:08d}"

    def digests(self) -> dict[str, str]:
        """The sums of the weights and of the optimizer's moments at the end."""
        names = ("open_clip_model.safetensors", "optimizer.safetensors")
        return {name: hashlib.sha256((self.last / name).read_bytes()).hexdigest() for name in names}


Begin = Callable[..., SmallRun]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Begin]:
    """Make a small run; what still lives at the end of the test is killed."""
    runs: list[SmallRun] = []

    def begin(name: str = "", **settings: Any) -> SmallRun:
        place = tmp_path / (name or str(len(runs)))
        place.mkdir()
        runs.append(SmallRun(place, **settings))
        return runs[-1]

    yield begin
    for run in runs:
        for process in run.started:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """The unbroken run on two ranks, to its end."""
    run = SmallRun(tmp_path_factory.mktemp("two-ranks"))
    run.finish("torchrun")
    return run
