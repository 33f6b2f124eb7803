"""`mmclip eval CHECKPOINT...`: scores of checkpoints on data sets, as a table, as strict JSON and as a page.

mmclip eval runs/demo
mmclip eval runs/demo runs/demo-1 --suite suites/emoji.toml --output results/
mmclip eval runs/demo --dataset data/fashion-mnist --task zero_shot_classification
torchrun --nproc_per_node 2 -m mmclip_launch.evaluate runs/demo
accelerate launch --num_processes 2 -m mmclip_launch.evaluate runs/demo
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmclip.release import source_folder
from mmclip_launch.flags import Arguments
from mmclip_launch.run.beginning.preflight import refuse_unwritable
from mmclip_launch.run.peers import rank
from mmclip_launch.run.scoring.dataset_flags import add_dataset_flags, dataset_of, datasets_of_run
from mmclip_launch.run.scoring.drawing import Pass, draw_all_or_warn
from mmclip_launch.run.scoring.encoding import (
    EncodeOptions,
    add_encode_flags,
    all_ranks,
    leading,
    options_of_flags,
    serve,
)
from mmclip_launch.run.scoring.evaluating import evaluate_checkpoint
from mmclip_launch.run.scoring.evaluation_sets import Sets
from mmclip_launch.run.scoring.failures import Failures
from mmclip_launch.run.scoring.identity import default_output
from mmclip_launch.screen import Screen


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
    screen = Screen(quiet=rank() > 0)
    how = options_of_flags(options, screen.warn)
    with all_ranks() as ranks:
        how = replace(how, ranks=ranks)
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
            checkpoint = str(source_folder(name) or name)
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


if __name__ == "__main__":
    from mmclip_launch.cli import run_verb

    sys.exit(run_verb(main, sys.argv[1:]))
