"""`[retained]`: what a run must not forget."""

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.datasets import EvalDatasetConfig


@config
class InterpolationConfig:
    """Weights between those of the start and those that were learnt (WiSE-FT, Wortsman et al. 2022), tried at the end."""

    alphas: tuple[float, ...] = ()
    """Where to look, from 0 (the start) to 1 (what was learnt), both of which are always among them; none: do not."""

    def __post_init__(self) -> None:
        wrong = [alpha for alpha in self.alphas if not 0 <= alpha <= 1]
        if wrong:
            raise UserError(f"interpolation.alphas: expected numbers from 0 to 1, got {wrong[0]}")


@config
class RetainedConfig:
    """What the weights could do before the run and should still do after it."""

    datasets: tuple[EvalDatasetConfig, ...] = ()
    """Each a `[[retained.datasets]]` table."""
    suite: str | None = None
    """A TOML file of `[[datasets]]` tables, or `packaged:NAME` for one that comes with mmclip: added to `datasets`."""
    max_forgetting: float | None = None
    """The mean of the figures may fall by so much, such as 0.02 for two points; more, and the run fails at its end."""

    def __post_init__(self) -> None:
        if self.max_forgetting is not None and not 0 <= self.max_forgetting <= 1:
            raise UserError(
                f"retained.max_forgetting={self.max_forgetting}: expected a fraction from 0 to 1, such as 0.02 for two points"
            )
        if self.max_forgetting is not None and not self.datasets and self.suite is None:
            raise UserError(
                f"retained.max_forgetting={self.max_forgetting}, but nothing to measure it on: set retained.suite or "
                "[[retained.datasets]]"
            )
