"""Run under torchrun or python: train a run, and write what this process holds of it.

Arguments: the run file, the folder for the answers, flags.
"""

import json
import sys
from pathlib import Path

from torch.distributed.tensor import DTensor

from mmclip.ops.shards import local
from mmclip.training.step import TrainStep
from mmclip_launch.run.config import load_run_config
from mmclip_launch.run.peers import rank
from mmclip_launch.train import train


def main(run_file: Path, answers: Path, *flags: str) -> None:
    resume, own = "--resume" in flags, [flag for flag in flags if flag != "--resume"]
    stepped = TrainStep.__call__

    def noted(self: TrainStep, batch, progress):
        report = stepped(self, batch, progress)
        state = [value for entry in self.bare_optimizer.state.values() for value in entry.values()]
        everything = [*self.module.parameters(), *state, *(self.ema.towers.parameters() if self.ema else ())]
        held = {
            "sharded": all(isinstance(parameter, DTensor) for parameter in self.module.parameters()),
            "bytes_here": sum(local(tensor).nbytes for tensor in everything),
            "bytes": sum(tensor.nbytes for tensor in everything),
        }
        (answers / f"held-{rank()}.json").write_text(json.dumps(held))
        return report

    TrainStep.__call__ = noted
    train(load_run_config(run_file, own), resume)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
