"""The process that brings snapshots to the disk while training goes on; it imports no torch and starts at once.

    python -m mmclip.training.checkpoint.writer DESCRIPTOR

reads jobs from its input, a line of JSON each, takes the bytes out of the memory behind the inherited descriptor, and answers
each with a line. A thread would do the same work under the trainer's interpreter lock. What it has begun it ends, even
where its trainer is gone; whether that may still appear is for the lease to say.
"""

import hashlib
import json
import mmap
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mmclip.envelope import MANIFEST, DamagedFolderError, Sum, appear, refuse_small_room, seal, sum_of, why_not
from mmclip.errors import MachineError
from mmclip.training.checkpoint.folders import checkpoint_folder, settle
from mmclip.training.checkpoint.lease import TEMPORARY, Lease, StaleLeaseError

CHUNK_BYTES = 8 << 20
NICENESS = 5
"""On a machine that trains on its processors the steps come first."""
PEER_SECONDS, ORPHAN_SECONDS, POLL_SECONDS = 600.0, 10.0, 0.02
"""How long the first rank's writer waits for the files of the others; how long where its own trainer is gone."""


@dataclass(frozen=True)
class Job:
    """One checkpoint, or one rank's part of it."""

    run: str
    step: int
    token: int
    attempt: int
    """Of one process: two tries never share a temporary folder. Of several: their tries at one save do, since a rank that
    tries again alone finds there what the others have written."""
    files: Sequence[tuple[str, int, int]]
    """Path, offset in the memory and size in bytes."""
    rank: int = 0
    ranks: int = 1
    """Writers that fill the folder together."""
    keep: int = 3
    keep_every_steps: int | None = None
    spared: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        """Where the checkpoint is to appear."""
        return checkpoint_folder(Path(self.run), self.step)

    @property
    def temporary(self) -> Path:
        """Where it is written; the token tells whose it is."""
        return self.folder.parent / f"{TEMPORARY}{self.folder.name}-t{self.token:08d}-a{self.attempt}"


@dataclass(frozen=True)
class Answer:
    """How a job ended."""

    kind: Literal["durable", "failed", "stale"]
    message: str = ""


def perform(job: Job, memory: memoryview) -> Answer:
    """Write a job's files and, on the first rank, make the whole folder appear."""
    lease = Lease(Path(job.run), job.token)
    expected = sum(size for _, _, size in job.files)
    try:
        lease.check()  # before gigabytes are written for nothing
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        if not job.rank:
            _sweep(job)
        refuse_small_room(job.folder.parent, expected)
        sums = _write_files(job, memory)
        if job.rank:
            _hand_over(job, sums)
            return Answer("durable")
        parts = {rank: _part_of(job, rank) for rank in range(1, job.ranks)}
        every = {name: entry for part in (sums, *parts.values()) for name, entry in part.items()}
        seal(job.temporary, every)
        lease.check()
        _appear(job, parts)
        _read_back(job, memory, every)
        told = settle(job.folder, job.keep, job.spared, job.keep_every_steps)
        return Answer("durable", told or "")
    except StaleLeaseError as error:
        shutil.rmtree(job.temporary, ignore_errors=True)
        return Answer("stale", str(error))
    except (OSError, ValueError, MachineError) as error:  # a manifest that is no JSON, too
        return _failed(job, lease, error, expected)


def _read_back(job: Job, memory: memoryview, sums: Mapping[str, Sum]) -> None:
    """Compare what is on the disk with what it was to be: bytes where they are still in memory, which is ten times cheaper.

    Raises:
        DamagedFolderError: naming the file that differs.
        OSError: one cannot be read.
    """
    own = {name: memory[offset : offset + size] for name, offset, size in job.files}
    for name, entry in sums.items():
        path = job.folder / name
        if not (_holds(path, own[name]) if name in own else sum_of(path) == entry):
            raise DamagedFolderError(f"{path}: it reads back otherwise than it was written")
    if json.loads((job.folder / MANIFEST).read_text())["files"] != dict(sums):
        raise DamagedFolderError(f"{job.folder / MANIFEST}: it reads back otherwise than it was written")


def _holds(path: Path, content: memoryview) -> bool:
    with path.open("rb", buffering=0) as file:
        chunks = (content[begin : begin + CHUNK_BYTES].tobytes() for begin in range(0, len(content), CHUNK_BYTES))
        return all(file.read(len(chunk)) == chunk for chunk in chunks) and not file.read(1)


