"""`Mirror`: a training run's side of the copying."""

import time
from pathlib import Path
from typing import Any

from mmclip.errors import MachineError
from mmclip.training.checkpoint.child import Child, ChildDied
from mmclip.training.checkpoint.lease import StaleLeaseError
from mmclip.training.checkpoint.patience import Patience
from mmclip_launch.mirror.config import MirrorConfig

PROCESS = "mmclip_launch.mirror.process"
CLOSING_SECONDS = 60.0


class Mirror:
    """Copies each checkpoint that is on the disk, or, where the store is slower than the run, the newest of them.

    Raises:
        MachineError: the store takes nothing, right at the start.
    """

    def __init__(self, config: MirrorConfig, run: Path, resumed_step: int, patience: Patience) -> None:
        assert config.url is not None, "made only where there is one"
        self.config = config
        self.run = run
        self._patience = patience
        self._child = Child(PROCESS)
        self._first = {"url": config.url, "resumed_step": resumed_step, "token": 0, "nonce": ""}
        self._newest: Path | None = None
        """What is to be copied, or is being copied."""
        self._sent = False
        self._again_at = 0.0
        self._begin()

    @property
    def spared(self) -> set[str]:
        """Names of checkpoints that must stay on the disk for now."""
        return set() if self._newest is None else {self._newest.name}

    def offer(self, folder: Path) -> None:
        """Copy a checkpoint that is on the disk, as soon as the one before is done."""
        self._newest, self._sent = folder, False
        self.poll()

    def poll(self) -> None:
        """Hear what has been copied, and send what waits, without waiting.

        Raises:
            StaleLeaseError: another trainer has taken over the run.
            MachineError: copying has failed for longer than `checkpoint.patience_minutes`.
        """
        try:
            while (answer := self._child.receive(0.0)) is not None:
                self._take(answer)
            if self._newest is not None and not self._sent and time.monotonic() >= self._again_at:
                order = {"run": str(self.run), "folder": str(self._newest), "keep": self.config.keep}
                self._child.send(order)
                self._sent = True
        except ChildDied as error:
            self._failed(f"{self.config.url}: the process that copies checkpoints ended ({error})")
            self._begin()

    def settle(self) -> None:
        """Return when the newest checkpoint is copied.

        Raises:
            StaleLeaseError, MachineError: as `poll` does.
        """
        while self._newest is not None:
            self.poll()
            time.sleep(0.05)

    def close(self) -> None:
        """Let a copy in flight end."""
        self._child.close(CLOSING_SECONDS)

    def _begin(self) -> None:
        try:
            self._child.send(self._first)
            answer = self._child.receive(None)
        except ChildDied as error:
            raise MachineError(f"mirror.url={self.config.url}: the process that copies ended ({error})") from error
        assert answer is not None
        if answer["kind"] != "ready":
            raise MachineError(f"mirror.url: {answer['message']}")
        self._first |= {"token": answer["token"], "nonce": answer["nonce"]}

    def _take(self, answer: dict[str, Any]) -> None:
        if answer["kind"] == "stale":
            raise StaleLeaseError(answer["message"])
        if answer["kind"] == "failed":
            self._failed(answer["message"])
            return
        self._patience.fine(self._what)
        if self._newest is not None and answer["folder"] == str(self._newest):
            self._newest = None

    def _failed(self, message: str) -> None:
        self._sent = False
        self._patience.failed(self._what, message)
        self._again_at = time.monotonic() + self._patience.pause_seconds(self._what)

    @property
    def _what(self) -> str:
        return f"mirror {self.config.url}"
