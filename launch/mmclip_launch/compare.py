"""`mmclip compare A B --data SHARDS`: is the new model B safe to put in place of A?

mmclip compare runs/old runs/new --data data/val --captions txt
mmclip compare runs/old runs/new --suite suites/all.toml --against runs/seed-1 runs/seed-2
mmclip compare runs/old runs/new --data data/val --thresholds release.toml --output compared
"""

import argparse
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text

from mmclip.errors import GuardError, UndecidedError, UserError
from mmclip_data.shards.atomic import atomic_file
from mmclip_eval.compare.assemble import More, Viewed, compare_viewed, known_figures
from mmclip_eval.compare.comparison import Comparison
from mmclip_eval.compare.page.page import PAGE, write_compare_page
from mmclip_eval.compare.result import to_json
from mmclip_eval.compare.verdict import Thresholds, judge
from mmclip_eval.contrasim.settings import ContraSimConfig
from mmclip_eval.sparse.config import SparseConfig
from mmclip_launch.flags import Arguments
from mmclip_launch.run.beginning.preflight import refuse_equal_prompts, refuse_unwritable
from mmclip_launch.run.peers import refuse_several
from mmclip_launch.run.scoring.dataset_flags import add_dataset_flags, dataset_of, datasets_of_run
from mmclip_launch.run.scoring.drawing import command_line, machine
from mmclip_launch.run.scoring.encoding import add_encode_flags, options_of_flags
from mmclip_launch.run.scoring.evaluation_sets import Sets
from mmclip_launch.run.scoring.identity import default_output
from mmclip_launch.run.scoring.viewing import LAYERS, Viewer
from mmclip_launch.run.tables import from_table, read_toml
from mmclip_launch.screen import Screen

