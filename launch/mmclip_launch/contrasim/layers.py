"""`mmclip contrasim layers MODEL MODEL ...`: are the layers of models told apart across seeds, and by what?"""

from collections.abc import Sequence

import torch

from mmclip.errors import UserError
from mmclip_eval.contrasim.closed_form import MEASURES, PLAIN
from mmclip_eval.contrasim.predict import contrasim_of
from mmclip_eval.contrasim.prediction import LayerPrediction
from mmclip_eval.contrasim.table import layer_table
from mmclip_launch.contrasim.features import Layers
from mmclip_launch.contrasim.flags import (
    add_contrasim_flags,
    add_data_flags,
    contrasim_of_flags,
    refuse,
    tell,
    verb_parser,
)
from mmclip_launch.screen import Screen

RESULT = "contrasim_layers.json"


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, encode, train, and judge.

    Raises:
        GuardError: no verdict is given.
    """
    found = predict(arguments, Screen())
    refuse(found.refusal)


def predict(arguments: Sequence[str], screen: Screen) -> LayerPrediction:
    """Print and write what layer prediction finds.

    Raises:
        UserError: the models or the set do not do for it.
    """
    parser = verb_parser(
        "layers",
        "For each layer of a model, is the same layer of another the most similar one? ContraSim (Rahamim and "
        "Belinkov 2024) on models that its training saw and on held-out ones, beside measures that learn nothing, and "
        "trained on layers matched at random. All tests are on held-out examples.",
    )
    parser.add_argument("model", nargs="+", help="five or more of one depth: whatever `mmclip eval` takes")
    parser.add_argument(
        "--held-out", nargs="+", default=[], metavar="MODEL", help="models to test on (default: the halves take turns)"
    )
    parser.add_argument("--tower", choices=("image", "text"), default="image", help="whose layers (default: image)")
    parser.add_argument(
        "--tokens", choices=("mean", "pooled"), default="mean", help="of a layer's tokens (default: their mean)"
    )
    parser.add_argument(
        "--all-measures", action="store_true", help=f"also {', '.join(name for name in MEASURES if name not in PLAIN)}"
    )
    add_data_flags(parser)
    add_contrasim_flags(parser)
    options = parser.parse_args(arguments)
    settings, models = contrasim_of_flags(options), options.model
    unknown = [name for name in options.held_out if name not in models]
    if unknown:
        raise UserError(f"--held-out {' '.join(unknown)}: expected some of the models: {', '.join(models)}")
    held_out = [number for number, name in enumerate(models) if name in options.held_out] or None
    layers = Layers.of_flags(options, screen)
    texts = layers.one_caption_each()[1] if options.tower == "text" else []
    features = [layers.texts(model, texts) if texts else layers.images(model) for model in models]
    layers.close()
    with screen.bars("steps") as advance:
        found = contrasim_of(
            features,
            models,
            settings,
            held_out=held_out,
            tokens=options.tokens,
            measures=MEASURES if options.all_measures else PLAIN,
            device=torch.device(layers.how.device),
            progress=advance,
        )
    tell(found, layer_table(found), options.output, RESULT, screen)
    return found
