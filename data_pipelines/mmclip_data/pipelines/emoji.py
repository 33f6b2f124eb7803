"""The data set that comes with mmclip: emoji in three drawing styles, split by style and by concept.

    mmclip shards make emoji --output data/emoji

Training shards hold two styles; the third style and a share of the concepts are never trained on. The folder
`mmclip_data/embedded/emoji` is this job's output, committed.
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, features

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_data.pipelines.emoji_concepts import Concept, normal_code_points, read_concepts
from mmclip_data.pipelines.npm import NpmPackage, fetch
from mmclip_data.pipelines.report import MakeReport, prepare_output
from mmclip_data.shards.atomic import atomic_file
from mmclip_data.shards.index import index_path
from mmclip_data.shards.write import ShardWriter

IMAGE_PX = 64
WEBP_QUALITY = 85
WEBP_METHOD = 6

NOTO = NpmPackage(
    "emoji-datasource-google",
    "16.0.0",
    "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
)
TWEMOJI = NpmPackage(
    "emoji-datasource-twitter",
    "16.0.0",
    "sha512-7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
)
FLUENT = NpmPackage(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
)
NAMES = NpmPackage(
    "unicode-emoji-json",
    "0.9.0",
    "sha512-HdrQW/7SdbXUsTd8uTATv7LvQJkCSgbAgRCDCtOhQ6xn3EAx+xZHQtRniOXWJK3ywIqPegkNhP4U4EbuFsiQng==",
)
KEYWORDS = NpmPackage(
    "emojilib",
    "4.0.3",
    "sha512-KbWiYre9aRSaPbHrHZIz9zmoM+21LAsK1VFJtnTh1VCtWE/rNMDviGhQTmselFl95dhqtGlY22iH0leG5BuW0g==",
)
STYLES = {"noto": (NOTO, "img/google/64"), "twemoji": (TWEMOJI, "img/twitter/64"), "fluent": (FLUENT, "assets")}


class EmojiShard(NamedTuple):
    """One style of the trained or of the held-out concepts."""

    name: str
    style: str
    held_out: bool


SHARDS = (
    EmojiShard("train-noto", "noto", False),
    EmojiShard("train-twemoji", "twemoji", False),
    EmojiShard("unseen-style-fluent", "fluent", False),
    EmojiShard("unseen-concept-noto", "noto", True),
    EmojiShard("unseen-concept-twemoji", "twemoji", True),
    EmojiShard("unseen-concept-fluent", "fluent", True),
)


@config
class EmojiConfig:
    """Emoji pictures and names from pinned npm packages to shards; needs npm and the network once."""

    output: Path
    """Folder to write; must be new or empty."""
    cache: Path = Path(".cache/npm")
    """Where downloaded packages are kept."""
    overwrite: bool = False
    """Replace the shards of an earlier run."""


def make_emoji(config: EmojiConfig) -> MakeReport:
    """Write the six shards of `SHARDS`: the same bytes wherever Pillow brings the same libwebp.

    Raises:
        NpmError: a package cannot be fetched.
        UserError: the output folder is not empty, or two concepts have the same name.
    """
    folders = {style: fetch(package, config.cache) / below for style, (package, below) in STYLES.items()}
    concepts, skipped = read_concepts(
        fetch(NOTO, config.cache), fetch(NAMES, config.cache), fetch(KEYWORDS, config.cache)
    )
    pictures = {style: _pictures(folder) for style, folder in folders.items()}
    drawn = [concept for concept in concepts if all(concept.code_points in of_style for of_style in pictures.values())]
    skipped["not drawn in all styles"] = _names_of_others(concepts, drawn)
    images = {style: {c.code_points: draw(pictures[style][c.code_points]) for c in drawn} for style in STYLES}
    distinct = _distinct(drawn, list(images.values()))
    skipped["same picture as another concept"] = _names_of_others(drawn, distinct)
    prepare_output(config.output, config.overwrite)
    files: list[Path] = []
    for shard in SHARDS:
        chosen = [concept for concept in distinct if concept.held_out == shard.held_out]
        files += _write(config.output, shard, chosen, images[shard.style])
    counts = _counts(distinct)
    files.append(_write_manifest(config.output, counts, skipped))
    return MakeReport(config.output, counts, tuple(files), skipped)


def draw(path: Path) -> UInt8[np.ndarray, "64 64 3"]:
    """The picture over white, fitted into the square and centred, averaged down where it is larger."""
    with Image.open(path) as picture:
        picture = picture.convert("RGBA")
    side = max(picture.size)
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    flat = canvas.convert("RGB")
    if side != IMAGE_PX:
        flat = flat.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.LANCZOS)
    return np.asarray(flat)


def sample_members(concept: Concept, style: str, image: UInt8[np.ndarray, "64 64 3"]) -> dict[str, bytes]:
    """`webp`, `txt` (the name) and `json` (everything that is known about the concept)."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "WEBP", quality=WEBP_QUALITY, method=WEBP_METHOD)
    facts = {
        "base_concept": concept.base_concept,
        "captions": concept.captions(),
        "category": concept.category,
        "code_points": concept.code_points,
        "keywords": concept.keywords,
        "name": concept.name,
        "style": style,
        "subcategory": concept.subcategory,
    }
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return {"webp": encoded.getvalue(), "txt": concept.name.encode(), "json": text.encode()}


