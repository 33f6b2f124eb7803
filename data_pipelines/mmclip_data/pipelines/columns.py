"""Which columns of a table or data set hold the picture and the caption: as asked, or guessed from usual names."""

import re
from collections.abc import Sequence

from mmclip.errors import UserError

PICTURE_NAMES = (
    "filepath",  # open_clip's default
    "file_path",
    "file_name",  # imagefolder's metadata
    "filename",
    "image_name",  # Flickr30k's results.csv
    "image_path",
    "img_path",
    "image_file",
    "path",
    "image",
    "img",
    "picture",
    "photo",
    "file",
    "jpg",
    "jpeg",
    "png",
    "webp",
)
CAPTION_NAMES = (
    "title",  # open_clip's default
    "caption",
    "captions",
    "text",
    "texts",
    "txt",
    "sentence",
    "sentences",
    "description",
    "alt_text",
    "alt",
    "prompt",
    "comment",  # Flickr30k's
)
NUMBERED = re.compile(r"\s*(caption|text|sentence)s?[_-]?\d+\s*$", re.IGNORECASE)
"""Names of columns that hold a caption each."""
NUMBERED_PICTURES = re.compile(r"\s*(image|img|picture)s?[_-]?\d+\s*", re.IGNORECASE)
"""Names of columns that hold a picture each."""
URL_NAMES = ("url", "image_url", "img_url", "urls")
LABEL_NAMES = ("label", "labels", "cls", "class", "fine_label")


def choose(
    flag: str, asked: str | None, columns: Sequence[str], candidates: Sequence[str], where: str, required: bool = True
) -> str | None:
    """The column asked for, or the first of `candidates` that is there in any case.

    Raises:
        UserError: it is not there.
    """
    if asked is not None:
        if asked not in columns:
            raise UserError(f"{flag}={asked!r}: {where} has no such column; it has {listed(columns)}")
        return asked
    by_name = {column.strip().lower(): column for column in reversed(columns)}
    found = next((by_name[name] for name in candidates if name in by_name), None)
    if found is None and required:
        urls = [by_name[name] for name in URL_NAMES if name in by_name]
        download = f"; {urls[0]!r} holds URLs: download them first, such as with img2dataset" if urls else ""
        meaning = flag.removesuffix("s").removesuffix("_column")
        raise UserError(
            f"{where}: none of its columns {listed(columns)} has a name that says {meaning} "
            f"({', '.join(candidates[:6])}, ...){download}; name it with --{flag}"
        )
    return found


def choose_captions(
    asked: Sequence[str], columns: Sequence[str], texts: Sequence[str], where: str, required: bool = True
) -> tuple[str, ...]:
    """The caption columns asked for among `columns`; else, of `texts`, one with a usual name, or all that are numbered.

    Raises:
        UserError: one is not there, or none can be told.
    """
    if asked:
        found = [choose("caption_columns", name, columns, (), where) for name in asked]
        return tuple(name for name in found if name is not None)
    numbered = tuple(name for name in texts if NUMBERED.match(name))
    usual = choose("caption_columns", None, texts, CAPTION_NAMES, where, required and not numbered)
    return numbered if usual is None else (usual,)


def listed(columns: Sequence[str]) -> str:
    """The first columns by name."""
    if not columns:
        return "(there is no other)"
    more = f" and {len(columns) - 12} more" if len(columns) > 12 else ""
    return ", ".join(repr(column) for column in columns[:12]) + more
