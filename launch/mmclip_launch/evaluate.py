"""`mmclip eval CHECKPOINT`: zero-shot scores of a checkpoint on data sets, as a table, as strict JSON and as a page.

mmclip eval runs/demo
mmclip eval runs/demo --dataset data/fashion-mnist --output results/
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from mmclip.envelope import MANIFEST, sha256
from mmclip.errors import UserError
from mmclip.release import load, model_folder
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import RAW_WEIGHTS_FILE, WEIGHTS_FILE, is_averaged
from mmclip_eval.datasets import EvalDatasetConfig, OpenedDataset
from mmclip_eval.prompts.prompt_set import ClassTexts
from mmclip_eval.report.evidence import Evidence
from mmclip_eval.results.result import EvalResult, ModelIdentity
from mmclip_eval.results.table import notes_of, results_table
from mmclip_eval.suite import IsThere, Keep, evaluate
from mmclip_launch.flags import Arguments
from mmclip_launch.run.config import load_run_config
from mmclip_launch.run.drawing import Pass, draw_all_or_warn, run_of, subject_of
from mmclip_launch.run.preflight import check_devices, open_datasets, refuse_equal_prompts, refuse_unwritable
from mmclip_launch.screen import Screen


def main(arguments: Sequence[str]) -> None:
    """Parse the command line and evaluate."""
    parser = Arguments(prog="mmclip eval", description="Zero-shot scores of a checkpoint.")
    parser.add_argument("checkpoint", help="a run, a checkpoint, an open_clip folder, or open_clip:ARCH/TAG")
    add_dataset_flags(parser)
    parser.add_argument("--output", type=Path, help="folder of the JSON files (default: results/ of the run)")
    parser.add_argument("--raw", action="store_true", help="the weights themselves where a run averages them")
    parser.add_argument(
        "--skip-existing", action="store_true", help="leave out what the folder has a result of already"
    )
    parser.add_argument("--no-report", action="store_true", help="write the figures alone, without a page")
    options = parser.parse_args(arguments)
    check_devices(options.device)
    checkpoint = str(_folder_of(options.checkpoint) or options.checkpoint)
    datasets = [dataset_of(text, options) for text in options.dataset] or datasets_of_run(checkpoint)
    refuse_unwritable(options.output or default_output(checkpoint))
    screen = Screen()
    done = evaluate_checkpoint(
        checkpoint, datasets, options.output, screen, options.device, options.raw, options.skip_existing
    )
    if not options.no_report:
        draw_all_or_warn([done], options.output, screen)


def evaluate_checkpoint(
    checkpoint: str,
    datasets: Sequence[EvalDatasetConfig],
    output: Path | None,
    screen: Screen,
    device: str = "cpu",
    raw: bool = False,
    skip_existing: bool = False,
) -> Pass:
    """Load, evaluate, write one JSON a (data set, task) and print the table.

    `skip_existing` leaves out results whose file is in the folder: of the same weights, samples, prompts and settings.

    Raises:
        UserError: checkpoint or data set is unsound, or there is no folder to write to.
    """
    results_folder = output or default_output(checkpoint)
    identity = identity_of(checkpoint, raw)
    opened = open_datasets(datasets)  # a wrong path is told before the model is loaded, which takes longer
    model = load(checkpoint, device, raw=raw)
    refuse_equal_prompts(opened, model.tokenizer)
    if datasets:
        screen.say(f"evaluating {identity.checkpoint}{said_of(identity)}")
    for name, texts in prompts_of(opened).items():
        screen.say(f"{name}: {texts.words}")
    evidence: list[Evidence] = []
    kept: list[str] = []

    def is_there(name: str) -> bool:
        kept.extend([name] if skip_existing and (results_folder / name).is_file() else [])
        return name in kept

    results = evaluate_model(model, datasets, "eval", screen, identity, evidence.append, is_there)
    paths = [result.write(results_folder) for result in results]
    if results:
        screen.show(results_table(results))
        for note in notes_of(results):
            screen.say(note)
        screen.say(f"written: {', '.join(map(str, paths))}")
    if kept:
        screen.say(f"left out, for {results_folder} has them: {', '.join(kept)}")
    run_folder = run_of(identity.checkpoint or checkpoint)
    return Pass(subject_of(model, identity, run_folder), results, evidence, results_folder, run_folder)


def prompts_of(opened: Sequence[OpenedDataset]) -> dict[str, ClassTexts]:
    """What the model is told of the classes of each set that has a task which tells it."""
    told = [one.dataset for one in opened if any("prompts" in task.needs for task in one.tasks)]
    return {dataset.config.name: dataset.prompts for dataset in told}


def said_of(identity: ModelIdentity) -> str:
    """Which of the two kinds of weights of an averaging run it is."""
    folder = Path(identity.checkpoint or "")
    if not is_averaged(folder):
        return ""
    raw = identity.weights_sha256 == sha256(folder / RAW_WEIGHTS_FILE)
    return f" ({'raw weights' if raw else 'average of the weights; --raw takes the weights themselves'})"


def identity_of(checkpoint: str, raw: bool = False) -> ModelIdentity:
    """Which weights a checkpoint's name stands for.

    Raises:
        UserError: there are none.
    """
    folder = _folder_of(checkpoint)
    weights = folder / (RAW_WEIGHTS_FILE if raw and is_averaged(folder) else WEIGHTS_FILE) if folder else None
    return ModelIdentity(
        model=_architecture(checkpoint, folder),
        precision="fp32",
        checkpoint=str(folder) if folder else checkpoint,
        weights_sha256=sha256(weights) if weights and weights.is_file() else None,
        checkpoint_sha256=sha256(folder / MANIFEST) if folder and (folder / MANIFEST).is_file() else None,
    )


def evaluate_model(
    model: TwoTower,
    datasets: Sequence[EvalDatasetConfig],
    title: str,
    screen: Screen,
    identity: ModelIdentity | None = None,
    keep: Keep | None = None,
    is_there: IsThere | None = None,
) -> list[EvalResult]:
    """Evaluate a model in memory, with a bar on the terminal."""
    identity = identity or ModelIdentity(model="in memory", precision="fp32")
    with Progress(console=screen.console, transient=True, disable=not screen.console.is_terminal) as bar:
        tasks = {dataset.name: bar.add_task(f"{title}: {dataset.name}", total=None) for dataset in datasets}

        def advance(name: str, done: int, total: int) -> None:
            bar.update(tasks[name], completed=done, total=total)

        return list(evaluate(model, datasets, identity, progress=advance, keep=keep, is_there=is_there))


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
    parser.add_argument("--templates", help="a packaged prompt set, or a .txt, .toml or .json file of prompts")
    parser.add_argument("--class-names", help="a packaged list, or a .txt, .toml or .json file of class names")
    parser.add_argument("--language", default="en", help="of packaged templates and class names (default: en)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--group", help="where a sample's category stands: json:FIELD, for the report alone")


def dataset_of(text: str, options: argparse.Namespace) -> EvalDatasetConfig:
    """A data set from `[NAME=]PATH` and the flags beside it."""
    name, equals, path = text.partition("=")
    if not equals:
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
            datasets = load_run_config(folder / "config.toml").evaluation.datasets
            if datasets:
                return datasets
    raise UserError(f"{checkpoint} is no run that names data sets of its own: give --dataset PATH")


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
    return None if checkpoint.startswith("open_clip:") else model_folder(checkpoint.removeprefix("local-dir:"))


def _architecture(checkpoint: str, folder: Path | None) -> str:
    if folder is None:
        return checkpoint.removeprefix("open_clip:").partition("/")[0]
    for parent in folder.parents[:2]:
        if (parent / "config.toml").is_file():
            model = load_run_config(parent / "config.toml").model
            return model.init or ("inline" if model.inline else model.arch)
    return f"local-dir:{folder}"
