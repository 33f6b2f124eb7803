"""`job.jsonl`: what a job is, each shard that it has finished, and that it is done; what a stopped job goes on from.

{"job": "filter", "settings": {...}, "source": "9f3c..."}
{"shard": "00000.tar", "samples": 10000, "items": 10342, "dropped_bytes": 31050, ...}
{"done": true, "samples": 10000, "dropped": {"where is false": 342}}
"""

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from mmclip.errors import UserError
from mmclip_data.pipelines.job.outcome import Dropped
from mmclip_data.shards.atomic import named

JOURNAL, DROPPED = "job.jsonl", "dropped.jsonl"


@dataclass
class Journal:
    """The two files of a job, locked while it works; a line that a kill cut in two is cut off."""

    folder: Path
    header: dict[str, Any]
    shards: list[dict[str, Any]] = field(default_factory=list)
    done: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = (self.folder / JOURNAL).open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise UserError(
                f"{self.folder}: another process writes its shards there; wait, or name another folder"
            ) from error
        self._dropped = (self.folder / DROPPED).open("a+b")

    def resume(self) -> str | None:
        """Take up what stands in the files; returns why they belong to another job, or None."""
        lines = _whole_lines(self._file)
        if lines and lines[0] != self.header:
            return _difference(lines[0], self.header)
        self.shards = [line for line in lines[1:] if "shard" in line]
        self.done = lines[-1] if lines and "done" in lines[-1] else None
        if not lines:
            self.restart()
        if self.done is None:
            self._dropped.truncate(self.shards[-1]["dropped_bytes"] if self.shards else 0)
        self._dropped.seek(0, os.SEEK_END)
        return None

    def restart(self) -> None:
        """Empty both files and begin anew."""
        self.shards, self.done = [], None
        for handle in (self._file, self._dropped):
            handle.seek(0)
            handle.truncate()
        self._append(self.header)

    def add_shard(self, facts: dict[str, Any], dropped: list[Dropped]) -> None:
        """Note a shard that stands complete, and what was dropped on the way to it."""
        self._drop(dropped)
        self.shards.append(facts | {"dropped_bytes": self._dropped.tell()})
        self._append(self.shards[-1])

    def finish(self, facts: dict[str, Any], dropped: list[Dropped]) -> None:
        """Note that everything is done."""
        self._drop(dropped)
        self.done = {"done": True, **facts}
        self._append(self.done)

    def dropped(self) -> list[Dropped]:
        """What has been dropped so far."""
        self._dropped.seek(0)
        found = [Dropped(**json.loads(line)) for line in self._dropped]
        self._dropped.seek(0, os.SEEK_END)
        return found

    def close(self) -> None:
        for handle in (self._file, self._dropped):
            with suppress(OSError):  # each line was synced; what is left to flush failed then, and that was told
                handle.close()

    def _drop(self, dropped: list[Dropped]) -> None:
        with named(self.folder / DROPPED):
            self._dropped.write(b"".join(drop.line() for drop in dropped))
            _sync(self._dropped)

    def _append(self, facts: dict[str, Any]) -> None:
        with named(self.folder / JOURNAL):
            self._file.write(json.dumps(facts, ensure_ascii=False).encode() + b"\n")
            _sync(self._file)


def _sync(handle: BinaryIO) -> None:
    handle.flush()
    os.fsync(handle.fileno())


def _whole_lines(handle: BinaryIO) -> list[dict[str, Any]]:
    handle.seek(0)
    lines, end = [], 0
    for line in handle:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
        if not line.endswith(b"\n"):
            lines.pop()
            break
        end += len(line)
    handle.seek(end)
    handle.truncate()
    return lines


def _difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """The first thing in which two jobs differ."""
    before, now = (_flat(job) for job in (found, expected))
    for name in [*now, *before]:
        if before.get(name) != now.get(name):
            return f"{name} was {before.get(name)!r}, is now {now.get(name)!r}"
    return "it differs"


def _flat(job: dict[str, Any]) -> dict[str, Any]:
    settings = job.get("settings")
    return {"job": job.get("job"), **(settings if isinstance(settings, dict) else {}), "source": job.get("source")}
