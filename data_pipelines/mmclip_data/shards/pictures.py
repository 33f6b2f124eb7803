"""Format, width and height of an encoded picture from its first bytes, without decoding a pixel.

Pillow's lazy opening tells the same, several times slower, and an index looks at every picture there is.
"""

from typing import NamedTuple

MAX_HEAD_BYTES = 1 << 20
"""How far into a JPEG its size is looked for; profiles and thumbnails may stand before it."""
MAX_MARKERS = 2000
FORMATS = ("unknown", "jpeg", "png", "webp", "gif")
FORMAT_OF_EXTENSION = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png", "webp": "webp"}
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
ALONE = frozenset(range(0xD0, 0xD9)) | {0x01}  # markers without a length behind them
END_OF_TABLES = frozenset({0xD9, 0xDA})


class Picture(NamedTuple):
    """`format` is one of `FORMATS`; width and height are in pixels as stored (before EXIF orientation), 0 if unknown."""

    format: str
    width: int
    height: int


def look_at(head: bytes) -> Picture:
    """What the encoded picture that starts with `head` says about itself; hostile bytes give zeros, never an error."""
    if head.startswith(b"\xff\xd8\xff"):
        return Picture("jpeg", *_jpeg_size(head))
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return Picture("png", *_png_size(head))
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return Picture("webp", *_webp_size(head))
    if head.startswith((b"GIF87a", b"GIF89a")):
        return Picture("gif", *_both(_little(head, 6, 2), _little(head, 8, 2)))
    return Picture("unknown", 0, 0)


def _both(width: int, height: int) -> tuple[int, int]:
    """A size of which a half is missing is no size."""
    return (width, height) if width and height else (0, 0)


def _jpeg_size(head: bytes) -> tuple[int, int]:
    """Step from marker to marker until a start of frame; as in libjpeg, bytes before a marker are skipped."""
    position, end = 2, min(len(head), MAX_HEAD_BYTES)
    for _ in range(MAX_MARKERS):
        position = head.find(b"\xff", position, end)
        if position < 0 or position + 9 > end:
            break
        marker = head[position + 1]
        if marker in START_OF_FRAME:
            return _both(_big(head, position + 7, 2), _big(head, position + 5, 2))
        if marker in END_OF_TABLES:
            break
        if marker == 0xFF:  # padding before a marker
            position += 1
        elif marker == 0 or marker in ALONE:
            position += 2
        else:
            position += 2 + max(2, _big(head, position + 2, 2))
    return 0, 0


def _png_size(head: bytes) -> tuple[int, int]:
    if head[12:16] != b"IHDR" or len(head) < 24:
        return 0, 0
    width, height = _big(head, 16, 4), _big(head, 20, 4)
    return _both(width, height) if max(width, height) < 1 << 31 else (0, 0)


def _webp_size(head: bytes) -> tuple[int, int]:
    """Lossy, lossless and extended files keep their size in three places (RFC 9649)."""
    kind = head[12:16]
    if len(head) < 30:
        return 0, 0
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        return _both(_little(head, 26, 2) & 0x3FFF, _little(head, 28, 2) & 0x3FFF)
    if kind == b"VP8L" and head[20] == 0x2F:
        bits = _little(head, 21, 4)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return _little(head, 24, 3) + 1, _little(head, 27, 3) + 1
    return 0, 0


def _big(head: bytes, start: int, length: int) -> int:
    return int.from_bytes(head[start : start + length], "big")


def _little(head: bytes, start: int, length: int) -> int:
    return int.from_bytes(head[start : start + length], "little")
