"""The place of a chaos run: its data on a disk and on a store, a small disk of its own for the run, and the processes."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from torch.distributed.run import parse_args

from mmclip_data.shards import index_shards
from mmclip_data.testing.shard_faults import make_shard
from mmclip_data.testing.store_faults import FaultyServer

SAVE_EVERY_STEPS = 5
DISK_MEGABYTES = 128
RUN = """
output = "none"
global_batch_size = 16
precision = "fp32"
device = "cpu"
log_every_steps = 1
peer_timeout_seconds = 120
length = {{ steps = {steps} }}
checkpoint = {{ every_steps = 5, keep = 3, patience_minutes = 3 }}
evaluation = {{ report = false }}
{watchdog}
[data]
workers = 2
prefetch_batches = 1
timeout_seconds = 12
restarts = 50
max_bad_fraction = 0.5
[data.source]
type = "mixture"
[[data.source.sources]]
weight = 2
source = {{ type = "tars", name = "disk", shards = "{data}/disk" }}
[[data.source.sources]]
weight = 1
[data.source.sources.source]
type = "tars"
name = "store"
shards = "{url}/{{0..2}}.tar"
cache = {{ folder = "{data}/cache", mode = "range", idle_seconds = 2.0, look_ahead_bytes = 20000, parallel = 4 }}
[model.inline]
embed_dim = 16
vision_cfg = {{ image_size = 32, patch_size = 8, width = 32, layers = 2, head_width = 16 }}
text_cfg = {{ context_length = 8, vocab_size = 49408, width = 16, heads = 1, layers = 1 }}
"""
WATCHDOG = "watchdog = { warn_seconds = 5.0, stalled_seconds = 15.0, end_seconds = 15.0 }"
TORCHRUN = ["--standalone", "--nproc_per_node", "2", "--max-restarts", "0"]
if "shutdown_timeout" in vars(parse_args(["script"])):  # torch before it has a wait of its own, 30 s
    TORCHRUN += ["--shutdown-timeout", "5"]


@dataclass
class Arena:
    """A folder that holds everything; `disk` in it is a small file system where that can be had."""

    place: Path
    steps: int
    nan_steps: Mapping[int, int]
    pace_seconds: float
    server: FaultyServer
    launched: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def run(self) -> Path:
        return self.place / "disk/run"

    @property
    def clean(self) -> Path:
        """The same run, undisturbed."""
        return self.place / "clean"

    @property
    def log(self) -> Path:
        return self.place / "log.txt"

    @property
    def clock(self) -> Path:
        return self.place / "clock"

    def prepare(self, has_mounts: bool) -> None:
        """Make shards, indexes, the run file and the small disk."""
        for folder in ("data/disk", "data/store", "disk"):
            (self.place / folder).mkdir(parents=True)
        for number in range(6):
            (self.place / f"data/disk/{number}.tar").write_bytes(make_shard(40, number).raw)
        for number in range(3):
            (self.place / f"data/store/{number}.tar").write_bytes(make_shard(30, 100 + number).raw)
        tars = sorted(self.place.glob("data/*/*.tar"))
        assert not [done.error for done in index_shards(tars) if done.error]
        self.server.files |= {f"/{path.name}": path.read_bytes() for path in (self.place / "data/store").iterdir()}
        self.clock.write_text("0")
        text = RUN.format(steps=self.steps, data=self.place / "data", url=self.server.url, watchdog=WATCHDOG)
        (self.place / "run.toml").write_text(text)
        if has_mounts:
            mount("-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "none", str(self.place / "disk"))

    def start(self, output: Path, pace_seconds: float, *flags: str) -> subprocess.Popen[bytes]:
        entry = Path(__file__).with_name("chaos_entry.py")
        command = [str(Path(sys.executable).with_name("torchrun")), *TORCHRUN, str(entry), str(self.place / "run.toml")]
        nan = ",".join(f"{step}:{rank}" for step, rank in self.nan_steps.items())
        worse = {"CHAOS_NAN": nan, "CHAOS_PACE_SECONDS": str(pace_seconds), "CHAOS_CLOCK": str(self.clock)}
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*command, "--output", str(output), "--resume", *flags],
                env={**os.environ, "OMP_NUM_THREADS": "1", **worse},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.launched.append(process)
        return process

    def train_undisturbed(self) -> None:
        """Every checkpoint of it stays, to be compared with."""
        process = self.start(self.clean, 0.0, "--checkpoint.keep", str(self.steps))
        assert process.wait() == 0, self.log.read_text()[-4000:]

    def start_disturbed(self) -> subprocess.Popen[bytes]:
        return self.start(self.run, self.pace_seconds)

    def step(self) -> int:
        """The last step in the run's ledger."""
        lines = ledger(self.run)
        return max(lines, default=0)

    def checkpoints(self) -> dict[int, Path]:
        """Published ones by step, without those that a signal asked for, which the undisturbed run has not."""
        found = (self.run / "checkpoints").glob("step-*") if self.run.is_dir() else ()
        named = {int(path.name.removeprefix("step-")): path for path in found if path.name[5:].isdigit()}
        return {step: path for step, path in named.items() if step % SAVE_EVERY_STEPS == 0 or step == self.steps}

    def stop(self) -> None:
        """Kill what is left."""
        for process in self.launched:
            kill_tree(process)

    def clear(self, leave_files: bool = False) -> None:
        """Give the disk back."""
        subprocess.run(["umount", "-l", str(self.place / "disk")], check=False, capture_output=True)
        if not leave_files:
            shutil.rmtree(self.place, ignore_errors=True)


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def tree(process: psutil.Process) -> list[psutil.Process]:
    """A process and all below it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Each by its own id, as a machine that loses its power would."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in tree(psutil.Process(process.pid)):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()


def ledger(run: Path) -> dict[int, dict[str, object]]:
    """The whole lines of a ledger, by step."""
    lines: dict[int, dict[str, object]] = {}
    with contextlib.suppress(OSError):
        for line in (run / "ledger.jsonl").read_text().splitlines(keepends=True):
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if line.endswith("\n"):
                    lines[entry["step"]] = entry
    return lines


def sums(checkpoint: Path) -> dict[str, str]:
    """What the manifest says of weights and moments.

    Raises:
        OSError: the checkpoint has gone meanwhile.
    """
    files = json.loads((checkpoint / "MANIFEST.json").read_text())["files"]
    return {name: files[name]["sha256"] for name in ("open_clip_model.safetensors", "optimizer.safetensors")}
