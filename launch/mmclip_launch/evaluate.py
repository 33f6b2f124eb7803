"""`mmclip eval CHECKPOINT`: zero-shot scores of a checkpoint on data sets, as a table and as strict JSON.

mmclip eval runs/demo
mmclip eval runs/demo --dataset data/fashion-mnist --output results/
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from mmclip.envelope import sha256
from mmclip.errors import UserError
from mmclip.release import load, model_folder
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import WEIGHTS_FILE
from mmclip_eval.datasets import EvalDatasetConfig
from mmclip_eval.result import EvalResult, ModelIdentity
from mmclip_eval.suite import evaluate
from mmclip_eval.table import notes_of, results_table
from mmclip_launch.run.config import load_run_config
from mmclip_launch.screen import Screen


def main(arguments: Sequence[str]) -> None:
    """Parse the command line and evaluate."""
    parser = argparse.ArgumentParser(prog="mmclip eval", description="Zero-shot scores of a checkpoint.")
    parser.add_argument("checkpoint", help="a run, a checkpoint, an open_clip folder, or open_clip:ARCH/TAG")
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="a folder in CLIP_benchmark's layout or shards; may be repeated; default: those of the run's own config",
    )
    parser.add_argument("--split", default="test", help="split of a CLIP_benchmark folder (default: test)")
    parser.add_argument("--label", default="cls", help="where the class stands in plain shards: cls or json:FIELD")
    parser.add_argument("--templates", help="a packaged prompt set or a file with one template a line")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--output", type=Path, help="folder of the JSON files (default: results/ of the run)")
    options = parser.parse_args(arguments)
    datasets = [_dataset(text, options) for text in options.dataset] or _datasets_of_run(options.checkpoint)
    evaluate_checkpoint(options.checkpoint, datasets, options.output, Screen(), options.device)


def evaluate_checkpoint(
    checkpoint: str,
    datasets: Sequence[EvalDatasetConfig],
    output: Path | None,
    screen: Screen,
    device: str = "cpu",
) -> list[EvalResult]:
    """Load, evaluate, write one JSON a (data set, task) and print the table.

    Raises:
        UserError: checkpoint or data set is unsound, or there is no folder to write to.
    """
    folder = None if checkpoint.startswith("open_clip:") else model_folder(checkpoint.removeprefix("local-dir:"))
    results_folder = output or _default_output(checkpoint, folder)
    weights = folder / WEIGHTS_FILE if folder else None
    identity = ModelIdentity(
        model=_architecture(checkpoint, folder),
        precision="fp32",
        checkpoint=str(folder) if folder else checkpoint,
        weights_sha256=sha256(weights) if weights and weights.is_file() else None,
    )
    model = load(checkpoint, device)
    screen.say(f"evaluating {identity.checkpoint}")
    results = evaluate_model(model, datasets, "eval", screen, identity)
    paths = [result.write(results_folder) for result in results]
    screen.show(results_table(results))
    for note in notes_of(results):
        screen.say(note)
    screen.say(f"written: {', '.join(map(str, paths))}")
    return results


def evaluate_model(
    model: TwoTower,
    datasets: Sequence[EvalDatasetConfig],
    title: str,
    screen: Screen,
    identity: ModelIdentity | None = None,
) -> list[EvalResult]:
    """Evaluate a model in memory, with a bar on the terminal."""
    identity = identity or ModelIdentity(model="in memory", precision="fp32")
    with Progress(console=screen.console, transient=True, disable=not screen.console.is_terminal) as bar:
        tasks = {dataset.name: bar.add_task(f"{title}: {dataset.name}", total=None) for dataset in datasets}

        def advance(name: str, done: int, total: int) -> None:
            bar.update(tasks[name], completed=done, total=total)

        return list(evaluate(model, datasets, identity, progress=advance))


def _dataset(text: str, options: argparse.Namespace) -> EvalDatasetConfig:
    name, equals, path = text.partition("=")
    if not equals:
        name, path = Path(text).name.removesuffix(".tar") or text, text
    return EvalDatasetConfig(
        name=name, path=path, split=options.split, label=options.label, templates=options.templates
    )


def _datasets_of_run(checkpoint: str) -> tuple[EvalDatasetConfig, ...]:
    """The data sets of the run that a checkpoint belongs to."""
    path = Path(checkpoint)
    for folder in (path, path.parent.parent):
        if (folder / "config.toml").is_file():
            datasets = load_run_config(folder / "config.toml").evaluation.datasets
            if datasets:
                return datasets
    raise UserError(f"{checkpoint} is no run that names data sets of its own: give --dataset PATH")


def _default_output(checkpoint: str, folder: Path | None) -> Path:
    if folder is None:
        raise UserError(f"{checkpoint} has no folder for results: give --output FOLDER")
    # A checkpoint inside a run: the run's own folder of results.
    return folder.parent.parent / "results" if folder.parent.name == "checkpoints" else folder / "results"


def _architecture(checkpoint: str, folder: Path | None) -> str:
    if folder is None:
        return checkpoint.removeprefix("open_clip:").partition("/")[0]
    for parent in folder.parents[:2]:
        if (parent / "config.toml").is_file():
            model = load_run_config(parent / "config.toml").model
            return model.init or ("inline" if model.inline else model.arch)
    return f"local-dir:{folder}"
