"""`mmclip sparse CHECKPOINT --data SHARDS --output FOLDER`: a sparse autoencoder over a model's picture embeddings.

mmclip sparse runs/demo --data embedded:emoji/unseen-style-fluent.tar --label json:name --output units
mmclip sparse open_clip:ViT-B-32/openai --data 'data/{00000..00009}.tar' --captions txt --output units --k 32
mmclip sparse runs/demo --data data/photos --output units --form l1 --l1 0.1 --units 1024
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from mmclip_data.shards.atomic import atomic_file
from mmclip_eval.datasets import open_samples
from mmclip_eval.encode_set import encode_set
from mmclip_eval.eval_dataset import SetConfig
from mmclip_eval.report.pictures import Album
from mmclip_eval.report.words import shorten
from mmclip_eval.sparse.config import SparseConfig
from mmclip_eval.sparse.files import save_autoencoder
from mmclip_eval.sparse.naming import texts_of_set
from mmclip_eval.sparse.page import PAGE, PICTURE_BYTES, write_sparse_page
from mmclip_eval.sparse.section import COLUMNS, facts_of, rows_of, sparse_section
from mmclip_eval.sparse.study import SparseStudy, study
from mmclip_eval.sparse.units import LEAST_FIRES, Unit, chosen_units, units_of
from mmclip_eval.tasks.base import Encoded
from mmclip_launch.flags import Arguments
from mmclip_launch.run.beginning.preflight import refuse_unwritable
from mmclip_launch.run.peers import refuse_several
from mmclip_launch.run.scoring.drawing import command_line, machine
from mmclip_launch.run.scoring.encoding import add_encode_flags, load_everywhere, options_of_flags
from mmclip_launch.run.scoring.identity import identity_of
from mmclip_launch.run.tables import from_table
from mmclip_launch.screen import Screen

RESULT_FILE = "sparse.json"
AUTOENCODER = "autoencoder"
SHOWN_UNITS = 24
HITS = 8
DEFAULTS = SparseConfig()


def main(arguments: Sequence[str]) -> None:
    """Parse the command line; encode, fit, measure and draw."""
    parser = Arguments(
        prog="mmclip sparse",
        description="A sparse autoencoder over the embeddings of a set's pictures: what its units stand for, and how much of "
        "the embeddings they explain on held-out pictures, beside principal components and a control.",
        epilog="Writes sparse.json, autoencoder/ (safetensors and JSON) and report/sparse.html. docs/sparse.md tells more.",
    )
    parser.add_argument("checkpoint", help="a run, a checkpoint, an open_clip folder, or open_clip:ARCH/TAG")
    parser.add_argument("--data", required=True, metavar="PATH", help="shards, or any set that `mmclip eval` takes")
    parser.add_argument("--output", required=True, type=Path, help="folder to write")
    parser.add_argument(
        "--form", choices=("topk", "l1"), default=DEFAULTS.form, help="of the autoencoder (default: topk)"
    )
    parser.add_argument("--units", type=int, help=f"how many (default: {DEFAULTS.expansion} for each dimension)")
    parser.add_argument(
        "--k", type=int, default=DEFAULTS.k, help=f"active units a picture, of topk (default: {DEFAULTS.k})"
    )
    parser.add_argument(
        "--l1", type=float, default=DEFAULTS.l1, help=f"price of activity, of l1 (default: {DEFAULTS.l1})"
    )
    parser.add_argument("--steps", type=int, default=DEFAULTS.steps, help=f"of training (default: {DEFAULTS.steps:,})")
    parser.add_argument("--split", default="test", help="split of a CLIP_benchmark folder (default: test)")
    parser.add_argument("--label", default="cls", help="where the class stands in plain shards: cls or json:FIELD")
    parser.add_argument("--class-names", help="a packaged list, or a .txt, .toml or .json file of class names")
    parser.add_argument(
        "--captions", action="append", default=[], metavar="FIELD", help="name units by captions: txt, json:FIELD"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or mps (default: cuda where there is one)")
    add_encode_flags(parser)
    parser.add_argument("--raw", action="store_true", help="the weights themselves where a run averages them")
    fit_and_draw(parser.parse_args(arguments), Screen())


def fit_and_draw(options: argparse.Namespace, screen: Screen) -> SparseStudy:
    """Write figures, weights and page.

    Raises:
        UserError: flags, checkpoint or data are unsound, or there are too few pictures.
    """
    refuse_several("an autoencoder is fitted by one")
    settings, output = settings_of(options), Path(options.output)
    how = options_of_flags(options, screen.warn)
    refuse_unwritable(output)
    dataset = open_samples(set_of(options))
    settings.check_rows(len(dataset.rows))
    model, encoder = load_everywhere(options.checkpoint, options.raw, how)
    with screen.bars("pictures") as advance:
        encoded = encode_set(encoder, dataset, lambda done, total: advance("encode", done, total))
    texts = texts_of_set(encoded)
    screen.say(f"features: {encoder.tally}")
    if how.store is not None:
        how.store.close()
    with screen.bars("steps") as advance:
        found = study(encoded.image_embed, settings, model.device, advance)
    chosen = chosen_units(found.fires, SHOWN_UNITS)
    units = units_of(found.model, encoded.image_embed, chosen, HITS, texts)
    screen.show(figures_table(found))
    for line in facts_of(found):
        screen.say(line)
    write_figures(found, units, encoded, options, output, screen)
    draw_or_warn(found, units, encoded, options, output, screen)
    return found


def settings_of(options: argparse.Namespace) -> SparseConfig:
    """The autoencoder that flags ask for.

    Raises:
        UserError: naming the flag that no autoencoder can have.
    """
    names = ("form", "units", "k", "l1", "steps", "seed")
    asked = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return from_table(SparseConfig, asked, "mmclip sparse")


def set_of(options: argparse.Namespace) -> SetConfig:
    """The set that flags name."""
    names = [Path(path).name.removesuffix(".tar") or path for path in options.data.split("::")]
    return SetConfig(
        name=", ".join(names),
        path=options.data,
        split=options.split,
        label=options.label,
        class_names=options.class_names,
        captions=tuple(options.captions),
    )


def figures_table(found: SparseStudy) -> Table:
    """The autoencoder above what it stands beside."""
    table = Table(title=f"sparse autoencoder ({found.settings.form})")
    for number, column in enumerate(COLUMNS):
        table.add_column(Text(column), justify="left" if number == 0 else "right", overflow="fold")
    for row in rows_of(found):
        table.add_row(*map(Text, row))
    return table


def write_figures(
    found: SparseStudy,
    units: Sequence[Unit],
    encoded: Encoded,
    options: argparse.Namespace,
    output: Path,
    screen: Screen,
) -> None:
    """The figures as strict JSON, and the autoencoder."""
    dataset = encoded.dataset
    made_of = {
        "checkpoint": asdict(identity_of(options.checkpoint, options.raw)),
        "dataset": {"path": options.data, "fingerprint": dataset.fingerprint, "pictures": len(encoded.image_embed)},
    }
    output.mkdir(parents=True, exist_ok=True)
    save_autoencoder(found.model, found.settings, output / AUTOENCODER, made_of)
    sample_of_row = dataset.rows.sample_of_row
    shown: list[dict[str, Any]] = [
        unit.to_json() | {"samples": [dataset.samples.sample_id(int(sample_of_row[row])) for row in unit.rows]}
        for unit in units
    ]
    content = {"schema_version": 1, "made_of": made_of, **found.to_json(), "shown_units": shown}
    with atomic_file(output / RESULT_FILE) as handle:
        handle.write((json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    screen.say(f"written: {output / RESULT_FILE}, {output / AUTOENCODER}")


def draw_or_warn(
    found: SparseStudy,
    units: Sequence[Unit],
    encoded: Encoded,
    options: argparse.Namespace,
    output: Path,
    screen: Screen,
) -> None:
    """The page; one that cannot be drawn is told, and loses nothing."""
    dataset = encoded.dataset
    album = Album(dataset.samples, PICTURE_BYTES)
    lead = (
        f"{found.model.units:,} units for embeddings of width {found.model.width}: what {len(encoded.image_embed):,} pictures "
        f"of {shorten(dataset.config.name)} look like to the model, as sums of few of them."
    )
    try:
        living = int((found.fires >= LEAST_FIRES).sum())
        section = sparse_section(found, units, album, dataset.rows.sample_of_row, living)
        where = machine(torch.device(found.model.directions.device))
        size = write_sparse_page(output / PAGE, section, album, options.checkpoint, lead, command_line(), where)
        screen.say(f"report: {output / PAGE} ({size / 1e6:.1f} MB)")
    except Exception as error:  # figures and weights are what was asked for: a drawing must not cost them
        screen.warn(
            f"the page {output / PAGE} could not be drawn ({type(error).__name__}: {error}); all else is written"
        )
    finally:
        dataset.samples.close()
