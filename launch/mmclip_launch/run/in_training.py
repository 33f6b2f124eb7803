"""Evaluation while a run trains: the same code as `mmclip eval`, the pictures shared by the ranks that train."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from accelerate import Accelerator

from mmclip.towers.two_tower import TwoTower
from mmclip.training.progress import Progress
from mmclip_data.features.encoder import Encoder
from mmclip_data.features.model import Towers
from mmclip_data.features.ranks import ALONE, Ranks
from mmclip_data.features.store import FeatureStore
from mmclip_eval.datasets import OpenedDataset
from mmclip_eval.results.result import EvalResult
from mmclip_launch.evaluate import evaluate_checkpoint, evaluate_sets
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.drawing import Pass
from mmclip_launch.run.encoding import EncodeOptions, leading, serve
from mmclip_launch.run.evaluation_sets import Sets
from mmclip_launch.screen import Screen


class InTraining:
    """Evaluations of a run; every rank makes each call, and the first has the figures."""

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        towers: TwoTower,
        opened: Sequence[OpenedDataset],
        screen: Screen,
    ) -> None:
        several = accelerator.num_processes > 1
        ranks = Ranks.of_process_group() if several and config.evaluation.datasets else ALONE
        self._config = config
        self._how = EncodeOptions(str(accelerator.device), ranks=ranks)
        self._towers = towers
        self._opened = opened
        self._screen = screen
        self._is_main = accelerator.is_main_process

    def __call__(self, progress: Progress) -> Mapping[str, float]:
        """Scores of the weights as they are; empty on all ranks but the first."""
        towers = Towers(
            self._towers.merged()
        )  # whose weights have moved since the last time: nothing of it is worth keeping
        if not self._is_main:
            serve(self._how, towers)
            return {}
        with leading(self._how.ranks):
            encoder = Encoder(towers, ranks=self._how.ranks)
            return scores(evaluate_sets(encoder, self._opened, f"step {progress.step}", self._screen))

    def of_finished(self, folder: str) -> Pass | None:
        """What `mmclip eval` does of the newest checkpoint; None on all ranks but the first."""
        if not self._is_main:
            if self._how.ranks is not ALONE:
                serve(self._how)
            return None
        how = replace(self._how, store=FeatureStore(warn=self._screen.warn))  # a later `mmclip eval` or report reads it
        with leading(how.ranks):
            return evaluate_checkpoint(folder, Sets(self._config.evaluation.datasets), None, self._screen, how=how)


def scores(results: Sequence[EvalResult]) -> dict[str, float]:
    """The figures of several results by `dataset/metric`, by `dataset/task/metric` where another task has taken that name."""
    figures: dict[str, float] = {}
    for result in results:
        for metric, estimate in result.metrics.items():
            name = f"{result.dataset}/{metric}"
            figures[f"{result.dataset}/{result.task}/{metric}" if name in figures else name] = estimate.value
    return figures