RESULT = "comparison.json"
FOLDER = "compare"
LEAST_AGAINST = 3
"""Of `--contrasim`: with A and B enough to train on three models and test on two others."""


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, compare, and end with the verdict's exit code.

    Raises:
        GuardError: the verdict is `unsafe`: exit code 4.
        UndecidedError: it is `look`: exit code 5.
    """
    parser = Arguments(
        prog="mmclip compare",
        description="Is the new model B safe to put in place of A? What each layer represents, how both act, the pictures "
        "whose answer flipped; each figure beside what it is when nothing and when everything has changed; a verdict.",
        epilog="Exit codes: 0 safe, 4 unsafe, 5 look (0 with --accept-look); 2 a mistake in what was asked.",
    )
    parser.add_argument("a", metavar="A", help="the model in place: whatever `mmclip eval` takes")
    parser.add_argument("b", metavar="B", help="the one that is to take its place")
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="[NAME=]SHARDS",
        help="what to ask both, with classes or captions; may be repeated (default: the sets of B's own run)",
    )
    parser.add_argument(
        "--suite", action="append", default=[], type=Path, metavar="FILE", help="sets in a TOML file; may be repeated"
    )
    parser.add_argument(
        "--against", nargs="+", default=[], metavar="C", help="independent models, such as other seeds of A: the floor"
    )
    parser.add_argument("--thresholds", type=Path, metavar="FILE", help="rules of the verdict (default: packaged ones)")
    parser.add_argument("--layers", choices=LAYERS, default="all", help="which are compared (default: all)")
    parser.add_argument(
        "--rows", type=int, default=5000, help="samples that layers are compared on, by a fixed draw (default: 5000)"
    )
    parser.add_argument("--contrasim", action="store_true", help="the learned similarity too, with its controls")
    parser.add_argument("--sparse", action="store_true", help="sparse autoencoders of both, and their units matched")
    parser.add_argument("--accept-look", action="store_true", help="exit code 0 where the verdict is `look`")
    parser.add_argument("--output", type=Path, help=f"folder of page and result (default: {FOLDER}/ of B's run)")
    parser.add_argument("--raw", action="store_true", help="the weights themselves where a run averages them")
    add_dataset_flags(parser)
    add_encode_flags(parser)
    options = parser.parse_args(arguments)
    verdict = compare(options, Screen()).verdict
    why = f"{len(verdict.reasons)} {'reason' if len(verdict.reasons) == 1 else 'reasons'} above"
    if verdict.word == "unsafe":
        raise GuardError(f"unsafe to switch ({why})")
    if verdict.word == "look" and not options.accept_look:
        raise UndecidedError(f"a person should look before the switch ({why}); --accept-look ends with exit code 0")


def compare(options: argparse.Namespace, screen: Screen) -> Comparison:
    """Encode, compare, and write the result and the page.

    Raises:
        UserError: a model, a set or the thresholds are unsound.
    """
    refuse_several("a comparison is made by one")
    output = options.output or default_output(options.b).with_name(FOLDER)
    thresholds = read_thresholds(options.thresholds)
    more = more_of(options)
    how = options_of_flags(options, screen.warn)
    sets = Sets.of_flags(
        [dataset_of(text, options) for text in (*options.data, *options.dataset)], options.suite, (), screen.say
    )
    if not sets.settings:
        sets = sets.with_own(datasets_of_run(options.b))
    opened = sets.opened()  # a wrong path is told before a model is loaded
    refuse_unwritable(output)
    viewer = Viewer(opened, how, options.layers, options.rows, options.raw, screen)
    viewed: list[Viewed] = []
    for name in (options.a, options.b, *options.against):
        viewed.append(viewer.view(name, lambda model: refuse_equal_prompts(opened, model.tokenizer)))
    with screen.bars("parts") as advance:
        found = compare_viewed(viewed[0], viewed[1], viewed[2:], thresholds, more, screen.say, advance)
    screen.show(table_of(found))
    for note in found.notes:
        screen.warn(note)
    write_all(found, output, how.device, screen)
    return found


def more_of(options: argparse.Namespace) -> More:
    """What the flags ask for beside behaviour and layers.

    Raises:
        UserError: the learned similarity was asked for, and there are too few models or no layers.
    """
    if options.contrasim and (len(options.against) < LEAST_AGAINST or options.layers == "none"):
        raise UserError(
            f"--contrasim with {len(options.against)} models --against and --layers {options.layers}: expected at least "
            f"{LEAST_AGAINST} independent models of the same architecture and their layers: it is trained on some models and "
            "tested on others, or it proves nothing"
        )
    return More(
        sparse=SparseConfig(seed=options.seed) if options.sparse else None,
        contrasim=ContraSimConfig(seed=options.seed) if options.contrasim else None,
    )


def read_thresholds(path: Path | None) -> Thresholds:
    """The rules of a file, or the packaged ones.

    Raises:
        UserError: there is no such file, or something in it is wrong.
    """
    if path is None:
        path = Path(str(files("mmclip_eval.compare") / "thresholds.toml"))
    thresholds = from_table(Thresholds, read_toml(path), str(path))
    judge([], thresholds, known_figures())  # a wrong rule is told before the work
    return thresholds


def write_all(found: Comparison, output: Path, device: str, screen: Screen) -> None:
    """The strict result, then the page."""
    output.mkdir(parents=True, exist_ok=True)
    result, page = output / RESULT, output / PAGE
    with atomic_file(result) as handle:
        handle.write(json.dumps(to_json(found), indent=1, allow_nan=False).encode())
    size = write_compare_page(page, found, command_line(), machine(torch.device(device)))
    if found.contrasim is not None:
        screen.say(f"learned similarity, as commentary: {found.contrasim.verdict}")
    screen.say(f"{found.verdict.word}: {found.b} in place of {found.a}")
    for reason in found.verdict.reasons:
        screen.say(f"  {reason}")
    screen.say(f"written: {result}")
    screen.say(f"report: {page} ({size / 1e6:.1f} MB)")


def table_of(found: Comparison) -> Table:
    """Every figure with its anchors and what its rule says."""
    table = Table()
    table.add_column("figure", overflow="fold")
    for name in ("value\n95 % interval", "ceiling\nfloor"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    words = {id(one.reading): one.word for one in found.verdict.judged}
    colours = {"safe": "green", "look": "yellow", "unsafe": "bold red"}
    for place, one in enumerate(found.readings):
        if place and one.about != found.readings[place - 1].about:
            table.add_section()
        word = words.get(id(one), "")
        anchors = ["-" if anchor is None else f"{anchor:.3g}" for anchor in (one.ceiling, one.floor)]
        value = f"{one.value:.4g}\n{one.low:.3g} to {one.high:.3g}"
        name = Text.assemble(one.figure, "\n", (one.about, "dim"))
        table.add_row(name, value, "\n".join(anchors), Text(word, style=colours.get(word, "")))
    return table
