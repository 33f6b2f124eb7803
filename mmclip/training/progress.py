"""How far a run is, and how far it goes."""

from dataclasses import dataclass

from mmclip.config import config
from mmclip.errors import UserError


@dataclass(frozen=True)
class Progress:
    """Optimizer steps taken and samples seen by them, all ranks together."""

    step: int = 0
    samples_seen: int = 0

    def after(self, batch_size: int) -> "Progress":
        """The progress one step of `batch_size` samples later."""
        return Progress(step=self.step + 1, samples_seen=self.samples_seen + batch_size)


@config
class LengthConfig:
    """The length of a run: exactly one of the three."""

    steps: int | None = None
    """Optimizer steps; 0 only where something is fitted before the first one, such as a probe (`[head]`)."""
    samples: int | None = None
    """Samples seen; the last batch is completed."""
    epochs: float | None = None
    """Passes over the training data; the last batch is completed."""

    def total_steps(self, global_batch_size: int, samples_per_epoch: int) -> int:
        """Optimizer steps of the whole run.

        Raises:
            UserError: none or several lengths are given, or the length is not positive.
        """
        given = {name: value for name in ("steps", "samples", "epochs") if (value := getattr(self, name)) is not None}
        if len(given) != 1:
            got = ", ".join(f"{name}={value}" for name, value in given.items()) or "none of them"
            raise UserError(
                f"length: expected exactly one of steps, samples, epochs; got {got}: keep one "
                "(a flag removes the file's own: --length.steps None)"
            )
        ((name, value),) = given.items()
        if value < 0 or (not value and name != "steps"):
            raise UserError(f"length.{name}={value}: expected a number above 0")
        if name == "steps":
            return int(value)
        samples = round(value * samples_per_epoch) if name == "epochs" else int(value)
        return max(1, -(-samples // global_batch_size))
