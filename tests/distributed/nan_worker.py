"""Run under torchrun: train a few steps while one rank's towers give NaN at one of them.

Arguments: the run file, the folder of the run, the step (from 1) and the rank that go wrong.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmclip.batch import TowerOutput
from mmclip.training.step import TrainStep
from mmclip_launch.run.config import load_run_config
from mmclip_launch.run.peers import rank
from mmclip_launch.train import train


def main(run_file: Path, folder: Path, bad_step: int, bad_rank: int) -> None:
    stepped = TrainStep.__call__

    def poisoned(self: TrainStep, batch, progress):
        def spoil(module: object, inputs: object, output: TowerOutput) -> TowerOutput:
            bad = torch.arange(len(output.text_embed)) == 1
            spoiled = torch.where(bad[:, None], torch.nan, output.text_embed)
            return TowerOutput(output.image_embed, spoiled, output.logit_scale, output.logit_bias)

        is_bad = progress.step + 1 == bad_step and rank() == bad_rank
        handle = self.module.towers.register_forward_hook(spoil) if is_bad else None
        report = stepped(self, batch, progress)
        if handle is not None:
            handle.remove()
        state = {name: tensor.clone() for name, tensor in self.module.state_dict().items()}
        save_file(state, folder.parent / f"{folder.name}-weights-{progress.step + 1}-{rank()}.safetensors")
        return report

    TrainStep.__call__ = poisoned
    train(load_run_config(run_file, ["--output", str(folder)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
