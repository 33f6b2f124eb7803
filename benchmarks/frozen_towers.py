"""Seconds of an epoch of heads on cached features: pictures with five captions each, once encoded, against encoding each time.

    python benchmarks/frozen_towers.py [--pictures 6000]

Towers with the widths of the real ones (docs/finetuning.md): 1,280 features a picture, 384 a caption, two heads of 512. The
pictures are generated at 64 px, and the towers are small, for the epochs that are timed see neither.
"""

import argparse
import json
import shutil
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from mmclip_data.shards import ShardWriter
from mmclip_launch.run.config import load_run_config
from mmclip_launch.train import train

RUN = """
output = "{folder}/{name}"
{features}
global_batch_size = 256
precision = "fp32"
device = "cpu"
length = {{ epochs = {epochs} }}
checkpoint = {{ every_steps = 1000000 }}
evaluation = {{ report = false }}
towers = {{ lock_image = true, lock_text = true }}
[data]
source = {{ type = "tars", shards = "{folder}/shards" }}
captions = ["json:captions"]
[model.inline]
embed_dim = 512
vision_cfg = {{ timm_model_name = "mobilenetv2_100", timm_pool = "avg", timm_proj = "linear", image_size = 64 }}
[model.inline.text_cfg]
context_length = 32
vocab_size = 49408
hf_model_name = "{folder}/bert"
hf_pooler_type = "mean_pooler"
hf_proj_type = "linear"
"""
WORDS = ("red", "green", "small", "old", "cat", "house", "tree", "boat", "beside", "under", "a", "the", "with", "two")


def write_shards(folder: Path, pictures: int) -> None:
    """Smooth noise with five captions of about ten words each."""
    random = np.random.default_rng(0)
    with ShardWriter(folder, "{:06d}.tar", 1000) as writer:
        for number in range(pictures):
            small = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            buffer = BytesIO()
            Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
            captions = [" ".join(random.choice(WORDS, 10)) + f" {number} {k}" for k in range(5)]
            writer.add(f"{number:06d}", {"jpg": buffer.getvalue(), "json": json.dumps({"captions": captions}).encode()})


def write_text_tower(folder: Path) -> None:
    """A BERT of MiniLM's width and one layer."""
    from transformers import BertConfig

    config = BertConfig(
        vocab_size=49408, hidden_size=384, num_hidden_layers=1, num_attention_heads=12, intermediate_size=1536,
        max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    config.save_pretrained(folder)


def seconds(folder: Path, name: str, features: str, epochs: int) -> np.ndarray:
    """Of a whole run (start, steps and one checkpoint): on the wall, and of this process on the cores."""
    path = folder / f"{name}.toml"
    path.write_text(RUN.format(folder=folder, name=name, features=features, epochs=epochs))
    started = np.array([time.perf_counter(), time.process_time()])
    train(load_run_config(path))
    return np.array([time.perf_counter(), time.process_time()]) - started


def main() -> None:
    """Print a table and keep it as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--keep", type=Path, help="write the figures here")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        write_shards(folder / "shards", options.pictures)
        write_text_tower(folder / "bert")
        features = f'image_features = "{folder}/features"\ntext_features = "{folder}/features"'
        first = seconds(folder, "first", features, 1)
        one, eleven = seconds(folder, "one", features, 1), seconds(folder, "eleven", features, 11)
        each = seconds(folder, "each", "", 1) - (one - (eleven - one) / 10)
        rows = {
            "once: encoding and an epoch": first,
            "an epoch on features": (eleven - one) / 10,
            "start and end of a run": one - (eleven - one) / 10,
            "an epoch that encodes": each,
        }
        for name, (wall, cores) in rows.items():
            print(f"{name:30}{wall:8.2f} s, {cores:8.2f} s of one core")
        if options.keep is not None:
            figures = {
                name: dict(zip(("wall", "cores"), values.tolist(), strict=True)) for name, values in rows.items()
            }
            options.keep.write_text(json.dumps({"pictures": options.pictures, "seconds": figures}, indent=1) + "\n")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
