"""`mmclip export CHECKPOINT FOLDER`: weights for others: a folder in one of the known formats, with a model card.

mmclip export runs/demo exports/emoji-clip --license apache-2.0
mmclip export runs/demo exports/emoji-onnx --format onnx --push someone/emoji-onnx
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmclip.errors import UserError
from mmclip.release import Exported, export, source_folder
from mmclip.release.formats import DEFAULT_FORMAT, FORMATS
from mmclip.release.formats.comparison import TOLERANCE
from mmclip.towers.two_tower import TwoTower
from mmclip.training.checkpoint.contents import STATE_FILE
from mmclip_data.loading.datasets_source import DatasetsConfig
from mmclip_data.loading.mixture import MixtureConfig
from mmclip_data.loading.sources import SyntheticConfig
from mmclip_eval.model_card import CardFacts, Result, model_card, results_of
from mmclip_launch.flags import Arguments
from mmclip_launch.push import check_repository, push
from mmclip_launch.run.config import RunConfig, load_run_config
from mmclip_launch.screen import Screen

CARD = "README.md"


def main(arguments: Sequence[str]) -> None:
    """Parse the command line and export."""
    parser = Arguments(prog="mmclip export", description="Weights for others, with a model card.")
    parser.add_argument(
        "checkpoint", help="a run, a checkpoint, a folder or file of others, or a name (docs: weights.md)"
    )
    parser.add_argument("folder", type=Path, help="the folder to write")
    parser.add_argument(
        "--format", choices=tuple(FORMATS), default=DEFAULT_FORMAT, help=f"of the folder (default: {DEFAULT_FORMAT})"
    )
    parser.add_argument("--license", help="licence of the weights, as the Hugging Face Hub names it (apache-2.0, mit)")
    parser.add_argument("--name", help="the model's name in the card (default: the folder's)")
    parser.add_argument(
        "--hub-dataset", action="append", default=[], metavar="ID", help="a data set on the Hub; may be repeated"
    )
    parser.add_argument("--results", type=Path, help="folder of results (default: that of the source)")
    parser.add_argument("--force", action="store_true", help="replace an earlier export (and nothing else)")
    parser.add_argument("--raw", action="store_true", help="the weights themselves where a run averages them")
    parser.add_argument("--no-verify", action="store_true", help="do not compare with the format's own reader")
    parser.add_argument(
        "--push", metavar="ORG/NAME", help="upload the folder to the Hugging Face Hub, with its own token"
    )
    parser.add_argument("--private", action="store_true", help="with --push: a repository that is new is private")
    options = parser.parse_args(arguments)
    if options.private and not options.push:
        raise UserError("--private is about a repository on the Hub: add --push ORG/NAME")
    if options.push:
        check_repository(options.push)
    screen = Screen()
    export_with_card(options, screen)
    if options.push:
        screen.say(f"pushed: {push(options.folder, options.push, options.private)}")


def export_with_card(options: argparse.Namespace, screen: Screen) -> Exported:
    """Export, and say what went into the card.

    Raises:
        UserError: see `mmclip.release.export`; or a result is unreadable.
    """
    source, folder = str(options.checkpoint), Path(options.folder)
    results_folder = options.results or _results_folder(source)
    if options.results and not options.results.is_dir():
        raise UserError(f"--results {options.results}: no such folder")
    facts: list[CardFacts] = []

    def describe(model: TwoTower, exported: Exported) -> Mapping[str, str]:
        weights = {exported.weights_sha256, exported.source_sha256} - {None}
        results, left_out = results_of(results_folder, weights) if results_folder else ((), ())
        facts.append(_facts(options, model, exported, results, left_out))
        return {CARD: model_card(facts[0])}

    exported = export(
        source,
        folder,
        writer=FORMATS[options.format],
        force=options.force,
        compare=not options.no_verify,
        raw=options.raw,
        describe=describe,
    )
    library = exported.writer.library
    if exported.difference is not None:
        screen.say(f"stock {library} embeds the same to {exported.difference:.1e} (limit {TOLERANCE:g})")
    screen.say(f"results in the card: {', '.join(r['dataset'] for r in facts[0].results) or 'none'}")
    for name in facts[0].left_out:
        screen.warn(f"left out: {name}")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    screen.say(f"exported to {folder} ({size / 1e6:,.1f} MB) for {library}; {CARD} there shows how it opens")
    return exported


def _facts(
    options: argparse.Namespace,
    model: TwoTower,
    exported: Exported,
    results: tuple[Result, ...],
    left_out: tuple[str, ...],
) -> CardFacts:
    folder = Path(options.folder)
    return CardFacts(
        name=options.name or folder.absolute().name,
        folder=str(folder),
        model_cfg=model.model_cfg,
        preprocess=model.spec.to_open_clip(),
        parameters=sum(parameter.numel() for parameter in model.backbone.parameters()),
        library=exported.writer.library,
        usage=exported.writer.usage(str(folder)),
        weights_file=exported.writer.weights_file,
        weights_sha256=exported.weights_sha256,
        difference=exported.difference,
        results=results,
        left_out=left_out,
        training=_training(str(options.checkpoint)),
        license=options.license,
        datasets=tuple(options.hub_dataset),
    )


def _training(source: str) -> tuple[tuple[str, str], ...]:
    """What the run's own files say of the training; released weights say nothing."""
    checkpoint = source_folder(source)
    if checkpoint is None:
        return (("weights", source),)
    path = checkpoint.parent.parent / "config.toml"
    if not (checkpoint / STATE_FILE).is_file() or not path.is_file():
        return ()
    progress = json.loads((checkpoint / STATE_FILE).read_text())["progress"]
    config = load_run_config(path)
    decay = config.optimizer.weight_decay
    return (
        ("objective", config.objective.type),
        (
            "started from",
            config.model.init or f"random weights ({'inline' if config.model.inline else config.model.arch})",
        ),
        ("samples seen", f"{progress['samples_seen']:,}"),
        ("optimizer steps", f"{progress['step']:,}"),
        ("batch", f"{config.global_batch_size:,}"),
        ("learning rate", f"{config.optimizer.lr:g} at its peak, {config.schedule.type}, weight decay {decay:g}"),
        ("data", _data(config)),
        ("captions", "none" if config.data.image_only else ", ".join(config.data.captions or ("found in the data",))),
        ("precision", config.precision),
        ("seed", str(config.seed)),
    )


def _data(config: RunConfig) -> str:
    source = config.data.source
    parts = [part.source for part in source.sources] if isinstance(source, MixtureConfig) else [source]
    return ", ".join(map(_source, parts))


def _source(source: Any) -> str:
    if isinstance(source, SyntheticConfig):
        return f"{source.samples:,} made-up pictures of noise"
    place = source.path if isinstance(source, DatasetsConfig) else source.shards
    return place if isinstance(place, str) else "::".join(place)


def _results_folder(source: str) -> Path | None:
    """Where `mmclip eval` puts the results of these weights."""
    folder = source_folder(source)
    if folder is None:
        return None
    return folder.parent.parent / "results" if folder.parent.name == "checkpoints" else folder / "results"
