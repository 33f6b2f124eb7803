"""Flags that the verbs have in common, and how each ends."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from mmclip.errors import GuardError
from mmclip_data.shards.atomic import atomic_file
from mmclip_eval.contrasim.matching import PairMatching
from mmclip_eval.contrasim.prediction import LayerPrediction
from mmclip_eval.contrasim.settings import ContraSimConfig
from mmclip_eval.contrasim.table import selectivity_line
from mmclip_launch.contrasim import EXIT_CODES
from mmclip_launch.flags import Arguments, at_least
from mmclip_launch.run.scoring.encoding import add_encode_flags
from mmclip_launch.screen import Screen

PUBLISHED = ContraSimConfig()


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """What is encoded, and how."""
    parser.add_argument(
        "--data", required=True, metavar="SHARDS", help="shards, or whatever `mmclip eval` takes as a set"
    )
    parser.add_argument("--split", default="test", help="split of a set that has several (default: test)")
    parser.add_argument(
        "--captions", action="append", default=[], metavar="PLACE", help="where captions stand: txt, json:FIELD"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or mps (default: cuda where there is one)")
    parser.add_argument("--raw", action="store_true", help="the weights themselves where a run averages them")
    add_encode_flags(parser)


def add_contrasim_flags(parser: argparse.ArgumentParser, steps: str = "--steps") -> None:
    """How the similarity is trained; all else is as published."""
    parser.add_argument(
        steps,
        type=at_least(1),
        default=None,
        metavar="N",
        dest="contrasim_steps",
        help="steps of each training of the similarity",
    )
    parser.add_argument(
        "--rows", type=at_least(1), default=PUBLISHED.most_rows, help="most examples, drawn (default: 2000)"
    )
    parser.add_argument(
        "--test-share",
        type=_share,
        default=PUBLISHED.test_share,
        help="of them that training does not see (default: 1/3)",
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write the figures there as strict JSON")


def contrasim_of_flags(options: argparse.Namespace, default: ContraSimConfig = PUBLISHED) -> ContraSimConfig:
    """The settings that the flags make.

    Raises:
        UserError: a value is out of range.
    """
    steps = default.steps if options.contrasim_steps is None else options.contrasim_steps
    return replace(default, steps=steps, most_rows=options.rows, test_share=options.test_share, seed=options.seed)


def verb_parser(verb: str, description: str) -> Arguments:
    """Of a verb that gives a verdict on models, or none."""
    return Arguments(prog=f"mmclip contrasim {verb}", description=description, epilog=EXIT_CODES)


def tell(found: LayerPrediction | PairMatching, table: Table, output: Path | None, name: str, screen: Screen) -> None:
    """Print what was found, and write it where it was asked for."""
    screen.show(table)
    screen.say(selectivity_line(found))
    write(found.to_json(), output, name, screen)


def write(found: Mapping[str, Any], output: Path | None, name: str, screen: Screen) -> None:
    """Write figures where they were asked for."""
    if output is None:
        return
    output.mkdir(parents=True, exist_ok=True)
    path = output / name
    with atomic_file(path) as handle:
        handle.write((json.dumps(found, indent=1, allow_nan=False) + "\n").encode())
    screen.say(f"written: {path}")


def refuse(refusal: str | None) -> None:
    """End with exit code 4 where no verdict is given.

    Raises:
        GuardError: with the reason.
    """
    if refusal is not None:
        raise GuardError(f"ContraSim gives no verdict: {refusal}")


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, got {text!r}") from error
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, got {text!r}")
    return share
