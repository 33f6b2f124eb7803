"""Evaluation while a run trains: the same code as `mmclip eval`, the pictures shared by the ranks that train."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from accelerate import Accelerator

from mmclip.towers.two_tower import TwoTower
from mmclip.training.progress import Progress
from mmclip_data.features.frozen import HeadEncoder, frozen_towers
from mmclip_data.features.ranks import ALONE, Ranks
from mmclip_data.features.store import FeatureStore
from mmclip_eval.datasets import OpenedDataset
from mmclip_eval.results.result import EvalResult
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.scoring.drawing import Pass
from mmclip_launch.run.scoring.encoding import EncodeOptions, leading, serve
from mmclip_launch.run.scoring.evaluating import evaluate_checkpoint, evaluate_sets
from mmclip_launch.run.scoring.evaluation_sets import Sets
from mmclip_launch.screen import Screen

Note = Callable[[Progress, Sequence[EvalResult]], None]
"""Called with the results of a step on all sets."""


class InTraining:
    """Evaluations of a run; every rank makes each call, and the first has the figures."""

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        towers: TwoTower,
        opened: Sequence[OpenedDataset],
        screen: Screen,
        note: Note = lambda progress, results: None,
        is_told_to_end: Callable[[], bool] = lambda: False,
        filled: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        several = accelerator.num_processes > 1
        ranks = Ranks.of_process_group() if several and config.measured_sets else ALONE
        self._config = config
        self._how = EncodeOptions(str(accelerator.device), ranks=ranks)
        self._opened = opened
        self._screen = screen
        self._note = note
        self._is_told_to_end = is_told_to_end
        self._filled = filled
        """Within it the towers have their weights, where these are sharded."""
        self._is_main = accelerator.is_main_process
        # Of towers whose weights move nothing is worth keeping but what frozen parts make.
        self._encoder = HeadEncoder(frozen_towers(towers), self._how.ranks)
        self._towers = towers

    def __call__(self, progress: Progress, only: str | None = None) -> Mapping[str, float] | None:
        """Scores of the weights as they are, on all sets or on one; empty on all ranks but the first.

        None where the run was told to end meanwhile: between two sets the evaluation is broken off.
        """
        with self._filled():
            return self._scores(progress, only)

    def _scores(self, progress: Progress, only: str | None) -> Mapping[str, float] | None:
        encoder = self._encoder_now()
        if not self._is_main:
            serve(self._how, encoder.frozen)
            return {}
        opened = [one for one in self._opened if only in (None, one.dataset.config.name)]
        with leading(self._how.ranks):
            encoder.begin()
            results: list[EvalResult] = []
            for one in opened:
                if self._is_told_to_end():
                    return None
                results += evaluate_sets(encoder, [one], f"step {progress.step}", self._screen)
        if only is None:
            self._note(progress, results)
        return scores(results)

    def _encoder_now(self) -> HeadEncoder:
        """Of merged weights where adapters learn: the figures are then those of what is saved, to the last bit."""
        if self._towers.settings.adapters is None:
            return self._encoder
        return HeadEncoder(frozen_towers(self._towers.merged()), self._how.ranks)

    def of_finished(self, folder: str) -> Pass | None:
        """What `mmclip eval` does of the newest checkpoint; None on all ranks but the first."""
        if not self._is_main:
            if self._how.ranks is not ALONE:
                serve(self._how)
            return None
        how = replace(self._how, store=FeatureStore(warn=self._screen.warn))  # a later `mmclip eval` or report reads it
        with leading(how.ranks):
            return evaluate_checkpoint(folder, Sets(self._config.measured_sets), None, self._screen, how=how)


def scores(results: Sequence[EvalResult]) -> dict[str, float]:
    """The figures of several results by `dataset/metric`, by `dataset/task/metric` where another task has taken that name."""
    figures: dict[str, float] = {}
    for result in results:
        for metric, estimate in result.metrics.items():
            name = f"{result.dataset}/{metric}"
            figures[f"{result.dataset}/{result.task}/{metric}" if name in figures else name] = estimate.value
    return figures
