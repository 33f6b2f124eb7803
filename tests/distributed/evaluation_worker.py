"""Run under torchrun: `mmclip eval` on ranks of which the second fails in the way that the first argument names.

Arguments: raise, die or die-later, then those of `mmclip eval`.
"""

import os
import signal
import sys

from torch import Tensor

from mmclip.towers.two_tower import TwoTower
from mmclip_launch.cli import run_verb
from mmclip_launch.evaluate import main

embed, calls = TwoTower.embed_uint8, [0]


def failing(self: TwoTower, images: Tensor) -> Tensor:
    calls[0] += 1
    if sys.argv[1] == "raise":
        raise TypeError("only here")
    if sys.argv[1] == "die" or calls[0] > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return embed(self, images)


if os.environ["RANK"] == "1":
    TwoTower.embed_uint8 = failing

sys.exit(run_verb(main, sys.argv[2:]))
