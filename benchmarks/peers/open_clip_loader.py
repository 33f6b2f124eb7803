"""open_clip's own data path, measured on request; run by the peer's own interpreter, which stays for the whole benchmark.

    RANK=0 WORLD_SIZE=1 python open_clip_loader.py '{"batch_size": ..., "image_size": ..., "buffer": ...}'

A line on standard input asks for one measurement, `{"part": "load", "shards": ..., "samples": ...}`; a line on standard
output answers with CPU seconds a sample and with what the work came to. Data sets stay open between requests.
"""

import json
import sys
import time
from argparse import Namespace
from itertools import islice

import open_clip_train.data as data
import torch
import webdataset as wds
from open_clip import get_tokenizer
from open_clip.transform import image_transform


def main() -> None:
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    # Its buffer of 5,000 samples first reads two for each that it hands out; at this size it reads one, as in a long run.
    data._SAMPLE_SHUFFLE_SIZE = data._SAMPLE_SHUFFLE_INITIAL = settings["buffer"]
    parts = {"load": Load(settings), "read": Read(settings), "collate": Collate(settings)}
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(parts[request["part"]](request)), flush=True)


class Load:
    """Shards to batches, as `get_wds_dataset` gives them to the trainer with `--workers 0`."""

    def __init__(self, settings: dict) -> None:
        self.settings = settings
        self.transform = image_transform(settings["image_size"], is_train=True)
        self.tokenizer = get_tokenizer("ViT-B-32")
        self.open = {}

    def __call__(self, request: dict) -> dict:
        batches = self.open.get(request["shards"]) or iter(self.dataset(request["shards"]).dataloader)
        self.open[request["shards"]] = batches
        started, total, mean, width = time.process_time(), 0, 0.0, 0
        for images, texts in islice(batches, request["samples"] // self.settings["batch_size"]):
            assert images.dtype == torch.float32, "open_clip normalises in the loader"
            total += len(images)
            mean += float(images[:, :, ::16, ::16].mean()) * len(images)
            width = texts.shape[1]
        seconds = time.process_time() - started
        return {"cpu": seconds / total, "samples": total, "mean": mean / total, "tokens": width}

    def dataset(self, shards: str):
        args = Namespace(
            train_data=shards,
            train_num_samples=10_000_000,
            train_data_upsampling_factors=None,
            dataset_resampled=False,
            seed=0,
            batch_size=self.settings["batch_size"],
            workers=0,
            world_size=1,
        )
        return data.get_wds_dataset(args, self.transform, True, tokenizer=self.tokenizer)


class Read:
    """Shards to samples in bytes: the stages of `get_wds_dataset` before it decodes."""

    def __init__(self, settings: dict) -> None:
        self.settings = settings

    def __call__(self, request: dict) -> dict:
        stages = [
            wds.SimpleShardList(request["shards"]),
            data.detshuffle2(data._SHARD_SHUFFLE_SIZE, data._SHARD_SHUFFLE_INITIAL, seed=0, epoch=0),
            wds.split_by_node,
            wds.split_by_worker,
            data.tarfile_to_samples_nothrow,
            wds.shuffle(bufsize=self.settings["buffer"], initial=self.settings["buffer"]),
            wds.select(data.filter_no_caption_or_no_image),
        ]
        started, total, size = time.process_time(), 0, 0
        for sample in wds.DataPipeline(*stages):
            total += 1
            size += len(sample["jpg"]) + len(sample["txt"])
        return {"cpu": (time.process_time() - started) / total, "samples": total, "bytes": size}


class Collate:
    """Samples to a batch: its `wds.batched`."""

    def __init__(self, settings: dict) -> None:
        size, side = settings["batch_size"], settings["image_size"]
        self.samples = [(torch.rand(3, side, side), torch.randint(0, 49408, (77,))) for _ in range(size)]

    def __call__(self, request: dict) -> dict:
        stage = wds.batched(len(self.samples), partial=False)
        count = request["samples"] // len(self.samples)
        started, total = time.process_time(), 0
        for images, texts in stage(sample for _ in range(count) for sample in self.samples):
            total += len(images)
            assert len(texts) == len(images)
        return {"cpu": (time.process_time() - started) / total, "samples": total}


if __name__ == "__main__":
    main()
