"""`mmclip contrasim ...`: the learned similarity of representations, with the controls that say whether it may be read.

mmclip contrasim layers runs/a runs/b runs/c runs/d runs/e --data data/emoji/test.tar --held-out runs/a runs/b
mmclip contrasim captions runs/a --data data/emoji/test.tar
mmclip contrasim digits --output contrasim
"""

import importlib
from collections.abc import Sequence

from mmclip.errors import UserError

VERBS = {
    "layers": "are layers of several models told apart across seeds: mmclip contrasim layers MODEL MODEL ... --data SHARDS",
    "captions": "are captions found for pictures: mmclip contrasim captions MODEL [TEXT_MODEL] --data SHARDS",
    "digits": "the study on small models over digits, in minutes: mmclip contrasim digits",
}
USAGE = f"expected: mmclip contrasim {'|'.join(VERBS)} [--help]"
EXIT_CODES = (
    "Exit codes: 0 a verdict is given; 4 none is, and the reason is told once all figures are printed and written; 2 a "
    "mistake in what was asked. `mmclip compare` judges by other figures: ContraSim is commentary."
)


def main(arguments: Sequence[str]) -> None:
    """Dispatch to the verb below `contrasim`.

    Raises:
        UserError: there is no such verb.
        GuardError: no verdict is given.
    """
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if verb in ("-h", "--help"):
        print("\n".join([USAGE, *(f"  {name:10}{says}" for name, says in VERBS.items()), "", EXIT_CODES]))
        return
    if verb not in VERBS:
        raise UserError(f"contrasim {verb!r}: {USAGE}")
    importlib.import_module(f"mmclip_launch.contrasim.{verb}").main(rest)
