"""What goes wrong in a chaos run: each kind is a function that does it, holds it for a while, and takes back what can be."""

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from chaos_arena import Arena, kill_tree, mount, tree

from mmclip_data.testing.store_faults import Request

WRITER = "mmclip.training.checkpoint.writer"
PIDFD_GETFD = 438
"""The number of the system call, which Python has no name for."""


@dataclass
class Scene:
    """The run that is going on, and the dice."""

    arena: Arena
    dice: random.Random
    launcher: subprocess.Popen[bytes]
    notes: list[str] = field(default_factory=list)

    def ranks(self) -> list[psutil.Process]:
        found = [one for one in psutil.Process(self.launcher.pid).children() if "RANK" in one.environ()]
        return sorted(found, key=lambda one: one.environ()["RANK"])

    def rank(self) -> psutil.Process:
        return self.dice.choice(self.ranks())

    def worker(self) -> psutil.Process:
        """A loader process of either rank."""
        return self.dice.choice([one for rank in self.ranks() for one in rank.children() if not is_writer(one)])

    def writer(self) -> psutil.Process:
        return next(one for rank in self.ranks() for one in rank.children() if is_writer(one))

    def ended(self) -> bool:
        return self.launcher.poll() is not None

    def hold(self, seconds: float) -> None:
        """Let it be so for a while, or until the run has ended of it."""
        self.wait(self.ended, seconds)

    def wait(self, done: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def wait_for_save(self) -> bool:
        """A checkpoint is being written."""
        folder = self.arena.run / "checkpoints"

        def is_saving() -> bool:
            with contextlib.suppress(OSError):
                return any(name.startswith(".tmp-") for name in os.listdir(folder))
            return False

        return self.wait(lambda: is_saving() or self.ended(), 60.0)

    def kill_tree(self) -> None:
        kill_tree(self.launcher)


def is_writer(process: psutil.Process) -> bool:
    return WRITER in process.cmdline()


def worker_killed(scene: Scene) -> None:
    scene.worker().kill()


def rank_killed(scene: Scene) -> None:
    scene.rank().kill()


def launcher_killed(scene: Scene) -> None:
    trainers = tree(psutil.Process(scene.launcher.pid))[1:]
    scene.launcher.kill()
    scene.launcher.wait()
    _, alive = psutil.wait_procs(trainers, timeout=5.0)
    if alive:
        scene.notes.append(f"{len(alive)} processes outlived their launcher by 5 s")
        psutil.wait_procs(alive, timeout=60.0)


def tree_killed(scene: Scene) -> None:
    scene.kill_tree()


def rank_told_to_end(scene: Scene) -> None:
    scene.rank().send_signal(signal.SIGTERM)


def rank_told_to_save(scene: Scene) -> None:
    scene.rank().send_signal(signal.SIGUSR1)


def launcher_told_to_end(scene: Scene) -> None:
    scene.launcher.send_signal(signal.SIGTERM)


def killed_inside_a_save(scene: Scene) -> None:
    scene.wait_for_save()
    time.sleep(scene.dice.uniform(0.0, 0.01))
    scene.kill_tree()


def writer_killed(scene: Scene) -> None:
    scene.wait_for_save()
    scene.writer().kill()


def writer_stopped_for_a_while(scene: Scene) -> None:
    _stopped_for_a_while(scene, scene.writer(), 3.0)


def rank_stopped_for_a_while(scene: Scene) -> None:
    _stopped_for_a_while(scene, scene.rank(), 3.0)


def _stopped_for_a_while(scene: Scene, process: psutil.Process, seconds: float) -> None:
    process.suspend()
    scene.hold(seconds)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()


def rank_stopped_for_good(scene: Scene) -> None:
    scene.rank().suspend()
    scene.hold(120.0)


def worker_stopped_for_good(scene: Scene) -> None:
    scene.worker().suspend()
    scene.hold(60.0)


def checkpoint_rotten(scene: Scene) -> None:
    weights = _newest_checkpoint(scene) / "open_clip_model.safetensors"
    place = scene.dice.randrange(weights.stat().st_size)
    with weights.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << scene.dice.randrange(8)]))


