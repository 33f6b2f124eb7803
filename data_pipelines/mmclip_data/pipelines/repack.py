"""Shards anew: smaller pictures, another format, another size of shards, another order; all else is copied as it is.

    mmclip shards repack 'raw/{00000..00127}.tar' --output data/256 --short_side 256 --quality 90 --shuffle_seed 0

A picture that already fits keeps its own bytes. Others are decoded by the rule that training uses: orientation applied,
alpha over white, first frame. `job.jsonl` records what was done, and with which library.
"""

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, features
from PIL import __version__ as pillow_version

from mmclip.config import config
from mmclip.errors import BadSampleError, UserError
from mmclip.randomness import Stream, permutation
from mmclip_data.loading.decode import decode_image
from mmclip_data.pipelines.job import Dropped, JobReport, Kept, Outcome, Track, quiet
from mmclip_data.pipelines.pairs import EXTENSIONS, UNDECODABLE, too_large
from mmclip_data.pipelines.rewrite import Inputs, RewriteConfig, open_inputs, rewrite
from mmclip_data.shards.names import IMAGE_EXTENSIONS
from mmclip_data.shards.pictures import look_at

PILLOW_NAMES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
WEBP_EFFORT = 4


@config
class RepackConfig(RewriteConfig):
    """Write the samples of shards anew; each choice that is not made leaves that side of them as it is."""

    short_side: int | None = None
    """Scale pictures down until their short side has so many pixels; smaller ones are never enlarged."""
    format: Literal["keep", "jpg", "webp", "png"] = "keep"
    """Format of the pictures; `keep` encodes a scaled picture in its own."""
    quality: int = 90
    """Of JPEG and WebP, 1 to 100."""
    shuffle_seed: int | None = None
    """Mix the samples of all shards, in an order that this number decides."""


@dataclass(frozen=True)
class _Repack:
    """The work on some rows; travels to each process once."""

    inputs: Inputs
    short_side: int | None
    format: str
    quality: int
    keep_keys: bool

    def __call__(self, rows: list[int]) -> list[Outcome]:
        return [self._outcome(row) for row in rows]

    def _outcome(self, row: int) -> Outcome:
        members = self.inputs.read(row)
        if isinstance(members, Dropped):
            return members
        key = self.inputs.key(row) if self.keep_keys else None
        if self.short_side is None and self.format == "keep":
            return Kept(members, key)
        new: dict[str, bytes] = {}
        for extension, payload in members.items():
            if extension not in IMAGE_EXTENSIONS:
                new[extension] = payload
                continue
            problem = too_large(payload)
            if problem:
                return Dropped(self.inputs.name(row), *problem)
            try:
                name, picture = self._picture(extension, payload)
            except BadSampleError as error:
                return Dropped(self.inputs.name(row), UNDECODABLE, str(error))
            if name in new:
                detail = f"{', '.join(sorted(members))} would both be {name}"
                return Dropped(self.inputs.name(row), "two pictures in one sample", detail)
            new[name] = picture
        return Kept(new, key)

    def _picture(self, extension: str, payload: bytes) -> tuple[str, bytes]:
        """Extension and bytes of the new picture; its own where nothing is to be changed."""
        seen = look_at(payload)
        own = EXTENSIONS.get(seen.format, "png")
        wanted = own if self.format == "keep" else self.format
        fits = self.short_side is None or 0 < min(seen.width, seen.height) <= self.short_side
        if fits and wanted == own and seen.format in EXTENSIONS:
            return (extension if EXTENSIONS.get(seen.format) == extension or extension == "jpeg" else own), payload
        image = decode_image(payload)
        if self.short_side is not None and min(image.size) > self.short_side:
            image = scaled(image, self.short_side)
        return wanted, encoded(image, wanted, self.quality)


def scaled(image: Image.Image, short_side: int) -> Image.Image:
    """`image` with a short side of so many pixels, its aspect kept, antialiased."""
    short = min(image.size)
    width, height = (max(1, round(side * short_side / short)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def encoded(image: Image.Image, extension: str, quality: int) -> bytes:
    """The picture's file; the same pixels give the same bytes with the same libraries."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {
        "jpg": {"quality": quality},
        "webp": {"quality": quality, "method": WEBP_EFFORT},
        "png": {},
    }
    image.save(buffer, PILLOW_NAMES[extension], **options[extension])
    return buffer.getvalue()


def make_repack(config: RepackConfig, track: Track = quiet) -> JobReport:
    """Write every sample whose picture can be decoded where it must be; name the others.

    Raises:
        UserError: a number is out of its range, or nothing is left.
    """
    if not 1 <= config.quality <= 100:
        raise UserError(f"quality={config.quality}: expected 1 to 100")
    if config.short_side is not None and config.short_side < 1:
        raise UserError(f"short_side={config.short_side}: expected at least 1")
    inputs = open_inputs(config, track)
    seed = config.shuffle_seed
    rows = np.arange(len(inputs)) if seed is None else permutation(seed, Stream.SHARD_ORDER, 0, len(inputs))
    work = _Repack(inputs, config.short_side, config.format, config.quality, config.keys == "keep")
    changes = config.short_side is not None or config.format != "keep"
    versions = _versions() if changes else None
    return rewrite("repack", config, inputs, rows, work, track, encoders=versions)


def _versions() -> dict[str, str]:
    """Encoded bytes are only as stable as the encoders."""
    found = {name: features.version(name) for name in ("libjpeg_turbo", "webp", "zlib")}
    return {"pillow": pillow_version} | {name: version for name, version in found.items() if version}
