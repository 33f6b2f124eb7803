"""`mmclip interpolate A B`: the models between two, scored (WiSE-FT, Wortsman et al. 2022).

mmclip interpolate open_clip:ViT-B-32/openai runs/flowers --suite suites/all.toml --output between
mmclip interpolate A B --alpha 0 .1 ... 1 --dataset data/flowers --output between --save best
mmclip interpolate a.safetensors b.safetensors --alpha .5 --output between --save .5
"""

import argparse
import json
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text
from safetensors.torch import save

from mmclip.envelope import publish
from mmclip.errors import UserError
from mmclip.release.averages import interpolate
from mmclip.release.between import Blend
from mmclip.towers.tensors import read_tensors
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights
from mmclip_data.shards.atomic import atomic_file
from mmclip_eval.report.pages.alpha_page import PAGE, write_alpha_page
from mmclip_eval.results.alpha_curve import AlphaCurve, AlphaPoint, best_line, rows_of
from mmclip_launch.flags import Arguments
from mmclip_launch.run.beginning.preflight import refuse_unwritable
from mmclip_launch.run.scoring.drawing import command_line, machine
from mmclip_launch.run.scoring.in_memory import Scorer, add_scoring_flags
from mmclip_launch.screen import Screen

CURVE_FILE = "interpolation.json"
MIXTURE_FILE = "mixture.json"
EVERY = ("0", ".1", "...", "1")
BEST = "best"
MOST_ALPHAS = 1001


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, score each model between the two, and save those that were asked for."""
    parser = Arguments(
        prog="mmclip interpolate",
        description="Scores of the models (1 - alpha) A + alpha B, as a table, as strict JSON and as curves on a page.",
        epilog="Two files of tensors (.safetensors, .pt) are interpolated as they are where nothing is to be measured.",
    )
    parser.add_argument(
        "a", help="weights at alpha 0: whatever `mmclip eval` takes; mostly what a fine-tune began with"
    )
    parser.add_argument("b", help="weights at alpha 1: mostly the fine-tuned ones")
    parser.add_argument(
        "--alpha",
        nargs="+",
        default=list(EVERY),
        metavar="N",
        help="numbers, or FIRST SECOND ... LAST (default: 0 .1 ... 1)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the curve, the results and the models")
    parser.add_argument(
        "--save",
        nargs="+",
        default=[],
        metavar="ALPHA",
        help=f"write the models of these alphas, or `{BEST}` by the mean",
    )
    add_scoring_flags(parser)
    options = parser.parse_args(arguments)
    alphas, wanted = alphas_of(options.alpha, "--alpha"), [word for word in options.save if word != BEST]
    saved = alphas_of(wanted, "--save") if wanted else []
    measures = options.dataset or options.suite
    if not measures and all(Path(source).is_file() for source in (options.a, options.b)):
        interpolate_files(options, saved, Screen())
        return
    interpolate_and_score(options, alphas, saved, Screen())


def interpolate_and_score(
    options: argparse.Namespace, alphas: Sequence[float], saved: Sequence[float], screen: Screen
) -> AlphaCurve:
    """Score the models in memory, then write the curve, the page and the models.

    Raises:
        UserError: the two do not fit together, or a set is unsound.
    """
    sources, output = (options.a, options.b), Path(options.output)
    for alpha in saved:
        check_folder(output / name_of(alpha))
    scorer = Scorer.of_flags(options, sources, output, screen)
    blend = Blend(sources, scorer.how.device, options.raw)
    scorer.check(blend)
    points: list[AlphaPoint] = []
    for alpha in sorted({0.0, *alphas, *saved, 1.0}):
        digest, figures = scorer.score(blend.at(alpha), name_of(alpha))
        points.append(AlphaPoint(alpha, figures, digest))
        mean = points[-1].mean
        screen.say(f"alpha {alpha:g}: mean {mean.value:.4f} ({mean.low:.4f} to {mean.high:.4f})")
    curve = AlphaCurve(*sources, tuple(points))
    screen.show(curve_table(curve))
    screen.say(best_line(curve))
    write_curve(curve, output, screen)
    chosen: set[float] = {*saved, curve.best.alpha} if BEST in options.save else set(saved)
    for alpha in sorted(chosen):
        save_model(blend.at(alpha), output / name_of(alpha), {"alpha": alpha, "a": sources[0], "b": sources[1]})
        screen.say(f"written: {output / name_of(alpha)}")
    return curve


def interpolate_files(options: argparse.Namespace, alphas: Sequence[float], screen: Screen) -> None:
    """Interpolate two files of tensors, whatever they belong to; one file an alpha of `--save`.

    Raises:
        UserError: nothing is to be written, or the files do not fit together.
    """
    output = Path(options.output)
    if not alphas or BEST in options.save:
        raise UserError(
            "two files and no set to measure on: give --save ALPHA to write what lies between them, or --suite FILE or "
            "--dataset PATH (with an architecture: open_clip:ARCH/FILE) to find the best"
        )
    refuse_unwritable(output)
    a, b = (read_tensors(Path(source)) for source in (options.a, options.b))
    output.mkdir(parents=True, exist_ok=True)
    for alpha in alphas:
        path = output / f"{name_of(alpha)}.safetensors"
        if path.exists():
            raise UserError(f"{path} is there already: remove it, or give another --output")
        with atomic_file(path) as handle:
            handle.write(save(interpolate(a, b, alpha, (options.a, options.b))))
        screen.say(f"written: {path}")


def alphas_of(words: Sequence[str], flag: str) -> list[float]:
    """The numbers of `0 .1 ... 1`, in decimal steps, so that 0.3 is 0.3.

    Raises:
        UserError: a word is no number, `...` does not stand between two numbers and a last one, or there are too many.
    """
    numbers: list[Decimal] = []
    for place, word in enumerate(words):
        if word != "...":
            numbers.append(_number(word, flag))
            continue
        if place < 2 or place + 1 >= len(words) or "..." in (words[place - 1], words[place - 2], words[place + 1]):
            raise UserError(f"{flag} {' '.join(words)}: expected two numbers before ... and one behind it: 0 .1 ... 1")
        step, last = numbers[-1] - numbers[-2], _number(words[place + 1], flag)
        if step <= 0 or last <= numbers[-1] or (last - numbers[-1]) / step > MOST_ALPHAS:
            raise UserError(
                f"{flag} {' '.join(words)}: steps of {step} from {numbers[-1]} to {last} are no such sequence"
            )
        while numbers[-1] + step < last:
            numbers.append(numbers[-1] + step)
    return [float(number) for number in dict.fromkeys(numbers)]


def name_of(alpha: float) -> str:
    """Of a model's folder and results."""
    return f"alpha-{alpha:g}"


