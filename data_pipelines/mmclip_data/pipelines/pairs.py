"""One picture with its captions and facts, from wherever they come, as a sample of a shard or as a reason why not."""

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmclip.errors import BadSampleError
from mmclip_data.loading.decode import MAX_BYTES, MAX_PIXELS, decode_image
from mmclip_data.pipelines.job import Dropped, Kept, Outcome
from mmclip_data.shards.pictures import look_at

EXTENSIONS = {"jpeg": "jpg", "png": "png", "webp": "webp"}
NOT_A_PICTURE, UNDECODABLE = "neither JPEG, PNG nor WebP inside", "picture cannot be decoded"
NO_FILE, NO_CAPTION = "picture's file is missing", "no caption"


@dataclass(frozen=True)
class Pair:
    """What a table, a data set or a folder says of one sample; `picture` is a file, its bytes, or a reason."""

    source: str
    picture: Path | bytes | Dropped
    captions: tuple[str, ...]
    facts: Mapping[str, Any]
    label: int | None = None
    key: str | None = None


def outcome(pair: Pair, decode: bool) -> Outcome:
    """The sample with the picture's own bytes, named by what is inside; several captions stand a line each.

    With `decode`, a picture that training could not read is dropped here.
    """
    if isinstance(pair.picture, Dropped):
        return pair.picture
    captions = [text for text in (" ".join(caption.split()) for caption in pair.captions) if text]
    if not captions:
        return Dropped(pair.source, NO_CAPTION)
    try:
        picture = pair.picture if isinstance(pair.picture, bytes) else pair.picture.read_bytes()
        text = "\n".join(captions).encode()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return Dropped(pair.source, NO_FILE, Path(str(pair.picture)).name)
    except UnicodeEncodeError:
        return Dropped(pair.source, "caption is not UTF-8")
    extension = EXTENSIONS.get(look_at(picture).format)
    if extension is None:
        return Dropped(pair.source, NOT_A_PICTURE if picture else "picture is empty")
    problem = too_large(picture) or (undecodable(picture) if decode else None)
    if problem:
        return Dropped(pair.source, *problem)
    members = {extension: picture, "txt": text}
    facts = {name: plain(value) for name, value in pair.facts.items()}
    if len(captions) > 1:
        facts["captions"] = captions
    if facts:
        members["json"] = json.dumps(facts, ensure_ascii=False).encode(errors="backslashreplace")
    if pair.label is not None:
        members["cls"] = str(pair.label).encode()
    return Kept(members, pair.key)


def too_large(picture: bytes) -> tuple[str, str] | None:
    """The cap that a picture is beyond, told from its header, and its size; or None."""
    seen = look_at(picture)
    if seen.width * seen.height > MAX_PIXELS:
        return f"picture has more than {MAX_PIXELS:,} pixels", f"{seen.width} x {seen.height}"
    if len(picture) > MAX_BYTES:
        return f"picture has more than {MAX_BYTES:,} bytes", f"{len(picture)}"
    return None


def undecodable(picture: bytes) -> tuple[str, str] | None:
    """Why training could not read this picture, as reason and detail, or None."""
    try:
        decode_image(picture)
    except BadSampleError as error:
        return UNDECODABLE, str(error)
    return None


def plain(value: Any) -> Any:
    """`value` as strict JSON: no NaN, dates as text, what has no text form as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return value if value is None or isinstance(value, str | int | float | bool) else _text(value)


def _text(value: Any) -> str | None:
    return None if isinstance(value, bytes | bytearray | memoryview) else str(value)


def picture_of_cell(name: str, cell: Any, root: Path) -> tuple[Path | bytes | Dropped, str]:
    """The picture in a cell (bytes, a path from `root`, or both as `datasets` stores them), and its path where it has one."""
    if isinstance(cell, Mapping):
        path = cell.get("path") or ""
        return (cell["bytes"], path) if isinstance(cell.get("bytes"), bytes) else picture_of_cell(name, path, root)
    if isinstance(cell, bytes):
        return cell, ""
    if not isinstance(cell, str) or not cell.strip():
        return Dropped(name, "no picture in the row"), ""
    if "://" in cell:
        return Dropped(name, "picture is a URL", cell), cell
    return root / cell.strip(), cell.strip()


def texts_of(value: Any) -> tuple[str, ...]:
    """The captions in a cell: a text, a list of texts, or nothing."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return tuple(text for text in value if isinstance(text, str))
    return ()
