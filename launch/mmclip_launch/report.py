"""`mmclip report RUN`: one self-contained page about a run: curves, scores, held-out pictures, maps; or over many results.

mmclip report runs/demo
mmclip report --results runs/a/results runs/b/results --output out/
mmclip report local-dir:weights/ --dataset unseen=shards/test --label json:name --templates emoji --output out/
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mmclip.errors import UserError
from mmclip_data.features.encoder import Encoder
from mmclip_eval.datasets import EvalDatasetConfig, open_dataset
from mmclip_eval.evidence import Evidence
from mmclip_eval.report.pages.comparison_page import COMPARISON
from mmclip_eval.report.pages.run_page import PAGE
from mmclip_eval.results.collect import collect
from mmclip_eval.results.record import distinct
from mmclip_eval.results.result import EvalResult, ModelIdentity
from mmclip_launch.flags import Arguments
from mmclip_launch.run.beginning.preflight import check_devices
from mmclip_launch.run.config import load_run_config
from mmclip_launch.run.scoring.dataset_flags import add_dataset_flags, dataset_of
from mmclip_launch.run.scoring.drawing import Pass, bare_subject, draw, draw_comparison, run_of, subject_of
from mmclip_launch.run.scoring.encoding import EncodeOptions, add_store_flags, device_here, load_everywhere, store_of
from mmclip_launch.run.scoring.evaluating import evaluate_sets
from mmclip_launch.run.scoring.identity import default_output, identity_of
from mmclip_launch.screen import Screen


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, encode the held-out pictures and draw."""
    parser = Arguments(prog="mmclip report", description="One self-contained page about a run.")
    parser.add_argument(
        "checkpoint", nargs="?", metavar="RUN", help="a run, a checkpoint, an open_clip folder, or open_clip:ARCH/TAG"
    )
    parser.add_argument(
        "--results",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="instead of a run: one page over the result files (or folders of them) of any number of checkpoints",
    )
    add_dataset_flags(parser)
    add_store_flags(parser)
    parser.add_argument("--output", type=Path, help="folder for report/ (default: the run's, with --results this one)")
    options = parser.parse_args(arguments)
    screen = Screen()
    if (options.checkpoint is None) == (options.results is None) or (options.results and options.dataset):
        raise UserError("mmclip report draws either RUN or, from results alone, --results PATH...: give one of them")
    if options.results:
        compare_results(options.results, (options.output or Path()) / COMPARISON, screen)
        return
    how = EncodeOptions(device_here(options.device), store=store_of(options, screen.warn))
    check_devices(how.device)
    run_folder = run_of(options.checkpoint)
    given = tuple(dataset_of(text, options) for text in options.dataset)
    done = look(options.checkpoint, run_folder, given, how, options.output, screen)
    draw(done, (options.output or done.results_folder.parent) / PAGE, screen)


def compare_results(paths: Sequence[Path], page: Path, screen: Screen) -> None:
    """The page over results of any origin.

    Raises:
        UserError: a path holds no result.
    """
    found = collect(paths)
    kept = distinct(found.records)
    for text in kept.contradicted:
        screen.warn(text)
    if found.others:
        screen.say(f"{len(found.others)} JSON files are no results, such as {found.others[0]}")
    draw_comparison(kept.records, page, screen)


def look(
    checkpoint: str,
    run_folder: Path | None,
    given: Sequence[EvalDatasetConfig],
    how: EncodeOptions,
    output: Path | None,
    screen: Screen,
) -> Pass:
    """Encode what there is to encode; of a run, what is missing becomes a line on the page.

    Raises:
        UserError: there is nothing to load, or a data set that was asked for by name is unsound.
    """
    datasets = given or (load_run_config(run_folder / "config.toml").measured_sets if run_folder else ())
    try:
        identity = identity_of(checkpoint)
    except UserError as error:
        if run_folder is None or given:
            raise
        subject = bare_subject(run_folder, load_run_config(run_folder / "config.toml").model.arch, str(error))
        return Pass(subject, [], [], run_folder / "results", run_folder)
    results_folder = output / "results" if output else default_output(checkpoint)
    model, encoder = load_everywhere(checkpoint, raw=False, options=how)
    screen.say(f"encoding held-out pictures with {identity.checkpoint}")
    done = Pass(subject_of(model, identity, run_folder), [], [], results_folder, run_folder)
    encode = partial(_encode, encoder, suite=datasets, identity=identity, done=done, screen=screen, strict=bool(given))
    problems = [problem for one in datasets if (problem := encode(one))]
    return replace(done, subject=replace(done.subject, problems=tuple(problems)))


def _encode(
    encoder: Encoder,
    settings: EvalDatasetConfig,
    suite: Sequence[EvalDatasetConfig],
    identity: ModelIdentity,
    done: Pass,
    screen: Screen,
    strict: bool,
) -> str:
    """Add a data set's results and evidence; what is wrong with it is returned, or raised where `strict`."""
    evidence: list[Evidence] = []
    try:
        opened = open_dataset(settings, suite)
        results: list[EvalResult] = evaluate_sets(encoder, [opened], "report", screen, identity, keep=evidence.append)
    except UserError as error:
        if strict:
            raise
        screen.warn(f"{settings.name} is left out of the report: {error}")
        return f"The data set {settings.name} is left out: {error}"
    done.results.extend(results)
    done.evidence.extend(evidence)
    return ""
