"""Samples that cannot be used: an error, or left out of every task, counted and named, as long as they are few."""

from collections.abc import Mapping

from mmclip.errors import UserError
from mmclip_eval.samples import Samples
from mmclip_eval.some_samples import SomeSamples

NAMED = 20
"""Samples that the notes name; all are counted."""


class Skipped:
    """Which samples of a set are left out, and why. `budget` is how many may be; None: none, the first is an error."""

    def __init__(self, samples: Samples, budget: int | None) -> None:
        self.budget = budget
        self.reasons: dict[int, str] = {}
        """By index in the whole set."""
        self._all = samples
        self._kept = list(range(len(samples)))

    def __len__(self) -> int:
        return len(self.reasons)

    def leave_out(self, bad: Mapping[int, str]) -> Samples:
        """The set without these samples, counted among those that are left, and those that were left out before.

        Raises:
            UserError: none may be left out, too many are, or none is left.
        """
        found = {self._kept[index]: self._told(self._kept[index], reason) for index, reason in sorted(bad.items())}
        self.reasons |= found
        if found:
            self._refuse()
            self._kept = [index for index in self._kept if index not in found]
        return self._all if not self.reasons else SomeSamples(self._all, self._kept)

    @property
    def kept(self) -> tuple[int, ...]:
        """Indices in the whole set of the samples that are left."""
        return tuple(self._kept)

    @property
    def notes(self) -> tuple[str, ...]:
        """How many, and the first by name."""
        if not self.reasons:
            return ()
        names = [f"{self._all.sample_id(index)}{_joined(reason)}" for index, reason in sorted(self.reasons.items())]
        more = len(names) - NAMED
        head = f"samples that cannot be used and were left out: {len(names)} of {len(self._all)}"
        return head, *names[:NAMED], *([f"and {more} more were left out"] if more > 0 else [])

    def _told(self, index: int, reason: str) -> str:
        return reason.removeprefix(f"sample {self._all.sample_id(index)}").lstrip(":, ")

    def _refuse(self) -> None:
        index, reason = min(self.reasons.items())
        first, count = f"{self._all.sample_id(index)}{_joined(reason)}", len(self.reasons)
        if self.budget is None:
            more = f" (and {count - 1} more cannot be used)" if count > 1 else ""
            raise UserError(
                f"sample {first}{more}; mend it or take it out, or leave such samples out of all figures with "
                'on_bad = "skip"'
            )
        if count > self.budget or count == len(self._all):
            raise UserError(
                f"{self._all.name}: {count} of {len(self._all)} samples cannot be used, max_bad={self.budget} may be left "
                f"out; the first is {first}; mend them, or raise max_bad"
            )


def _joined(reason: str) -> str:
    """The reason as it stands behind a sample's name."""
    return f" {reason}" if reason.startswith(("has ", "cannot ")) else f": {reason}"
