"""Real photographs as JPEG shards of one size: what a loader has to decode, at the weight that photographs have.

The originals come with two packages: two with scikit-learn, which is installed, and six in the wheel of scikit-image, which is
downloaded once and only unzipped. They are cut square and resized, and get the grain of a camera: an enlarged or smoothed
picture would be lighter than a photograph of its size, and decode too fast.
"""

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from measure.peer import PEERS
from mmclip_data.shards import ShardWriter

WHEEL = "scikit-image==0.25.2"
NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "retina.jpg")
GRAIN = 4.0
"""Standard deviation, of 255."""
GRAINS_EACH = 4
"""Different grains of each photograph: with fewer files a branch predictor would learn them."""
WORDS = (
    "two",
    "red",
    "old",
    "dogs",
    "cats",
    "house",
    "tree",
    "street",
    "river",
    "near",
    "under",
    "with",
    "people",
    "sky",
)


def photographs() -> list[Image.Image]:
    """The originals, in RGB."""
    found = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    with zipfile.ZipFile(_wheel()) as wheel:
        for name in NAMES:
            with Image.open(io.BytesIO(wheel.read(f"skimage/data/{name}"))) as image:
                found.append(image.convert("RGB"))
    return found


def write_shards(folder: Path, side: int, quality: int, samples: int, samples_per_shard: int = 128) -> list[int]:
    """Shards of `samples` square JPEGs (4:2:0) as img2dataset writes them, with captions of 12 words; sizes in bytes.

    The sizes are those of the pictures.
    """
    rng = np.random.default_rng(side)
    files = [_jpeg(image, side, quality, rng) for image in photographs() for _ in range(GRAINS_EACH)]
    with ShardWriter(folder, "{:06d}.tar", samples_per_shard=samples_per_shard) as writer:
        for number in range(samples):
            caption = " ".join(rng.choice(WORDS, 12))
            picture, key = files[number % len(files)], f"{number:08d}"
            writer.add(key, {"jpg": picture, "txt": caption.encode(), "json": _record(key, picture, caption, side)})
    return [len(file) for file in files]


def _record(key: str, picture: bytes, caption: str, side: int) -> bytes:
    """The third member that img2dataset writes for each sample."""
    record = {
        "url": f"https://example.org/photographs/{key}.jpg",
        "key": key,
        "caption": caption,
        "status": "success",
        "error_message": None,
        "width": side,
        "height": side,
        "original_width": 4 * side,
        "original_height": 4 * side,
        "exif": "{}",
        "sha256": hashlib.sha256(picture).hexdigest(),
    }
    return json.dumps(record, indent=4).encode()


def _jpeg(image: Image.Image, side: int, quality: int, rng: np.random.Generator) -> bytes:
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    square = image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + short, top + short))
    grainy = np.asarray(square, dtype=np.float64) + rng.normal(0, GRAIN, (side, side, 1))
    out = io.BytesIO()
    Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=quality, subsampling="4:2:0")
    return out.getvalue()


def _wheel() -> Path:
    folder = PEERS / "photographs"
    if not list(folder.glob("*.whl")):
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "-d",
            str(folder),
        ]
        subprocess.run([*command, WHEEL], check=True)
    return next(folder.glob("*.whl"))
