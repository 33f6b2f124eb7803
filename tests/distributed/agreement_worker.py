"""`torchrun agreement_worker.py FOLDER`: each rank votes by a script, and writes what came out at each edge."""

import json
import os
import sys
from dataclasses import astuple
from pathlib import Path

import torch.distributed as dist

from mmclip.training.agreement import Agreement

VOTES = {(3, 1): (7, False), (5, 0): (0, True), (6, 0): (2, False)}
"""(edge, rank): (stop, save)"""


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank, found = dist.get_rank(), {}
    for name, step_seconds in (("fast", 0.01), ("slow", 2.0)):
        ticks = iter(range(100))
        agreement = Agreement(2, clock=lambda ticks=ticks, seconds=step_seconds: seconds * next(ticks))
        edges = [agreement.at_edge(*VOTES.get((edge, rank), (0, False))) for edge in range(7)]
        last = agreement.finish()
        found[name] = [list(astuple(decision)) for decision in (*edges, last)]
        found[f"{name} any"] = [agreement.any(False), agreement.any(rank == 1)]
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]))