def curve_table(curve: AlphaCurve) -> Table:
    """A row a model; the best is bold."""
    table = Table(title="interpolation")
    for column in ("alpha", *curve.names, "mean", "sum"):
        table.add_column(Text(column), justify="right", overflow="fold")
    for row, point in zip(rows_of(curve.points), curve.points, strict=True):
        table.add_row(*map(Text, row), style="bold" if point == curve.best else "")
    return table


def write_curve(curve: AlphaCurve, output: Path, screen: Screen) -> None:
    """The figures as strict JSON, and the page; a page that cannot be drawn is told, and loses nothing."""
    with atomic_file(output / CURVE_FILE) as handle:
        handle.write((json.dumps(curve.to_json(), indent=1, allow_nan=False) + "\n").encode())
    screen.say(f"written: {output / CURVE_FILE}")
    try:
        size = write_alpha_page(output / PAGE, curve, command_line(), machine(torch.device("cpu")))
        screen.say(f"report: {output / PAGE} ({size / 1e6:.1f} MB)")
    except Exception as error:  # figures and models are what was asked for: a drawing must not cost them
        screen.warn(
            f"the page {output / PAGE} could not be drawn ({type(error).__name__}: {error}); all else is written"
        )


def check_folder(folder: Path) -> None:
    """Refuse a place where something else than an earlier mixture stands.

    Raises:
        UserError: naming it.
    """
    if folder.is_symlink() or (folder.exists() and not (folder / MIXTURE_FILE).is_file()):
        raise UserError(f"{folder} exists and is no mixture that mmclip wrote: give another --output, or remove it")


def save_model(model: TwoTower, folder: Path, made_of: dict[str, object]) -> None:
    """Write a model as an open_clip folder, whole or not at all, with what it was mixed of.

    Raises:
        UserError: something else stands there.
    """
    check_folder(folder)

    def write(temporary: Path) -> None:
        save_weights(model, temporary)
        (temporary / MIXTURE_FILE).write_text(json.dumps(made_of, indent=1) + "\n")

    publish(folder, write)


def _number(word: str, flag: str) -> Decimal:
    try:
        number = Decimal(word)
    except InvalidOperation as error:
        raise UserError(f"{flag} {word}: expected a number such as 0.3, or 0 .1 ... 1") from error
    if not number.is_finite():
        raise UserError(f"{flag} {word}: expected a number such as 0.3")
    return number
