"""The end of a run: which weights it stands for, what they score, what they have forgotten, and its page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from mmclip.training.checkpoint.folders import checkpoint_folder
from mmclip.training.progress import Progress
from mmclip_eval.datasets import OpenedDataset
from mmclip_eval.report.pages.run_page import PAGE
from mmclip_eval.results.forgetting import Forgetting
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.recipe.choosing import Choosing
from mmclip_launch.run.recipe.retained import compare_retained, guard
from mmclip_launch.run.recipe.robust import settle_between
from mmclip_launch.run.records.bad_samples import told_of_bad_samples
from mmclip_launch.run.scoring.drawing import Pass, draw_or_warn
from mmclip_launch.run.scoring.in_training import scores
from mmclip_launch.run.surroundings import Surroundings
from mmclip_launch.screen import Screen


@dataclass(frozen=True)
class Judged:
    """The finished run as its sets see it, on the first rank; nothing where there is none or nobody asks."""

    scored: Pass | None = None
    forgot: Forgetting | None = None


def settle_result(
    config: RunConfig, progress: Progress, choosing: Choosing, datasets: Sequence[OpenedDataset], screen: Screen
) -> None:
    """Say which step is the run's result and what was not readable; put weights between start and end in its place if asked."""
    folder = Path(config.output)
    if config.early_stopping.metric is not None:
        screen.say(f"the run ends at step {progress.step:,}, and its result is: {choosing.told}")
    if config.interpolation.alphas:
        best = choosing.best_folder or checkpoint_folder(folder, progress.step)
        settle_between(config, best, datasets, screen)
    if bad := told_of_bad_samples(folder):
        screen.warn(f"bad samples, in whose place others were taken: {bad}")


def judge(
    config: RunConfig,
    accelerator: Accelerator,
    progress: Progress,
    choosing: Choosing,
    around: Surroundings,
    screen: Screen,
) -> Judged:
    """Evaluate the result of the run; every rank makes the call."""
    accelerator.wait_for_everyone()  # the end of the run is evaluated by all, who must find it
    if not (config.measured_sets or config.evaluation.report):
        return Judged()
    folder = Path(config.output)
    scored, forgot = around.evaluation.of_finished(str(folder)), None
    if scored is not None and scored.results and choosing.best_step in (None, progress.step):
        around.writer.write(progress.step, progress.samples_seen, scores(scored.results))
    if scored is not None and config.retained.datasets:
        forgot = compare_retained(folder, config.retained, scored.results, screen)
    return Judged(scored, forgot)


def conclude(config: RunConfig, judged: Judged, is_main: bool, screen: Screen) -> None:
    """Draw the page, name the folder, and hold the run to what it promised.

    Raises:
        GuardError: it has forgotten more than it may.
    """
    folder = Path(config.output)
    if judged.scored is not None and config.evaluation.report:  # last of all: a drawing that fails loses nothing
        draw_or_warn(judged.scored, folder / PAGE, screen)
    screen.say(f"run folder: {folder}")
    if is_main:
        guard(folder, config.retained, judged.forgot)