def checkpoint_cut(scene: Scene) -> None:
    moments = _newest_checkpoint(scene) / "optimizer.safetensors"
    os.truncate(moments, scene.dice.randrange(moments.stat().st_size))


def checkpoint_unsealed(scene: Scene) -> None:
    (_newest_checkpoint(scene) / "MANIFEST.json").unlink()


def _newest_checkpoint(scene: Scene) -> Path:
    scene.wait(lambda: len(scene.arena.checkpoints()) > 1 or scene.ended(), 60.0)  # an older one is there to go back to
    scene.kill_tree()
    return max(scene.arena.checkpoints().items())[1]


def ledger_torn(scene: Scene) -> None:
    scene.kill_tree()
    path = scene.arena.run / "ledger.jsonl"
    last = path.read_bytes().splitlines(keepends=True)[-1]
    os.truncate(path, path.stat().st_size - scene.dice.randrange(1, len(last)))


def shard_gone(scene: Scene) -> None:
    """While a loader process must open it anew."""
    shard = scene.dice.choice(sorted((scene.arena.place / "data/disk").glob("*.tar")))
    away = shard.with_suffix(".away")
    shard.rename(away)
    scene.worker().kill()
    scene.hold(4.0)
    away.rename(shard)


@contextmanager
def failing(scene: Scene, kinds: tuple[str, ...], rate: float) -> Iterator[None]:
    dice = random.Random(scene.dice.random())

    def choose(request: Request) -> str | None:
        is_hit = request.path.endswith(".tar") and dice.random() < rate
        return dice.choice(kinds) if is_hit else None

    server = scene.arena.server
    before, server.choose = server.choose, choose
    try:
        yield
    finally:
        server.choose = before


def store_errors(scene: Scene) -> None:
    with failing(scene, ("500", "503", "drop"), 0.7):
        scene.hold(4.0)


def store_stalls(scene: Scene) -> None:
    with failing(scene, ("stall", "mute", "short", "honest-short"), 0.3):
        scene.hold(5.0)


def store_down(scene: Scene) -> None:
    with failing(scene, ("503",), 1.0):
        scene.hold(6.0)


def clock_jumps(scene: Scene) -> None:
    seconds = scene.dice.choice([-1, 1]) * scene.dice.uniform(3600.0, 30 * 86400.0)
    temporary = scene.arena.clock.with_suffix(".new")
    temporary.write_text(f"{seconds:.3f}")
    temporary.replace(scene.arena.clock)


def nan_in_one_rank(scene: Scene) -> None:
    """The trainers do it themselves, at the planned step."""
    step = scene.arena.step()
    planned = max((one for one in scene.arena.nan_steps if one <= step), default=None)
    if planned is None or not list(scene.arena.run.glob("skipped.jsonl*")):
        scene.notes.append("no step was skipped")


def disk_full(scene: Scene) -> None:
    filler = scene.arena.run.parent / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16) if os.statvfs(filler).f_bavail > 32 else bytes(1))
    scene.hold(4.0)
    filler.unlink()


def folder_read_only(scene: Scene) -> None:
    run = str(scene.arena.run)
    mount("--bind", run, run)
    mount("-o", "remount,bind,ro", run)
    scene.hold(4.0)
    subprocess.run(["umount", "-l", run], check=True)


def folder_gone(scene: Scene) -> None:
    away = scene.arena.run.with_name("away")
    scene.arena.run.rename(away)
    scene.hold(3.0)
    away.rename(scene.arena.run)


def second_trainer(scene: Scene) -> None:
    """It must be refused, and the first one must go on."""
    second = scene.arena.start_disturbed()
    scene.wait(lambda: second.poll() is not None or scene.ended(), 120.0)
    if second.poll() in (0, None):
        scene.notes.append("a second trainer was not refused")
    kill_tree(second)


