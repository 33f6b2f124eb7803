"""The guard against forgetting: a suite that is measured before the first step and at the end, and how far it may fall."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mmclip.errors import GuardError
from mmclip.training.progress import Progress
from mmclip_data.shards.atomic import atomic_file
from mmclip_eval.results.forgetting import Figure, Forgetting, figures_of, forgetting, forgetting_table, told
from mmclip_eval.results.result import EvalResult
from mmclip_launch.run.recipe.retained_config import RetainedConfig
from mmclip_launch.run.records.ledger import append_lines
from mmclip_launch.screen import Screen

RETAINED, FORGETTING = "retained.jsonl", "forgetting.json"


def note_retained(folder: Path, settings: RetainedConfig, progress: Progress, results: Sequence[EvalResult]) -> None:
    """Append the figures of the retained sets at a step to the run's `retained.jsonl`."""
    found = figures_of(_of_suite(settings, results))
    append_lines(folder / RETAINED, [{"step": progress.step, **asdict(figure)} for figure in found])


def compare_retained(
    folder: Path, settings: RetainedConfig, results: Sequence[EvalResult], screen: Screen
) -> Forgetting | None:
    """Compare with step 0, print the table and write `forgetting.json`; None where there is no step 0 to compare with."""
    before = figures_at_start(folder)
    if not before:
        screen.warn(f"{folder / RETAINED} has no figures of step 0: what was forgotten is not known")
        return None
    found = forgetting(before, figures_of(_of_suite(settings, results)))
    screen.show(forgetting_table(found))
    beyond = [] if settings.max_forgetting is None else found.beyond(settings.max_forgetting)
    table = {**found.to_json(), "max_forgetting": settings.max_forgetting, "beyond": [one.name for one in beyond]}
    with atomic_file(folder / FORGETTING) as handle:
        handle.write((json.dumps(table, indent=1, allow_nan=False) + "\n").encode())
    return found


def guard(folder: Path, settings: RetainedConfig, found: Forgetting | None) -> None:
    """Fail a run that has forgotten more than it may.

    Raises:
        GuardError: naming the figures.
    """
    if settings.max_forgetting is None:
        return
    if found is None:
        raise GuardError(f"retained.max_forgetting={settings.max_forgetting} could not be judged: no figures of step 0")
    beyond = found.beyond(settings.max_forgetting)
    if beyond:
        raise GuardError(
            f"{folder} has forgotten more than retained.max_forgetting={settings.max_forgetting}: "
            f"{'; '.join(map(told, beyond))}. The weights are kept; mix them with those of the start (mmclip interpolate), "
            "train with a lower optimizer.lr or fewer steps, or allow more"
        )


def figures_at_start(folder: Path) -> list[Figure]:
    """The figures of step 0."""
    path = folder / RETAINED
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [
        Figure(**{name: line[name] for name in ("name", "value", "low", "high")}) for line in lines if not line["step"]
    ]


def _of_suite(settings: RetainedConfig, results: Sequence[EvalResult]) -> list[EvalResult]:
    names = {one.name for one in settings.datasets}
    return [result for result in results if result.dataset in names]
