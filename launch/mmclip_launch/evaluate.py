"""`mmclip eval CHECKPOINT...`: scores of checkpoints on data sets, as a table, as strict JSON and as a page.

mmclip eval runs/demo
mmclip eval runs/demo runs/demo-1 --suite suites/emoji.toml --output results/
mmclip eval runs/demo --dataset data/fashion-mnist --task zero_shot_classification
torchrun --nproc_per_node 2 -m mmclip_launch.evaluate runs/demo
accelerate launch --num_processes 2 -m mmclip_launch.evaluate runs/demo
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mmclip.envelope import MANIFEST, sha256
from mmclip.errors import UserError
from mmclip.release import sha256_of, source_folder
from mmclip.towers.weights import is_averaged
from mmclip.training.checkpoint.result import result_of
from mmclip_data.features.encoder import Encoder, Pace
from mmclip_eval.datasets import EvalDatasetConfig, OpenedDataset
from mmclip_eval.prompts.prompt_set import ClassTexts
from mmclip_eval.report.evidence import Evidence
from mmclip_eval.results.result import EvalResult, ModelIdentity
from mmclip_eval.results.table import notes_of, results_table
from mmclip_eval.suite import IsThere, Keep, evaluate_opened
from mmclip_launch.flags import Arguments
from mmclip_launch.run.beginning.preflight import check_devices, refuse_equal_prompts, refuse_unwritable
from mmclip_launch.run.config import load_run_config
from mmclip_launch.run.peers import rank
from mmclip_launch.run.scoring.drawing import Pass, draw_all_or_warn, run_of, subject_of
from mmclip_launch.run.scoring.encoding import (
    EncodeOptions,
    add_encode_flags,
    all_ranks,
    device_here,
    leading,
    load_everywhere,
    serve,
    store_of,
)
from mmclip_launch.run.scoring.evaluation_sets import Sets
from mmclip_launch.run.scoring.failures import Failures
from mmclip_launch.screen import Screen

Fail = Callable[[str, Exception], None]
"""Called with a checkpoint or with one of its sets, and what was wrong; may raise."""


def main(arguments: Sequence[str]) -> None:
    """Parse the command line and evaluate, or encode for the first process, which does."""
    parser = Arguments(
        prog="mmclip eval",
        description="Scores of checkpoints on data sets: a JSON file for each checkpoint, set and task, a table, a page.",
        epilog="Several processes share the pictures: torchrun --nproc_per_node N -m mmclip_launch.evaluate ... gives the "
        "same figures as one. docs/evaluation.md lists tasks, forms of data sets, and what is promised.",
    )
    parser.add_argument(
        "checkpoint", nargs="+", help="a run, a checkpoint, an open_clip folder, or open_clip:ARCH/TAG; or several"
    )
    parser.add_argument(
        "--suite", action="append", default=[], type=Path, metavar="FILE", help="sets in a TOML file; may be repeated"
    )
    parser.add_argument(
        "--task", action="append", default=[], help="measure this task alone; may be repeated (default: each set's own)"
    )
    add_dataset_flags(parser)
    add_encode_flags(parser)
    parser.add_argument("--output", type=Path, help="folder of the JSON files (default: results/ of each run)")
    parser.add_argument("--raw", action="store_true", help="the weights themselves where a run averages them")
    parser.add_argument(
        "--skip-existing", action="store_true", help="leave out what the folder has a result of already"
    )
    parser.add_argument("--no-report", action="store_true", help="write the figures alone, without a page")
    options = parser.parse_args(arguments)
    device = device_here(options.device)
    check_devices(device)
    screen = Screen(quiet=rank() > 0)
    store, pace = store_of(options, screen.warn), Pace(options.batch_size, options.workers)
    with all_ranks() as ranks:
        how = EncodeOptions(device, options.precision, ranks, store, pace, options.seed)
        if ranks.rank:
            serve(how)
            return
        with leading(ranks):
            evaluate_all(options, how, screen)


def evaluate_all(options: argparse.Namespace, how: EncodeOptions, screen: Screen) -> None:
    """Evaluate every checkpoint on its sets; what fails loses nothing of the rest.

    Raises:
        UserError: a set is unsound, before any checkpoint is loaded; or some evaluations failed, after all others.
    """
    given = [dataset_of(text, options) for text in options.dataset]
    sets = Sets.of_flags(given, options.suite, options.task, screen.say)
    if options.output is not None:
        refuse_unwritable(options.output)
    if len(options.checkpoint) > 1 and sets.settings:
        sets.opened()  # what is wrong with a set is told once, not for each checkpoint
    failures = Failures(screen)
    passes: list[Pass] = []
    for name in options.checkpoint:
        try:
            checkpoint = str(_folder_of(name) or name)
            own = sets if sets.settings else sets.with_own(datasets_of_run(checkpoint))
            if options.output is None:
                refuse_unwritable(default_output(checkpoint))
            several = len(options.checkpoint) > 1 or len(own.settings) > 1
            fail = failures.note if several else None
            passes.append(
                evaluate_checkpoint(
                    checkpoint, own, options.output, screen, options.raw, how, fail, options.skip_existing
                )
            )
        except Exception as error:
            if len(options.checkpoint) == 1 or not how.ranks.in_touch:
                raise
            failures.note(name, error)
    if passes and not options.no_report:
        draw_all_or_warn(passes, options.output, screen)
    failures.settle()


def evaluate_checkpoint(
    checkpoint: str,
    sets: Sets,
    output: Path | None,
    screen: Screen,
    raw: bool = False,
    how: EncodeOptions | None = None,
    fail: Fail | None = None,
    skip_existing: bool = False,
) -> Pass:
    """Load, evaluate, write one JSON a (data set, task) and print the table.

    A set that fails is handed to `fail`; without it, it ends the whole. `skip_existing` leaves out results whose file is in
    the folder: of the same weights, samples, prompts and settings.

    Raises:
        UserError: checkpoint or data set is unsound, or there is no folder to write to.
    """
    how = how or EncodeOptions()
    results_folder = output or default_output(checkpoint)
    identity = replace(identity_of(checkpoint, raw), precision=how.precision)
    opened = sets.opened()  # a wrong path is told before the model is loaded, which takes longer
    model, encoder = load_everywhere(checkpoint, raw, how)
    refuse_equal_prompts(opened, model.tokenizer)
    if opened:
        screen.say(f"evaluating {identity.checkpoint}{said_of(identity)}")
    for name, texts in prompts_of(opened).items():
        screen.say(f"{name}: {texts.words}")
    evidence: list[Evidence] = []
    paths: list[Path] = []
    kept: list[str] = []

    def is_there(name: str) -> bool:
        kept.extend([name] if skip_existing and (results_folder / name).is_file() else [])
        return name in kept

    results = evaluate_sets(
        encoder,
        opened,
        "eval",
        screen,
        identity,
        seed=how.seed,
        keep=evidence.append,
        write=lambda result: paths.append(result.write(results_folder)),
        fail=None if fail is None else lambda name, error: fail(f"{checkpoint}, {name}", error),
        is_there=is_there,
    )
    if results:
        screen.show(results_table(results))
        for note in notes_of(results):
            screen.say(note)
        screen.say(f"written: {', '.join(map(str, paths))}")
    if results:
        screen.say(said_of_features(encoder))
    if kept:
        screen.say(f"left out, for {results_folder} has them: {', '.join(kept)}")
    if how.store is not None:
        how.store.close()
    run_folder = run_of(identity.checkpoint or checkpoint)
    return Pass(subject_of(model, identity, run_folder), results, evidence, results_folder, run_folder)


def prompts_of(opened: Sequence[OpenedDataset]) -> dict[str, ClassTexts]:
    """What the model is told of the classes of each set that has a task which tells it."""
    told = [one.dataset for one in opened if any("prompts" in task.needs for task in one.tasks)]
    return {dataset.config.name: dataset.prompts for dataset in told}


def said_of_features(encoder: Encoder) -> str:
    """What was encoded, what was there, and where it is kept."""
    store = encoder.store
    place = f"; kept in {store.folder}, {store.bytes() / 1e6:,.1f} MB in all" if store is not None else ""
    return f"features: {encoder.tally}{place}"


def said_of(identity: ModelIdentity) -> str:
    """Why it is this checkpoint of its run, and which of the two kinds of weights of an averaging run it is."""
    folder = Path(identity.checkpoint or "")
    chosen = result_of(folder.parent.parent) if folder.parent.name == "checkpoints" else result_of(folder.parent)
    why = f" (the result of its run: {chosen.why})" if chosen is not None and chosen.folder == folder else ""
    if not is_averaged(folder):
        return why
    raw = identity.weights_sha256 == sha256_of(folder, raw=True)
    return f"{why} ({'raw weights' if raw else 'average of the weights; --raw takes the weights themselves'})"


def identity_of(checkpoint: str, raw: bool = False) -> ModelIdentity:
    """Which weights a checkpoint's name stands for.

    Raises:
        UserError: there are none.
    """
    folder = _folder_of(checkpoint)
    return ModelIdentity(
        model=_architecture(checkpoint, folder),
        precision="fp32",
        checkpoint=str(folder) if folder else checkpoint,
        weights_sha256=sha256_of(folder, raw) if folder else None,
        checkpoint_sha256=sha256(folder / MANIFEST) if folder and (folder / MANIFEST).is_file() else None,
    )


def architecture_of(checkpoint: str) -> str:
    """Name of the architecture, as results have it.

    Raises:
        UserError: there are no weights of that name.
    """
    return _architecture(checkpoint, _folder_of(checkpoint))


def evaluate_sets(
    encoder: Encoder,
    opened: Sequence[OpenedDataset],
    title: str,
    screen: Screen,
    identity: ModelIdentity | None = None,
    *,
    seed: int = 0,
    keep: Keep | None = None,
    write: Callable[[EvalResult], object] | None = None,
    fail: Fail | None = None,
    is_there: IsThere | None = None,
) -> list[EvalResult]:
    """Evaluate with a bar a set on the terminal; `write` takes each result as soon as it is known."""
    identity = identity or ModelIdentity(model="in memory", precision="fp32")
    results: list[EvalResult] = []
    with screen.bars("pictures") as advance:
        for one in opened:
            name = one.dataset.config.name
            report = partial(advance, f"{title}: {name}")
            try:
                for result in evaluate_opened(
                    encoder,
                    [one],
                    identity,
                    seed=seed,
                    progress=lambda _, *step, report=report: report(*step),
                    keep=keep,
                    is_there=is_there,
                ):
                    if write is not None:
                        write(result)
                    results.append(result)
            except Exception as error:
                if fail is None or not encoder.ranks.in_touch:
                    raise
                fail(name, error)
    return results


def add_dataset_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say what to evaluate on, and where."""
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="a folder in CLIP_benchmark's layout or shards; may be repeated; default: those of the run's own config",
    )
    parser.add_argument("--split", default="test", help="split of a CLIP_benchmark folder (default: test)")
    parser.add_argument("--label", default="cls", help="where the class stands in plain shards: cls or json:FIELD")
    parser.add_argument(
        "--templates", help="a packaged prompt set, a .txt, .toml or .json file of prompts, or a template with {c}"
    )
    parser.add_argument("--class-names", help="a packaged list, or a .txt, .toml or .json file of class names")
    parser.add_argument("--language", default="en", help="of packaged templates and class names (default: en)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or mps (default: cuda where there is one)")
    parser.add_argument("--group", help="where a sample's category stands: json:FIELD, for the report alone")