def stale_trainer(scene: Scene) -> None:
    """All of it is stopped, another one takes over and saves, and then the first one wakes up."""
    old, first = tree(psutil.Process(scene.launcher.pid)), scene.launcher
    for one in old:
        one.suspend()
    newest = max(scene.arena.checkpoints(), default=0)
    scene.launcher = scene.arena.start_disturbed()
    scene.wait(lambda: max(scene.arena.checkpoints(), default=0) > newest or scene.ended(), 180.0)
    for one in old:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.resume()
    if not scene.wait(lambda: first.poll() is not None, 90.0):
        scene.notes.append("the trainer that was replaced did not end")
        kill_tree(first)
    elif first.returncode == 0:
        scene.notes.append("the trainer that was replaced came to its end")


def connection_cut(scene: Scene) -> None:
    """One of the sockets between the two ranks is shut, as a switch that restarts would."""
    rank = scene.rank()
    others = {one.laddr for peer in scene.ranks() if peer != rank for one in peer.net_connections("tcp")}
    found = [
        one for one in rank.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED and one.raddr in others
    ]
    if not found:
        scene.notes.append("no connection between the ranks was found")
        return
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(rank.pid)
    for one in found:
        number = libc.syscall(PIDFD_GETFD, process, one.fd, 0)
        if number < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        with socket.socket(fileno=number) as borrowed:
            borrowed.shutdown(socket.SHUT_RDWR)
    os.close(process)


def shard_torn(scene: Scene) -> None:
    """Cut in its middle for a while: what was read meanwhile is quarantined."""
    shard = scene.dice.choice(sorted((scene.arena.place / "data/disk").glob("*.tar")))
    whole = shard.read_bytes()
    os.truncate(shard, len(whole) // 2)
    scene.hold(3.0)
    with shard.open("r+b") as file:
        file.write(whole)


def shard_rotten(scene: Scene) -> None:
    """Bytes here and there, for good."""
    shard = scene.dice.choice(sorted((scene.arena.place / "data/disk").glob("*.tar")))
    with shard.open("r+b") as file:
        for _ in range(20):
            file.seek(scene.dice.randrange(shard.stat().st_size))
            file.write(b"\xa5")


@dataclass(frozen=True)
class Kind:
    """One kind of fault."""

    name: str
    do: Callable[[Scene], None]
    needs_mounts: bool = False
    is_declared: bool = False
    """Whether samples may be replaced by it, each of them named."""


KINDS = (
    Kind("loader process killed", worker_killed),
    Kind("rank killed", rank_killed),
    Kind("launcher killed", launcher_killed),
    Kind("whole tree killed", tree_killed),
    Kind("SIGTERM to one rank", rank_told_to_end),
    Kind("SIGUSR1 to one rank", rank_told_to_save),
    Kind("SIGTERM to the launcher", launcher_told_to_end),
    Kind("killed inside a save", killed_inside_a_save),
    Kind("checkpoint writer killed inside a save", writer_killed),
    Kind("checkpoint writer stopped for 3 s", writer_stopped_for_a_while),
    Kind("rank stopped for 3 s", rank_stopped_for_a_while),
    Kind("rank stopped for good", rank_stopped_for_good),
    Kind("loader process stopped for good", worker_stopped_for_good),
    Kind("newest checkpoint: a bit flipped", checkpoint_rotten),
    Kind("newest checkpoint: a file cut", checkpoint_cut),
    Kind("newest checkpoint: no manifest", checkpoint_unsealed),
    Kind("last line of the ledger torn", ledger_torn),
    Kind("shard gone for 4 s", shard_gone),
    Kind("store: 70 % errors for 4 s", store_errors),
    Kind("store: stalls and short bodies for 5 s", store_stalls),
    Kind("store down for 6 s", store_down),
    Kind("clock jumps by hours or weeks", clock_jumps),
    Kind("NaN in one rank", nan_in_one_rank),
    Kind("disk full for 4 s", disk_full, needs_mounts=True),
    Kind("run folder read-only for 4 s", folder_read_only, needs_mounts=True),
    Kind("run folder gone for 3 s", folder_gone),
    Kind("second trainer started", second_trainer),
    Kind("trainer replaced, then awake again", stale_trainer),
    Kind("connection between ranks cut", connection_cut),
    Kind("shard cut in its middle for 3 s", shard_torn, is_declared=True),
    Kind("bytes of a shard rotten", shard_rotten, is_declared=True),
)
NAN = "NaN in one rank"
