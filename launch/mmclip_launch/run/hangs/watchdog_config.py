"""When a process that does not answer is named, and when a run that hangs ends."""

from mmclip.config import config
from mmclip.errors import UserError


@config
class WatchdogConfig:
    """Processes that stop answering are named; a run that hangs ends, so that its launcher can start it anew."""

    warn_seconds: float = 20.0
    """A process that has not answered for so long is named, and the stacks of the others are written down."""
    stalled_seconds: float = 300.0
    """The same where all answer and none gets on: they wait for each other. Ten times the longest step, if that is more."""
    end_seconds: float | None = 600.0
    """A run of several processes that hangs for so long ends with exit code 75; without it, never."""

    def __post_init__(self) -> None:
        for name in ("warn_seconds", "stalled_seconds"):
            if not getattr(self, name) > 0:
                raise UserError(f"watchdog.{name}={getattr(self, name)}: expected more than 0")
        if self.end_seconds is not None and not self.end_seconds > self.warn_seconds:
            raise UserError(
                f"watchdog.end_seconds={self.end_seconds}: expected more than watchdog.warn_seconds={self.warn_seconds}, "
                "or None to wait for ever"
            )
