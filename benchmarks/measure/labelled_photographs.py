"""Evaluation sets of photographs in CLIP_benchmark's layout: one with labels, one with captions, no two pictures alike."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from measure.photographs import GRAIN, WORDS, photographs

SHARDS = 8
"""More than the peer's loader has processes, which its webdataset asks for."""
CAPTIONS_EACH = 5


def write_labelled(root: Path, names: Sequence[str], samples: int, side: int, quality: int) -> None:
    """Pictures with one of `names` each, as `clip_benchmark_export_wds` lays them out."""
    rng = np.random.default_rng(1)
    originals = photographs()
    rows = []
    for number in range(samples):
        label = number % len(names)
        picture = variation(originals[label % len(originals)], side, quality, rng)
        rows.append({"cls": str(label).encode(), "jpg": picture})
    _write(root, rows)
    (root / "classnames.txt").write_text("".join(f"{name}\n" for name in names))


def write_captioned(root: Path, samples: int, side: int, quality: int) -> None:
    """Pictures with five different captions each."""
    rng = np.random.default_rng(2)
    originals = photographs()
    rows = []
    for number in range(samples):
        captions = [f"{' '.join(rng.choice(WORDS, 9))}, {number} of {place}" for place in range(CAPTIONS_EACH)]
        picture = variation(originals[number % len(originals)], side, quality, rng)
        rows.append({"jpg": picture, "txt": "\n".join(captions).encode()})
    _write(root, rows)
    (root / "dataset_type.txt").write_text("retrieval\n")


def variation(original: Image.Image, side: int, quality: int, rng: np.random.Generator) -> bytes:
    """Another part of a photograph in other colours and with other grain, as JPEG."""
    short = min(original.size)
    part = short * rng.uniform(0.4, 1.0)
    left, top = (rng.uniform(0, length - part) for length in original.size)
    square = original.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + part, top + part))
    square = ImageEnhance.Color(square).enhance(rng.uniform(0.2, 2.0))
    square = ImageEnhance.Brightness(square).enhance(rng.uniform(0.5, 1.5))
    grainy = np.asarray(square, dtype=np.float64) + rng.normal(0, GRAIN, (side, side, 1))
    out = io.BytesIO()
    Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=quality, subsampling="4:2:0")
    return out.getvalue()


def _write(root: Path, rows: Sequence[Mapping[str, bytes]]) -> None:
    folder = root / "test"
    folder.mkdir(parents=True)
    (folder / "nshards.txt").write_text(f"{SHARDS}\n")
    for shard, part in enumerate(np.array_split(np.arange(len(rows)), SHARDS)):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for number in part.tolist():
                for extension, data in rows[number].items():
                    member = tarfile.TarInfo(f"s{number:07d}.{extension}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
