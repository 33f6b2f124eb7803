"""What to evaluate on, as flags say it, or as the run does that a checkpoint belongs to."""

import argparse
from pathlib import Path

from mmclip.errors import UserError
from mmclip_eval.datasets import EvalDatasetConfig
from mmclip_launch.run.config import load_run_config


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
