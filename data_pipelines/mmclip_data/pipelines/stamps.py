"""Tux Paint's stamps: pictures on nothing, mostly cut out of photographs, each with a sentence in up to 77 languages.

    mmclip shards make stamps --output data/stamps

Debian's package is fetched once, pinned by its hash. It is under the GPL-2: its pictures stay in your folders.

A stamp is a `.txt` with a `.png` beside it; mirrored pictures and SVGs are left out, and so is the folder `symbols`: letters,
digits, coins, notes and shapes, which say little of what is in a picture. Of the 538 that stay, 430 train and 108 test. Those
for tests are drawn among stamps whose English sentence no other has, of which one alone is right. A run holds its own dev split
out of the training shard (`data.held_out`).
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import xxhash

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_data.pipelines.debian import fetch_debian
from mmclip_data.pipelines.layout import write_lines
from mmclip_data.pipelines.pinned import PinnedFile
from mmclip_data.pipelines.report import MakeReport, prepare_output
from mmclip_data.shards.index import index_path
from mmclip_data.shards.write import ShardWriter

STAMPS = PinnedFile(
    "tuxpaint-stamps-default",
    "2022.06.04-1",
    "tuxpaint-stamps-default_2022.06.04-1_all.deb",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
)
INSIDE = Path("usr/share/tuxpaint/stamps")
SYMBOLS = "symbols"
TEST = 108
NAMES = ("train", "test")


@config
class StampsConfig:
    """Tux Paint's stamps to shards; needs Debian's apt-get and the network once."""

    output: Path
    """Folder to write; must be new or empty."""
    cache: Path = Path(".cache/debian")
    """Where the package is kept, packed and unpacked: 380 MB."""
    overwrite: bool = False
    """Replace the shards of an earlier run."""


class Stamp(NamedTuple):
    """One picture."""

    path: Path
    """Below the folder of all stamps, without an ending."""
    picture: bytes
    sentence: str
    """English."""
    languages: dict[str, str]
    """The sentence by the code of its language, as the file has them."""

    @property
    def category(self) -> str:
        """The first folder: animals, food, town ..."""
        return self.path.parts[0]


def make_stamps(config: StampsConfig) -> MakeReport:
    """Write `train` and `test`, the same samples everywhere; PNGs stay as they are, and readers lay them over white.

    Raises:
        FetchError: the package cannot be fetched.
        UserError: the output folder is not empty.
    """
    stamps, skipped = read_stamps(fetch_debian(STAMPS, config.cache) / INSIDE)
    prepare_output(config.output, config.overwrite)
    files: list[Path] = []
    parts = split(stamps)
    for name, part in parts.items():
        with ShardWriter(config.output, f"{name}.tar", samples_per_shard=None) as writer:
            for stamp in part:
                writer.add(str(stamp.path).replace("/", "-").replace(".", "_"), sample_members(stamp))
        files += [path for shard in writer.paths for path in (shard, index_path(shard))]
    files.append(write_lines(config.output / "sources.txt", [f"Debian {STAMPS.file} {STAMPS.sha256}"]))
    counts = {name: len(part) for name, part in parts.items()}
    counts["categories"] = len({stamp.category for stamp in stamps})
    return MakeReport(config.output, counts, tuple(files), skipped)


def read_stamps(root: Path) -> tuple[list[Stamp], dict[str, tuple[str, ...]]]:
    """Every stamp in the order of the paths, and what was left out, by reason.

    Raises:
        UserError: there is none.
    """
    stamps: list[Stamp] = []
    skipped: dict[str, list[str]] = {}
    for text in sorted(root.rglob("*.txt")):
        path = text.relative_to(root).with_suffix("")
        first, *others = text.read_text(encoding="utf-8").splitlines() or [""]
        if path.parts[0] == SYMBOLS:
            skipped.setdefault("letters and symbols", []).append(str(path))
        elif not text.with_suffix(".png").is_file():
            skipped.setdefault("no PNG", []).append(str(path))
        elif not first.strip():
            skipped.setdefault("no English sentence", []).append(str(path))
        else:
            lines = (line.partition("=") for line in others if "=" in line)
            languages = {code.removesuffix(".utf8").strip(): words.strip() for code, _, words in lines if words.strip()}
            stamps.append(Stamp(path, text.with_suffix(".png").read_bytes(), first.strip(), languages))
    if not stamps:
        raise UserError(f"{root}: no stamps in it; delete the package from the cache and try again")
    return stamps, {reason: tuple(names) for reason, names in skipped.items()}


def split(stamps: Sequence[Stamp]) -> dict[str, list[Stamp]]:
    """By stamp, by a hash of its path: adding one moves no other but at the borders. Each part is in the order of the paths."""
    count = Counter(stamp.sentence for stamp in stamps)
    alone = sorted(
        (stamp for stamp in stamps if count[stamp.sentence] == 1),
        key=lambda stamp: xxhash.xxh3_64_intdigest(str(stamp.path).encode()),
    )
    tests = {stamp.path for stamp in alone[:TEST]}
    return {name: [stamp for stamp in stamps if (stamp.path in tests) == (name == "test")] for name in NAMES}


def sample_members(stamp: Stamp) -> dict[str, bytes]:
    """`png`, `txt` (the English sentence) and `json`: category (a label), folder, name, the sentence in other languages."""
    facts = {
        "category": stamp.category,
        "folder": str(stamp.path.parent),
        "languages": stamp.languages,
        "name": stamp.path.name,
    }
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return {"png": stamp.picture, "txt": stamp.sentence.encode(), "json": text.encode()}
