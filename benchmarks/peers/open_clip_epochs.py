"""Which samples open_clip's trainer hands out, epoch by epoch; run by the peer's own interpreter.

    RANK=0 WORLD_SIZE=1 python open_clip_epochs.py '{"shards": ..., "samples": ..., "batch_size": ..., ...}'

It builds the training data set with the trainer's own `get_wds_dataset` and steps through it as `train_one_epoch` does.
Only picture and caption are replaced: captions of the benchmark's shards are numbers, and the number is all that is kept.
"""

import json
import os
import sys
from argparse import Namespace

import torch
from open_clip_train.data import get_wds_dataset
from open_clip_train.main import random_seed


def main() -> None:
    wanted = json.loads(sys.argv[1])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    args = Namespace(
        train_data=wanted["shards"],
        train_num_samples=wanted["samples"],
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=wanted["seed"],
        batch_size=wanted["batch_size"] // world_size,
        workers=wanted["workers"],
        world_size=world_size,
    )
    random_seed(args.seed, 0)
    random_seed(args.seed, rank)  # as the trainer: once for the weights, once for everything else
    data = get_wds_dataset(
        args, lambda picture: torch.zeros(1), True, tokenizer=lambda text: torch.tensor([[int(text)]])
    )
    epochs = []
    for epoch in range(wanted["epochs"]):
        data.set_epoch(epoch)
        epochs.append([numbers.flatten().tolist() for _, numbers in data.dataloader])
    print(json.dumps(epochs))


if __name__ == "__main__":
    main()
