"""`mmclip contrasim digits`: the study that shows why the controls are there, on a CPU in minutes.

mmclip contrasim digits --seeds 6 --steps 200 --output contrasim
"""

from collections.abc import Sequence
from dataclasses import replace

from mmclip_eval.contrasim.splits import LEAST_MODELS
from mmclip_eval.contrasim.table import layer_table, pair_table, selectivity_line
from mmclip_launch.contrasim.digit_study import DigitsConfig, DigitsStudy, study_digits
from mmclip_launch.contrasim.flags import add_contrasim_flags, contrasim_of_flags, write
from mmclip_launch.flags import Arguments, at_least
from mmclip_launch.run.beginning.preflight import refuse_unwritable
from mmclip_launch.screen import Screen

RESULT = "contrasim_digits.json"
DEFAULT = DigitsConfig()


def main(arguments: Sequence[str]) -> None:
    """Parse the command line and run the study."""
    study(arguments, Screen())


def study(arguments: Sequence[str], screen: Screen) -> DigitsStudy:
    """Train the models, then print and write what both tasks and their controls find.

    Raises:
        UserError: a flag is out of range.
    """
    parser = Arguments(
        prog="mmclip contrasim digits",
        description="Trains small vision transformers of several seeds on scikit-learn's digits, then asks of their layers and "
        "embeddings what `contrasim layers` and `contrasim captions` ask, with every control.",
        epilog="Exit code 0 once the study is done: that no verdict is given on layers is what it finds.",
    )
    parser.add_argument("--seeds", type=at_least(LEAST_MODELS), default=DEFAULT.seeds, help="models (default: 6)")
    parser.add_argument(
        "--steps", type=at_least(1), default=DEFAULT.steps, help="of the training of each model (default: 200)"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="of splits, batches and controls (default: 0)")
    add_contrasim_flags(parser, "--contrasim-steps")
    options = parser.parse_args(arguments)
    settings = replace(
        DEFAULT, seeds=options.seeds, steps=options.steps, contrasim=contrasim_of_flags(options, DEFAULT.contrasim)
    )
    if options.output is not None:
        refuse_unwritable(options.output)
    with screen.bars("steps") as advance:
        found = study_digits(settings, progress=advance, say=screen.say)
    screen.show(layer_table(found.layers))
    screen.say(f"layers: {selectivity_line(found.layers)}")
    screen.show(pair_table(found.pairs))
    screen.say(f"pairs: {selectivity_line(found.pairs)}")
    screen.say(f"seconds: {', '.join(f'{name} {seconds:.0f}' for name, seconds in found.seconds.items())}")
    write(found.to_json(), options.output, RESULT, screen)
    return found
