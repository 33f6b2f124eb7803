"""`Journal`: the files of one line a step. They outlive a disk that fails for a while, and two trainers never write them."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmclip.training.checkpoint.lease import Lease
from mmclip.training.checkpoint.patience import Patience


class Journal:
    """Appends strict JSON lines to files of a run folder; what the disk does not take is kept and comes with the next ones."""

    def __init__(self, lease: Lease, patience: Patience) -> None:
        self.lease = lease
        self._patience = patience
        self._waiting: dict[Path, bytes] = {}

    def append(self, path: Path, entries: Sequence[Mapping[str, object]]) -> None:
        """Write the entries behind what is there, or keep them.

        Raises:
            StaleLeaseError: another trainer has taken over the run.
            MachineError: the disk has failed for longer than `checkpoint.patience_minutes`.
        """
        text = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)
        self._waiting[path] = self._waiting.get(path, b"") + text.encode()
        self._flush()

    def settle(self) -> None:
        """Return when everything is written.

        Raises:
            StaleLeaseError, MachineError: as `append` does.
        """
        while self._waiting:
            self._flush()
            if self._waiting:
                time.sleep(self._patience.pause_seconds(self._where))

    @property
    def _where(self) -> str:
        return f"{self.lease.run}: ledger and metrics"

    def _flush(self) -> None:
        try:
            self.lease.check()
            for path, content in list(self._waiting.items()):
                _append_whole(path, content)
                del self._waiting[path]
        except OSError as error:
            self._patience.failed(self._where, f"{error.filename or self.lease.run}: {error.strerror or error}")
        else:
            self._patience.fine(self._where)


def _append_whole(path: Path, content: bytes) -> None:
    """All of it or, where the disk takes only a part, nothing: a torn line would hide the ones behind it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        before = os.fstat(descriptor).st_size
        try:
            left = content
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError as error:
            os.ftruncate(descriptor, before)
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
