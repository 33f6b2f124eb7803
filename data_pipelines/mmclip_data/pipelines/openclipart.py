"""Debian's OpenClipart as a table for `shards make table`: 8,121 pictures with the titles and keywords of their SVGs.

    apt-get download openclipart-png openclipart-svg
    for package in openclipart-*.deb; do dpkg-deb -x "$package" openclipart; done
    python -m mmclip_data.pipelines.openclipart openclipart openclipart.jsonl
    mmclip shards make table --source openclipart.jsonl --image_root openclipart/usr/share/openclipart --output data/openclipart

Public domain, and as dirty as data are: duplicates, odd modes, huge pictures, missing and careless titles.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict
from xml.etree import ElementTree

from mmclip.errors import UserError
from mmclip_data.shards.atomic import atomic_file

INSIDE = Path("usr/share/openclipart")
DUBLIN_CORE_TITLE = "{http://purl.org/dc/elements/1.1/}title"
LIST_ITEM = "}li"


class ClipArt(TypedDict):
    """One picture; its title is empty where its SVG has none or cannot be read."""

    filepath: str
    title: str
    keywords: list[str]


def clip_art(root: Path) -> Iterator[ClipArt]:
    """Every PNG below `root`, in the order of the paths, with what the SVG of its name says about it.

    Raises:
        UserError: there is none.
    """
    pictures = sorted((root / "png").rglob("*.png"))
    if not pictures:
        raise UserError(f"{root}: no png/**/*.png in it; expected what the package openclipart-png unpacks")
    for picture in pictures:
        drawing = (root / "svg" / picture.relative_to(root / "png")).with_suffix(".svg")
        title, keywords = _described(drawing)
        yield {"filepath": str(picture.relative_to(root)), "title": title, "keywords": keywords}


def _described(drawing: Path) -> tuple[str, list[str]]:
    try:
        elements = list(ElementTree.parse(drawing).iter())
    except (FileNotFoundError, ElementTree.ParseError):
        return "", []
    titles = [element.text for element in elements if element.tag == DUBLIN_CORE_TITLE and element.text]
    words = [element.text for element in elements if str(element.tag).endswith(LIST_ITEM) and element.text]
    return " ".join((titles or [""])[0].split()), words


def main(unpacked: Path, table: Path) -> None:
    """Write the table."""
    root = unpacked / INSIDE if (unpacked / INSIDE).is_dir() else unpacked
    with atomic_file(table) as handle:
        handle.writelines(json.dumps(entry, ensure_ascii=False).encode() + b"\n" for entry in clip_art(root))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