def _pictures(folder: Path) -> dict[str, Path]:
    """Every picture by normal code points; where two files differ in a variation selector only, the first by name."""
    pictures: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".png", ".webp"):
            pictures.setdefault(normal_code_points(path.stem), path)
    if not pictures:
        raise UserError(f"{folder}: no pictures; delete the package from the cache and try again")
    return pictures


def _distinct(concepts: list[Concept], styles: list[dict[str, np.ndarray]]) -> list[Concept]:
    """Without concepts that look exactly like another one in some style: no model could tell their names apart.

    Of those that share a picture the one with the shortest name stays: "family" rather than "family man, man, boy".
    """
    seen: list[set[bytes]] = [set() for _ in styles]
    kept: set[str] = set()
    for concept in sorted(concepts, key=lambda concept: (len(concept.name), concept.name)):
        pixels = [images[concept.code_points].tobytes() for images in styles]
        if not any(picture in taken for picture, taken in zip(pixels, seen, strict=True)):
            kept.add(concept.code_points)
            for picture, taken in zip(pixels, seen, strict=True):
                taken.add(picture)
    return [concept for concept in concepts if concept.code_points in kept]


def _write(output: Path, shard: EmojiShard, concepts: list[Concept], images: dict[str, np.ndarray]) -> Iterator[Path]:
    with ShardWriter(output, f"{shard.name}.tar", samples_per_shard=None) as writer:
        for concept in concepts:
            members = sample_members(concept, shard.style, images[concept.code_points])
            writer.add(concept.code_points, members)
    for path in writer.paths:
        yield from (path, index_path(path))


def _counts(concepts: list[Concept]) -> dict[str, int]:
    held_out = [concept for concept in concepts if concept.held_out]
    return {
        "concepts": len(concepts),
        "trained concepts": len(concepts) - len(held_out),
        "held-out concepts": len(held_out),
        "base concepts": len({concept.base_concept for concept in concepts}),
        "held-out base concepts": len({concept.base_concept for concept in held_out}),
    }


def _write_manifest(output: Path, counts: dict[str, int], skipped: dict[str, tuple[str, ...]]) -> Path:
    """What the shards were made from and with, so that a rebuild can tell a changed encoder from changed data."""
    packages = [package for package, _ in STYLES.values()] + [NAMES, KEYWORDS]
    facts = {
        "counts": counts,
        "libwebp": features.version("webp"),
        "packages": {f"{package.name}@{package.version}": package.integrity for package in packages},
        "skipped": skipped,
    }
    path = output / "manifest.json"
    with atomic_file(path) as handle:
        handle.write((json.dumps(facts, sort_keys=True, indent=1) + "\n").encode())
    return path


def _names_of_others(concepts: list[Concept], chosen: list[Concept]) -> tuple[str, ...]:
    taken = {concept.code_points for concept in chosen}
    return tuple(concept.name for concept in concepts if concept.code_points not in taken)
