"""Small models of scikit-learn's handwritten digits, trained by mmclip: what `mmclip compare` has to tell apart."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from mmclip_data.shards.write import ShardWriter
from mmclip_launch.run.config import load_run_config
from mmclip_launch.train import train

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE = 16
HELD_OUT = 597

RUN = """
output = "unused"
global_batch_size = 128
precision = "fp32"
device = "cpu"
seed = {seed}
length = {{ steps = {steps} }}
log_every_steps = 50
data = {{ source = {{ type = "tars", shards = "{shards}" }}, workers = 0 }}
evaluation = {{ report = false }}
optimizer = {{ lr = {lr} }}
{model}
"""
FROM_NOTHING = """
[model.inline]
embed_dim = 32
vision_cfg = { image_size = 16, patch_size = 4, width = 64, layers = 3, head_width = 32 }
text_cfg = { context_length = 8, vocab_size = 49408, width = 32, heads = 1, layers = 2 }
"""


def digit_shards(folder: Path) -> dict[str, Path]:
    """`train`, `test`, and `permuted`: the pictures of `train` with the labels of others."""
    digits = load_digits()
    images, labels = digits.images, digits.target
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order], labels[order]
    learnt = slice(HELD_OUT, None)
    wrong = np.random.default_rng(1).permutation(labels[learnt])
    sides = {
        "train": (images[learnt], labels[learnt]),
        "test": (images[:HELD_OUT], labels[:HELD_OUT]),
        "permuted": (images[learnt], wrong),
    }
    return {name: _shard(folder / f"{name}.tar", *side) for name, side in sides.items()}


def _shard(path: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    with ShardWriter(path.parent, path.name, samples_per_shard=None) as writer:
        for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            picture, buffer = Image.fromarray((pixels * 15.9).astype(np.uint8)), io.BytesIO()
            picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, format="PNG")
            members = {
                "png": buffer.getvalue(),
                "cls": str(int(label)).encode(),
                "txt": f"the number {WORDS[int(label)]}".encode(),
            }
            writer.add(f"d{number:04}", members)
    return path


def trained(folder: Path, shards: Path, *, seed: int = 0, steps: int = 150, init: Path | None = None) -> Path:
    """The folder of a run from nothing, or on from the weights of another."""
    model = FROM_NOTHING if init is None else f'[model]\ninit = "{init}"\n'
    text = RUN.format(seed=seed, steps=steps, shards=shards, lr=2e-3 if init is None else 5e-4, model=model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".toml")
    path.write_text(text)
    return train(load_run_config(path, ["--output", str(folder)]), resume=False)