def dataset_of(text: str, options: argparse.Namespace) -> EvalDatasetConfig:
    """A data set from `[NAME=]PATH` and the flags beside it."""
    name, equals, path = text.partition("=")
    if not equals or (Path(text).exists() and not Path(path).exists()):  # a path may hold an equals sign itself
        name, path = Path(text).name.removesuffix(".tar") or text, text
    return EvalDatasetConfig(
        name=name,
        path=path,
        split=options.split,
        label=options.label,
        templates=options.templates,
        class_names=options.class_names,
        language=options.language,
        group=options.group,
    )


def datasets_of_run(checkpoint: str) -> tuple[EvalDatasetConfig, ...]:
    """The data sets of the run that a checkpoint belongs to."""
    path = Path(checkpoint)
    for folder in (path, path.parent.parent):
        if (folder / "config.toml").is_file():
            datasets = load_run_config(folder / "config.toml").measured_sets
            if datasets:
                return datasets
    raise UserError(f"{checkpoint} is no run that names data sets of its own: give --dataset PATH or --suite FILE")


def default_output(checkpoint: str) -> Path:
    """The folder of results that belongs to a checkpoint: that of its run, else one of its own.

    Raises:
        UserError: the weights have no folder.
    """
    folder = _folder_of(checkpoint)
    if folder is None:
        raise UserError(f"{checkpoint} has no folder for results: give --output FOLDER")
    return folder.parent.parent / "results" if folder.parent.name == "checkpoints" else folder / "results"


def _folder_of(checkpoint: str) -> Path | None:
    return source_folder(checkpoint)


def _architecture(checkpoint: str, folder: Path | None) -> str:
    if folder is None:
        return checkpoint.removeprefix("open_clip:").partition("/")[0]
    for parent in folder.parents[:2]:
        if (parent / "config.toml").is_file():
            model = load_run_config(parent / "config.toml").model
            return model.init or ("inline" if model.inline else model.arch)
    return f"local-dir:{folder}"


if __name__ == "__main__":
    from mmclip_launch.cli import run_verb

    sys.exit(run_verb(main, sys.argv[1:]))
