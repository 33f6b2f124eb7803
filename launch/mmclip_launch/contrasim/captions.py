"""`mmclip contrasim captions MODEL [TEXT_MODEL]`: is the set of captions found that belongs to a set of pictures?"""

from collections.abc import Sequence

from torch import Tensor

from mmclip.errors import UserError
from mmclip_data.features.layers import LayerFeatures
from mmclip_eval.contrasim.match import match_pairs
from mmclip_eval.contrasim.matching import PairMatching
from mmclip_eval.contrasim.table import pair_table
from mmclip_launch.contrasim.features import Layers
from mmclip_launch.contrasim.flags import (
    add_contrasim_flags,
    add_data_flags,
    contrasim_of_flags,
    refuse,
    tell,
    verb_parser,
)
from mmclip_launch.flags import at_least
from mmclip_launch.screen import Screen

RESULT = "contrasim_captions.json"
LEAST_SET = 20
"""Debiased CKA needs as many rows."""


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, encode, train, and judge.

    Raises:
        GuardError: no verdict is given.
    """
    found = match(arguments, Screen())
    refuse(found.refusal)


def match(arguments: Sequence[str], screen: Screen) -> PairMatching:
    """Print and write what pair matching finds.

    Raises:
        UserError: the models or the set do not do for it.
    """
    parser = verb_parser(
        "captions",
        "Is the set of 64 captions that belongs to 64 pictures more like them than 10 random sets, and than 10 "
        "sets of nearest neighbours? ContraSim (Rahamim and Belinkov 2024) beside measures that learn nothing, and trained on "
        "pictures and captions that do not belong together. All tests are on held-out pairs; captions that several pictures "
        "share are taken once.",
    )
    parser.add_argument("model", help="whose image tower: whatever `mmclip eval` takes")
    parser.add_argument("text_model", nargs="?", help="whose text tower (default: the same model's)")
    parser.add_argument("--image-layer", default="embedding", help="such as `block 6 mean` (default: embedding)")
    parser.add_argument("--text-layer", default="embedding", help="the same of the text tower")
    parser.add_argument("--set-size", type=at_least(LEAST_SET), default=64, help="pictures of a set (default: 64)")
    add_data_flags(parser)
    add_contrasim_flags(parser)
    options = parser.parse_args(arguments)
    settings = contrasim_of_flags(options)
    layers = Layers.of_flags(options, screen)
    rows, captions = layers.one_caption_each()
    text_model = options.text_model or options.model
    left = _layer(layers.images(options.model), options.image_layer, options.model)[rows]
    right = _layer(layers.texts(text_model, captions), options.text_layer, text_model)
    layers.close()
    names = f"{options.model}, {options.image_layer}", f"{text_model}, {options.text_layer}"
    with screen.bars("steps") as advance:
        sides = left.to(layers.how.device), right.to(layers.how.device)
        found = match_pairs(*sides, names, settings, set_size=options.set_size, progress=advance)
    screen.say(f"pictures by {names[0]}; captions by {names[1]}")
    tell(found, pair_table(found), options.output, RESULT, screen)
    return found


def _layer(features: LayerFeatures, name: str, model: str) -> Tensor:
    if name not in features.names:
        flag = f"--{features.tower}-layer"
        raise UserError(f"{flag} {name!r}: the {features.tower} tower of {model} has {', '.join(features.names)}")
    return features[name]
