"""`Mirror`: a training run's side of the copying."""

import time
from contextlib import suppress
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
        self._waiting: Path | None = None
        """The newest checkpoint that is to be copied."""
        self._under_way: Path | None = None
        """What is being copied. One at a time: all that is copied stays on the disk meanwhile."""
        self._again_at = 0.0
        self._begin()

    @property
    def spared(self) -> set[str]:
        """Names of checkpoints that must stay on the disk for now."""
        return {folder.name for folder in (self._waiting, self._under_way) if folder is not None}

    def offer(self, folder: Path) -> None:
        """Copy a checkpoint that is on the disk, as soon as the one before is done."""
        self._waiting = folder
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
            is_free = self._under_way is None and time.monotonic() >= self._again_at
            if self._waiting is not None and is_free:
                self._under_way, self._waiting = self._waiting, None
                self._child.send(self._order(self._under_way))
        except ChildDied as error:
            self._failed(f"{self.config.url}: the process that copies checkpoints ended ({error})")
            self._begin()

    def settle(self) -> None:
        """Return when the newest checkpoint is copied.

        Raises:
            StaleLeaseError, MachineError: as `poll` does.
        """
        while self._waiting is not None or self._under_way is not None:
            self.poll()
            time.sleep(0.05)

    def close(self) -> None:
        """Let copies end: the one under way, and the newest, of which a run that breaks off has no later word."""
        if self._waiting is not None:
            with suppress(ChildDied):  # it stays on the disk, where the run broke off
                self._child.send(self._order(self._waiting))
        self._child.close(CLOSING_SECONDS)

    def _order(self, folder: Path) -> dict[str, Any]:
        return {"run": str(self.run), "folder": str(folder), "keep": self.config.keep}

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
        self._under_way = None

    def _failed(self, message: str) -> None:
        self._waiting, self._under_way = self._waiting or self._under_way, None
        self._patience.failed(self._what, message)
        self._again_at = time.monotonic() + self._patience.pause_seconds(self._what)

    @property
    def _what(self) -> str:
        return f"mirror {self.config.url}"
