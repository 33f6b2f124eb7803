"""`mmclip average A B C FOLDER`: one model of several (model soups, Wortsman et al. 2022).

mmclip average runs/seed-0 runs/seed-1 runs/seed-2 soups/uniform
mmclip average runs/seed-* soups/greedy --greedy --suite suites/held-out.toml
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save

from mmclip.errors import UserError
from mmclip.release.averages import average
from mmclip.release.between import Blend
from mmclip.towers.tensors import read_tensors
from mmclip_data.shards.atomic import atomic_file
from mmclip_eval.results.headline import Headline, mean_of
from mmclip_launch.flags import Arguments
from mmclip_launch.interpolate import check_folder, save_model
from mmclip_launch.run.beginning.preflight import refuse_unwritable
from mmclip_launch.run.scoring.in_memory import Scorer, add_scoring_flags
from mmclip_launch.screen import Screen


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, and write the soup."""
    parser = Arguments(
        prog="mmclip average",
        description="A model whose weights are the mean of those of several, all fine-tuned from the same weights.",
        epilog="Of files of tensors (.safetensors, .pt) the mean is a file too.",
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="whatever `mmclip eval` takes; two at least")
    parser.add_argument("output", type=Path, help="the folder to write; of files of tensors, the .safetensors file")
    parser.add_argument(
        "--weights", nargs="+", type=float, metavar="W", help="one a source, with the sum 1 (default: all the same)"
    )
    parser.add_argument(
        "--greedy",
        action="store_true",
        help="take a source in only where the score on --suite or --dataset does not fall",
    )
    add_scoring_flags(parser)
    options = parser.parse_args(arguments)
    refuse_contradictions(options)
    refuse_unwritable(options.output.parent)
    screen = Screen()
    if all(Path(source).is_file() for source in options.sources) and not options.greedy:
        average_files(options, screen)
        return
    check_folder(options.output)
    if options.greedy:
        greedy_soup(options, screen)
        return
    blend = Blend(options.sources, raw=options.raw)
    weights = options.weights or [1 / len(blend.sources)] * len(blend.sources)
    save_model(
        blend.mean(weights), options.output, made_of("uniform" if not options.weights else "weighted", blend, weights)
    )
    screen.say(f"written: {options.output}, the mean of {len(blend.sources)}")


def refuse_contradictions(options: argparse.Namespace) -> None:
    """Refuse flags that do not go together.

    Raises:
        UserError: naming them.
    """
    if len(options.sources) < 2:
        raise UserError(
            f"mmclip average {options.sources[0]} {options.output}: expected two sources at least, then the folder"
        )
    if options.weights and options.greedy:
        raise UserError("--weights and --greedy: a greedy soup finds its own weights; remove one of the two")
    if not options.greedy and (options.suite or options.dataset):
        raise UserError("--suite and --dataset choose what --greedy takes in: add --greedy, or remove them")
    if options.weights and len(options.weights) != len(options.sources):
        raise UserError(f"--weights: {len(options.weights)} numbers for {len(options.sources)} sources; give one each")
    if options.weights and abs(math.fsum(options.weights) - 1) > 1e-9:
        raise UserError(f"--weights: the sum is {math.fsum(options.weights):g}; expected 1")


def average_files(options: argparse.Namespace, screen: Screen) -> None:
    """The mean of files of tensors, whatever they belong to.

    Raises:
        UserError: the files do not fit together, or the output is there.
    """
    path = options.output
    if path.suffix != ".safetensors" or path.exists():
        raise UserError(
            f"{path}: expected the name of a .safetensors file that does not exist, as the sources are files"
        )
    states = [read_tensors(Path(source)) for source in options.sources]
    with atomic_file(path) as handle:
        handle.write(save(average(states, options.weights, options.sources)))
    screen.say(f"written: {path}, the mean of {len(states)}")


def greedy_soup(options: argparse.Namespace, screen: Screen) -> None:
    """Recipe 1 of the paper: from the best source down, each stays in the soup where the score does not fall by it.

    Raises:
        UserError: a source or a set is unsound.
    """
    scorer = Scorer.of_flags(options, options.sources, options.output.with_name(f"{options.output.name}-soup"), screen)
    blend = Blend(options.sources, scorer.how.device, options.raw)
    scorer.check(blend)
    count = len(blend.sources)

    def score(members: Sequence[int], name: str) -> Headline:
        model = blend.mean([1 / len(members) if number in members else 0.0 for number in range(count)])
        return mean_of(scorer.score(model, name)[1])

    alone = [score([number], f"source-{number + 1}") for number in range(count)]
    for source, found in zip(blend.sources, alone, strict=True):
        screen.say(f"{source}: {_said(found)}")
    first, *rest = sorted(range(count), key=lambda number: (-alone[number].value, number))
    soup, best = [first], alone[first]
    for number in rest:
        tried = score(sorted([*soup, number]), f"soup-with-{number + 1}")
        stays = tried.value >= best.value
        if stays:
            soup, best = sorted([*soup, number]), tried
        screen.say(f"{'with' if stays else 'without'} {blend.sources[number]}: {_said(tried)} with it")
    weights = [1 / len(soup) if number in soup else 0.0 for number in range(count)]
    save_model(blend.mean(weights), options.output, {**made_of("greedy", blend, weights), "score": best.value})
    screen.say(f"written: {options.output}, the mean of {len(soup)} of {count}: {_said(best)}")


def made_of(method: str, blend: Blend, weights: Sequence[float]) -> dict[str, object]:
    """What a soup's folder says of it."""
    parts = [{"source": s, "weight": w} for s, w in zip(blend.sources, weights, strict=True)]
    return {"method": method, "of": parts}


def _said(score: Headline) -> str:
    return f"{score.value:.4f} ({score.low:.4f} to {score.high:.4f})"
