"""`Saver`: checkpoints beside the training. A step waits for a copy in memory; another process brings that to the disk."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace

from mmclip.training.checkpoint.child import Child, ChildDied
from mmclip.training.checkpoint.config import CheckpointConfig
from mmclip.training.checkpoint.files import File
from mmclip.training.checkpoint.folders import checkpoint_folder
from mmclip.training.checkpoint.lease import CHECKPOINTS, Lease, StaleLeaseError
from mmclip.training.checkpoint.patience import Patience
from mmclip.training.checkpoint.snapshot import Memory
from mmclip.training.checkpoint.writer import Answer, Job

WRITER = "mmclip.training.checkpoint.writer"
CLOSING_SECONDS = 20.0
"""How long the end of a run that failed waits for the save in flight."""


class Saver:
    """Saves of one run, one at a time.

    A save that fails is said and tried again, with the same snapshot, until it succeeds, until the next one takes its place,
    or until the patience ends. A writer that dies is started anew.
    """

    def __init__(
        self,
        lease: Lease,
        config: CheckpointConfig,
        say: Callable[[str], None],
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.lease = lease
        self.config = config
        self.rank = rank
        self.ranks = ranks
        self.durable_step: int | None = None
        """The newest step that is on the disk."""
        self._patience = Patience(config.patience_minutes, say)
        self._say = say
        self._memory = Memory()
        self._writer = Child(WRITER, [str(self._memory.descriptor)], [self._memory.descriptor])
        self._attempts = 0
        self._job: Job | None = None
        """What is not on the disk yet: in the writer's hands, or waiting to be tried again."""
        self._again_at: float | None = None
        """When it is tried again; None while the writer has it."""

    def prepare(self, size: int) -> None:
        """Make room in memory for a snapshot of so many bytes, and start the writer, before the first save asks for them."""
        self._memory.reserve(size)
        self._writer.start()

    def save(self, step: int, files: Sequence[File], spared: Collection[str] = ()) -> None:
        """Take a snapshot of `files` and let it be written; waits while the one before is being written.

        Checkpoints named in `spared` are not deleted when this one is on the disk.

        Raises:
            StaleLeaseError: another trainer has taken over the run.
            MachineError: saving has failed for longer than `checkpoint.patience_minutes`.
        """
        while self._job is not None and self._again_at is None:
            self._look(None)
        if self.ranks > 1:  # one more on every rank: a rank that tries again does so in the folder that all fill
            self._attempts += 1
        placed = self._memory.take(files)
        self._job = Job(
            run=str(self.lease.run),
            step=step,
            token=self.lease.token,
            attempt=0,
            files=[(one.path, one.offset, one.size) for one in placed],
            rank=self.rank,
            ranks=self.ranks,
            keep=self.config.keep,
            keep_every_steps=self.config.keep_every_steps,
            spared=sorted(spared),
        )
        self._submit()

    def poll(self) -> None:
        """Hear what the writer has done, and try again what failed, without waiting.

        Raises:
            StaleLeaseError, MachineError: as `save` does.
        """
        if self._job is None:
            return
        if self._again_at is None:
            self._look(0.0)
        elif time.monotonic() >= self._again_at:
            self._submit()

    def wait(self) -> None:
        """Return when the last snapshot is on the disk.

        Raises:
            StaleLeaseError, MachineError: as `save` does.
        """
        while self._job is not None:
            if self._again_at is not None:
                time.sleep(max(0.0, self._again_at - time.monotonic()))
                self._submit()
            self._look(None)

    def close(self) -> None:
        """Let a save in flight end, and the writer with it."""
        if not self._writer.close(CLOSING_SECONDS):
            self._say(f"the checkpoint of step {self._step} is still being written, by a process that goes on")
        self._memory.close()

    @property
    def writer_pid(self) -> int | None:
        """The process that writes."""
        return self._writer.pid

    @property
    def _step(self) -> int:
        return -1 if self._job is None else self._job.step

    @property
    def _where(self) -> str:
        return str(self.lease.run / CHECKPOINTS)

    def _submit(self) -> None:
        assert self._job is not None
        if self.ranks == 1:
            self._attempts += 1
        self._job, self._again_at = replace(self._job, attempt=self._attempts), None
        try:
            self._writer.send(asdict(self._job))
        except ChildDied as error:
            self._writer_died(error)

    def _look(self, timeout_seconds: float | None) -> None:
        """Read the writer's answer, if there is one within the time."""
        try:
            answer = self._writer.receive(timeout_seconds)
        except ChildDied as error:
            self._writer_died(error)
            return
        if answer is not None:
            self._take(Answer(**answer))

    def _take(self, answer: Answer) -> None:
        assert self._job is not None
        if answer.kind == "stale":
            raise StaleLeaseError(answer.message)
        if answer.kind == "failed":
            self._failed(answer.message)
            return
        self._patience.fine(self._where)
        if answer.message:
            self._say(answer.message)
        self.durable_step, self._job = self._job.step, None

    def _failed(self, message: str) -> None:
        self._again_at = time.monotonic()
        self._patience.failed(self._where, message)
        self._again_at += self._patience.pause_seconds(self._where)

    def _writer_died(self, error: ChildDied) -> None:
        folder = checkpoint_folder(self.lease.run, self._step)
        self._failed(f"{folder}: the process that writes checkpoints ended ({error})")