def _sweep(job: Job) -> None:
    """Take away what an earlier save of several ranks left when the next one took its place."""
    for left in job.folder.parent.glob(f"{TEMPORARY}*-t{job.token:08d}-a*"):
        if job.ranks > 1 and int(left.name.rpartition("-a")[2]) < job.attempt:  # another rank may be ahead
            shutil.rmtree(left, ignore_errors=True)


def _failed(job: Job, lease: Lease, error: Exception, expected: int) -> Answer:
    try:
        lease.check()  # a new trainer sweeps away what the old one was about to rename
    except StaleLeaseError as stale:
        return Answer("stale", str(stale))
    except OSError:
        pass  # the store is gone, as `error` says
    if job.rank:
        _note(job, job.rank, {"failed": str(error)})
    elif job.ranks == 1:
        shutil.rmtree(job.temporary, ignore_errors=True)
    message = why_not(job.folder, error, expected) if isinstance(error, OSError) else str(error)
    return Answer("failed", message)


def _write_files(job: Job, memory: memoryview) -> dict[str, Sum]:
    """Bring every file to the disk; each byte is read once, for the file and for its checksum."""
    job.temporary.mkdir(exist_ok=True)  # another rank may have been first
    sums: dict[str, Sum] = {}
    for name, offset, size in job.files:
        path = job.temporary / name
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with path.open("wb", buffering=0) as file:
            for begin in range(offset, offset + size, CHUNK_BYTES):
                chunk = memory[begin : min(begin + CHUNK_BYTES, offset + size)]
                digest.update(chunk)
                while chunk:  # an unbuffered write may take less than it is given
                    chunk = chunk[file.write(chunk) :]
            os.fsync(file.fileno())
        sums[name] = {"size": size, "sha256": digest.hexdigest()}
    return sums


def _appear(job: Job, parts: dict[int, dict[str, Sum]]) -> None:
    for rank in parts:
        _part(job, rank).unlink()
    try:
        appear(job.temporary, job.folder)
    except OSError:
        for rank, sums in parts.items():  # the next try reads them again
            _note(job, rank, {"files": sums})
        raise


def _part(job: Job, rank: int) -> Path:
    """Where a rank says what it has written, or why it has not."""
    return job.temporary / f".part-{rank}.json"


def _hand_over(job: Job, sums: dict[str, Sum]) -> None:
    _note(job, job.rank, {"files": sums})


def _note(job: Job, rank: int, table: dict[str, object]) -> None:
    path = _part(job, rank)
    half = path.with_suffix(".half")
    try:
        half.write_text(json.dumps(table))
        half.rename(path)
    except OSError as error:  # the first rank waits in vain, and says so
        print(f"mmclip: rank {rank}: {path}: {error.strerror}", file=sys.stderr)


def _part_of(job: Job, rank: int) -> dict[str, Sum]:
    """What another rank's writer has brought to the disk.

    Raises:
        MachineError: it failed, or did not come.
    """
    path = _part(job, rank)
    parent, since = os.getppid(), time.monotonic()
    while not path.exists():
        waited = time.monotonic() - since
        if waited > (PEER_SECONDS if os.getppid() == parent else ORPHAN_SECONDS):
            raise MachineError(f"{job.folder}: the files of rank {rank} did not come within {waited:.0f} s")
        time.sleep(POLL_SECONDS)
    table = json.loads(path.read_text())
    if "failed" in table:
        raise MachineError(f"{job.folder}: rank {rank}: {table['failed']}")
    return table["files"]


def main(descriptor: int) -> None:
    """Perform jobs until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # schedulers and terminals signal whole groups: the trainer decides
    os.nice(NICENESS)
    for line in sys.stdin:
        job = Job(**json.loads(line))
        size = max([offset + length for _, offset, length in job.files], default=0)
        with mmap.mmap(descriptor, max(size, 1), prot=mmap.PROT_READ) as memory, memoryview(memory) as view:
            answer = perform(job, view)
        try:
            print(json.dumps(asdict(answer)), flush=True)
        except BrokenPipeError:  # the trainer is gone; what it asked for is done
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main(int(sys.argv[1]))
