"""The process that copies checkpoints to a mirror while training goes on.

    python -m mmclip_launch.mirror.process

reads orders, a line of JSON each: the first says where and from which step the run goes on, each later one names a checkpoint
that is on the disk.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from mmclip.errors import MachineError, UserError
from mmclip.training.checkpoint.lease import StaleLeaseError
from mmclip.training.checkpoint.writer import NICENESS
from mmclip_launch.mirror.place import Holder, Place
from mmclip_launch.mirror.upload import upload


def main() -> None:
    """Obey until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # as the writer: the trainer decides
    os.nice(NICENESS)
    place: Place | None = None
    holder: Holder | None = None
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if place is None or holder is None:
                place = Place(order["url"])
                holder = _holder(place, order)
                _answer("ready", token=holder.token, nonce=holder.nonce)
                continue
            folder = Path(order["folder"])
            upload(place, holder, Path(order["run"]), folder)
            place.retire(order["keep"], holder)
            _answer("durable", folder=str(folder))
        except StaleLeaseError as error:
            _answer("stale", message=str(error))
        except (MachineError, UserError, OSError) as error:
            _answer("failed", message=str(error))


def _holder(place: Place, order: dict[str, Any]) -> Holder:
    """A process that takes the place of one that died writes under the same token."""
    if order["token"]:
        return Holder(order["token"], order["nonce"])
    return place.claim(order["resumed_step"])


def _answer(kind: str, **rest: object) -> None:
    try:
        print(json.dumps({"kind": kind, **rest}), flush=True)
    except BrokenPipeError:  # the trainer is gone; what it asked for is done
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
