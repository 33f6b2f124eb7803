"""`CheckpointConfig`: when training state is saved, and how much of it stays."""

from mmclip.config import config
from mmclip.errors import UserError


@config
class CheckpointConfig:
    """When training state is saved, and how much of it stays."""

    every_steps: int | None = None
    """Save each time so many steps are done; by default ten times a run. The last step is always saved."""
    every_minutes: float | None = None
    """Save, besides, when so many minutes have passed since the last save began."""
    keep: int = 3
    """Newest checkpoints that stay on disk; an older one goes only when the newer ones verify."""
    keep_every_steps: int | None = None
    """Checkpoints of steps that this divides stay for good."""
    patience_minutes: float = 15.0
    """How long writing may fail (full disk, lost permission, a share that is gone) before the run ends; until then the run
    goes on, says so and tries again."""

    def __post_init__(self) -> None:
        for name in ("every_steps", "keep", "keep_every_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"checkpoint.{name}={value}: expected at least 1")
        if self.every_minutes is not None and not self.every_minutes > 0:
            raise UserError(f"checkpoint.every_minutes={self.every_minutes}: expected more than 0")
        if not self.patience_minutes >= 0:
            raise UserError(f"checkpoint.patience_minutes={self.patience_minutes}: expected 0 or more")
