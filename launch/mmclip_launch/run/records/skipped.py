"""Steps that changed no weight, because a loss or a gradient was not finite: each is written down with its samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmclip.errors import UserError
from mmclip.training.progress import Progress
from mmclip_launch.run.records.ledger import SKIPPED, Append, append_lines, file_of_rank

SAMPLES_SAID = 3
"""Names on the terminal; the file has all of them."""


@dataclass(frozen=True)
class SkippedStep:
    """One such step, as one rank knows it."""

    progress: Progress
    loss: float
    grad_norm: float
    ids: tuple[str, ...]
    """This rank's samples."""
    not_finite: tuple[str, ...]
    """Those among them whose embeddings are not finite."""


class SkippedSteps:
    """Counts them over the whole run, a resumed one included."""

    def __init__(
        self,
        folder: Path,
        rank: int,
        world_size: int,
        max_steps: int,
        say: Callable[[str], None],
        append: Append = append_lines,
    ) -> None:
        self.path = folder / file_of_rank(SKIPPED, rank, world_size)
        self.rank = rank
        self.max_steps = max_steps
        self.say = say
        self._append = append
        self.count = 0
        if self.path.is_file():  # it was cut back to the checkpoint that this run goes on from
            self.count = len(self.path.read_text().splitlines())

    def note(self, steps: Sequence[SkippedStep]) -> None:
        """Write and say; every rank notes the same steps, each with its own samples.

        Raises:
            UserError: there are more than the budget allows.
        """
        for step in steps:
            self.count += 1
            self._append(self.path, [_line(step)])
            if self.rank == 0 or step.not_finite:
                self.say(
                    f"step {step.progress.step:,}: {_reason(step)}; no weight was changed, on any rank{self._who(step)}"
                )
        if self.count > self.max_steps:
            last = steps[-1]
            raise UserError(
                f"step {last.progress.step}: {_reason(last)}: {self.count} steps were skipped, more than "
                f"optimizer.max_skipped_steps={self.max_steps} allows: the run has diverged; lower optimizer.lr or lengthen "
                f"the warmup, and resume from the last checkpoint. Their samples are in {self.path}"
            )

    def _who(self, step: SkippedStep) -> str:
        if not step.not_finite:
            return f" (samples: {self.path})"
        more = len(step.not_finite) - SAMPLES_SAID
        names = ", ".join(step.not_finite[:SAMPLES_SAID]) + (f" and {more} more" if more > 0 else "")
        return f"; embeddings of rank {self.rank} that are not finite: {names} ({self.path})"


def _reason(step: SkippedStep) -> str:
    return f"loss {step.loss}, gradient norm {step.grad_norm}"


def _line(step: SkippedStep) -> dict[str, object]:
    """Figures as text, because they may be NaN, which is no JSON."""
    return {
        "step": step.progress.step,
        "samples_seen": step.progress.samples_seen,
        "loss": repr(step.loss),
        "grad_norm": repr(step.grad_norm),
        "not_finite": list(step.not_finite),
        "ids": list(step.ids),
    }
