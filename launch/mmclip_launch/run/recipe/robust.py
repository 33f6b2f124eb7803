"""The end of a robust fine-tuning: of the models between the start and the best weights, the one that does best at both."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from mmclip.release.between import Blend
from mmclip.training.checkpoint.result import RunResult, record_result
from mmclip.training.early_stopping import watched_names
from mmclip_data.features.encoder import Encoder
from mmclip_data.features.model import Towers
from mmclip_eval.datasets import OpenedDataset
from mmclip_eval.results.alpha_curve import AlphaCurve, AlphaPoint, best_line
from mmclip_eval.results.headline import Headline, headlines, mean_of
from mmclip_eval.results.result import EvalResult
from mmclip_launch.interpolate import curve_table, save_model, write_curve
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.scoring.evaluating import evaluate_sets
from mmclip_launch.screen import Screen

INTERPOLATED = Path("checkpoints") / "interpolated"
CURVE = "interpolation"
"""Folder of the curve, in the run folder."""


def settle_between(config: RunConfig, best: Path, opened: Sequence[OpenedDataset], screen: Screen) -> Path:
    """Measure each alpha on the dev split and the retained suite, save the best by their mean, and let the run stand for it.

    Raises:
        UserError: start and end are models of two kinds, such as where the run has added a bias.
    """
    folder, start = Path(config.output), str(config.model.init)
    metric = config.early_stopping.metric or ""
    names = {one.name for one in config.retained.datasets} | {metric.partition("/")[0]}
    judged = [one for one in opened if one.dataset.config.name in names]
    blend = Blend((start, str(best)))
    points = []
    for alpha in sorted({0.0, *config.interpolation.alphas, 1.0}):
        results = evaluate_sets(Encoder(Towers(blend.at(alpha))), judged, f"alpha {alpha:g}", screen)
        points.append(AlphaPoint(alpha, _figures(config, metric, results), ""))
    curve = AlphaCurve(start, str(best), tuple(points))
    screen.show(curve_table(curve))
    screen.say(best_line(curve))
    (folder / CURVE).mkdir(exist_ok=True)
    write_curve(curve, folder / CURVE, screen)
    alpha, place = curve.best.alpha, folder / INTERPOLATED
    save_model(blend.at(alpha), place, {"alpha": alpha, "a": start, "b": str(best)})
    why = f"alpha {alpha:g} between the start and {best.name}, the best mean of {metric} and what was to be retained"
    record_result(folder, RunResult(place, why))
    return place


def _figures(config: RunConfig, metric: str, results: Sequence[EvalResult]) -> tuple[Headline, ...]:
    """Two: the figure that the run is chosen by, and the mean of the retained suite."""
    retained = {one.name for one in config.retained.datasets}
    dataset, _, wanted = metric.partition("/")
    own = [(one, watched_names(wanted.rpartition("/")[2], one.metrics)) for one in results if one.dataset == dataset]
    found, names = next((one, names) for one, names in own if names)
    estimates = [found.metrics[name] for name in names]
    value = fmean(estimate.value for estimate in estimates)
    # The mean of the ends is never too narrow: the figures are of the same samples.
    low, high = (fmean(estimate.interval[end] for estimate in estimates) for end in (0, 1))
    kept = replace(
        mean_of(headlines([one for one in results if one.dataset in retained])), dataset="retained", task="mean"
    )
    return Headline(dataset, found.task, wanted, value, low, high), kept
